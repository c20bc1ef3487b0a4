"""The networks that a search looks at, before and after they are trained, and the runs that train them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgekit import models
from edgekit.config.recipe import ExportSection, PruneSection, QuantizeSection, Recipe
from edgekit.console import Console
from edgekit.data import index_file
from edgekit.data.dataset import ImageSet
from edgekit.data.transforms import levels
from edgekit.device.file import Device
from edgekit.disk import json_file
from edgekit.disk.run_directory import RunDirectory
from edgekit.errors import InputError
from edgekit.fit.records import Candidate, Net
from edgekit.pipeline import run as pipeline
from edgekit.pipeline.run import Job
from edgekit.prune.planning import Planner
from edgekit.search import pruning_choice
from edgekit.search.narrow_files import Template
from edgekit.search.stopwatch import Setting
from edgekit.train import loop
from edgekit.types import Index, InputSpec, PrunePlan, Size

FILES = ".files"
"""Folder of files that are timed and thrown away."""
PLANS = "plans"
WHOLE = "whole"
"""Folder of the run that trains the recipe's own network."""
ROOMY = 0.8
"""Share of a limit up to which there is room for some layers in float."""
FEW = 512
"""Most training images that a head is fitted on where nothing is trained."""


class Files:
    """Makes the files of a network and of narrower ones, for timing; the first call quantizes and converts the whole.

    Args:
        whole: the unpruned network; weights do not matter.
        spec: how images become tensors.
        images: preprocessed, float32 (channels, height, width).
        quantize: the recipe's section; None makes fp32.
        formats: which files.
        folder: gets a folder for each network.
    """

    def __init__(
        self,
        whole: nn.Module,
        spec: InputSpec,
        images: Sequence[Tensor],
        quantize: QuantizeSection | None,
        formats: Sequence[str],
        folder: Path,
    ) -> None:
        self.images, self.quantize, self.folder = images, quantize, folder
        self._spec, self.pixels = spec, torch.from_numpy(levels(spec))
        self._whole, self._size, self._formats = copy.deepcopy(whole), spec.shape, formats
        self._template: Template | None = None

    def __call__(self, module: nn.Module, name: str) -> dict[str, Path]:
        """By format.

        Args:
            module: the whole network, or a narrower one.
            name: of its folder.

        Raises:
            Shortfall: a converter refuses the network.
        """
        if self._template is None:
            self._template = Template(
                self._whole,
                self._size,
                self.images,
                self.pixels,
                self.quantize,
                self._formats,
                self.folder / "template",
            )
        return self._template.files(module, self.folder / name)

    def of(self, whole: nn.Module, name: str) -> Files:
        """The same for another network, in a folder of this name."""
        folder = self.folder.with_name(f"{self.folder.name}-{name}")
        return Files(whole, self._spec, self.images, self.quantize, self._formats, folder)

    def setting(self, device: Device, form: str, engine: str, console: Console) -> Setting:
        """For timing on a device, in one engine."""
        on = device.model_copy(update={"run": device.run.model_copy(update={"engines": [engine]})})
        return Setting(
            device.name, on, [form], self.quantize, self._size, self.images, self.pixels, self.folder, console
        )


@dataclass(frozen=True)
class Whole:
    """One whole network."""

    net: Net
    module: nn.Module
    spec: InputSpec
    index: Index
    root: Path
    section: PruneSection
    planner: Planner
    files: Files
    dropped: tuple[str, ...] = ()
    """Residual blocks that were left out of it."""

    @property
    def size(self) -> Size:
        """(channels, height, width) of its input."""
        return self.spec.shape


class Workshop:
    """Builds and trains the networks of one search.

    Args:
        job: the recipe, with [fit]; `Job.out` gets a folder for each network.
        console: progress.
    """

    def __init__(self, job: Job, console: Console) -> None:
        self.job, self.console = job, console
        self.own = Net(job.recipe.model.name, _side(job.recipe))

    @property
    def prune(self) -> PruneSection:
        """How channels are scored, and how pruned networks are trained; the target is the search's own."""
        section = self.job.recipe.prune
        return section or PruneSection(macs=0.5)

    @property
    def formats(self) -> Sequence[str]:
        """Formats in which networks are timed."""
        return (self.job.recipe.export or ExportSection()).trial_formats

    def recipe(self, net: Net) -> Recipe:
        """The recipe for another whole network: everything else stays."""
        recipe = self.job.recipe
        model = recipe.model
        if net.name != model.name:
            model = type(model)(name=net.name, head=model.head)
        side = net.side if isinstance(net.side, int) else list(net.side)
        data = recipe.data.model_copy(update={"input": side})
        return recipe.model_copy(update={"model": model, "data": data, "prune": None, "fit": None})

    def pruned(self, one: Candidate) -> Recipe:
        """The recipe of a candidate: its whole network, and the plan that is replayed."""
        recipe = self.recipe(one.net)
        if one.plan is None:
            return recipe
        file = (self.job.out / PLANS / f"{one.id}.json").resolve()
        if not file.is_file() or json_file.load(file, PrunePlan) != one.plan:
            file.parent.mkdir(parents=True, exist_ok=True)
            json_file.save(file, one.plan)
        targets = {"plan": str(file), "macs": None, "parameters": None, "latency": None}
        return recipe.model_copy(update={"prune": self.prune.model_copy(update=targets)})

    def final(self, one: Candidate, load: float, ahead: float) -> Recipe:
        """The recipe with which a candidate is quantized, verified and packed.

        Args:
            one: the candidate.
            load: the largest share that it takes of any limit. Layers that stay in float, a rung of the rescue ladder,
                take time; only a candidate that leaves some may have them.
            ahead: points of validation top-1 that its float network is above the whole one, which int8 may lose
                besides what [fit] allows against that.
        """
        recipe, fit = self.pruned(one), self.job.recipe.fit
        if recipe.quantize is None or fit is None:
            return recipe
        before, drop = recipe.quantize, min(round(fit.max_drop + ahead, 3), 100.0)
        now = before.model_copy(update={"max_drop": max(before.max_drop, drop)})
        if now.max_drop > before.max_drop:
            self.console.say(
                f"fit: int8 may lose {drop:g} points against its own float network, not {before.max_drop:g}: "
                f"fit.max_drop allows {fit.max_drop:g} against the whole one"
            )
        if load > ROOMY and "keep_float" in before.rescue:
            self.console.say("fit: no layer is kept in float to rescue accuracy: the budget has no time for that")
            now = now.model_copy(update={"rescue": [rung for rung in before.rescue if rung != "keep_float"]})
        return recipe.model_copy(update={"quantize": now})

    def folder(self, net: Net) -> Path:
        """Of the run that trains a whole network."""
        if net == self.own:
            return self.job.out / WHOLE
        sides = (net.side,) if isinstance(net.side, int) else net.side
        return self.job.out / f"{net.name.replace('/', '-')}-{'x'.join(map(str, sides))}"

    def run(self, folder: Path, recipe: Recipe, last: str, net: Net, **keys: Any) -> pipeline.Outcome:
        """Run the stages of one network, up to `last`; what another run has done already is taken over.

        Raises:
            Paused: as `pause` asks for.
            InputError, Shortfall: as the stages.
        """
        directory = RunDirectory(folder)
        home = RunDirectory(self.folder(net))
        for stage in ("data", "train") if folder != home.path else ():
            directory.adopt(home, stage)
        if net != self.own:
            directory.adopt(RunDirectory(self.job.out / WHOLE), "data")
        return pipeline.run(replace(self.job, recipe=recipe, out=folder, **keys), self.console, last)

    def untrained(self, net: Net) -> Whole:
        """A network as it is before training, with the classes of the data: its times are those of the trained one.

        Raises:
            InputError: it cannot be built, or has nothing to prune.
        """
        self.run(self.folder(net), self.recipe(net), "data", net)
        index, root = index_file.load_rooted(RunDirectory(self.folder(net)).folder("data"))
        recipe = self.recipe(net)
        torch.manual_seed(recipe.train.seed if recipe.train else 0)
        module, _, spec = models.create(
            recipe.model,
            len(index.labels),
            recipe.data.shape,
            self.job.base,
            recipe.train is not None,
            resize=recipe.data.resize,
            pad=recipe.data.pad,
        )
        return self._whole(net, module, spec, index, root)

    def trained(self, net: Net, before: Whole) -> Whole:
        """The network after the recipe's [train]; nothing is trained twice.

        Args:
            net: which.
            before: the same, untrained: the files that are timed stay the same.

        Raises:
            InputError, Shortfall: as the stages.
        """
        self.run(self.folder(net), self.recipe(net), "train", net)
        module, _ = models.load(RunDirectory(self.folder(net)).folder("train"))
        planner = pruning_choice.planner(module, self.prune, before.spec, before.index, before.root)
        return replace(before, module=module, planner=planner)

    def with_head(self, whole: Whole) -> None:
        """Fit the head alone, on a few images: scores need a network that tells the classes apart a little."""
        section = self.job.recipe.train
        samples = whole.index.split("train")
        few = samples[:: max(1, len(samples) // FEW)][:FEW]
        images = ImageSet(replace(whole.index, samples=few), whole.root, "train", whole.spec)
        if len(images):
            loop.fit_head(whole.module, images, 50, section.label_smoothing if section else 0.0)

    def _whole(self, net: Net, module: nn.Module, spec: InputSpec, index: Index, root: Path) -> Whole:
        quantize = self.job.recipe.quantize
        few = pruning_choice.few(index, root, spec, self.prune.seed)
        if quantize is not None and not few:
            raise InputError("fit: the data has no training images to calibrate int8 files with")
        planner = pruning_choice.planner(module.eval(), self.prune, spec, index, root)
        folder = self.job.out / FILES / self.folder(net).name
        files = Files(module, spec, few, quantize, self.formats, folder)
        return Whole(net, module, spec, index, root, self.prune, planner, files)


def _side(recipe: Recipe) -> int | tuple[int, int]:
    _, height, width = recipe.data.shape
    return height if height == width else (height, width)
