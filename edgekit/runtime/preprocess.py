"""From an image to the pixels and the tensor that a network takes; training validates through the same functions.

Pillow decodes, and resizes if it is installed; without it arrays are resized by `edgekit.runtime._resample`.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from edgekit.runtime.errors import RuntimeFault

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

_ORIENTATION = 0x0112
# What undoes each orientation (EXIF 2.32, table 6): flip left-right, turn 180, flip top-bottom, transpose, turn 270,
# transverse, turn 90, as numbers of Image.Transpose, which Pillow before 9.1 does not have.
_UPRIGHT = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
_FILTERS = {"bilinear": 2, "bicubic": 3}  # Image.Resampling
_SLENDER = 50  # long side over short side; beyond it, resizing the short side makes a huge image
COLORS = ("grey", "grey_alpha", "rgb", "rgba")
"""What the channels of an image are: one, two, three or four of them."""
_MODES = {"grey": "L", "grey_alpha": "LA", "rgb": "RGB", "rgba": "RGBA"}  # Pillow's names


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


class Decoded(NamedTuple):
    """An image in the channels that were asked for, and the mode and rotation of its file."""

    image: Image.Image
    mode: str
    turned: bool


_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_filters: Any = None


@contextmanager
def strict_pillow() -> Iterator[None]:
    """Inside, Pillow refuses decompression bombs instead of warning, and is silent about odd metadata.

    Warning filters belong to the process: the first of several threads sets them, the last one restores them.

    Raises:
        RuntimeFault: Pillow is not installed.
    """
    global _quiet_depth, _quiet_filters
    try:
        from PIL import Image
    except ImportError:
        raise RuntimeFault("decoding image files needs Pillow (pip install pillow); or give a uint8 array") from None
    with _quiet_lock:
        if _quiet_depth == 0:
            _quiet_filters = warnings.catch_warnings()
            _quiet_filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                _quiet_filters.__exit__(None, None, None)


def decode(file: bytes, color: str = "rgb") -> Decoded:
    """Decode the bytes of an image file to upright pixels; call it inside `strict_pillow`.

    Without a channel for it, alpha is composited on white, the background cut-outs are mostly shown on; an image
    without alpha is opaque. Grey and RGB become each other. 16-bit grey keeps its upper 8 bits, 32-bit integers of at
    most 255 are 8-bit grey, floats go from 0 (black) to 1. An animation gives its first frame.

    Args:
        file: the bytes.
        color: one of `COLORS`.

    Raises:
        Exception: of any kind, as Pillow's decoders raise many kinds for broken files.
    """
    from PIL import Image

    with Image.open(io.BytesIO(file)) as image:
        _load(image)
        return _decoded(image, color)


def _load(image: Image.Image) -> None:
    if image.format == "EPS":  # Pillow would start Ghostscript
        raise ValueError("PostScript is a program, not pixels; convert it to PNG")
    image.load()


def _decoded(image: Image.Image, color: str) -> Decoded:
    turn = _orientation(image)
    pixels = _in_color(image, color)
    return Decoded(pixels.transpose(_UPRIGHT[turn]) if turn in _UPRIGHT else pixels, image.mode, turn in _UPRIGHT)  # type: ignore[arg-type]


def _in_color(image: Image.Image, color: str) -> Image.Image:
    mode = _MODES[color]
    if mode in ("LA", "RGBA") and _has_alpha(image) and not _is_wide(image):
        return _rgba(image).convert(mode)
    rgb = _rgb(image)
    return rgb if mode == "RGB" else rgb.convert(mode)


def _is_wide(image: Image.Image) -> bool:
    return image.mode == "F" or image.mode.startswith("I")


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def _rgba(image: Image.Image) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")
    return image.convert("RGBA")


def _rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if _is_wide(image):
        return Image.fromarray(_narrowed(image)).convert("RGB")
    if _has_alpha(image):
        image = _rgba(image)
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _narrowed(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Grey of 16 bits, 32 bits or floats in 8 bits, clear pixels white. Pillow's own conversion clips at 255.

    Raises:
        ValueError: nothing says which values are black and white.
    """
    import numpy as np

    wide = np.asarray(image)
    low, high = wide.min(), wide.max()
    if image.mode == "F":
        if not 0 <= low <= high <= 1:  # NaN, too
            raise ValueError(
                f"floating-point pixels have no agreed range beyond 0..1, these go from {low:g} to {high:g}; "
                "save it with 8 bits"
            )
        return np.rint(wide * np.float32(255)).astype(np.uint8)
    if low < 0 or high > 0xFFFF:
        raise ValueError(
            f"32-bit pixels have no agreed range beyond 0..65535, these go from {low} to {high}; save it with 8 bits"
        )
    # Older versions of Pillow have 16 bits in mode "I".
    narrow = image.mode == "I" and high < 256 and image.format not in ("PNG", "PPM")
    clear = wide == image.info.get("transparency", -1)
    return np.where(clear, 255, wide if narrow else wide >> 8).astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken metadata around good pixels: no rotation
        return 1


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
                return from_image(_decoded(source, spec.color).image, spec)
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
        _load(image)
        return _decoded(image, spec.color).image


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
