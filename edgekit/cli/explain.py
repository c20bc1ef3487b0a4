"""The command ``explain``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli._common import apart, as_json, debugged, guarded, percentage, quieted
from edgekit.errors import Shortfall, need
from edgekit.runtime import terminal

if TYPE_CHECKING:
    from edgekit.explain.records import Result


@click.command(no_args_is_help=True)
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--images", type=click.IntRange(1), default=64, metavar="N", help="Images to draw at random. [64]")
@click.option("--grid", type=click.IntRange(2, 32), default=7, metavar="N", help="Patches along a side. [7]")
@click.option("--seed", type=click.IntRange(0), default=0, metavar="N", help="Of the draw. [0]")
@click.option(
    "--engine",
    "engines",
    multiple=True,
    metavar="NAME",
    help="Ask files in this engine, too, e.g. openvino (repeatable).",
)
@click.option("--strict", is_flag=True, help="Exit 1 if the evidence moved in more than --max-moved of the images.")
@click.option(
    "--max-moved", callback=percentage, default="5%", metavar="PERCENT", help="What --strict allows each network. [5%]"
)
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Where to write. [RUN/explain]")
@as_json
@quieted
@debugged
def explain(strict: bool, max_moved: float, as_json: bool, quiet: bool, debug: bool, **flags: Any) -> None:
    """Show what the networks of RUN look at.

    Patches of test images are hidden, and each compressed network and the float network are asked what that takes away
    from float's class. A network with the class of float, but other evidence, is right for another reason. Writes
    pictures of these images, of those that changed most and of those that are most wrong (explain.html), explain.json
    and explain.csv; the next `edgekit report RUN` links to them. Grad-CAM of the float network needs captum:
    pip install 'edgekit[explain]'.

    \b
    Examples:
      edgekit explain runs/my
      edgekit explain runs/my --images 200 --grid 10
      edgekit explain runs/my --strict --max-moved 2% --json
    """

    def work() -> None:
        need("torch", extra="compress", purpose="explaining a run")
        from edgekit.console import Console
        from edgekit.explain import flow

        with apart():  # a network of the user's may print
            out = flags["out"] or flags["run"] / "explain"
            result = flow.explain(
                flags["run"], out, flags["images"], flags["grid"], flags["seed"], Console(quiet), flags["engines"]
            )
        click.echo(json.dumps(_as_dict(result), indent=2) if as_json else terminal.lines(_summary(result, out)))
        if strict:
            _hold(result, max_moved, out)

    guarded(work, debug)


def _hold(result: Result, limit: float, out: Path) -> None:
    """For ``--strict``."""
    from edgekit.explain.records import PAGE

    over = [each for each in result.networks if each.share and each.share[0] > limit]
    if over:
        words = [f"{each.network}: {_share(each.moved, each.judged, each.share)}" for each in over]
        raise Shortfall(
            f"explain: right for another reason, --max-moved allows {100 * limit:g}% of the images: see {out / PAGE}"
            + "".join(f"\n  {line}" for line in words)
        )
    if unknown := [each.network for each in result.networks if each.share is None]:
        raise Shortfall(f"explain: no image could be judged for {', '.join(unknown)}; give more --images")


def _as_dict(result: Result) -> dict[str, Any]:
    from pydantic import TypeAdapter

    values: dict[str, Any] = TypeAdapter(type(result)).dump_python(result, mode="json")
    return values


def _share(moved: int, judged: int, share: tuple[float, float, float] | None) -> str:
    if share is None:
        return "no image could be judged"
    return f"{moved} of {judged} ({share[1]:.1%} to {share[2]:.1%})"


def _summary(result: Result, out: Path) -> str:
    """The networks as a table, what they were measured with, and where everything is."""
    from edgekit.cli._results import table
    from edgekit.explain import records

    rows = [
        (
            each.network,
            f"{each.agreement:.1%}",
            "" if each.correlation is None else f"{each.correlation:.2f}",
            "" if each.lowest is None else f"{each.lowest:.2f}",
            "" if each.own is None else f"{each.own.score:.2f}",
            "" if each.by_float is None else f"{each.by_float.score:.2f}",
            _share(each.moved, each.judged, each.share),
        )
        for each in result.networks
    ]
    heads = ("network", "agrees", "correlation", "lowest", "by its map", "by float's", "right for another reason")
    drawn = f"{result.sampled} of {result.available} {result.split} images, drawn at random"
    lines = [drawn, table(heads, rows), _limit(result)]
    if not any(one.grad_cam for one in result.images):
        lines.append(f"Grad-CAM is left out: {result.grad_cam}")
    lines.append(f"pictures: {out / records.PAGE}")
    return "\n".join(lines)


def _limit(result: Result) -> str:
    """What correlations are measured with, in a line."""
    stick = result.yardstick
    if stick.limit is None:
        return "float's own evidence does not repeat on a shifted grid: nothing can be said; try another --grid"
    said = f"float's own evidence repeats with correlation {stick.repeat:.2f}; below {stick.limit:.2f} it has moved"
    return said if stick.detects is None else f"{said}, as {stick.detects:.0%} of maps swapped between images would"


COMMANDS = (explain,)
