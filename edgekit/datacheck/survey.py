"""Read every image once: its size, its hash, and what the network makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgekit.config.recipe import DataSection, Recipe
from edgekit.console import Console
from edgekit.datacheck import fingerprints
from edgekit.datacheck.port import Subject
from edgekit.types import Index, InputSpec, Sample

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import nn

_BATCH = 32
_HARMLESS = ("mode", "range", "orientation")
"""Flaws of images that can be looked at all the same."""
Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Network:
    """What computes embeddings."""

    module: nn.Module
    spec: InputSpec


def lenient(data: DataSection) -> DataSection:
    """The section with each "error" of its cleaning policy made bearable, so that one flaw does not hide the others."""
    policy = {
        kind: ("keep" if kind in _HARMLESS else "drop") if action == "error" else action
        for kind, action in data.clean.model_dump().items()
    }
    return data.model_copy(update={"clean": data.clean.model_copy(update=policy)})


def network(recipe: Recipe, classes: int, base: Path, tell: Callable[[str], None]) -> tuple[Network | None, str]:
    """The recipe's network with its weights, and where they come from; none without pretrained weights, and why.

    Raises:
        InputError: as `edgekit.models.create`.
    """
    if recipe.model.weights == "none":
        return None, 'model.weights = "none": an untrained network sees nothing in an image'
    if classes < 2:
        return None, "there is one class, and a classifier needs two"
    from edgekit import models

    data = recipe.data
    module, _, spec = models.create(
        recipe.model, classes, data.shape, base, tell=tell, resize=data.resize, pad=data.pad
    )
    return Network(module, spec), f"{recipe.model.name}, {Path(recipe.model.weights).name}"


def survey(data: DataSection, index: Index, root: Path, net: Network | None, console: Console) -> Subject:
    """Read the images of an index, and compare them with each other.

    Args:
        data: the recipe's section.
        index: the data set.
        root: folder that its paths start from.
        net: computes embeddings; None for none.
        console: progress.
    """
    sizes, hashes, features = read(root, index.samples, data.channels, net, console)
    return Subject(data, index, root, sizes, hashes, features, fingerprints.pairs(hashes, features))


def read(
    root: Path, samples: tuple[Sample, ...], channels: int, net: Network | None, console: Console
) -> tuple[npt.NDArray[np.int64], fingerprints.Bits, npt.NDArray[np.float32] | None]:
    """Sizes, hashes and embeddings of samples; see `Subject`."""
    from edgekit.data.transforms import decode, evaluate, strict_pillow
    from edgekit.runtime.image_file import COLORS

    sizes = np.zeros((len(samples), 2), np.int64)
    hashes = np.zeros((len(samples), fingerprints.BITS), np.bool_)

    def images() -> Iterator[Image]:
        with strict_pillow(), console.bar("looking at images", len(samples)) as advance:
            for place, sample in enumerate(samples):
                image = decode((root / sample.path).read_bytes(), COLORS[channels - 1]).image
                sizes[place], hashes[place] = image.size, fingerprints.perceptual(image)
                yield image
                advance()

    if net is None:
        for _ in images():
            pass
        return sizes, hashes, None
    return sizes, hashes, np.concatenate(list(embeddings(net, (evaluate(image, net.spec) for image in images()))))


def embeddings(net: Network, images: Iterator[Pixels]) -> Iterator[npt.NDArray[np.float32]]:
    """What the classifier is given for images, averaged over places if that is a map: batches (n, features)."""
    import torch

    from edgekit import models

    seen: list[torch.Tensor] = []
    hook = models.head(net.module).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float()))
    try:
        with torch.no_grad():
            for batch in batched(images, _BATCH):
                seen.clear()
                net.module(torch.from_numpy(np.stack(batch)))
                values = torch.cat(seen)
                yield (values.mean((2, 3)) if values.ndim == 4 else values.flatten(1)).numpy()
    finally:
        hook.remove()


def batched(images: Iterator[Pixels], count: int) -> Iterator[list[Pixels]]:
    """Lists of `count` images; the last one may be shorter."""
    batch: list[Pixels] = []
    for image in images:
        batch.append(image)
        if len(batch) == count:
            yield batch
            batch = []
    if batch:
        yield batch
