"""The HTML report in a real browser: what it shows at every width, in light and dark, on screen and on paper."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit.report.contents import Report
from edgekit.report.formats import html
from tests.browser import Browser
from tests.report_pages import hostile, lost, one, ten
from tests.report_sample import report

PAGES: dict[str, Callable[[], Report]] = {"two": report, "one": one, "ten": ten, "lost": lost, "hostile": hostile}
PROBES = (Path(__file__).parent / "report_probes.js").read_text(encoding="utf-8")
WIDTHS = (400, 800, 1200, 1920)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    for name, make in PAGES.items():
        (folder / f"{name}.html").write_text(html.render(make()), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in PAGES}


def _ask(browser: Browser, question: str, before: str = "") -> Any:
    """The answer of a function in ``report_probes.js``."""
    return json.loads(browser.run(f"{PROBES}; {before} JSON.stringify({question}())"))


@pytest.mark.parametrize("name", PAGES)
def test_html_runs_without_errors_and_asks_for_nothing(browser: Browser, pages: dict[str, Path], name: str) -> None:
    browser.open(pages[name], 1200)
    assert browser.run("document.querySelectorAll('[data-tip]').length") > 0  # the script ran
    events = {event["method"]: event for event in browser.events if "method" in event}
    assert not {"Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"} & events.keys()
    asked = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    assert all(url.startswith(("file:", "data:")) for url in asked)


@pytest.mark.parametrize("dark", [False, True])
def test_html_follows_the_colour_scheme(browser: Browser, pages: dict[str, Path], dark: bool) -> None:
    image = pytest.importorskip("PIL.Image")
    browser.open(pages["two"], 800, dark=dark)
    pixels = image.open(io.BytesIO(browser.picture())).convert("L").resize((1, 1)).getpixel((0, 0))
    assert (pixels < 80) if dark else (pixels > 200)


@pytest.mark.parametrize("name", ["one", "two", "ten"])
def test_html_answers_how_fast_and_how_good_on_the_first_screen(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    browser.open(pages[name], 1440, 900)
    assert max(_ask(browser, "first")) <= 900
    assert browser.run("[...document.querySelectorAll('.fold')].every((fold) => !fold.open)")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_html_shows_everything_at_every_width(browser: Browser, pages: dict[str, Path], name: str, width: int) -> None:
    """Nothing is wider than the window or cut off; what scrolls says so; no word is broken inside."""
    browser.open(pages[name], width)
    for prepare in ("", "openAll();"):
        found = _ask(browser, "layout", prepare)
        if name == "hostile":  # words of 24 letters and more have to break somewhere
            found["broken"] = []
        assert found == {"wide": [], "hidden": [], "cut": [], "over": [], "broken": [], "page": 0}


def test_html_fits_paper(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["two"], 720)
    try:
        browser.call("Emulation.setEmulatedMedia", media="print")
        found = _ask(browser, "layout", "dispatchEvent(new Event('beforeprint'));")
        assert (found["page"], found["wide"], found["over"]) == (0, [], [])
        assert browser.run("[...document.querySelectorAll('.fold')].every((fold) => fold.open)")
        assert not browser.run("document.querySelector('nav').checkVisibility()")
    finally:
        browser.call("Emulation.setEmulatedMedia", media="")


@pytest.mark.parametrize("name", ["one", "two", "ten"])
def test_html_marks_and_words_of_a_chart_cover_nothing(browser: Browser, pages: dict[str, Path], name: str) -> None:
    for width in (400, 1440):
        browser.open(pages[name], width)
        assert _ask(browser, "marks", "openAll();") == []


@pytest.mark.parametrize("name", ["one", "two", "ten"])
def test_html_says_the_same_number_in_a_chart_and_its_table(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    browser.open(pages[name], 1200)
    count, found = _ask(browser, "numbers")
    assert count > 10
    assert found == []


@pytest.mark.parametrize("name", ["two", "hostile", "lost"])
def test_html_works_by_keyboard(browser: Browser, pages: dict[str, Path], name: str) -> None:
    browser.open(pages[name], 400)
    found: dict[str, Any] = _ask(browser, "keys", "openAll();")
    assert found.pop("stops") > 10
    assert found == {"lost": [], "bare": [], "folded": []}


def test_html_links_open_what_they_lead_to(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["ten"], 1200)
    browser.run("document.querySelector('.ships a').click()")
    assert browser.run("new Promise((done) => setTimeout(() => done(document.getElementById('device-1').open), 200))")
    browser.run("document.getElementById('every').click()")
    assert browser.run("[...document.querySelectorAll('.fold')].every((fold) => fold.open)")
