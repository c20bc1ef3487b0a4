"""Reports of unusual runs, and what reads a page of one."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

from edgekit.device.file import LimitsSection
from edgekit.measurements import Kind, Timing
from edgekit.report.contents import Report, StageRow, gather
from edgekit.types import Rewrite
from edgekit.verdict.rule import decide
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


def one() -> Report:
    """A report of the host alone, judged by the rule, measured while the machine was busy."""
    sample = report()
    rows = tuple(replace(t, load_average=2.71) for t in sample.latency if t.device == "host")
    verdict = decide("host", sample.artifacts, sample.accuracy, rows, LimitsSection(), 1.0)
    rewrites = (
        *sample.rewrites,
        Rewrite("global_average_pool", "onnx", True, "needed: without it 1 operator is float"),
    )
    return replace(sample, latency=rows, failures=(), verdict=(verdict,), limits={}, rewrites=rewrites)


def ten() -> Report:
    """Ten devices of all kinds, each judged by the rule; a few names are long."""
    sample = report()
    names = ("host", "raspberry-pi-4", "raspberry-pi-5", "rpi4-emulated", "rpi5-emulated", "jetson-orin-nano",
             "android-phone", "workshop-line-3/camera_left", "webgpu", "old-laptop")  # fmt: skip
    rows: list[Timing] = []
    for i, name in enumerate(names):
        kind: Kind = "estimated" if "emulated" in name else "emulated" if name == "webgpu" else "measured"
        for t in sample.latency[4:8]:
            gain = 1.0 if "fp32" in t.artifact else 0.6 + 0.07 * i
            times = tuple((i + 1) * gain * value for value in t.samples)
            p50, p90, p99 = ((i + 1) * gain * (value or 0) for value in (t.p50_ms, t.p90_ms, t.p99_ms))
            row = replace(t, device=name, kind=kind, p50_ms=p50, p90_ms=p90, p99_ms=p99, samples=times)
            row = row if i == 0 else replace(row, sustained=())
            row = replace(row, p50_ci=(0.98 * p50, 1.03 * p50), p90_ci=None, p99_ci=None)
            rows.append(row if kind == "measured" else replace(row, samples=(), p90_ms=None, p99_ms=None))
    verdicts = tuple(decide(name, sample.artifacts, sample.accuracy, rows, LimitsSection(), 1.0) for name in names)
    machines = {name: replace(sample.machines["host"], hostname=name) for name in names}
    shown = tuple(replace(profile, device=name) for name in names for profile in sample.operators)
    return replace(
        sample, latency=tuple(rows), verdict=verdicts, machines=machines, operators=shown, failures=(), limits={}
    )


class Page(HTMLParser):
    """Checks nesting and collects what the tests ask about."""

    VOID = frozenset({"meta", "link", "input", "br", "img", "wbr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.glue = False
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.glue = tag == "wbr"  # may be broken here, but is one word
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text[-1:] = [self.text[-1] + data] if self.glue else [*self.text[-1:], data]
            self.glue = False

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)
