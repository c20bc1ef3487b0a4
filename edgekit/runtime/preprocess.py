"""From an image to the pixels and the tensor that a network takes; training validates through the same functions.

Pillow decodes, and resizes if it is installed; without it arrays are resized by `edgekit.runtime._resample`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from edgekit.runtime.errors import RuntimeFault
from edgekit.runtime.image_file import COLORS, decoded, load_pixels, strict_pillow

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

_FILTERS = {"bilinear": 2, "bicubic": 3}  # Image.Resampling
_SLENDER = 50  # long side over short side; beyond it, resizing the short side makes a huge image


class Preprocessing(NamedTuple):
    """How an image becomes the tensor a network takes.

    ``short_side`` resizes, keeping the aspect ratio, so that the image just covers ``round(height / crop)`` x
    ``round(width / crop)`` pixels, and takes the centre; ``stretch`` resizes both sides to these and takes the centre.
    ``letterbox`` resizes, keeping the aspect ratio, so that the image just fits into ``height`` x ``width``, and puts
    it in the centre of a border whose channels are all `pad`; it has no crop.
    Then pixels are scaled to 0..1, `mean` is subtracted and the result divided by `std`, per channel.
    """

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float = 1.0
    interpolation: str = "bilinear"
    resize: str = "short_side"
    color: str = "rgb"
    pad: int = 0

    @property
    def channels(self) -> int:
        """1 to 4: the place of `color` in `COLORS`."""
        return COLORS.index(self.color) + 1

    @property
    def alpha(self) -> bool:
        """Whether the last channel is alpha."""
        return self.channels % 2 == 0

    @staticmethod
    def of(section: Mapping[str, Any]) -> Preprocessing:
        """From the `preprocessing` of a manifest whose kind is image (its schema is checked when it is opened)."""
        given = {key: value for key, value in section.items() if key in Preprocessing._fields}
        return Preprocessing(**{**given, "mean": tuple(given["mean"]), "std": tuple(given["std"])})


def geometry(width: int, height: int, spec: Preprocessing) -> tuple[tuple[int, int], tuple[int, int]]:
    """Size (width, height) after resizing, and the left and top edge of the crop: negative where there is a border.

    For a square input the short side becomes ``round(size / crop)``, the long one ``int(that * long / short)``; the
    crop starts at ``round((side - size) / 2)``, as in torchvision's Resize and CenterCrop. A letterbox is that of
    Pillow's ``ImageOps.pad``, but at least one pixel wide.
    """
    if spec.resize == "letterbox":
        wide, high = spec.width, spec.height
        if width / height > wide / high:
            high = max(1, round(height / width * wide))
        else:
            wide = max(1, round(width / height * high))
        return (wide, high), (-round((spec.width - wide) * 0.5), -round((spec.height - high) * 0.5))
    wide, high = round(spec.width / spec.crop), round(spec.height / spec.crop)
    if spec.resize == "short_side":
        if width * high <= height * wide:
            high = int(wide * height / width)
        else:
            wide = int(high * width / height)
    return (wide, high), (round((wide - spec.width) / 2), round((high - spec.height) / 2))


def fit(image: Image.Image, spec: Preprocessing) -> Image.Image:
    """Bring an image in the mode of `spec.color` to the size of the input, still uint8.

    Pillow's resampling is antialiased, and weighs colours with their alpha.
    """
    size, (left, top) = geometry(*image.size, spec)
    if size != image.size:
        image = image.resize(size, _FILTERS[spec.interpolation])
    if size == (spec.width, spec.height):
        return image
    if spec.resize == "letterbox":
        from PIL import Image

        border = spec.pad if spec.channels == 1 else (spec.pad,) * spec.channels
        canvas = Image.new(image.mode, (spec.width, spec.height), border)
        canvas.paste(image, (-left, -top))
        return canvas
    return image.crop((left, top, left + spec.width, top + spec.height))


def fit_array(pixels: npt.NDArray[np.uint8], spec: Preprocessing) -> npt.NDArray[np.uint8]:
    """The same for an array [height, width, channels], without Pillow."""
    from edgekit.runtime._resample import resize, resize_alpha

    (wide, high), (left, top) = geometry(pixels.shape[1], pixels.shape[0], spec)
    resized = (resize_alpha if spec.alpha else resize)(pixels, wide, high, spec.interpolation)
    if spec.resize == "letterbox":
        import numpy as np

        canvas = np.full((spec.height, spec.width, spec.channels), spec.pad, np.uint8)
        canvas[-top : high - top, -left : wide - left] = resized
        return canvas
    return resized[top : top + spec.height, left : left + spec.width]


def normalise(
    pixels: npt.NDArray[np.uint8], mean: tuple[float, ...], std: tuple[float, ...], layout: str = "NCHW"
) -> npt.NDArray[np.float32]:
    """``(x / 255 - mean) / std`` in float32: uint8 [height, width, channels] to a contiguous array.

    Args:
        pixels: the image.
        mean: per channel, as `std`.
        std: of pixels scaled to 0..1.
        layout: NCHW gives [channels, height, width], NHWC [height, width, channels].
    """
    import numpy as np

    height, width, channels = pixels.shape
    if layout == "NCHW":
        # Multiplying by 1 / 255 or folding the constants would be faster, and round differently from training.
        scaled = np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32)
        offset, divisor = (np.asarray(values, np.float32)[:, None, None] for values in (mean, std))
    else:  # by whole rows: NumPy is slow if the innermost axis has 3 entries
        scaled = pixels.reshape(height, width * channels).astype(np.float32)
        offset, divisor = (np.tile(np.asarray(values, np.float32), width) for values in (mean, std))
    scaled /= np.float32(255)
    if any(mean):
        scaled -= offset
    if any(value != 1 for value in std):
        scaled /= divisor
    return scaled if layout == "NCHW" else scaled.reshape(height, width, channels)


def levels(mean: tuple[float, ...], std: tuple[float, ...]) -> npt.NDArray[np.float32]:
    """Every value that an input can take: the 256 levels of each channel, shape (channels, 256, 1)."""
    import numpy as np

    grey = np.arange(256, dtype=np.uint8)
    return normalise(grey.repeat(len(mean)).reshape(256, 1, len(mean)), mean, std)


def pixels(source: Any, spec: Preprocessing) -> npt.NDArray[np.uint8]:
    """An image as uint8 [spec.height, spec.width, channels], contiguous.

    Args:
        source: path of an image file, its bytes, a Pillow image, or a uint8 array [height, width, 3],
            [height, width, 1] or [height, width] of upright pixels; with alpha, if the network takes it, also
            [height, width, 4] or [height, width, 2]. Grey and RGB become each other as needed.
        spec: what the network takes.

    Raises:
        RuntimeFault: it cannot be read or decoded, has the wrong type, shape or dtype, or memory ran out.
    """
    import os

    name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else "image"
    try:
        return _pixels(source, spec)
    except RuntimeFault as fault:
        raise RuntimeFault(f"{name}: {fault}") from fault.__cause__
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise RuntimeFault(f"{name}: {_reason(error)}") from error


def _pixels(source: Any, spec: Preprocessing) -> npt.NDArray[np.uint8]:
    import numpy as np

    if isinstance(source, np.ndarray):
        return _from_array(source, spec)
    file = source
    if not isinstance(source, (bytes, bytearray, memoryview)):
        if hasattr(source, "getexif"):  # a Pillow image: no import to find out
            with strict_pillow():
                return from_image(decoded(source, spec.color).image, spec)
        try:
            with open(source, "rb") as opened:
                file = opened.read()
        except TypeError:
            kind = type(source).__name__
            raise RuntimeFault(f"{kind} is not a path, bytes, a Pillow image or a uint8 array") from None
    if not len(file):
        raise RuntimeFault("the file is empty")
    with strict_pillow():
        return from_image(upright(file, spec), spec)


def upright(file: bytes, spec: Preprocessing) -> Image.Image:
    """`decode`, of an image that is not too slender for `spec`; call it inside `strict_pillow`.

    Raises:
        Exception: as `decode`; RuntimeFault if it is too slender.
    """
    from PIL import Image

    with Image.open(io.BytesIO(file)) as image:
        _refuse_slender(*image.size, spec)  # before decoding takes much memory
        load_pixels(image)
        return decoded(image, spec.color).image


def from_image(image: Image.Image, spec: Preprocessing) -> npt.NDArray[np.uint8]:
    """An upright image in the mode of `spec.color`, as `upright` gives it, as `pixels` gives it."""
    import numpy as np

    _refuse_slender(*image.size, spec)
    return np.asarray(fit(image, spec)).reshape(spec.height, spec.width, spec.channels)


def _from_array(array: npt.NDArray[Any], spec: Preprocessing) -> npt.NDArray[np.uint8]:
    import numpy as np

    if array.dtype != np.uint8:
        raise RuntimeFault(f"the array is {array.dtype}, pixels must be uint8")
    allowed = ((), (1,), (3,), (2,), (4,)) if spec.alpha else ((), (1,), (3,))
    if array.ndim not in (2, 3) or array.shape[2:] not in allowed or 0 in array.shape:
        wanted = "[height, width, 4], [height, width, 2], " if spec.alpha else ""
        raise RuntimeFault(
            f"the array has shape {array.shape}, {wanted}[height, width, 3] or [height, width] is needed"
        )
    height, width = array.shape[:2]
    _refuse_slender(width, height, spec)
    array = _coloured(array.reshape(height, width, -1), spec.channels)
    if geometry(width, height, spec)[0] == (width, height):  # a crop at most
        return np.ascontiguousarray(fit_array(array, spec))
    try:
        from PIL import Image
    except ImportError:
        return np.ascontiguousarray(fit_array(array, spec))
    image = Image.fromarray(np.ascontiguousarray(array[:, :, 0] if spec.channels == 1 else array))
    return np.asarray(fit(image, spec)).reshape(spec.height, spec.width, spec.channels)


def _coloured(array: npt.NDArray[np.uint8], channels: int) -> npt.NDArray[np.uint8]:
    import numpy as np

    if array.shape[2] == channels:
        return array
    if channels % 2 == 0:
        opaque = np.full((*array.shape[:2], 1), 255, np.uint8)
        array, alpha = (array, opaque) if array.shape[2] % 2 else (array[:, :, :-1], array[:, :, -1:])
        return np.concatenate([_coloured(array, channels - 1), alpha], axis=2)
    if channels == 3:
        return array.repeat(3, axis=2)
    weights = np.array([19595, 38470, 7471], np.uint32)  # ITU-R 601-2 in 16 bits, as Pillow's convert("L")
    return ((array @ weights + 0x8000) >> 16).astype(np.uint8)[:, :, None]


def _refuse_slender(width: int, height: int, spec: Preprocessing) -> None:
    if spec.resize == "short_side" and max(width, height) > _SLENDER * min(width, height):
        raise RuntimeFault(f"{width}x{height} pixels are too slender to resize")


def _reason(error: Exception) -> str:
    name = type(error).__name__
    if isinstance(error, MemoryError):
        return "out of memory"
    if name == "UnidentifiedImageError":
        return "not an image of a known format"
    if name.startswith("DecompressionBomb"):
        return "far too many pixels (decompression bomb)"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = str(error).strip()
    return f"cannot be decoded: {text.splitlines()[0]}" if text else f"cannot be decoded: {name}"
