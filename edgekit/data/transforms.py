"""From an image file to the tensor a network takes: for evaluation as on the device, for training with augmentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgekit.runtime import preprocess
from edgekit.runtime.image_file import COLORS, Decoded, decode, strict_pillow
from edgekit.types import InputSpec

__all__ = [
    "Decoded", "array", "augmenter", "decode", "evaluate", "fit", "levels", "normalise", "open_image", "preprocessing",
    "strict_pillow",
]  # fmt: skip


def open_image(path: Path, spec: InputSpec) -> Image.Image:
    """Read an image file upright, with 8 bits for each of the input's channels, as `decode` does.

    Raises:
        Exception: of any type, for a file that cleaning would have reported as unreadable.
    """
    with strict_pillow():
        return decode(path.read_bytes(), preprocessing(spec).color).image


def array(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Its pixels, uint8 [height, width, channels]."""
    return np.asarray(image).reshape(image.height, image.width, -1)


def preprocessing(spec: InputSpec) -> preprocess.Preprocessing:
    """The same description in the runtime's own type."""
    channels, height, width = spec.shape
    return preprocess.Preprocessing(
        height=height,
        width=width,
        mean=spec.mean,
        std=spec.std,
        crop=spec.crop,
        interpolation=spec.interpolation,
        resize="short_side" if spec.resize == "crop" else spec.resize,
        color=COLORS[channels - 1],
        pad=spec.pad,
    )


def fit(image: Image.Image, spec: InputSpec) -> Image.Image:
    """Bring an image to the input's size (uint8); see `edgekit.runtime.preprocess.fit`."""
    return preprocess.fit(image, preprocessing(spec))


def normalise(pixels: npt.NDArray[np.uint8], spec: InputSpec) -> npt.NDArray[np.float32]:
    """``(x / 255 - mean) / std`` in float32: uint8 HWC to float32 CHW, contiguous."""
    return preprocess.normalise(pixels, spec.mean, spec.std)


def levels(spec: InputSpec) -> npt.NDArray[np.float32]:
    """Every value that an input can take: the 256 levels of each channel, shape (channels, 256, 1)."""
    return preprocess.levels(spec.mean, spec.std)


def evaluate(image: Image.Image, spec: InputSpec) -> npt.NDArray[np.float32]:
    """The network's input for an image, without augmentation.

    Args:
        image: upright, of any size (see `open_image`).
        spec: size and scaling.

    Returns:
        float32 array of shape `spec.shape`.
    """
    return normalise(array(fit(image, spec)), spec)


def augmenter(names: Sequence[str], spec: InputSpec) -> Callable[[Image.Image], npt.NDArray[np.float32]]:
    """A random transform for training; its random numbers come from torch's global CPU generator.

    Whatever the order of `names`, the image is first brought to size, then flipped, then its colours change.
    ``random_crop`` takes 35 to 100 % of the area (smaller would lose the object, larger regularise little) in about the
    input's shape; of the image with its border for a letterbox, in about the image's own shape to be stretched.
    ``color_jitter`` changes brightness, contrast and saturation by up to 30 %. ``random_erasing`` fills 2 to 33 % of a
    quarter of the images with the mean colour.

    Source: Szegedy et al. 2015 (random resized crops); Mueller and Hutter 2021 (TrivialAugment); Cubuk et al. 2020
    (RandAugment); Zhong et al. 2020 (random erasing).

    Args:
        names: any of random_crop, flip, vertical_flip, color_jitter, trivial_augment, rand_augment, random_erasing.
        spec: size and scaling, as in `evaluate`.

    Returns:
        A function from an upright image to a float32 array of shape `spec.shape`.
    """
    import torch
    from torchvision.transforms import InterpolationMode, v2

    interpolation = InterpolationMode(spec.interpolation)
    _, height, width = spec.shape

    def random_crop(image: Image.Image) -> Image.Image:
        aspect = image.width / image.height if spec.resize == "stretch" else width / height
        ratio = 3 / 4 * aspect, 4 / 3 * aspect
        crop = v2.RandomResizedCrop((height, width), scale=(0.35, 1.0), ratio=ratio, interpolation=interpolation)
        cropped: Image.Image = crop(_bordered(image, spec) if spec.resize == "letterbox" else image)
        return cropped

    steps: dict[str, Callable[[Image.Image], Image.Image]] = {
        "random_crop": random_crop,
        "flip": v2.RandomHorizontalFlip(),
        "vertical_flip": v2.RandomVerticalFlip(),
        "trivial_augment": v2.TrivialAugmentWide(),
        "rand_augment": v2.RandAugment(),
        "color_jitter": v2.ColorJitter(0.3, 0.3, 0.3),
    }
    chosen = [step for name, step in steps.items() if name in names]
    erase = v2.RandomErasing(p=0.25) if "random_erasing" in names else None

    def augment(image: Image.Image) -> npt.NDArray[np.float32]:
        if "random_crop" not in names:
            image = fit(image, spec)
        for step in chosen:
            image = step(image)
        values = normalise(array(image), spec)
        return values if erase is None else erase(torch.from_numpy(values)).numpy()

    return augment


def _bordered(image: Image.Image, spec: InputSpec) -> Image.Image:
    """An image in the centre of a border that gives it the input's shape; not resized."""
    _, height, width = spec.shape
    wide, high = (
        max(image.width, round(image.height * width / height)),
        max(image.height, round(image.width * height / width)),
    )
    return preprocess.fit(image, preprocessing(spec)._replace(height=high, width=wide))
