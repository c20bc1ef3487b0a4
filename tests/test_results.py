"""What commands print at their end."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console as RichConsole

from edgekit import console
from edgekit.cli import _results
from edgekit.cli.run import _summary
from edgekit.pipeline.results import Results
from edgekit.pipeline.run import Outcome
from edgekit.types import Pruning
from tests import report_sample
from tests.test_verdict import BUSY, HOST


def results() -> Results:
    sample = report_sample.report()
    return Results(sample.checkpoint, None, sample.artifacts, sample.accuracy, sample.latency)


def _pruning() -> Pruning:
    pruning = report_sample.report().pruning
    assert pruning is not None
    return pruning


def test_training_ends_with_its_scores() -> None:
    lines = _results.network(results()).splitlines()
    assert lines[1].split() == ["split", "images", "top-1", "macro", "F1"]
    checkpoint = results().checkpoint
    assert checkpoint is not None
    for line, metrics in zip(lines[2:], checkpoint.metrics, strict=True):
        assert line.split()[:3] == [metrics.split, str(metrics.images), f"{100 * metrics.accuracy:.1f}"]


def test_pruning_ends_with_what_it_cost() -> None:
    pruning = replace(_pruning(), accuracy=(0.84, 0.5, 0.83), parameters=(2_000_000, 1_000_000))
    words = _results.network(replace(results(), pruning=pruning))
    assert "validation top-1: unpruned 84.0 %, pruned 50.0 %, recovered 83.0 %" in words
    assert "before pruning 2 M" in words


def test_compression_ends_with_the_files() -> None:
    lines = _results.files(results()).splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == [artifact.id for artifact in results().artifacts]
    assert all(
        f"{artifact.bytes / 1e6:.3f}" in line for artifact, line in zip(results().artifacts, lines[1:], strict=False)
    )


def test_profiling_ends_with_all_times_the_fastest_first() -> None:
    lines = _results.latency(results()).splitlines()
    assert len(lines) == 1 + len(results().latency)
    here = [line for line in lines[1:] if line.startswith("host")]
    fastest = min((t for t in results().latency if t.device == "host" and t.batch == 1), key=lambda t: t.p50_ms)
    assert here[0].split()[1:3] == [fastest.artifact, fastest.engine]
    assert f"{fastest.p50_ms:#.3g}" in here[0]


def test_nothing_is_printed_of_what_was_not_done() -> None:
    assert [part(Results()) for part in (_results.network, _results.files, _results.latency)] == ["", "", ""]


def test_bars_may_be_nested_and_lines_are_not_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("rich.console.Console", lambda stderr: RichConsole(file=screen, force_terminal=True, width=120))
    shown = console.Console()
    for name in shown.each("outer", ["first [bold]", "second"]):
        with shown.bar("inner", 2) as advance:
            advance(1, f"part of {name}")
            shown.say(f"about {name}")
    words = screen.getvalue()
    assert "about first [bold]\n" in words
    assert "outer" in words
    assert "inner" in words


def test_times_that_do_not_tell_are_said_after_a_command_that_chooses_nothing() -> None:
    """``edgekit profile RUN`` measures; the verdict is the report's."""
    found = Results(artifacts=report_sample.ARTIFACTS, latency=BUSY, machines={"host": HOST})
    outcome = Outcome(Path("runs/mine"), (), (), None, results=found)
    why = "this machine was too busy to tell which file is the fastest: load 3.1 on 2 cores while measuring"
    assert _results.undecided(outcome) == {"host": why}
    assert f"warning: host: {why}" in _summary(outcome, "profile").splitlines()
    alone = replace(outcome, results=replace(found, latency=BUSY[:1]))
    assert _results.undecided(alone) == {}
