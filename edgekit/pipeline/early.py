"""Refuse in the first seconds what a stage would refuse when its turn comes, before anything is downloaded or trained.

Only stages that are going to run are looked at: where nothing has changed, nothing is imported, built or connected.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import TYPE_CHECKING

from edgekit import checkpoint_file, choices
from edgekit.config import unused
from edgekit.data import index_file, port, split
from edgekit.data.listing import expand
from edgekit.device import file as device_file
from edgekit.device import probe
from edgekit.disk import json_file
from edgekit.disk.run_directory import ORDER
from edgekit.errors import InputError, MissingPackage, Unreached, missing
from edgekit.pipeline.stages import lower, quantize
from edgekit.pipeline.state import Run
from edgekit.runtime import engine_menu
from edgekit.types import HOST_ENGINES, PrunePlan, Size

if TYPE_CHECKING:
    from torch import nn

STAND_IN = 1000
"""Classes of a network that is built before the data says how many there are."""
_PACKAGES = {"prune": ("torch_pruning",), "lower": ("torchao",), "quantize": ("torchao",)}
_EXPORTERS = {"onnx": ("onnx", "onnxscript"), "tflite": ("litert_torch",), "executorch": ("executorch.exir",)}
_EXTRAS = {"executorch.exir": "executorch"}
"""Extras of packages that "compress" does not bring."""


def check(run: Run, first: str, last: str) -> None:
    """Check what the recipe names: packages, files, the network and its layers, devices.

    Args:
        run: with the stages before `first` done.
        first: the stage that is about to run.
        last: the last stage that was asked for.

    Raises:
        InputError: something that a stage from `first` to `last` would refuse.
        Unreached: the run is for devices, and none of them can be reached.
    """
    coming = _coming(run, first, last)
    if "data" in coming:
        port.check(run.recipe.data)
    for line in unused.lines(run.recipe):
        run.console.say(f"recipe: {line}")
    _check_packages(run, coming)
    _check_files(run, coming)
    _check_network(run, coming)
    _check_devices(run, coming)


def check_images(run: Run, first: str, last: str) -> None:
    """Check what the recipe asks of the images, once these are known.

    Raises:
        InputError: too few images to calibrate with, or none to verify with.
    """
    coming = _coming(run, first, last)
    index = index_file.load(run.done["data"].path)
    section = run.recipe.quantize
    if section is not None and {"lower", "quantize"} & set(coming):
        quantize.one_class(index, split.calibration(index, section.calibration, section.seed))
    if "verify" in coming and not (index.split("test") or index.split("val")):
        raise InputError("verify: the data has neither a test nor a validation split; set data.test")


def _coming(run: Run, first: str, last: str) -> Sequence[str]:
    """The stages from `first` to `last` that the recipe does not leave out."""
    recipe = run.recipe
    sections = {"prune": recipe.prune, "quantize": recipe.quantize, "export": recipe.export}
    without = {name for name, section in sections.items() if section is None}
    if recipe.export is None or recipe.verify is None:
        without.add("verify")
    if recipe.export is None or not run.job.devices:
        without.add("profile")
    if recipe.quantize is None or recipe.export is None or lower.why_not_timed(run):
        without.add("lower")
    return [name for name in ORDER[ORDER.index(first) : ORDER.index(last) + 1] if name not in without]


def _check_packages(run: Run, coming: Sequence[str]) -> None:
    formats = run.recipe.export.formats if run.recipe.export else []
    for stage in coming:
        modules = [*_PACKAGES.get(stage, ())]
        if stage == "export":
            modules += [module for name in formats for module in _EXPORTERS[name]]
        for module in modules:
            if not _installed(module):
                extra = _EXTRAS.get(module, "compress")
                raise missing(ModuleNotFoundError(name=module), extra=extra, purpose=f"the {stage} stage")
    for name in formats if "verify" in coming else ():
        engine = engine_menu.engine(HOST_ENGINES[name])
        if not _installed(engine.MODULE):
            module, package = engine.MODULE.split(".")[0], engine.PACKAGE
            raise MissingPackage(f"the verify stage needs {module}, which is not installed: pip install {package}")


def _installed(module: str) -> bool:
    """Whether there is a module; none but the packages around it are imported."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package around it
        return False


def _check_files(run: Run, coming: Sequence[str]) -> None:
    recipe, base = run.recipe, run.job.base
    if "prune" in coming and recipe.prune is not None and recipe.prune.plan is not None:
        json_file.load(expand(recipe.prune.plan, base), PrunePlan)
    if recipe.distill is not None and {"train", "prune", "quantize"} & set(coming):
        from edgekit.train import teacher

        teacher.find(recipe.distill.teacher, base)
    precisions = set(recipe.export.precisions) if "export" in coming and recipe.export is not None else set()
    if precisions == {"int8"} and recipe.quantize is None:
        raise InputError('export.precisions = ["int8"]: int8 needs a [quantize] section; add one, or "fp32" here')


def _check_network(run: Run, coming: Sequence[str]) -> None:
    """Build the network as the train stage will, and look up the layers that later stages are to treat specially."""
    if "train" in coming and run.recipe.train is not None:
        from edgekit.train import optim

        optim.check(run.recipe.train.optimizer)
    wanted = [(key, name) for stage, key, names in _layers(run) if stage in coming for name in names]
    if "data" not in coming and not wanted:  # the train stage is about to build it
        return
    module = _network(run, coming)
    if module is None:
        return
    for key, name in wanted:
        known = _names(module, key, run.recipe.data.shape)
        if name not in known:
            raise InputError(f"{key} = {choices.no_such(name, known, 'layer')}")


def _names(module: nn.Module, key: str, size: Size) -> list[str]:
    """The layers that a key may name: a network is quantized with its branches joined."""
    from edgekit.lower.reparameterize import joined

    made = joined(module.eval(), size) if key.startswith("quantize.") else module
    return [name for name, _ in made.named_modules() if name]


def _layers(run: Run) -> list[tuple[str, str, Sequence[str]]]:
    """Stage, key and names of layers that the recipe names."""
    found: list[tuple[str, str, Sequence[str]]] = []
    if run.recipe.prune is not None:
        found.append(("prune", "prune.keep", run.recipe.prune.keep))
    if run.recipe.quantize is not None:
        found.append(("quantize", "quantize.keep_float", run.recipe.quantize.keep_float))
        found.append(("quantize", "quantize.ranges", list(run.recipe.quantize.ranges)))
    return found


def _network(run: Run, coming: Sequence[str]) -> nn.Module | None:
    """The float network; None if it cannot be built before the data is there."""
    from edgekit import models
    from edgekit.weights import file as weights_file

    if "train" in run.done:
        folder = run.done["train"].path
        return models.build(checkpoint_file.load(folder).model, folder)
    recipe, base = run.recipe, run.job.base
    if "data" in run.done:
        labels = index_file.load(run.done["data"].path).labels
    else:
        labels = index_file.labels(recipe.data, base) or ()
    if not labels and ".py:" in recipe.model.name:
        models.constructor(recipe.model.name, base)
        if recipe.model.weights not in ("pretrained", "none"):
            weights_file.read(expand(recipe.model.weights, base))
        return None
    fits = bool(labels) and recipe.train is None
    stand_in = 2 if recipe.model.head == "sigmoid" else STAND_IN
    return models.create(recipe.model, len(labels) or stand_in, recipe.data.shape, base, swap=not fits)[0]


def _check_devices(run: Run, coming: Sequence[str]) -> None:
    """Look for an engine, and connect: to all at once, each said once if it cannot be reached."""
    devices, prune = run.job.devices, run.recipe.prune
    clock = None
    if "prune" in coming and prune is not None and prune.latency is not None:
        from edgekit.search import pruning_choice

        clock = pruning_choice.clock(prune, devices)
    if not {"lower", "profile"} & set(coming) and clock is None:
        return
    if "profile" in coming:
        _check_engines(run)
    away = {name: device for name, device in devices.items() if device.reach.by != "local"}
    with ThreadPoolExecutor(max(1, len(away))) as pool:
        found = dict(zip(away, pool.map(probe.check, away.values()), strict=True))
    lost = [f"{name}: {each.problems[0]}" for name, each in found.items() if not each.reached]
    down = [name for name, each in found.items() if not each.reached]
    if down and (clock in down or ("profile" in coming and len(down) == len(devices))):
        raise Unreached(
            "\n  ".join(lost) + "; nothing was run: reach it first, or measure on another --device "
            "(edgekit compress makes the files without measuring)"
        )
    for line in lost:
        run.console.say(f"{line}; this run goes on without it")


def _check_engines(run: Run) -> None:
    formats = run.recipe.export.formats if run.recipe.export else []
    engines = {name: device.run.engines for name, device in run.job.devices.items()}
    runs = {device_file.format_of(engine) for each in engines.values() for engine in each}
    if not runs & set(formats):
        named = "; ".join(f"{name} has {', '.join(each)}" for name, each in engines.items())
        raise InputError(
            f"profile: no device runs {' or '.join(formats)} files ({named}); "
            "change export.formats, or run.engines of the device"
        )
