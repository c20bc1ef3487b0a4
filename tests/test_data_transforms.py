"""Decoding, the evaluation path and augmentation, against torchvision and plain arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode, v2

from edgekit.data.transforms import augmenter, evaluate, fit, open_image
from edgekit.types import InputSpec

IMAGENET = InputSpec(32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NAMES = ["random_crop", "flip", "vertical_flip", "color_jitter", "trivial_augment"]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def pixel(file: Path, image: Image.Image, **options: object) -> tuple[int, ...]:
    image.save(file, **options)  # type: ignore[arg-type]
    found = open_image(file, IMAGENET)
    assert found.mode == "RGB"
    value = found.getpixel((0, 0))
    assert isinstance(value, tuple)
    return tuple(int(part) for part in value)


@settings(deadline=None)
@given(
    st.integers(8, 90),
    st.integers(8, 90),
    st.sampled_from([1.0, 0.875, 0.95]),
    st.sampled_from(["bilinear", "bicubic"]),
)
def test_evaluate_equals_torchvision(width: int, height: int, crop: float, interpolation: str) -> None:
    spec = InputSpec(32, IMAGENET.mean, IMAGENET.std, crop, "bicubic" if interpolation == "bicubic" else "bilinear")
    image = noise(width, height)
    oracle = v2.Compose(
        [
            v2.Resize(round(32 / crop), InterpolationMode(interpolation)),
            v2.CenterCrop(32),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(spec.mean, spec.std),
        ]
    )
    result = evaluate(image, spec)
    assert result.dtype == np.float32
    assert result.shape == (3, 32, 32)
    assert result.flags.c_contiguous
    np.testing.assert_allclose(result, oracle(image).numpy(), atol=2e-6)


def test_evaluate_leaves_pixels_alone_when_the_size_fits() -> None:
    image = noise(32, 40)
    result = evaluate(image, InputSpec(32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    np.testing.assert_array_equal(np.rint(result * 255), np.asarray(image)[4:36].transpose(2, 0, 1))


def test_evaluate_enlarges_tiny_images() -> None:
    assert fit(noise(8, 8), IMAGENET).size == (32, 32)


def test_open_image_turns_upright(tmp_path: Path) -> None:
    image = noise(12, 8)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = tmp_path / f"{orientation}.png"
        image.save(file, exif=exif)
        with Image.open(file) as opened:
            oracle = ImageOps.exif_transpose(opened)
        assert oracle is not None
        np.testing.assert_array_equal(np.asarray(open_image(file, IMAGENET)), np.asarray(oracle))


def test_open_image_composites_alpha_on_white(tmp_path: Path) -> None:
    assert pixel(tmp_path / "clear.png", Image.new("RGBA", (4, 4), (200, 0, 0, 0))) == (255, 255, 255)
    assert pixel(tmp_path / "half.png", Image.new("RGBA", (4, 4), (200, 0, 0, 51))) == (244, 204, 204)
    assert pixel(tmp_path / "full.png", Image.new("RGBA", (4, 4), (200, 0, 0, 255))) == (200, 0, 0)
    assert pixel(tmp_path / "grey.png", Image.new("LA", (4, 4), (100, 0))) == (255, 255, 255)


def test_open_image_reads_palettes(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert pixel(tmp_path / "plain.png", image) == (10, 20, 30)
    assert pixel(tmp_path / "keyed.png", image, transparency=1) == (255, 255, 255)
    assert pixel(tmp_path / "bytes.png", image, transparency=bytes([255, 0])) == (255, 255, 255)
    assert pixel(tmp_path / "other.png", image, transparency=0) == (10, 20, 30)


def test_open_image_reads_grey_of_any_depth(tmp_path: Path) -> None:
    assert pixel(tmp_path / "1.png", Image.new("1", (4, 4), 1)) == (255, 255, 255)
    assert pixel(tmp_path / "8.png", Image.new("L", (4, 4), 77)) == (77, 77, 77)
    deep = Image.fromarray(np.full((4, 4), 40000, np.uint16))
    assert pixel(tmp_path / "16.png", deep) == (156, 156, 156)
    assert pixel(tmp_path / "16.tif", deep) == (156, 156, 156)
    assert pixel(tmp_path / "32.tif", Image.fromarray(np.full((4, 4), 40000, np.int32))) == (156, 156, 156)


def test_open_image_reads_cmyk(tmp_path: Path) -> None:
    red, green, blue = pixel(tmp_path / "cmyk.jpg", Image.new("CMYK", (8, 8), (0, 255, 255, 0)), quality=100)
    assert red > 245
    assert max(green, blue) < 10


def test_open_image_reads_an_image_around_broken_metadata(tmp_path: Path) -> None:
    noise(12, 8).save(tmp_path / "x.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xffgarbage")
    assert open_image(tmp_path / "x.jpg", IMAGENET).size == (12, 8)


@pytest.mark.parametrize("names", [[], *([name] for name in NAMES), NAMES])
@pytest.mark.parametrize("size", [(8, 8), (50, 40)])
def test_augmenter_gives_the_input_of_a_network(names: list[str], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    result = augmenter(names, IMAGENET)(noise(*size))
    assert result.dtype == np.float32
    assert result.shape == (3, 32, 32)
    assert np.isfinite(result).all()


def test_augmenter_equals_evaluate_when_nothing_is_random() -> None:
    image = noise(50, 40)
    np.testing.assert_array_equal(augmenter([], IMAGENET)(image), evaluate(image, IMAGENET))


@pytest.mark.parametrize(("name", "axis"), [("flip", 2), ("vertical_flip", 1)])
def test_augmenter_flips_half_of_the_images(name: str, axis: int) -> None:
    torch.manual_seed(0)
    image = noise(32, 32)
    plain = evaluate(image, IMAGENET)
    flip = augmenter([name], IMAGENET)
    seen = 0
    for _ in range(100):
        result = flip(image)
        flipped = np.array_equal(result, np.flip(plain, axis))
        assert flipped or np.array_equal(result, plain)
        seen += flipped
    assert 30 < seen < 70
