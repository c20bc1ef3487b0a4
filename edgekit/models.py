"""Networks from timm, torchvision or a user's file: load weights, swap the head, save checkpoints.

A checkpoint is a folder with ``model.safetensors`` (the state dict, contiguous, on the CPU) and
``checkpoint.json`` (a `Checkpoint`), which together rebuild the network without the recipe.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models as zoo

from edgekit import checkpoint_file, ends
from edgekit.choices import no_such
from edgekit.config.recipe import ModelSection
from edgekit.data.listing import expand
from edgekit.disk.atomic import write_bytes
from edgekit.errors import InputError
from edgekit.graph import eager
from edgekit.types import Checkpoint, InputSpec, ModelSpec, Resize, Size, shape_of
from edgekit.weights import choice, published
from edgekit.weights import file as weights_file
from edgekit.weights.file import WeightsFile
from edgekit.weights.match import Slots
from edgekit.weights.published import TORCHVISION

WEIGHTS = "model.safetensors"
_CONSTRUCTOR_ERRORS = (TypeError, ValueError, KeyError, IndexError, AssertionError, RuntimeError, AttributeError)


def create(
    section: ModelSection,
    num_classes: int,
    size: Size,
    base: Path,
    swap: bool = True,
    tell: Callable[[str], object] = str,
    resize: Resize = "crop",
    pad: int = 0,
) -> tuple[nn.Module, ModelSpec, InputSpec]:
    """Build the recipe's network with its weights, for the task's classes.

    If the weights' classifier head has another number of classes, the head keeps its random
    initialisation (torch's global generator); every other tensor must fit. Only
    ``weights = "pretrained"`` downloads anything.

    Args:
        section: the recipe's ``[model]``.
        num_classes: classes of the task.
        size: shape of the input. With other channels than RGB, the weights of the first convolution are adapted.
        base: folder that relative paths start from.
        swap: whether a head that does not fit may be swapped.
        tell: called with each line that says what of a weights file was taken.
        resize: as `pad`, how images get that shape.
        pad: see `InputSpec`.

    Returns:
        The network (eval mode, CPU, float32), how to rebuild it, and the preprocessing that its
        weights expect, unless the section overrides it.

    Raises:
        InputError: unknown name or option, a file that is missing or does not fit, no connection.
    """
    channels, *_ = shape = shape_of(size)
    if num_classes < 2:
        raise InputError("data: a classifier needs images of at least 2 classes, these have one")
    outputs = 1 if section.head == "sigmoid" else num_classes
    if section.head == "sigmoid" and num_classes != 2:
        raise InputError(f'model.head = "sigmoid": one logit tells 2 classes apart, the data has {num_classes}')
    declared = section.options.get("num_classes", outputs)
    if declared != outputs:
        raise InputError(f"model.options.num_classes = {declared}: the data has {num_classes} classes; leave it out")
    options = {key: value for key, value in section.options.items() if key != "num_classes"}
    spec = ModelSpec(_anchor(section.name, base), outputs, options, channels, section.output)
    module = build(spec, base)
    eager.release(module)
    notes: list[str] = []
    if section.weights == "none":
        preprocessing = published.plain()
    elif section.weights == "pretrained":
        state, preprocessing = published.fetch(spec)
        said = f'model.weights = "pretrained" ({section.name})'
        notes = _load(module, spec, base, WeightsFile(said, section.name, {"": state}, ordered=True), swap)
    else:
        preprocessing = published.expected(spec)
        notes = _load(module, spec, base, weights_file.read(expand(section.weights, base)), swap, section)
    for note in notes:
        tell(note)
    _try_out(module.eval(), spec, shape, num_classes)
    eager.check_repeatable(module, shape)
    return module, spec, _input_spec(section, shape, preprocessing, resize, pad)


def build(spec: ModelSpec, base: Path) -> nn.Module:
    """Build an untrained network; nothing is downloaded.

    Args:
        spec: what to build.
        base: folder that the relative path of a ``file.py:function`` starts from.

    Raises:
        InputError: unknown name, or options that the constructor rejects.
    """
    module = _constructed(spec, base)
    if spec.output is not None:
        ends.choose(module, spec.output)
    return module


def _constructed(spec: ModelSpec, base: Path) -> nn.Module:
    if ".py:" in spec.name:
        return _from_file(spec, base)
    if spec.name.startswith(TORCHVISION):
        name = spec.name.removeprefix(TORCHVISION)
        known = zoo.list_models(module=zoo)
        if name not in known:
            raise InputError(f"model.name = {no_such(name, known, 'torchvision model')}")
        with _refusals(spec):
            module = cast(nn.Module, zoo.get_model(name, weights=None, num_classes=spec.num_classes, **spec.options))
        if spec.channels != 3:
            ends.widen(module, spec.channels)
        return module
    architecture, _, tag = spec.name.partition(".")
    if not timm.is_model(architecture):
        raise InputError(f"model.name = {no_such(architecture, timm.list_models(), 'timm model')}")
    tags = {full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")}
    if tag and tag not in tags:
        raise InputError(f"model.name = {no_such(tag, tags, f'tag of {architecture}')}")
    with _refusals(spec):
        return cast(
            nn.Module,
            timm.create_model(
                spec.name, pretrained=False, num_classes=spec.num_classes, **published.timm_options(spec)
            ),
        )


def save(folder: Path, module: nn.Module, checkpoint: Checkpoint) -> None:
    """Write ``model.safetensors`` and ``checkpoint.json``; equal weights give equal bytes.

    Args:
        folder: an existing folder.
        module: the network, on any device and in any memory format.
        checkpoint: what to write beside it.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    write_bytes(folder / checkpoint.weights, to_bytes(state(module)))
    checkpoint_file.save(checkpoint, folder)


def load(folder: Path) -> tuple[nn.Module, Checkpoint]:
    """Read a checkpoint folder; the network is on the CPU, in eval mode, and pruned as it was when saved.

    Raises:
        InputError: not a checkpoint, or its files do not belong together.
    """
    checkpoint = checkpoint_file.load(folder)
    module = build(checkpoint.model, folder)
    eager.release(module)
    if checkpoint.plan is not None:
        from edgekit.prune import apply  # Torch-Pruning, which few networks need

        apply.apply(module, checkpoint.plan, checkpoint.input.shape)
    _fill(module, weights_file.read(folder / checkpoint.weights), swap=False)
    return module.eval(), checkpoint


def state(module: nn.Module) -> dict[str, Tensor]:
    """State dict as contiguous copies on the CPU; tied tensors are written twice."""
    return {
        key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, tensor in module.state_dict().items()
    }


def head(module: nn.Module) -> nn.Module:
    """The classifier: what timm says it is, else the last linear layer, else the last convolution.

    Raises:
        InputError: there is none, or more than one.
    """
    return module.get_submodule(_head_name(module))


def count(module: nn.Module, size: Size) -> tuple[int, int]:
    """Parameters, and multiply-adds of one image (convolutions and matrix products)."""
    device = next(module.parameters()).device
    training = module.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.eval()(torch.zeros(1, *shape_of(size), device=device))
    module.train(training)
    return sum(parameter.numel() for parameter in module.parameters()), counter.get_total_flops() // 2


def _try_out(module: nn.Module, spec: ModelSpec, shape: tuple[int, int, int], num_classes: int) -> None:
    """Run one image through the network: is the input large enough, and is there one output per class?"""
    channels, height, width = shape
    try:
        with torch.no_grad():
            output = module(torch.zeros(1, *shape))
    except InputError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        what = f"an image of {height} x {width}" + (f" with {channels} channels" if channels != 3 else "")
        raise InputError(f"model.name = {spec.name}: cannot take {what}: {reason}") from error
    found = tuple(output.shape) if isinstance(output, Tensor) else None
    if found != (1, spec.num_classes):
        move = ""
        if found == (1, 1) and num_classes == 2:
            move = ': if that is the logit of the second class, before the sigmoid, set model.head = "sigmoid"'
        raise InputError(
            f"model.name = {spec.name}: its output is {ends.described(output)}, expected (1, {spec.num_classes}){move}"
        )
    if spec.output is not None and ends.unused(module, shape):
        raise InputError(
            f"model.output = {spec.output}: {spec.name} returns a tensor, nothing to choose from; leave it out"
        )


def _head_name(module: nn.Module) -> str:
    get_classifier = getattr(module, "get_classifier", None)
    if callable(get_classifier):
        classifier = get_classifier()
        if not isinstance(classifier, nn.Module):
            raise InputError("model.name: networks with several classifier heads are not supported")
        return str(next(name for name, child in module.named_modules() if child is classifier))
    for kind in (nn.Linear, nn.Conv2d):  # SqueezeNet's classifier is a convolution
        names: list[str] = [name for name, child in module.named_modules() if isinstance(child, kind)]
        if names:
            return names[-1]
    raise InputError("model.name: this network has neither a linear layer nor a convolution to serve as classifier")


def _load(
    module: nn.Module, spec: ModelSpec, base: Path, file: WeightsFile, swap: bool, section: ModelSection | None = None
) -> list[str]:
    """`_fill`; with weights over RGB for other channels, by way of the same network over RGB."""
    try:
        return _fill(module, file, swap, section)
    except InputError as refusal:
        if spec.channels == 3:
            raise
        rgb = build(replace(spec, channels=3), base)
        try:
            notes = _fill(rgb, file, swap, section)
        except InputError:  # it is not the channels
            raise refusal from None
    module.load_state_dict(ends.adapted(module, rgb.state_dict(), spec.channels))
    said = f"weights of {file.short}: over RGB; those of the first convolution are adapted to {spec.channels} channels"
    return [*notes, said]


def _fill(module: nn.Module, file: WeightsFile, swap: bool, section: ModelSection | None = None) -> list[str]:
    """Load what a file holds for this network; returns what a reader should know about it.

    Only the head may have another number of classes, and only if `swap`.
    """
    slots = Slots(module.state_dict(), _head_name(module), swap)
    fit, notes = choice.take(
        file, slots, section.weights_entry if section else None, section.weights_match if section else "name"
    )
    module.load_state_dict(dict(fit.state), strict=False)
    return notes


def _anchor(name: str, base: Path) -> str:
    """Make the path of a ``file.py:function`` absolute, so that a run directory can rebuild it."""
    file, colon, function = name.rpartition(":")
    return f"{(base / file).resolve()}:{function}" if colon and file.endswith(".py") else name


def constructor(name: str, base: Path) -> Callable[..., Any]:
    """The function that a ``file.py:function`` names: runs the file, but does not call the function.

    Raises:
        InputError: no such file, it cannot be imported, or it has no such function.
    """
    file, _, function = name.rpartition(":")
    path = base / file
    if not path.is_file():
        raise InputError(f"model.name = {name}: no such file")
    module_spec = importlib.util.spec_from_file_location(f"edgekit_user_{path.stem}", path)
    assert module_spec is not None  # true of any .py file
    assert module_spec.loader is not None
    code = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(code)
    except Exception as error:
        raise InputError(f"{path}: cannot be imported: {type(error).__name__}: {error}") from error
    found = getattr(code, function, None)
    if not callable(found):
        public = [name for name, value in vars(code).items() if callable(value) and not name.startswith("_")]
        raise InputError(f"{path}: {no_such(function, public, 'function')}")
    return cast(Callable[..., Any], found)


def _from_file(spec: ModelSpec, base: Path) -> nn.Module:
    make = constructor(spec.name, base)
    with _refusals(spec):
        module = make(num_classes=spec.num_classes, **spec.options)
    if not isinstance(module, nn.Module):
        file, _, function = spec.name.rpartition(":")
        raise InputError(f"{base / file}: {function} returned {type(module).__name__}, not a torch.nn.Module")
    return module


@contextmanager
def _refusals(spec: ModelSpec) -> Iterator[None]:
    """Report a constructor's errors about its arguments in one line."""
    try:
        yield
    except _CONSTRUCTOR_ERRORS as error:
        given = ", ".join(f"{key}={value!r}" for key, value in spec.options.items())
        raise InputError(
            f"model.options: {spec.name} rejects ({given}): {type(error).__name__}: {error}".rstrip(": ")
        ) from error


# Weights and the preprocessing they expect ---------------------------------------------------------


def _input_spec(
    section: ModelSection, shape: tuple[int, int, int], preprocessing: Mapping[str, Any], resize: Resize, pad: int
) -> InputSpec:
    channels, height, width = shape
    chosen = dict(preprocessing)
    for key in ("mean", "std"):
        chosen[key] = ends.per_channel(chosen[key], channels)
    if resize != "crop":
        chosen |= {"crop": 1.0, "resize": resize, "pad": pad}
    if section.mean is not None:
        chosen["mean"] = tuple(section.mean)
    if section.std is not None:
        chosen["std"] = tuple(section.std)
    if section.crop is not None:
        chosen["crop"] = section.crop
    if section.interpolation is not None:
        chosen["interpolation"] = section.interpolation
    return InputSpec(height if height == width else (height, width), **chosen)
