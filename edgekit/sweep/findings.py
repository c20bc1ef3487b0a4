"""From the run directories of a sweep to its records."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit import __version__
from edgekit.disk import json_file
from edgekit.disk.run_directory import ORDER, RECORD, RunDirectory
from edgekit.errors import InputError
from edgekit.measurements import Machine, Profile, Timing, Verdict
from edgekit.report.svg import megabytes, ms, percent
from edgekit.scores import Accuracy
from edgekit.sweep import space
from edgekit.sweep.flow import AFTER, Sweep
from edgekit.sweep.records import Combination, Result, Row, State
from edgekit.types import INTEGERS, Artifact
from edgekit.verdict import intervals, pareto

COSTLY = ("train", "prune", "quantize")
"""Stages that are worth a word if they were shared."""


def result(sweep: Sweep) -> Result:
    """Where a sweep stands.

    Args:
        sweep: its combinations and their folders.
    """
    combinations = _combinations(sweep)
    rows: list[Row] = []
    machines: dict[str, Machine] = {}
    for one in combinations:
        if one.state == "done":
            found, where = _rows(one.number, RunDirectory(sweep.job.out / one.folder), sweep.job.devices)
            rows += found
            machines |= where
    rows.sort(key=lambda row: (row.device, row.kind or "", row.combination))
    listed = {key: list(values) for key, values in sweep.listed.items()}
    made = Result(sweep.job.recipe.name, __version__, listed, tuple(combinations), _with_fronts(rows), machines)
    return replace(made, said=_said(made), method=_method(sweep))


def _combinations(sweep: Sweep) -> list[Combination]:
    found: list[Combination] = []
    first: dict[str, int] = {}
    for one in sweep.combinations:
        if one.recipe is None:
            found.append(Combination(one.number, one.settings, one.folder, "left out", one.why))
            continue
        now = sweep.progress(one)
        state: State = "failed" if now.why else "done" if now.reached == AFTER else "open"
        stages = []
        for name in ORDER[: ORDER.index("profile")]:
            key, seconds = _record(RunDirectory(sweep.job.out / one.folder).folder(name))
            if key and name in sweep.plans[one.number].stages:
                stages.append((name, first.setdefault(key, one.number), seconds))
        why = now.why or (f"not measured: {now.lost}" if now.lost else "")
        found.append(
            Combination(one.number, one.settings, one.folder, state, why, tuple(stages), now.seconds, now.worker)
        )
    return found


def _record(folder: Path) -> tuple[str, float]:
    """Key and seconds of a stage that has ended; else nothing."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return str(record["key"]), float(record["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", 0.0


def _rows(number: int, run: RunDirectory, devices: Mapping[str, Any]) -> tuple[list[Row], dict[str, Machine]]:
    """What a run would ship on each device, or, without a device, its smallest file."""
    artifacts = {one.id: one for one in _read(run, "export", "artifacts.json", list[Artifact]) or ()}
    scores = [row for row in _read(run, "verify", "accuracy.json", list[Accuracy]) or () if row.passed]
    if not devices:
        smallest = _smallest(list(artifacts.values()), scores)
        return [_row(number, smallest, scores)] if smallest else [], {}
    profile: Profile | None = _read(run, "profile", "profile.json", Profile)
    rows = []
    for verdict in _read(run, "report", "verdict.json", list[Verdict]) or ():
        timing = _timing(verdict, profile.timings if profile else ())
        if timing is not None:
            rows.append(_row(number, artifacts[timing.artifact], scores, timing, verdict.reason))
    return rows, profile.machines if profile else {}


def _row(
    number: int, artifact: Artifact, scores: Sequence[Accuracy], timing: Timing | None = None, why: str = ""
) -> Row:
    engine = timing.engine if timing else ""
    own = [row for row in scores if row.artifact == artifact.id]
    score = max(own, key=lambda row: (row.engine == engine, row.split == "test", row.images))
    row = Row(
        combination=number,
        device=timing.device if timing else "",
        artifact=artifact.id,
        bytes=artifact.bytes,
        top1=score.top1,
        top1_ci=intervals.share(score.top1 * score.images, score.images),
        split=score.split,
        images=score.images,
        why=why,
    )
    if timing is None:
        return row
    return replace(
        row,
        p50_ms=timing.p50_ms,
        p50_ci=timing.p50_ci,
        kind=timing.kind,
        engine=engine,
        engine_version=timing.engine_version,
        threads=timing.threads,
    )


def _smallest(artifacts: Sequence[Artifact], scores: Sequence[Accuracy]) -> Artifact | None:
    """The smallest verified file, of integers if there is one."""
    known = {row.artifact for row in scores}
    files = [one for one in artifacts if one.id in known]
    return min(files, key=lambda one: (one.precision not in INTEGERS, one.bytes), default=None)


def _timing(verdict: Verdict, timings: Sequence[Timing]) -> Timing | None:
    """The timing that a verdict chose; None if nothing ships."""
    wanted = (verdict.device, verdict.artifact, verdict.engine, verdict.threads, verdict.kind)
    rows = (t for t in timings if (t.device, t.artifact, t.engine, t.threads, t.kind) == wanted and t.batch == 1)
    return next(rows, None)


def _read(run: RunDirectory, stage: str, file: str, kind: Any) -> Any:
    with contextlib.suppress(InputError):
        return json_file.load(run.folder(stage) / file, kind)
    return None


def _with_fronts(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows, each marked if it is on the front of its device and kind."""
    chosen: set[tuple[int, str, str | None]] = set()
    for place in dict.fromkeys((row.device, row.kind) for row in rows):
        mine = [row for row in rows if (row.device, row.kind) == place]
        losses = [(-row.top1, row.p50_ms or 0.0, float(row.bytes)) for row in mine]
        chosen |= {(mine[rank].combination, *place) for rank in pareto.front(losses)}
    return tuple(replace(row, front=(row.combination, row.device, row.kind) in chosen) for row in rows)


# In words ------------------------------------------------------------------------------------------


def _said(found: Result) -> str:
    counts = ", ".join(
        f"{found.count(state)} {state}" for state in ("done", "failed", "left out", "open") if found.count(state)
    )
    words = [f"{len(found.combinations)} combinations: {counts}."]
    if shared := sharing(found):
        words.append(f"Shared work was done once: {shared}.")
    for device, kind in found.places:
        rows = [row for row in found.at(device, kind) if row.front]
        best = max(rows, key=lambda row: row.top1)
        words.append(f"{where(device, kind)}: {len(rows)} on the Pareto front; most accurate is {outcome(best)}.")
    return " ".join(words)


def _method(sweep: Sweep) -> str:
    """How times were taken."""
    if not sweep.job.devices:
        return "No device was named, so nothing was measured: --device NAME, or [profile] in the recipe."
    words = (
        "Files were made first; then one process measured all of them, run after run, while no worker of the sweep "
        "computed on this machine."
    )
    if early := [phase.last for phase in sweep.phases if phase.alone and phase.last != AFTER]:
        words += f" So were the times that decide something in {' and '.join(early)}."
    return f"{words} The files of one run took turns; between runs a machine may be a little faster or slower."


def sharing(found: Result) -> str:
    """How often which costly stage was done for how many combinations; empty if none was shared."""
    words = []
    for name in COSTLY:
        counts = Counter(first for one in found.combinations for stage, first, _ in one.stages if stage == name)
        if counts.total() > len(counts):
            words.append(f"{name} {_times(len(counts))} for {counts.total()} runs")
    return ", ".join(words)


def outcome(row: Row) -> str:
    """``3 (98.33 %, 0.412 ms, 0.31 MB)``."""
    time = f"{ms(row.p50_ms)} ms, " if row.p50_ms is not None else ""
    return f"{row.combination} ({percent(row.top1)}, {time}{megabytes(row.bytes)})"


def where(device: str, kind: str | None) -> str:
    """``On my-pi, measured``."""
    return f"On {device}, {kind}" if device else "Nothing was measured; by accuracy and size"


def machine(result: Result, device: str) -> str:
    """``my-pi: Cortex-A76, Debian GNU/Linux 12``."""
    facts = (result.machines or {}).get(device)
    return f"{device}: {facts.cpu}, {facts.os}" if facts else device


def settings(one: Combination, keys: Sequence[str]) -> list[str]:
    """The values of a combination, for a table."""
    return [space.shown(one.settings[key]) for key in keys]


def words(one: Combination) -> str:
    """``data.input = 128, prune.macs = none``."""
    return ", ".join(f"{key} = {space.shown(value)}" for key, value in one.settings.items())


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
