"""Reports of unusual runs, and what reads a page of one."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

from edgekit.report.contents import Report, StageRow, gather
from tests.report_sample import CONFUSION, LABELS, accuracy, metrics, report

HOSTILE = "<script>alert('x')</script> & | `b` \"q\""


def bare() -> Report:
    """A report of a run in which nothing ran."""
    sample = report()
    return gather(
        name="bare",
        created=sample.created,
        edgekit_version="0.1.0",
        recipe={"model": {"name": "x"}},
        stages=[StageRow("profile", 0.0, skipped=True, reason="not in the recipe")],
        provenance=sample.provenance,
    )


def lost() -> Report:
    """A device where nothing could be measured, and no accuracy at all."""
    sample = report()
    verdict = replace(sample.verdict[1], reason="nothing was timed on Raspberry Pi Zero", kind=None)
    return replace(sample, latency=(), accuracy=(), operators=(), machines={}, verdict=(verdict,))


def no_accuracy() -> Report:
    """Timings without any score."""
    return replace(report(), accuracy=())


def hostile() -> Report:
    """Text from outside that tries to be markup, wherever it can come from."""
    sample = report(labels=(HOSTILE, *LABELS[1:]))
    scores = metrics(CONFUSION, (HOSTILE, *LABELS[1:]))
    rows = (*sample.accuracy[:-1], accuracy("tflite-int8", "litert", 0.8793, passed=False, problem=HOSTILE))
    verdict = replace(sample.verdict[0], device=HOSTILE, reason=HOSTILE)
    return replace(
        sample,
        name=HOSTILE,
        recipe={**sample.recipe, "description": HOSTILE, "name": HOSTILE},
        accuracy=(*rows[:-1], replace(rows[-1], metrics=scores)),
        failures=(replace(sample.failures[0], reason=HOSTILE),),
        verdict=(verdict, *sample.verdict[1:]),
    )


class Page(HTMLParser):
    """Checks nesting and collects what the tests ask about."""

    VOID = frozenset({"meta", "link", "input", "br", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)
