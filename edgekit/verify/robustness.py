"""Does a compressed file lose more than the float network where images are bad?

Every model is scored on the same corrupted images, so that differences are paired. As in ImageNet-C, corruptions are
applied to 8-bit images of the network's input size: a level means the same for photographs of any size.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from edgekit.console import Console
from edgekit.data.transforms import array, fit, normalise, open_image
from edgekit.graph.logits import classes
from edgekit.scores import Difference, Robustness, WorseImages
from edgekit.types import HOST_ENGINES, TORCH_FP32, Artifact, InputSpec, Sample, Split
from edgekit.verdict import intervals
from edgekit.verify.files import _infer, _open
from edgekit.verify.port import LEVELS, Pixels, corruption

Hits = npt.NDArray[np.int8]


def score(
    samples: Sequence[Sample],
    root: Path,
    split: Split,
    spec: InputSpec,
    module: torch.nn.Module,
    artifacts: Sequence[Artifact],
    folder: Path,
    corruptions: Sequence[str],
    seed: int,
    console: Console,
) -> list[Robustness]:
    """Score torch fp32 and every compressed file, in the engine that judges it, on clean and corrupted images.

    Args:
        samples: test images.
        root: folder that their paths start from.
        split: which split they are of.
        spec: size and scaling.
        module: torch fp32.
        artifacts: exported files; those in fp32 are left out, as verification has compared them with torch.
        folder: where their paths start.
        corruptions: modules of ``edgekit/verify/corruptions``.
        seed: of what is random in them.
        console: progress.

    Raises:
        MissingPackage: an engine is not installed.
        Shortfall: an engine cannot load or run a file.
    """
    files = [artifact for artifact in artifacts if artifact.precision != "fp32"]
    sessions = [_open(artifact, folder) for artifact in files]
    conditions = [(name, level) for name in dict.fromkeys(corruptions) for level in LEVELS]
    hits = np.zeros((1 + len(files), 1 + len(conditions), len(samples)), np.int8)
    with console.bar("corrupted images", len(samples)) as advance, torch.no_grad():
        for place, sample in enumerate(samples):
            pixels = array(fit(open_image(root / sample.path, spec), spec))
            views = [pixels, *(corrupted(pixels, name, level, (seed, place)) for name, level in conditions)]
            batch = np.stack([normalise(view, spec) for view in views])
            hits[0, :, place] = classes(module(torch.from_numpy(batch)).numpy()) == sample.label
            for row, (artifact, session) in enumerate(zip(files, sessions, strict=True), 1):
                logits = [_infer(artifact, session, batch[view : view + 1]) for view in range(len(batch))]
                hits[row, :, place] = classes(np.concatenate(logits)) == sample.label
            advance()
    for session in sessions:
        session.close()
    names = [(TORCH_FP32, "torch"), *((artifact.id, HOST_ENGINES[artifact.format]) for artifact in files)]
    return [
        Robustness(name, engine, split, len(samples), float(own[0].mean()), *_compared(own, exact, conditions))
        for (name, engine), own, exact in zip(names, hits, [None, *[hits[0]] * len(files)], strict=True)
    ]


def corrupted(pixels: Pixels, name: str, level: int, seed: tuple[int, int]) -> Pixels:
    """One image after one corruption; alpha stays as it is.

    Args:
        pixels: uint8 [height, width, channels].
        name: a module of ``edgekit/verify/corruptions``.
        level: one of `LEVELS`.
        seed: of the run, and place of the image: neither other images nor other corruptions matter.
    """
    colours = pixels.shape[2] - (pixels.shape[2] % 2 == 0)
    generator = np.random.default_rng((*seed, zlib.crc32(name.encode()), level))
    worse = corruption(name).apply(np.ascontiguousarray(pixels[..., :colours]), level, generator)
    return np.concatenate([worse, pixels[..., colours:]], axis=2)


def _compared(
    own: Hits, exact: Hits | None, conditions: Sequence[tuple[str, int]]
) -> tuple[tuple[WorseImages, ...], Difference | None]:
    """Scores under each condition, and what was lost in excess of torch fp32, there and over all.

    Args:
        own: which images a model gets right, shape (1 + conditions, images), clean ones first.
        exact: likewise of torch fp32; None if that is the model.
        conditions: corruptions and levels.
    """
    top1 = own[1:].mean(1)
    if exact is None:
        return tuple(WorseImages(*each, float(score)) for each, score in zip(conditions, top1, strict=True)), None
    lost = (own[:1] - own[1:]) - (exact[:1] - exact[1:])
    share = intervals.ALPHA / len(conditions)  # Bonferroni: all intervals of a file hold together
    worse = (
        WorseImages(*each, float(score), intervals.difference(row, share))
        for each, score, row in zip(conditions, top1, lost, strict=True)
    )
    return tuple(worse), intervals.difference(lost.mean(0))
