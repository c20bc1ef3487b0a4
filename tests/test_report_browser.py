"""The HTML report in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from edgekit.report.formats import html
from tests.report_pages import hostile, lost
from tests.report_sample import report


@pytest.fixture(scope="module")
def chromium() -> str:
    found = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    if found is None:
        pytest.skip("no Chromium on this machine: the page is not rendered")
    return found


def _browse(
    chromium: str, folder: Path, make: Any, *flags: str, after: str = "</body>"
) -> subprocess.CompletedProcess[str]:
    page = folder / "report.html"
    page.write_text(html.render(make()).replace("</body>", after), encoding="utf-8")
    fixed = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    fixed += " --disable-component-update --disable-sync --hide-scrollbars --enable-logging=stderr"
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [chromium, *fixed.split(), profile, *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.parametrize("make", [report, hostile])
def test_html_runs_in_a_browser_without_errors(chromium: str, tmp_path: Path, make: Any) -> None:
    shown = _browse(chromium, tmp_path, make, "--dump-dom")
    assert shown.stdout.count("<svg") == 17
    assert "data-tip=" in shown.stdout  # the script ran
    assert ":CONSOLE" not in shown.stderr


@pytest.mark.parametrize(("scheme", "bright"), [(1, True), (0, False)])
def test_html_follows_the_colour_scheme(chromium: str, tmp_path: Path, scheme: int, bright: bool) -> None:
    image = pytest.importorskip("PIL.Image")
    picture = tmp_path / "page.png"
    flags = (f"--screenshot={picture}", "--window-size=800,900", f"--blink-settings=preferredColorScheme={scheme}")
    _browse(chromium, tmp_path, report, *flags)
    with image.open(picture) as shot:
        pixels = shot.convert("L").resize((1, 1)).getpixel((0, 0))
    assert (pixels > 200) if bright else (pixels < 80)


PROBE = """<script>
const wide = [...document.querySelectorAll("main *")].filter((e) => !e.closest(".scroll, svg, pre, nav")
  && e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.tagName + "." + e.className);
const stops = [...document.querySelectorAll("a[href], button, summary, .scroll")].filter((e) => e.checkVisibility());
const lost = stops.filter((e) => { e.focus(); return document.activeElement !== e; }).length;
const bare = [...document.querySelectorAll(".scroll")].filter((e) => !e.getAttribute("aria-label")).length;
const folded = [...document.querySelectorAll("summary")].filter((e) => {
  const before = e.parentElement.open; e.click(); return e.parentElement.open === before; }).length;
const flat = [...document.querySelectorAll("svg.chart")].filter((e) => e.checkVisibility()
  && e.getBoundingClientRect().height < 20).length;
document.body.dataset.probe = JSON.stringify({ width: innerWidth, page: document.documentElement.scrollWidth, wide,
  stops: stops.length, lost, bare, folded, flat });
</script></body>"""


@pytest.mark.parametrize("make", [report, hostile, lost])
def test_html_fits_a_phone_and_works_by_keyboard(chromium: str, tmp_path: Path, make: Any) -> None:
    page = tmp_path / "report.html"
    shown = _browse(chromium, tmp_path, make, "--dump-dom", "--window-size=390,800", after=PROBE)
    assert page.is_file()
    found = re.search(r'data-probe="([^"]*)"', shown.stdout)
    assert found is not None
    probe = json.loads(unescape(found[1]))
    assert probe["width"] <= 500
    assert probe["page"] <= probe["width"], probe
    assert probe["wide"] == []
    assert probe["stops"] > 10
    assert (probe["lost"], probe["bare"], probe["folded"], probe["flat"]) == (0, 0, 0, 0)
