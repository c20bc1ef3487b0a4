"""Image files as Pillow decodes them: upright, 8 bits, in the channels that a network takes."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
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
COLORS = ("grey", "grey_alpha", "rgb", "rgba")
"""What the channels of an image are: one, two, three or four of them."""
_MODES = {"grey": "L", "grey_alpha": "LA", "rgb": "RGB", "rgba": "RGBA"}  # Pillow's names


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
        load_pixels(image)
        return decoded(image, color)


def load_pixels(image: Image.Image) -> None:
    """Decode an opened image; ValueError for what is no picture."""
    if image.format == "EPS":  # Pillow would start Ghostscript
        raise ValueError("PostScript is a program, not pixels; convert it to PNG")
    image.load()


def decoded(image: Image.Image, color: str) -> Decoded:
    """`decode` of an image that is loaded."""
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
