"""Measured latency of pruned networks against the unpruned one, on one device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from edgekit.config.recipe import QuantizeSection
from edgekit.console import Console
from edgekit.device.file import Device
from edgekit.errors import InputError, Shortfall, Unreached
from edgekit.search import trial_files
from edgekit.search.narrow_files import Template
from edgekit.types import Size

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


@dataclass(frozen=True)
class Where:
    """The engine in which networks are timed."""

    format: str
    engine: str
    engine_version: str
    cpu: str


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
        where = setting.folder / "template"
        self._template = Template(whole, setting.size, setting.images, setting.pixels, setting.quantize, formats, where)
        files = {f"unpruned {name}": path for name, path in self.files(whole, "unpruned").items()}
        trials = self._time(files, self._in(trial_files.exact(setting.on.run.engines)))
        best = min(trials, key=lambda trial: trial.ms)
        self._format, self._whole = best.file.rpartition(" ")[2], files[best.file]
        self._on = self._in([best.engine])
        self.engine = Where(self._format, best.engine, best.engine_version, best.machine.cpu)
        precision = "int8" if setting.quantize else "fp32"
        self.where = f"{precision} {self._format}, {best.engine} {best.engine_version}, 1 thread, on {setting.device}"

    def __call__(self, pruned: nn.Module) -> tuple[float, float]:
        """Milliseconds per image of the unpruned and the pruned network: p50 of the quietest round of each."""
        files = {"unpruned": self._whole, "pruned": self.files(pruned, "pruned")[self._format]}
        trials = {trial.file: trial.ms for trial in self._time(files, self._on)}
        if len(trials) < 2:
            raise Shortfall(f"{self.where}: the pruned network's file could not be measured")
        return trials["unpruned"], trials["pruned"]

    @property
    def setting(self) -> Setting:
        """The setting, with the one engine."""
        return replace(self._setting, on=self._on, formats=[self._format])

    def files(self, module: nn.Module, title: str) -> dict[str, Path]:
        """A network's files, by format, in a folder of that name."""
        return self._template.files(module, self._setting.folder / title)

    def _in(self, engines: Sequence[str]) -> Device:
        on = self._setting.on
        return on.model_copy(update={"run": on.run.model_copy(update={"engines": list(engines)})})

    def _time(self, files: Mapping[str, Path], on: Device) -> Sequence[trial_files.Trial]:
        trials = trial_files.time_files(files, {self._setting.device: on}, self._setting.console, SECONDS)
        if not trials.rows:
            raise Unreached(trials.missing)
        return trials.rows
