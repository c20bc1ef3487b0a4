// What the tests of the HTML report ask a page; each function returns what is wrong, except `first`.
var box = (element) => element.getBoundingClientRect();
var say = (e) => `${e.tagName}.${e.getAttribute("class") ?? ""} ${e.textContent.slice(0, 40)}`;
var every = (selector, inside = document) => [...inside.querySelectorAll(selector)];
// What only a screen reader meets.
var hiddenRoots = () => every(".unseen, caption, thead").filter((e) => getComputedStyle(e).clipPath !== "none");
var unseenIn = (roots) => { const known = new Set(roots.flatMap((e) => [e, ...every("*", e)])); return (e) => known.has(e); };
var openAll = () => { for (const each of every("details")) each.open = true; };

// How far down the title, the verdict and the two answers reach, in pixels.
var first = () => ["h1", ".ships h3", "#fast", "#good"].map((name) => Math.round(box(document.querySelector(name)).bottom));

var layout = () => {
  const unseen = unseenIn(hiddenRoots());
  const all = every("body *").filter((e) => e.checkVisibility() && !unseen(e));
  const free = all.filter((e) => !e.closest(".scroll") || e.matches(".scroll"));
  const scrolls = all.filter((e) => e.matches(".scroll") && e.scrollWidth > e.clientWidth + 1);
  const style = (e) => getComputedStyle(e);
  return {
    page: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    wide: free.filter((e) => box(e).right > innerWidth + 1 || box(e).left < -1).map(say),
    hidden: scrolls.filter((e) => style(e).overflowX !== "auto" || e.tabIndex !== 0
      || !style(e).backgroundImage.includes("gradient")).map(say),
    cut: all.filter((e) => !e.matches(".scroll, svg, svg *") && e.clientWidth && style(e).overflowX !== "visible"
      && e.scrollWidth > e.clientWidth + 1).map(say),
    over: all.filter((e) => e.matches("svg text") && !e.closest(".scroll")).filter((e) => {
      const card = box(e.closest(".card, .body"));
      return box(e).right > card.right || box(e).left < card.left;
    }).map(say),
    broken: brokenWords(unseen),
  };
};

// Words of up to 24 letters that stand on two lines.
var brokenWords = (unseen) => {
  const found = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    const parent = node.parentElement;
    if (!parent.checkVisibility() || parent.closest("svg, pre, script, style") || unseen(parent)) continue;
    const whole = document.createRange();
    whole.selectNodeContents(node);
    if (whole.getClientRects().length < 2) continue;
    for (const word of node.data.matchAll(/[^\s\-–—/_.·,]+/g)) {
      if (word[0].length > 24) continue;
      const range = document.createRange();
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      if (new Set([...range.getClientRects()].map((r) => Math.round(r.top))).size > 1) found.push(word[0]);
    }
  }
  return found;
};

// Marks, words, or a word and a mark of one chart that cover each other.
var marks = () => {
  const found = [];
  const shared = (a, b) => [Math.min(a.right, b.right) - Math.max(a.left, b.left),
    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top)];
  const pairs = (list, ask) => list.forEach((a, i) => list.slice(0, i).forEach((b) => ask(a, b)));
  for (const svg of every("svg.chart:not(.heatmap)")) {
    const name = svg.getAttribute("aria-label").slice(0, 30), dots = every(".dot", svg).map(box);
    pairs(dots, (a, b) => {
      const gap = Math.hypot(a.x + a.width / 2 - b.x - b.width / 2, a.y + a.height / 2 - b.y - b.height / 2);
      if (gap < (a.width + b.width) / 2 - .5) found.push([name, "two marks"]);
    });
    pairs(every("text", svg), (a, b) => {
      const [x, y] = shared(box(a), box(b));
      if (x > 1 && y > 4) found.push([name, a.textContent, b.textContent]);
    });
    for (const label of every(".label", svg)) {
      for (const dot of dots) {
        const [x, y] = shared(box(label), dot);
        if (x > 1 && y > 4) found.push([name, label.textContent, "a mark"]);
      }
    }
  }
  return found;
};

// Number of bars, and those whose number is not in the row of the same name in the table below.
var numbers = () => {
  const found = [], plain = (e) => e.textContent.replace(/ ✓$/, "");
  let count = 0;
  for (const figure of every("figure:not(.wide figure)")) {
    const table = figure.querySelector(":scope > details table");
    for (const row of table ? every(":scope > .bars > .row", figure) : []) {
      const name = plain(row.querySelector(".name")), number = row.querySelector(".num").textContent.split(" ")[0];
      const line = every("tbody tr", table).find((tr) => plain(tr.cells[0]) === name);
      count += 1;
      if (!line || !line.textContent.includes(number)) found.push([figure.textContent.slice(0, 30), name, number]);
    }
  }
  return [count, found];
};

// What the keyboard cannot reach, name or fold.
var keys = () => {
  const stops = every("a[href], button, summary, .scroll").filter((e) => e.checkVisibility());
  return {
    stops: stops.length,
    lost: stops.filter((e) => { e.focus(); return document.activeElement !== e; }).map(say),
    bare: every(".scroll").filter((e) => !e.getAttribute("aria-label")).map(say),
    folded: every("summary").filter((e) => {
      const before = e.parentElement.open;
      e.click();
      return e.parentElement.open === before;
    }).map(say),
  };
};
