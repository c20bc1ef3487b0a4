"""From an image file to the tensor a network takes: for evaluation as on the device, for training with augmentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgekit.runtime import preprocess
from edgekit.runtime.preprocess import Decoded, decode, strict_pillow
from edgekit.types import InputSpec

__all__ = [
    "Decoded", "augmenter", "decode", "evaluate", "fit", "levels", "normalise", "open_rgb", "preprocessing",
    "strict_pillow",
]  # fmt: skip


def open_rgb(path: Path) -> Image.Image:
    """Read an image file as upright 8-bit RGB, as `decode` does.

    Raises:
        Exception: of any type, for a file that cleaning would have reported as unreadable.
    """
    with strict_pillow():
        return decode(path.read_bytes()).image


def preprocessing(spec: InputSpec) -> preprocess.Preprocessing:
    """The same description in the runtime's own type."""
    return preprocess.Preprocessing(spec.size, spec.size, spec.mean, spec.std, spec.crop, spec.interpolation)


def fit(image: Image.Image, spec: InputSpec) -> Image.Image:
    """Resize and centre-crop an RGB image to ``spec.size`` squared (uint8); see `edgekit.runtime.preprocess.fit`."""
    return preprocess.fit(image, preprocessing(spec))


def normalise(pixels: npt.NDArray[np.uint8], spec: InputSpec) -> npt.NDArray[np.float32]:
    """``(x / 255 - mean) / std`` in float32: uint8 HWC to float32 CHW, contiguous."""
    return preprocess.normalise(pixels, spec.mean, spec.std)


def levels(spec: InputSpec) -> npt.NDArray[np.float32]:
    """Every value that an input can take: the 256 levels of each channel, shape (3, 256, 1)."""
    return preprocess.levels(spec.mean, spec.std)


def evaluate(image: Image.Image, spec: InputSpec) -> npt.NDArray[np.float32]:
    """The network's input for an image, without augmentation.

    Args:
        image: upright RGB of any size (see `open_rgb`).
        spec: size and scaling.

    Returns:
        float32 array of shape [3, size, size].
    """
    return normalise(np.asarray(fit(image, spec)), spec)


def augmenter(names: Sequence[str], spec: InputSpec) -> Callable[[Image.Image], npt.NDArray[np.float32]]:
    """A random transform for training; its random numbers come from torch's global CPU generator.

    Whatever the order of `names`, the image is first brought to size, then flipped, then its colours change.
    ``random_crop`` takes 35 to 100 % of the area (smaller would lose the object, larger regularise little),
    ``color_jitter`` changes brightness, contrast and saturation by up to 30 %.

    Source: Szegedy et al. 2015 (random resized crops); Mueller and Hutter 2021 (TrivialAugment).

    Args:
        names: any of random_crop, flip, vertical_flip, color_jitter, trivial_augment.
        spec: size and scaling, as in `evaluate`.

    Returns:
        A function from an upright RGB image to a float32 array of shape [3, size, size].
    """
    from torchvision.transforms import InterpolationMode, v2

    interpolation = InterpolationMode(spec.interpolation)
    steps: dict[str, Callable[[Image.Image], Image.Image]] = {
        "random_crop": v2.RandomResizedCrop(spec.size, scale=(0.35, 1.0), interpolation=interpolation),
        "flip": v2.RandomHorizontalFlip(),
        "vertical_flip": v2.RandomVerticalFlip(),
        "trivial_augment": v2.TrivialAugmentWide(),
        "color_jitter": v2.ColorJitter(0.3, 0.3, 0.3),
    }
    chosen = [step for name, step in steps.items() if name in names]

    def augment(image: Image.Image) -> npt.NDArray[np.float32]:
        if "random_crop" not in names:
            image = fit(image, spec)
        for step in chosen:
            image = step(image)
        return normalise(np.asarray(image), spec)

    return augment
