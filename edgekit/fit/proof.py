"""The chosen network, built and measured like any other: quantized, verified, packed, timed in a fresh session."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edgekit import checkpoint_file
from edgekit.config.recipe import Recipe
from edgekit.disk.run_directory import RunDirectory
from edgekit.fit.networks import Workshop
from edgekit.fit.records import Candidate, Measurement, Result
from edgekit.fit.timing import measurement
from edgekit.fit.widths import Budget
from edgekit.pipeline.run import Outcome


def prove(workshop: Workshop, chosen: Candidate, recipe: Recipe, result: Result) -> Result:
    """Run the chosen network up to the report, and compare what ships with every limit.

    Args:
        workshop: of the search.
        chosen: the candidate.
        recipe: its own (`Workshop.final`).
        result: so far.

    Raises:
        Shortfall: a stage fell short.
    """
    folder = workshop.job.out / chosen.id if chosen.plan is not None else workshop.folder(chosen.net)
    outcome = workshop.run(folder, recipe, "report", chosen.net)
    shipped = _shipped(outcome, result.percentile)
    top1 = _top1(workshop, outcome)
    result = replace(result, shipped=tuple(shipped.values()), top1=top1)
    return replace(result, **_judged(workshop, result, outcome))


def _shipped(outcome: Outcome, percentile: int) -> dict[str, Measurement]:
    """The row of each device's verdict."""
    found = {}
    artifacts = {artifact.id: artifact for artifact in outcome.results.artifacts}
    for verdict in outcome.verdict:
        row = next(
            (
                row
                for row in outcome.results.latency
                if (row.device, row.artifact, row.engine, row.threads)
                == (verdict.device, verdict.artifact, verdict.engine, verdict.threads)
                and row.batch == 1
            ),
            None,
        )
        if row is not None:
            artifact = artifacts[row.artifact]
            cpu = outcome.results.machines[row.device].cpu
            found[row.device] = measurement(row, percentile, cpu, artifact.format, artifact.bytes)
    return found


def _top1(workshop: Workshop, outcome: Outcome) -> tuple[float | None, float | None]:
    """Test top-1 of the whole float network, and of what ships: the worst of the devices."""
    checkpoint = checkpoint_file.load(RunDirectory(workshop.folder(workshop.own)).folder("train"))
    whole = next((score.accuracy for score in checkpoint.metrics if score.split == "test"), None)
    ships = {(verdict.artifact, verdict.engine) for verdict in outcome.verdict}
    rows = [row.top1 for row in outcome.results.accuracy if row.split == "test" and (row.artifact, row.engine) in ships]
    return whole, min(rows, default=None)


def _judged(workshop: Workshop, result: Result, outcome: Outcome) -> dict[str, Any]:
    """Whether what ships meets every limit, and the outcome in words."""
    lacking = dict.fromkeys(workshop.job.devices, "not measured")
    lacking |= {verdict.device: verdict.reason for verdict in outcome.verdict}
    for row in result.shipped:
        del lacking[row.device]
    if lacking:
        why = "; ".join(f"{device}: {reason}" for device, reason in lacking.items())
        return {"holds": False, "said": f"nothing ships: {why}"}
    section = workshop.job.recipe.fit
    assert section is not None
    load = Budget(section, {}, 0.0).load(result.shipped)
    times = ", ".join(
        f"{row.ms:.3g} ms ({row.low:.3g} to {row.high:.3g}) on {row.device}, {row.format} in {row.engine}"
        for row in result.shipped
    )
    said = [f"{result.chosen}: {times}; the budget is {section.max_ms:g} ms"]
    drop = None
    if None not in result.top1:
        whole, now = result.top1
        assert whole is not None
        assert now is not None
        drop = 100 * (whole - now)
        said.append(f"test top-1 {now:.1%}, the whole network {whole:.1%}")
    holds = load <= 1 and (drop is None or drop <= section.max_drop + 1e-9)
    if load > 1:
        said.append(f"over a limit by {load - 1:.1%} in the last measurement: run again with a lower --max-ms")
    if drop is not None and drop > section.max_drop:
        said.append(ends(result, section.max_ms, section.max_drop, drop))
    return {"holds": holds, "said": "; ".join(said)}


def ends(result: Result, max_ms: float, max_drop: float, drop: float) -> str:
    """Both ends of the front: what the budget costs, and which budget would cost no more than is allowed.

    The second lies on the line between the nearest two networks that are known, and is marked as an estimate.
    """
    text = f"{max_ms:g} ms costs {drop:.1f} points, {max_drop:g} are allowed"
    at = max(row.ms for row in result.shipped)
    whole = max(row.ms for row in result.whole.measured)
    if drop > 0 and whole > at:
        text += f"; about {whole - (whole - at) * max_drop / drop:.2g} ms would do (estimated, on the way to the whole)"
    return text
