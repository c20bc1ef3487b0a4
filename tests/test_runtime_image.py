"""Preprocessing on the device, against Pillow's own operations and plain arithmetic."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from edgekit.runtime import _resample, preprocess
from edgekit.runtime._tensor import FromPixels
from edgekit.runtime.errors import RuntimeFault
from edgekit.runtime.port import Port
from edgekit.runtime.preprocess import Preprocessing, pixels

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SPEC = Preprocessing(24, 24, MEAN, STD, 0.875)
Bytes = npt.NDArray[np.uint8]

sides = st.integers(1, 130)
interpolations = st.sampled_from(["bilinear", "bicubic"])


def noise(width: int, height: int, channels: int = 3, seed: int = 0, extreme: bool = False) -> Bytes:
    generator = np.random.default_rng(seed)
    values: Any = generator.choice if extreme else generator.integers
    array: Bytes = values(*([[0, 255]] if extreme else [0, 256]), (height, width, channels)).astype(np.uint8)
    return array


def smooth(width: int, height: int) -> Image.Image:
    return Image.fromarray(noise(5, 4)).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def by_pillow(image: Image.Image, spec: Preprocessing) -> Bytes:
    """The evaluation path of a square input in Pillow's words."""
    short = round(spec.height / spec.crop)
    width, height = image.size
    size = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    resized = image.resize(size, Image.Resampling[spec.interpolation.upper()]) if size != image.size else image
    left, top = round((size[0] - spec.width) / 2), round((size[1] - spec.height) / 2)
    return np.asarray(resized)[top : top + spec.height, left : left + spec.width]


@settings(deadline=None, max_examples=300)
@given(sides, sides, sides, sides, interpolations, st.sampled_from([1, 3]), st.booleans(), st.integers(0, 99))
def test_resize_equals_pillow_bit_by_bit(
    width: int, height: int, new_width: int, new_height: int, interpolation: str, channels: int, hard: bool, seed: int
) -> None:
    if int(PIL.__version__.split(".")[0]) < 13 and height - new_height > max(0, 2 * (width - new_width)):
        return  # Pillow 13 does the height first here
    array = noise(width, height, channels, seed, hard)
    image = Image.fromarray(array if channels == 3 else array[:, :, 0])
    oracle = np.asarray(image.resize((new_width, new_height), Image.Resampling[interpolation.upper()]))
    found = _resample.resize(array, new_width, new_height, interpolation)
    np.testing.assert_array_equal(found, oracle.reshape(found.shape))


@settings(deadline=None, max_examples=60)
@given(st.integers(8, 90), st.integers(8, 90), st.sampled_from([1.0, 0.875]), interpolations)
def test_pixels_of_an_array_are_the_same_with_and_without_pillow(
    width: int, height: int, crop: float, interpolation: str
) -> None:
    spec = Preprocessing(24, 24, MEAN, STD, crop, interpolation)
    array = noise(width, height)
    oracle = by_pillow(Image.fromarray(array), spec)
    np.testing.assert_array_equal(pixels(array, spec), oracle)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "PIL", None)
        bare = pixels(array, spec)
        assert bare.flags.c_contiguous
        grey = pixels(array, Preprocessing(24, 24, (0.0,), (1.0,), crop, interpolation, color="grey"))
    if int(PIL.__version__.split(".")[0]) >= 13 or height <= 2 * width:
        np.testing.assert_array_equal(bare, oracle)
        np.testing.assert_array_equal(grey[:, :, 0], by_pillow(Image.fromarray(array).convert("L"), spec))


FILES: dict[str, Callable[[Image.Image], bytes]] = {
    "rgb.jpg": lambda image: encoded(image, "JPEG", quality=90),
    "rgb.png": encoded,
    "grey.jpg": lambda image: encoded(image.convert("L"), "JPEG"),
    "grey.png": lambda image: encoded(image.convert("L")),
    "palette.png": lambda image: encoded(image.quantize(32)),
    "cmyk.jpg": lambda image: encoded(image.convert("CMYK"), "JPEG"),
    "black-and-white.png": lambda image: encoded(image.convert("1")),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("size", [(24, 24), (60, 37), (31, 90), (9, 11)])
def test_pixels_of_a_file_are_pillows(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    file = FILES[name](smooth(*size))
    (tmp_path / name).write_bytes(file)
    oracle = by_pillow(Image.open(io.BytesIO(file)).convert("RGB"), SPEC)
    for source in (tmp_path / name, str(tmp_path / name), file, bytearray(file), memoryview(file)):
        np.testing.assert_array_equal(pixels(source, SPEC), oracle)
    np.testing.assert_array_equal(pixels(Image.open(tmp_path / name), SPEC), oracle)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("size", [(60, 37), (31, 90)])
def test_tensor_is_what_validation_fed(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    from edgekit.data.transforms import evaluate, open_image
    from edgekit.types import InputSpec

    (tmp_path / name).write_bytes(FILES[name](smooth(*size)))
    spec = InputSpec(24, MEAN, STD, 0.875)
    wanted = evaluate(open_image(tmp_path / name, spec), spec)
    found = FromPixels(SPEC, Port("x", (1, 3, 24, 24), "float32"), "NCHW")(pixels(tmp_path / name, SPEC))
    np.testing.assert_array_equal(found[0], wanted)


def test_pixels_composite_alpha_on_white() -> None:
    image = smooth(40, 30).convert("RGBA")
    image.putalpha(Image.fromarray(noise(40, 30, 1)[:, :, 0]))
    colour, alpha = np.asarray(image)[:, :, :3].astype(float), np.asarray(image)[:, :, 3:] / 255
    wide = Preprocessing(30, 40, MEAN, STD, resize="stretch")
    found = pixels(encoded(image), wide).astype(float)
    assert np.abs(found - (colour * alpha + 255 * (1 - alpha))).max() <= 1


def test_pixels_keep_the_upper_half_of_16_bits() -> None:
    deep = np.random.default_rng(0).integers(0, 1 << 16, (24, 24)).astype(np.uint16)
    found = pixels(encoded(Image.fromarray(deep)), Preprocessing(24, 24, MEAN, STD))
    np.testing.assert_array_equal(found, (deep >> 8)[:, :, None].repeat(3, axis=2))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_pixels_are_upright(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encoded(smooth(50, 34), kind, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(file)))
    np.testing.assert_array_equal(pixels(file, SPEC), by_pillow(upright, SPEC))


@pytest.mark.parametrize("shape", [(40, 30), (40, 30, 1), (24, 24), (24, 24, 1)])
def test_grey_and_rgb_become_each_other(shape: tuple[int, ...]) -> None:
    grey = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    plane = Image.fromarray(grey.reshape(shape[:2]))
    rgb, single = Preprocessing(24, 24, MEAN, STD), Preprocessing(24, 24, (0.5,), (0.5,), color="grey")
    np.testing.assert_array_equal(pixels(grey, rgb), by_pillow(plane.convert("RGB"), rgb))
    np.testing.assert_array_equal(pixels(grey, single)[:, :, 0], by_pillow(plane, single))
    np.testing.assert_array_equal(pixels(encoded(plane), single)[:, :, 0], by_pillow(plane, single))
    colour = Image.fromarray(noise(40, 30))
    np.testing.assert_array_equal(pixels(np.asarray(colour), single)[:, :, 0], by_pillow(colour.convert("L"), single))


@given(sides, sides, st.integers(1, 60), st.integers(1, 60), st.sampled_from([1.0, 0.875, 0.5]))
def test_geometry_covers_the_input(width: int, height: int, new_width: int, new_height: int, crop: float) -> None:
    spec = Preprocessing(new_height, new_width, MEAN, STD, crop)
    (wide, high), (left, top) = preprocess.geometry(width, height, spec)
    assert 0 <= left <= wide - new_width
    assert 0 <= top <= high - new_height
    assert wide == round(new_width / crop) or high == round(new_height / crop)
    stretched = Preprocessing(new_height, new_width, MEAN, STD, crop, resize="stretch")
    assert preprocess.geometry(width, height, stretched)[0] == (round(new_width / crop), round(new_height / crop))


means = st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3).map(tuple)
stds = st.lists(st.floats(0.015625, 1, width=32), min_size=3, max_size=3).map(tuple)


@given(means, stds, st.sampled_from(["NCHW", "NHWC"]))
def test_float_tensor_is_the_formula(mean: tuple[float, ...], std: tuple[float, ...], layout: str) -> None:
    array = noise(7, 5)
    spec = Preprocessing(5, 7, mean, std)
    shape = (1, 3, 5, 7) if layout == "NCHW" else (1, 5, 7, 3)
    found = FromPixels(spec, Port("x", shape, "float32"), layout)(array)
    oracle = (array / 255 - np.array(mean)) / np.array(std)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found[0] if layout == "NHWC" else found[0].transpose(1, 2, 0), oracle, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(
    means, stds, st.floats(0.001, 0.1), st.integers(-128, 127), st.sampled_from(["int8", "uint8", "int16"]),
    st.sampled_from(["NCHW", "NHWC"]), st.booleans(),
)  # fmt: skip
def test_integer_tensor_is_the_quantized_float_for_every_level(
    mean: tuple[float, ...], std: tuple[float, ...], scale: float, zero: int, dtype: str, layout: str, same: bool
) -> None:
    if same:
        mean, std = mean[:1] * 3, std[:1] * 3
    zero += 128 * (dtype == "uint8")
    array = np.stack([np.random.default_rng(c).permutation(256).astype(np.uint8) for c in range(3)], axis=-1)
    array = array.reshape(16, 16, 3)
    spec, shape = Preprocessing(16, 16, mean, std), (1, 3, 16, 16) if layout == "NCHW" else (1, 16, 16, 3)
    real = FromPixels(spec, Port("x", shape, "float32"), layout)(array)
    limits = np.iinfo(dtype)
    oracle = np.clip(np.rint(real * np.float32(1 / scale)) + zero, limits.min, limits.max)  # rint: halves to even
    found = FromPixels(spec, Port("x", shape, dtype, scale, zero), layout)(array)
    assert (found.dtype, found.shape) == (np.dtype(dtype), shape)
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, oracle)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(("dtype", "zero", "flip"), [("uint8", 0, 0), ("int8", -128, 0x80)])
def test_pixels_go_straight_through_where_the_table_says_so(dtype: str, zero: int, flip: int, layout: str) -> None:
    array = noise(16, 16)
    spec, shape = Preprocessing(16, 16, (0.0,) * 3, (1.0,) * 3), (1, 3, 16, 16) if layout == "NCHW" else (1, 16, 16, 3)
    made = FromPixels(spec, Port("x", shape, dtype, 1 / 255, zero), layout)
    assert (made._flip, made._convert) == (flip, made._moved)
    plain = array.astype(int) + zero
    np.testing.assert_array_equal(made(array)[0], plain.transpose(2, 0, 1) if layout == "NCHW" else plain)


def bomb() -> bytes:
    """A PNG of 30000 x 30000 pixels, as its header says."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


GOOD = encoded(smooth(60, 40), "JPEG")
BROKEN = {
    "empty.jpg": (b"", "the file is empty"),
    "text.jpg": (b"hello, I am no image" * 10, "not an image of a known format"),
    "truncated.jpg": (GOOD[: len(GOOD) // 2], "cannot be decoded: .*[Tt]runcated"),
    "truncated.png": (encoded(smooth(60, 40))[:300], "cannot be decoded: "),
    "header.jpg": (GOOD[:20], "cannot be decoded|not an image"),
    "bomb.png": (bomb(), r"far too many pixels \(decompression bomb\)"),
    "slender.png": (encoded(Image.new("L", (2000, 2))), "2000x2 pixels are too slender to resize"),
    "slender.tif": (
        encoded(Image.new("L", (9, 1_000_000)), "TIFF", compression="tiff_lzw"),
        "9x1000000 pixels are too",
    ),
    "float.tif": (encoded(Image.new("F", (4, 4), 200), "TIFF"), "floating-point pixels have no agreed range"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_pixels_raise_one_line_when_the_file_is_broken(name: str, tmp_path: Path) -> None:
    content, message = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RuntimeFault, match=f"{name}: .*{message}") as caught:
        pixels(tmp_path / name, SPEC)
    assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeFault, match=f"^image: .*{message}"):
        pixels(content, SPEC)


@settings(deadline=None, max_examples=150)
@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=4), st.booleans())
def test_a_damaged_file_gives_pixels_or_a_fault(at: int, damage: bytes, cut: bool) -> None:
    file = GOOD[:at] + damage + (b"" if cut else GOOD[at + len(damage) :])
    try:
        text, shape = "", pixels(file, SPEC).shape
    except RuntimeFault as fault:
        text, shape = str(fault), (24, 24, 3)
    assert "\n" not in text
    assert shape == (24, 24, 3)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.jpg", "nowhere.jpg: no such file or directory"),
        (".", "is a directory"),
        (np.zeros((4, 4, 3), np.float32), "the array is float32, pixels must be uint8"),
        (np.zeros((4, 4, 4), np.uint8), r"the array has shape \(4, 4, 4\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"the array has shape \(1, 4, 4, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), r"the array has shape \(0, 4, 3\)"),
        (np.zeros((2, 400, 3), np.uint8), "400x2 pixels are too slender"),
        pytest.param(object(), "object is not a path, bytes, a Pillow image or a uint8 array", id="object"),
        (None, "NoneType is not a path"),
        ("a\0b", "null byte"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_pixels_raise_one_line_when_the_input_is_none(source: Any, message: str) -> None:
    with pytest.raises(RuntimeFault, match=message) as caught:
        pixels(source, SPEC)
    assert "\n" not in str(caught.value)


def test_pixels_raise_when_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(preprocess, "decoded", fail)
    with pytest.raises(RuntimeFault, match="image: out of memory"):
        pixels(GOOD, SPEC)


def test_files_need_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(RuntimeFault, match="pip install pillow"):
        pixels(GOOD, SPEC)


def test_warning_filters_are_as_before_when_several_threads_decoded() -> None:
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: pixels(GOOD, SPEC), range(64)))
    assert all((image == found[0]).all() for image in found)
    assert list(warnings.filters) == before
