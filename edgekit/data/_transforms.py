"""From an image file to the tensor a network takes: decoding, the evaluation path, augmentation."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgekit.types import InputSpec

_ORIENTATION = 0x0112
_UPRIGHT = {  # EXIF 2.32, table 6: what undoes each orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Decoded:
    """An image as RGB, and what its file was."""

    image: Image.Image
    mode: str
    turned: bool


@contextmanager
def strict_pillow() -> Iterator[None]:
    """Inside, Pillow refuses decompression bombs instead of warning, and is silent about odd metadata."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def decode(file: bytes) -> Decoded:
    """Decode the bytes of an image file to upright RGB; call it inside `strict_pillow`.

    Alpha is composited on white, the background cut-outs are mostly shown on. 16-bit grey keeps its upper 8 bits.
    Of an animation the first frame counts.

    Raises:
        Exception: of any kind, as Pillow's decoders raise many kinds for broken files.
    """
    with Image.open(io.BytesIO(file)) as image:
        image.load()
        mode = image.mode
        return Decoded(_upright(_rgb(image), turn := _orientation(image)), mode, turn in _UPRIGHT)


def open_rgb(path: Path) -> Image.Image:
    """Read an image file as upright 8-bit RGB, as `decode` does.

    Raises:
        Exception: of any kind for a file that cleaning would have reported as unreadable.
    """
    with strict_pillow():
        return decode(path.read_bytes()).image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        if image.mode == "La":
            image = image.convert("LA")
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion clips at 255
        wide = np.asarray(image).astype(np.int64)
        return Image.fromarray((wide >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range; save it with 8 bits")
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken metadata around good pixels: nothing asks for a rotation
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def fit(image: Image.Image, spec: InputSpec) -> Image.Image:
    """Resize and centre-crop an RGB image to ``spec.size`` squared, still uint8.

    The short side becomes ``round(size / crop)``, the long one ``int(that * long / short)``; the crop starts at
    ``round((side - size) / 2)``, as in torchvision's Resize and CenterCrop. Pillow's resampling is antialiased.
    """
    short = round(spec.size / spec.crop)
    width, height = image.size
    if min(width, height) != short:
        if width <= height:
            width, height = short, int(short * height / width)
        else:
            width, height = int(short * width / height), short
        image = image.resize((width, height), _FILTERS[spec.interpolation])
    if (width, height) == (spec.size, spec.size):
        return image
    left, top = round((width - spec.size) / 2), round((height - spec.size) / 2)
    return image.crop((left, top, left + spec.size, top + spec.size))


def normalise(pixels: npt.NDArray[np.uint8], spec: InputSpec) -> npt.NDArray[np.float32]:
    """``(x / 255 - mean) / std`` in float32: uint8 HWC to float32 CHW, contiguous."""
    scaled = np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32)
    scaled /= np.float32(255)
    scaled -= np.asarray(spec.mean, np.float32)[:, None, None]
    scaled /= np.asarray(spec.std, np.float32)[:, None, None]
    return scaled


def levels(spec: InputSpec) -> npt.NDArray[np.float32]:
    """Every value that an input can take: the 256 levels of each channel, shape (3, 256, 1)."""
    return normalise(np.arange(256, dtype=np.uint8).repeat(3).reshape(256, 1, 3), spec)


def evaluate(image: Image.Image, spec: InputSpec) -> npt.NDArray[np.float32]:
    """The input of a network without augmentation, as `InputSpec` describes it.

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
    ``random_crop`` takes 35 to 100 % of the area (less would lose the object, more would regularise little),
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
