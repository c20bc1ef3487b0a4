"""What every stage receives: the job, the results of earlier stages, and the console."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.checkpoint_file import NAME
from edgekit.config.recipe import Recipe
from edgekit.console import Console
from edgekit.device.file import Device
from edgekit.disk import json_file
from edgekit.disk.run_directory import Done, RunDirectory
from edgekit.pipeline.provenance import PACKAGES, of_formats, versions
from edgekit.report.contents import StageRow
from edgekit.runtime import engine_menu, machine
from edgekit.types import Artifact, Checkpoint, Epoch

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Job:
    """What to run, its base folder, its output folder."""

    recipe: Recipe
    base: Path
    """Folder that the recipe's relative paths start from."""
    out: Path
    devices: Mapping[str, Device]
    """Devices by name; without any, nothing is profiled."""
    again: bool = False
    """Measure on the devices even what was measured before."""
    pause: int | None = None
    """Stop the recovery of a pruned network after this epoch, to be gone on with."""
    after_epoch: Callable[[Epoch], None] | None = None
    """Called after each epoch of the train stage; what it raises ends the run, which can be gone on with."""
    beside: Path | None = None
    """Folder of runs whose finished stages are taken over where they have the same inputs."""


@dataclass
class Run:
    """One pass over the stages; `done` holds those that have results."""

    job: Job
    directory: RunDirectory
    console: Console
    done: dict[str, Done] = field(default_factory=dict)
    rows: list[StageRow] = field(default_factory=list)
    _loaded: tuple[Done, nn.Module, Checkpoint] | None = field(default=None, init=False, repr=False)

    @property
    def recipe(self) -> Recipe:
        """The recipe of this run."""
        return self.job.recipe

    @property
    def network(self) -> Done:
        """The stage that holds the float network: the last one that wrote a checkpoint."""
        return self.done.get("prune") or self.done["train"]

    @property
    def checkpoint(self) -> Checkpoint | None:
        """What lies beside the weights of the float network; None if there is none yet."""
        found: Checkpoint | None = self.read("prune" if "prune" in self.done else "train", NAME, Checkpoint)
        return found

    def load(self, stage: Done) -> tuple[nn.Module, Checkpoint]:
        """The network of a stage that wrote a checkpoint: read once, and a copy that the caller may change each time.

        Raises:
            InputError: not a checkpoint, or its files do not belong together.
        """
        if self._loaded is None or self._loaded[0] != stage:
            from edgekit import models

            self._loaded = (stage, *models.load(stage.path))
        _, module, checkpoint = self._loaded
        return copy.deepcopy(module), checkpoint

    def digest(self, stage: str) -> str | None:
        """Hash of a stage's results; None if it did not run."""
        return self.done[stage].digest if stage in self.done else None

    def read(self, stage: str, file: str, kind: Any) -> Any:
        """A JSON file of a stage; None if the stage did not run or wrote none."""
        path = self.done[stage].path / file if stage in self.done else None
        return json_file.load(path, kind) if path is not None and path.is_file() else None

    @property
    def bundle(self) -> Path | None:
        """The one file to ship; None if there is none."""
        done = self.done.get("bundle")
        return next(done.path.glob("*.edgekit"), None) if done else None

    @property
    def packages(self) -> dict[str, str]:
        """Versions of the packages that made and judged the files, and of python."""
        judges = (engine_menu.engine(name).PACKAGE for name in self.inexact)
        return {"python": str(machine.facts()["python"]), **versions(*PACKAGES, *of_formats(self.formats), *judges)}

    @property
    def inexact(self) -> list[str]:
        """Engines of the run's devices that are held to a bound of their own, where they are installed here."""
        used = dict.fromkeys(engine for device in self.job.devices.values() for engine in device.run.engines)
        return [name for name in used if engine_menu.bound(name) and engine_menu.installed(engine_menu.engine(name))]

    @property
    def formats(self) -> Sequence[str]:
        """Formats that the recipe exports to."""
        return self.recipe.export.formats if self.recipe.export else ()

    @property
    def trial_formats(self) -> Sequence[str]:
        """Those in which choices are timed."""
        return self.recipe.export.trial_formats if self.recipe.export else ()

    @property
    def seeds(self) -> dict[str, int]:
        """Seeds by use: split, train, prune, calibration."""
        sections = {"train": self.recipe.train, "prune": self.recipe.prune, "calibration": self.recipe.quantize}
        return {"split": self.recipe.data.seed, **{use: each.seed for use, each in sections.items() if each}}

    @property
    def artifacts(self) -> list[Artifact]:
        """The exported files; empty before there are any."""
        return self.read("export", "artifacts.json", list[Artifact]) or []
