"""A network to learn from, which may be another one, see images of another size, and number the classes differently.

Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network (2015).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit import checkpoint_file, choices, models
from edgekit.config.recipe import ModelSection, Recipe
from edgekit.data.listing import expand
from edgekit.disk.run_directory import ORDER
from edgekit.errors import InputError, MissingPackage
from edgekit.graph.logits import per_class
from edgekit.runtime import engine_menu, machine
from edgekit.runtime.errors import RuntimeFault
from edgekit.runtime.port import Session, dequantize, quantize
from edgekit.train.epoch import Criterion
from edgekit.types import HOST_ENGINES, SUFFIXES, InputSpec

_WHERE = "distill.teacher"


def soft_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 * KL(teacher || student)``, both softened by the temperature T; T^2 keeps gradients on one scale.

    Args:
        student: logits, ``N x classes``, with gradient.
        teacher: logits, ``N x classes``; no gradient flows into them.
        temperature: above 0.
    """
    divergence = functional.kl_div(
        functional.log_softmax(student / temperature, dim=1),
        functional.log_softmax(teacher.detach() / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return temperature**2 * divergence


def criterion(recipe: Recipe, base: Path, spec: InputSpec, labels: Sequence[str], own: Criterion) -> Criterion:
    """The loss of the recipe's training: its own, and with [distill] also the distance to the teacher.

    Args:
        recipe: what says so.
        base: folder that its relative paths start from.
        spec: how images become the student's input.
        labels: the student's classes, in its order.
        own: the loss against the labels.

    Raises:
        InputError: the teacher cannot be used.
    """
    section = recipe.distill
    if section is None:
        return own
    wise = load(section.teacher, base, spec, labels)

    def of(values: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = wise.to(values.device)(values)
        learnt = soft_loss(logits, wanted, section.temperature)
        return (1 - section.weight) * own(values, logits, targets) + section.weight * learnt

    return of


def digest(name: str, base: Path) -> str:
    """What a teacher is: the hash of its file or weights; of a network of timm, its name.

    Raises:
        InputError: there is no such thing.
    """
    found = find(name, base)
    if found is None:
        return f"{name} of timm {timm.__version__}"
    files = [found] if found.is_file() else [found / checkpoint_file.NAME, found / models.WEIGHTS]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def load(name: str, base: Path, spec: InputSpec, labels: Sequence[str]) -> nn.Module:
    """A network in eval mode, from the student's images to logits ``N x classes`` in the student's order of classes.

    Args:
        name: a run directory, an exported file, or a name of timm.
        base: folder that a relative path starts from.
        spec: how images become the student's input.
        labels: the student's classes.

    Raises:
        InputError: there is no such teacher, or it has other classes.
        MissingPackage: the engine of its file is not installed.
    """
    found = find(name, base)
    if found is None:
        section = ModelSection(name=name, weights="pretrained")
        try:
            module, _, own = models.create(section, len(labels), spec.shape, base, swap=False)
        except InputError as error:
            raise InputError(f"{_WHERE} = {name}: {error}") from error
        return _Adapted(module, spec, own, None).eval()
    if found.is_file():
        return _File(name, found, spec, len(labels)).eval()
    module, checkpoint = models.load(found)
    return _Adapted(module, spec, checkpoint.input, _order(name, checkpoint.labels, labels)).eval()


def find(name: str, base: Path) -> Path | None:
    """The file, or the folder of a run's latest float network; None for a name of timm.

    Raises:
        InputError: there is no such thing.
    """
    path = expand(name, base)
    if path.is_file():
        if path.suffix not in (SUFFIXES["onnx"], SUFFIXES["tflite"]):
            raise InputError(f"{_WHERE} = {name}: neither a run directory nor an .onnx or .tflite file")
        return path
    if path.is_dir():
        for stage in ("prune", "train"):
            folder = path / f"{ORDER.index(stage) + 1}-{stage}"
            if (folder / checkpoint_file.NAME).is_file():
                return folder
        raise InputError(f"{_WHERE} = {name}: no finished training in this folder: give a run directory")
    if timm.is_model(name.partition(".")[0]):
        return None
    if "/" in name or path.suffix:
        raise InputError(f"{_WHERE} = {name}: no such file or run directory")
    said = choices.no_such(name, timm.list_models(), "timm model")
    raise InputError(f"{_WHERE} = {said}; or give a run directory, or an .onnx or .tflite file")


def _order(name: str, theirs: Sequence[str], ours: Sequence[str]) -> list[int] | None:
    """The teacher's place of each of our classes; None if they are the same."""
    if set(theirs) != set(ours):
        only = [sorted(set(one) - set(other)) for one, other in ((theirs, ours), (ours, theirs))]
        said = [
            f"{who} {', '.join(names[:3])}"
            for who, names in zip(("it alone has", "it lacks"), only, strict=True)
            if names
        ]
        raise InputError(f"{_WHERE} = {name}: other classes than the data: {'; '.join(said)}")
    return None if list(theirs) == list(ours) else [list(theirs).index(label) for label in ours]


class _Adapted(nn.Module):
    """A teacher behind the conversion of the student's input to its own, and of its classes to the student's order."""

    def __init__(self, module: nn.Module, spec: InputSpec, own: InputSpec, order: list[int] | None) -> None:
        super().__init__()
        self.module, self._order = module, order
        self._size = own.shape[1:] if own.shape[1:] != spec.shape[1:] else None
        scale = np.array(spec.std) / np.array(own.std)
        shift = (np.array(spec.mean) - np.array(own.mean)) / np.array(own.std)
        self._same = bool((scale == 1).all() and (shift == 0).all())
        self._scale, self._shift = (
            torch.tensor(each, dtype=torch.float32).view(1, -1, 1, 1) for each in (scale, shift)
        )

    def forward(self, values: Tensor) -> Tensor:
        if not self._same:
            values = values * self._scale.to(values.device) + self._shift.to(values.device)
        if self._size is not None:
            values = functional.interpolate(values, self._size, mode="bilinear", antialias=True)
        logits = per_class(self.module(values).float())
        return logits if self._order is None else logits[:, self._order]


class _File(nn.Module):
    """An exported file as a teacher. It says nothing of how images are scaled: the student's way has to be its own."""

    def __init__(self, name: str, path: Path, spec: InputSpec, classes: int) -> None:
        super().__init__()
        form = next(form for form, suffix in SUFFIXES.items() if suffix == path.suffix)
        engine = engine_menu.engine(HOST_ENGINES[form])
        try:
            engine.version()
        except RuntimeFault as fault:
            raise MissingPackage(f"{_WHERE} = {name}: {fault}") from fault
        try:
            self._session: Session = engine.load(str(path), threads=machine.cores())
        except RuntimeFault as fault:
            raise InputError(f"{_WHERE} = {name}: {fault}") from fault
        channels, height, width = spec.shape
        given = self._session.input.shape
        self._last = given == (1, height, width, channels) and given != (1, channels, height, width)
        if not self._last and given != (1, channels, height, width):
            raise InputError(f"{_WHERE} = {name}: its input is {list(given)}, and the data's is {[1, *spec.shape]}")
        outputs = self._session.output.shape[-1]
        if outputs != classes and (outputs, classes) != (1, 2):
            raise InputError(f"{_WHERE} = {name}: it has {outputs} outputs, and the data {classes} classes")

    def __deepcopy__(self, memo: object) -> _File:
        return self  # it has no state of its own, and its engine cannot be copied

    def forward(self, values: Tensor) -> Tensor:
        rows: list[Any] = []
        for image in torch.split(values.detach().cpu().float(), 1):
            fed = (image.permute(0, 2, 3, 1) if self._last else image).contiguous().numpy()
            rows.append(dequantize(self._session.run(quantize(fed, self._session.input)), self._session.output))
        return per_class(torch.from_numpy(np.concatenate(rows))).to(values.device)
