(() => {
  // Theme: the system's unless the button was used; remembered for the next visit if the browser allows it.
  const root = document.documentElement, button = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const store = (value) => { try { return value ? localStorage.setItem("edgekit-theme", value) : localStorage.getItem("edgekit-theme"); } catch { return null; } };
  const saved = store();
  if (saved === "light" || saved === "dark") root.dataset.theme = saved;
  button.hidden = false;
  button.onclick = () => {
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    store(root.dataset.theme = now === "dark" ? "light" : "dark");
  };

  // A training that should have had another epoch by now.
  for (const due of document.querySelectorAll("[data-due]"))
    if (Date.now() > 1000 * due.dataset.due) due.textContent = due.dataset.late;

  // Folds: all at once, and the one that a link leads to.
  const every = document.getElementById("every"), folds = [...document.querySelectorAll(".fold")];
  const show = () => {
    const all = folds.every((fold) => fold.open);
    every.textContent = all ? "Close all" : "Open all";
  };
  every.hidden = false;
  every.onclick = () => {
    const open = !folds.every((fold) => fold.open);
    for (const fold of folds) fold.open = open;
    show();
  };
  for (const fold of folds) fold.addEventListener("toggle", show);
  const follow = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let fold = target && target.closest(".fold"); fold; fold = fold.parentElement.closest(".fold")) fold.open = true;
  };
  addEventListener("hashchange", follow);
  follow();

  // Tooltips: the title of a mark, shown at once instead of after the browser's delay.
  const tip = document.createElement("div");
  tip.className = "tip"; tip.hidden = true; tip.setAttribute("aria-hidden", "true");
  document.body.append(tip);
  for (const title of document.querySelectorAll("svg.chart title")) {
    title.parentElement.dataset.tip = title.textContent;
    title.remove();
  }
  for (const mark of document.querySelectorAll(".bars [title]")) {
    mark.dataset.tip = mark.title;
    mark.removeAttribute("title");
  }
  document.addEventListener("pointermove", (event) => {
    const mark = event.target instanceof Element ? event.target.closest("[data-tip]") : null;
    tip.hidden = !mark;
    if (!mark) return;
    tip.textContent = mark.dataset.tip;
    const x = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
    tip.style.left = `${Math.max(x, 8)}px`;
    tip.style.top = `${event.clientY + (event.clientY > innerHeight - 60 ? -44 : 18)}px`;
  });
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  // Print the folds, but not the numbers of each chart: the tables of measurements have them.
  addEventListener("beforeprint", () => { for (const fold of folds) fold.open = true; });
})();
