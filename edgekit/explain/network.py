"""A network as its explanations see it: images in, logits out, whatever runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import special

from edgekit.errors import MissingPackage, Shortfall
from edgekit.runtime import engine_menu, machine
from edgekit.runtime.errors import RuntimeFault
from edgekit.runtime.port import dequantize
from edgekit.types import HOST_ENGINES, Artifact
from edgekit.verify.files import feed

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
BATCH = 4
"""Images that torch gets at once: with more, activations are so large that the system hands out their memory anew each
time, which takes longer than computing them. Files get one at a time, as many take no more."""


@dataclass(frozen=True)
class Network:
    """What can be asked for its logits."""

    name: str
    """`Artifact.id` of a file, with its engine if that is not the one that verifies it; ``torch-...``."""
    engine: str
    version: str
    """Of the engine."""
    logits: Callable[[Array], Array]
    """float32 (n, channels, height, width), normalised, to float32 (n, outputs)."""
    close: Callable[[], None] = lambda: None


def of_module(name: str, module: torch.nn.Module) -> Network:
    """A network in torch, in eval mode."""

    def logits(images: Array) -> Array:
        with torch.no_grad():
            parts = [module(part).numpy() for part in torch.split(torch.from_numpy(images), BATCH)]
        return _finite(name, np.concatenate(parts))

    return Network(name, "torch", str(torch.__version__), logits)


def of_file(artifact: Artifact, folder: Path, name: str | None = None) -> Network:
    """An exported file in an engine.

    Args:
        artifact: the file.
        folder: where its path starts.
        name: of the engine; None is the one that verifies files of that format.

    Raises:
        MissingPackage: the engine is not installed.
        Shortfall: it cannot load the file.
    """
    label = artifact.id if name is None else f"{artifact.id} in {name}"
    name = name or HOST_ENGINES[artifact.format]
    engine = engine_menu.engine(name)
    try:
        version = engine.version()
    except RuntimeFault as fault:
        raise MissingPackage(f"explain: {label}: {fault}") from fault
    try:
        session = engine.load(str(folder / artifact.path), threads=machine.cores())
    except RuntimeFault as fault:
        raise Shortfall(f"explain: {label}: {fault}") from fault

    def logits(images: Array) -> Array:
        try:
            rows = [session.run(feed(artifact, session, image[None])) for image in images]
        except RuntimeFault as fault:
            raise Shortfall(f"explain: {label}: {fault}") from fault
        return _finite(label, dequantize(np.concatenate(rows), session.output))

    return Network(label, name, version, logits, session.close)


def _finite(name: str, logits: Array) -> Array:
    if not np.isfinite(logits).all():
        raise Shortfall(f"explain: {name}: NaN or infinite outputs: there is nothing to explain")
    return logits


def probabilities(logits: Array) -> Floats:
    """Softmax, or sigmoid of a single logit: float64 (n, classes)."""
    found: Floats = special.softmax(_columns(logits), axis=1)
    return found


def log_odds(logits: Array, label: int) -> Floats:
    """ln(p / (1 - p)) of a class, float64 (n,): unlike p itself it still changes where the network is sure."""
    columns = _columns(logits)
    odds: Floats = columns[:, label] - special.logsumexp(np.delete(columns, label, 1), axis=1)
    return odds


def _columns(logits: Array) -> Any:
    """Logits in float64 with a column for each class, as `edgekit.graph.logits.per_class`."""
    wide = logits.astype(np.float64)
    return np.pad(wide, ((0, 0), (1, 0))) if wide.shape[1] == 1 else wide
