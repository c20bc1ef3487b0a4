"""The pages of a search: their numbers are those of the data, and a real browser shows all of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli.run import job_of
from edgekit.console import Console
from edgekit.errors import Shortfall
from edgekit.fit import _cells, _page, report
from edgekit.fit.flow import Search
from edgekit.fit.records import Candidate, Result
from edgekit.report.charts import Point, pareto
from edgekit.report.svg import ms
from tests import fit_sample
from tests.browser import Browser
from tests.fit_sample import HOSTILE, dry, found, hostile, missed, unmeasured, unreached
from tests.report_pages import Page

PAGES: dict[str, Callable[[], Result]] = {
    each.__name__: each for each in (found, dry, unreached, unmeasured, missed, hostile)
}
PROBES = (Path(__file__).parent / "report_probes.js").read_text(encoding="utf-8")
WHEN = "2026-11-28 18:00 UTC"


def html(result: Result, name: str = "trash") -> str:
    return _page.render(result, name, WHEN)


def rows(text: str, heading: str) -> dict[str, list[str]]:
    """Cells of each line of the Markdown table that starts with this heading, by the first."""
    lines = text[text.index(f"| {heading} |") :].partition("\n\n")[0].splitlines()
    split = [[cell.strip().strip("*") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert len({len(cells) for cells in split}) == 1
    return {cells[0]: cells[1:] for cells in split}


@pytest.mark.parametrize("make", PAGES.values(), ids=PAGES)
def test_pages_are_made_of_every_outcome(make: Callable[[], Result]) -> None:
    assert Page(html(make())).count("table") >= 1
    assert report.markdown(make(), "trash", WHEN).startswith("## edgekit fit: trash\n")


def test_every_number_of_the_data_is_in_the_table() -> None:
    result = found()
    table = rows(report.markdown(result, "trash", WHEN), "network")
    titles = table["network"]
    for one in (result.whole, *result.candidates):
        cells = dict(zip(titles, table[one.id], strict=True))
        if one.measured:
            (row,) = one.measured
            assert [float(word) for word in re.findall(r"[\d.]+", cells["measured ms"])] == pytest.approx(
                [row.ms, row.low, row.high], rel=0.006
            )
            assert float(cells["M multiply-adds"]) == pytest.approx(one.macs / 1e6, rel=0.006)
        if one.predicted and one.measured:
            guess, row = one.predicted[0], one.measured[0]
            off = float(cells["prediction off by"].replace("\N{MINUS SIGN}", "-").removesuffix(" %"))
            assert off == pytest.approx(100 * (guess.ms - row.ms) / row.ms, abs=0.06)
        for each in one.trained:
            assert f"{100 * each.accuracy:.1f} %" in cells["validation top-1"]
            assert re.search(rf"after {each.epochs}\b", cells["validation top-1"])
        assert one.dropped in cells["how it ended"]
    assert table["per-ms"][titles.index("how it ended")] == "ships"
    assert table["norm-per-ms"][titles.index("measured ms")] == "—"


def test_both_pages_hold_the_same_cells() -> None:
    result = found()
    shown = " ".join(Page(html(result)).text)
    for one in _cells.networks(result):
        for cell in _cells.cells(one, result):
            assert cell.main in shown
            assert cell.more in shown


def test_page_says_where_every_time_comes_from_and_what_it_cost() -> None:
    shown = " ".join(Page(html(found())).text)
    for words in ("Cortex-A76, tflite in litert 2.3.0, 4 threads", fit_sample.MODEL, "31", "212 s", "62 min", "70 min"):
        assert words in shown
    assert "48" in shown  # channels that are left
    assert "0.43 points lost, 1 allowed" in shown


def points(text: str) -> dict[str, dict[str, Any]]:
    """The marks of the first chart: class and place, by the first word of what they say when pointed at."""
    chart = text[text.index("<svg") : text.index("</svg>")]
    made = {}
    for shape, title in re.findall(r"(<(?:circle|rect)[^>]*)><title>([^<]*)</title>", chart):
        attributes: dict[str, Any] = dict(re.findall(r'([\w-]+)="([^"]*)"', shape))
        made[title.partition(":")[0]] = {**attributes, "title": title}
    return made


def test_chart_shows_scored_networks_and_those_that_were_dropped_hollow() -> None:
    result = found()
    marks = points(html(result))
    scored = {one.id for one in (result.whole, *result.candidates) if one.trained}
    assert (
        set(marks) == scored == {"whole", "per-ms", "absolute-per-ms", "uniform", "importance", "mobilenetv2_100-128"}
    )
    assert {name for name, mark in marks.items() if "hollow" in mark["class"]} == {"uniform", "importance"}
    assert "7.83 ms (7.71\N{EN DASH}7.92), validation top-1 89.67 % after 20 epochs" in marks["per-ms"]["title"]
    chart = html(result).partition("</svg>")[0]
    assert chart.count('class="ring"') == 1
    assert chart.count('class="limit"') == 1
    assert "budget 8 ms" in chart
    assert "importance ↓ 58.2 %" in chart  # would squash the rest
    assert chart.count('class="whisker"') == 3 * len(scored)


def test_dropped_networks_are_not_part_of_the_front() -> None:
    ends = [Point("fast", 1, 0.8, "", ""), Point("good", 3, 0.85, "", "")]
    middle = Point("middle", 2, 0.82, "", "")
    assert [point.label for point in pareto([*ends, middle])] == ["fast", "middle", "good"]
    assert pareto([*ends, replace(middle, hollow=True)]) == ends


def test_kinds_are_never_in_one_chart_or_column() -> None:
    text = html(missed())
    charts = re.findall(r"<svg.*?</svg>", text, re.S)
    assert len(charts) == 2
    for kind, chart in zip(("measured", "estimated"), charts, strict=True):
        titles = re.findall(r"<title>([^<]*)</title>", chart)
        assert titles
        assert all(f": {kind} " in title for title in titles)
    titles = _cells.heads(missed())
    assert [title for title in titles if "ms" in title] == [
        "my-pi: predicted ms",
        "my-pi: measured ms",
        "emulated pi: estimated ms",
    ]


def test_what_misses_a_limit_is_not_called_shipped() -> None:
    text = " ".join(Page(html(missed())).text)
    assert "Nothing is within every limit" in text
    assert "chosen, but not within every limit" in text
    assert "What ships," not in text
    assert "✓" not in text
    assert "8 ms costs 4.2 points, 1 are allowed" in text


def test_dry_run_shows_what_is_predicted() -> None:
    result, text = dry(), html(dry())
    marks = points(text)
    assert set(marks) == {one.id for one in result.front}
    for one in result.front:
        assert f"predicted {ms(one.predicted[0].ms)} ms" in marks[one.id]["title"]
    words = _cells.dry_words(result)
    assert "7.76 ms (7.37\N{EN DASH}8.15) on my-pi" in words
    assert "55 %" in words  # 10.5 * 8 of 153
    assert "Nothing in this chart was measured" in " ".join(Page(text).text)


def test_dry_run_says_so_where_nothing_fits_or_nothing_has_to_be_pruned() -> None:
    assert "No narrower network" in _cells.dry_words(replace(dry(), max_ms=3.0))
    assert "Nothing has to be pruned" in _cells.dry_words(replace(dry(), max_ms=15.0))


def test_out_of_reach_shows_both_ends() -> None:
    table = rows(report.markdown(unreached(), "trash", WHEN), "network")
    assert set(table) - {"network", ":---"} == {"whole", "narrowest"}
    assert "allow --max-ms 2.6" in " ".join(Page(html(unreached())).text)


def test_names_are_escaped() -> None:
    text = _page.render(hostile(), HOSTILE, WHEN)
    assert "<script>alert" not in text
    assert any(HOSTILE in piece for piece in Page(text).text)
    plain = report.markdown(hostile(), HOSTILE, WHEN)
    assert "<script>" not in plain.replace("\\<script\\>", "")
    rows(plain, "network")


def test_files_are_written_and_link_to_what_there_is(tmp_path: Path) -> None:
    report.write(tmp_path, "trash", found())
    assert "edgekit run fit.toml" not in (tmp_path / report.PAGE).read_text()
    (tmp_path / "fit.toml").touch()
    (tmp_path / "per-ms" / "10-report").mkdir(parents=True)
    (tmp_path / "per-ms" / "10-report" / "report.html").touch()
    report.write(tmp_path, "trash", found())
    text = (tmp_path / report.PAGE).read_text()
    assert "edgekit run fit.toml" in text
    assert 'href="per-ms/10-report/report.html"' in text
    assert (tmp_path / report.TEXT).read_text().startswith("## edgekit fit: trash")


def test_a_network_is_listed_once() -> None:
    own: Candidate = replace(found().whole, trained=())
    result = replace(found(), candidates=(own,), chosen="whole")  # nothing had to be pruned
    assert [one.id for one in _cells.networks(result)] == ["whole", "narrowest"]
    assert _cells.networks(result)[0].accuracy == 0.9012


def test_pages_are_written_also_when_a_search_falls_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(search: Search) -> Result:
        search._keep(replace(unreached(), said=""))
        raise Shortfall("fit: out of reach & far away")

    monkeypatch.setattr(Search, "_search", short)
    job = replace(job_of("digits", ("fit.max_ms=2",), None, ("host",)), out=tmp_path)
    with pytest.raises(Shortfall):
        Search(job, Console(quiet=True)).run()
    assert "out of reach & far away" in Page((tmp_path / report.PAGE).read_text()).text
    assert "out of reach \\& far away" in (tmp_path / report.TEXT).read_text()
    assert json.loads((tmp_path / "fit.json").read_text())["said"] == "out of reach & far away"


@pytest.mark.parametrize("width", [400, 800, 1440])
@pytest.mark.parametrize("name", PAGES)
def test_browser_shows_everything_and_complains_about_nothing(
    browser: Browser, tmp_path: Path, name: str, width: int
) -> None:
    (tmp_path / "fit.html").write_text(html(PAGES[name]()), encoding="utf-8")
    browser.open(tmp_path / "fit.html", width)
    events = {event["method"] for event in browser.events if "method" in event}
    assert not {"Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"} & events
    layout = json.loads(browser.run(f"{PROBES}; openAll(); JSON.stringify(layout())"))
    if name == "hostile":  # words of 24 letters and more have to break somewhere
        layout["broken"] = []
    assert layout == {"wide": [], "hidden": [], "cut": [], "over": [], "broken": [], "page": 0}
    assert json.loads(browser.run("JSON.stringify(marks())")) == []
