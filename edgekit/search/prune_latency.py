"""Measured latency of pruned networks against the unpruned one, on one device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from edgekit.config.recipe import QuantizeSection
from edgekit.console import Console
from edgekit.device.file import Device
from edgekit.errors import InputError, Shortfall, Unreached
from edgekit.export.port import exporter
from edgekit.search import trial_files
from edgekit.types import PrunePlan, Size

PROBES = 6
"""Most networks tried for one latency target."""
SLACK = 0.05
"""How far below its target a latency may end."""
STRIDE = 0.3
"""Most by which the next network is narrower, while none was fast enough."""
SECONDS = 2.0
"""Measured seconds per file."""


@dataclass(frozen=True)
class Setting:
    """What is timed, and how its files are made."""

    device: str
    on: Device
    formats: Sequence[str]
    quantize: QuantizeSection | None
    """The recipe's section; None times fp32."""
    size: Size
    images: Sequence[Tensor]
    """Two preprocessed images, float32 [channels, height, width]: the files must run, but need not be accurate."""
    pixels: Tensor
    """As for `edgekit.quantize.ptq.quantize`."""
    folder: Path
    """For temporary files."""
    console: Console


class Stopwatch:
    """Times networks against the unpruned one, interleaved in one run: same format, precision, engine, one thread.

    The engine is the device's fastest for the unpruned network.

    Args:
        whole: the unpruned network, in eval mode.
        setting: where and how.

    Raises:
        InputError: the device runs none of the recipe's formats.
        Unreached: the device was not reached.
        Shortfall: nothing could be measured.
    """

    def __init__(self, whole: nn.Module, setting: Setting) -> None:
        self._setting = setting
        formats = [name for name in setting.formats if trial_files.engines_for([name], setting.on)]
        if not formats:
            raise InputError(
                f"prune: {setting.device} has no engine for {' or '.join(setting.formats)} files "
                f"(its engines: {', '.join(setting.on.run.engines)})"
            )
        files = self._files(whole, "unpruned", formats)
        trials = self._time(files, setting.on)
        best = min(trials, key=lambda trial: trial.ms)
        self._format, self._whole = best.file.rpartition(" ")[2], files[best.file]
        section = setting.on.run.model_copy(update={"engines": [best.engine]})
        self._on = setting.on.model_copy(update={"run": section})
        precision = "int8" if setting.quantize else "fp32"
        self.where = f"{precision} {self._format}, {best.engine} {best.engine_version}, 1 thread, on {setting.device}"

    def __call__(self, pruned: nn.Module) -> tuple[float, float]:
        """Milliseconds per image of the unpruned and the pruned network: p50 of the quietest round of each."""
        (name, path), *_ = self._files(pruned, "pruned", [self._format]).items()
        trials = {trial.file: trial.ms for trial in self._time({"unpruned": self._whole, name: path}, self._on)}
        if len(trials) < 2:
            raise Shortfall(f"{self.where}: the pruned network's file could not be measured")
        return trials["unpruned"], trials[name]

    def _files(self, module: nn.Module, title: str, formats: Sequence[str]) -> dict[str, Path]:
        given = self._setting
        folder = given.folder / title
        folder.mkdir(parents=True, exist_ok=True)
        if given.quantize:
            made = trial_files.quick_int8(
                module, given.size, given.images, given.pixels, given.quantize, formats, folder
            )
        else:
            made = {name: exporter(name).export(module, given.size, "fp32", folder) for name in formats}
        return {f"{title} {name}": folder / artifact.path for name, artifact in made.items()}

    def _time(self, files: Mapping[str, Path], on: Device) -> Sequence[trial_files.Trial]:
        trials = trial_files.time_files(files, {self._setting.device: on}, self._setting.console, SECONDS)
        if not trials.rows:
            raise Unreached(trials.missing)
        return trials.rows


def search(
    build: Callable[[float], tuple[PrunePlan, nn.Module]], stopwatch: Stopwatch, target: float, console: Console
) -> tuple[PrunePlan, nn.Module, tuple[float, float]]:
    """Find the widest network that is fast enough, by interpolating between measured latencies.

    Args:
        build: returns the plan and the network for a share of multiply-adds.
        stopwatch: measures the network.
        target: share of the unpruned network's latency.
        console: progress.

    Returns:
        Plan, pruned network, and milliseconds of the unpruned network and of the pruned one.

    Raises:
        Shortfall: none of the networks tried is fast enough.
    """
    slow: list[tuple[float, float]] = [(1.0, 1.0)]  # share of multiply-adds, and of latency: above the target
    fast: list[tuple[float, float]] = []  # at or below the target
    best = None
    reason = ""
    share = target
    for _ in range(PROBES):
        try:
            plan, module = build(share)
        except InputError as error:
            reason = f" ({error})"
            break
        before, after = stopwatch(module)
        ratio = after / before
        console.say(f"  {share:.0%} of the multiply-adds: {ratio:.0%} of the latency ({after:.3g} of {before:.3g} ms)")
        (fast if ratio <= target else slow).append((share, ratio))
        if ratio <= target and (best is None or share >= max(fast)[0]):
            best = plan, module, (before, after)
        if target - SLACK <= ratio <= target:
            break
        share = _next(slow, fast, target - SLACK / 2)
    if best is None:
        raise Shortfall(
            f"prune.latency = {target:g}: not reached on {stopwatch.where}; the fastest network tried takes "
            f"{min(ratio for _, ratio in slow):.2f} of the unpruned one's time{reason}"
        )
    return best


def _next(slow: list[tuple[float, float]], fast: list[tuple[float, float]], aim: float) -> float:
    """The next share to try: on the line between the nearest on either side, or beyond the last two that are too slow.

    It keeps away from shares already tried, as noise can reverse two neighbours.
    """
    here = min(slow)
    there = max(fast) if fast else sorted(slow)[1] if len(slow) > 1 else (0.0, 0.0)
    slope = (here[0] - there[0]) / ((here[1] - there[1]) or 1e-6)
    guess = here[0] + (aim - here[1]) * slope
    low, high = (there[0] if fast else STRIDE * here[0]), here[0]
    margin = 0.1 * (high - low)
    return min(max(guess, low + margin), high - margin)
