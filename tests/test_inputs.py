"""Rectangles, one to four channels, ways to fit an image, tuples and dicts, one logit: from the recipe to a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageOps
from timm.data.transforms import ResizeKeepRatio
from torchvision.transforms import InterpolationMode, v2

import edgekit.runtime
from edgekit.data.dataset import ImageSet
from edgekit.data.transforms import augmenter, evaluate, normalise, open_image, preprocessing
from edgekit.runtime import preprocess
from edgekit.types import Index, InputSpec, Resize, Sample

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
HEIGHT, WIDTH = 24, 40
SIZES = [(40, 24), (80, 48), (60, 37), (31, 90), (9, 11), (20, 12), (130, 40)]


def picture(width: int, height: int, channels: int, seed: int = 0) -> Image.Image:
    """Noise; some of its pixels are transparent, some opaque, if it has alpha."""
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 256, (height, width, channels)).astype(np.uint8)
    if channels in (2, 4):
        values[:, :, -1] = np.clip(values[:, :, -1].astype(int) * 3 - 250, 0, 255)
    return Image.fromarray(values[:, :, 0] if channels == 1 else values)


def spec(resize: Resize, channels: int, crop: float = 1.0, pad: int = 0) -> InputSpec:
    means = (0.4, 0.5, 0.3, 0.6)[:channels]
    return InputSpec((HEIGHT, WIDTH), means, (0.25, 0.5, 0.3, 0.2)[:channels], crop, "bilinear", resize, pad)


def by_others(image: Image.Image, given: InputSpec) -> npt.NDArray[np.uint8]:
    """The same image through Pillow's and torchvision's own transforms: uint8 [height, width, channels]."""
    if given.resize == "letterbox":
        border = (given.pad,) * len(image.getbands())
        done = ImageOps.pad(image, (WIDTH, HEIGHT), Image.Resampling.BILINEAR, color=border)
    elif given.resize == "stretch":
        done = v2.Resize([HEIGHT, WIDTH], InterpolationMode.BILINEAR)(image)
    else:
        high, wide = round(HEIGHT / given.crop), round(WIDTH / given.crop)
        if image.width * high >= image.height * wide:  # wider than the input: the height decides
            size: Any = high
        elif image.width <= image.height:
            size = wide
        else:  # torchvision has no word for this: the longer side decides
            size = int(wide * image.height / image.width), wide
        done = v2.CenterCrop([HEIGHT, WIDTH])(v2.Resize(size, InterpolationMode.BILINEAR)(image))
    return np.asarray(done).reshape(HEIGHT, WIDTH, -1)


# Pixels --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", MODES)
@pytest.mark.parametrize("given", [("crop", 1.0, 0), ("crop", 0.8, 0), ("stretch", 1.0, 0), ("letterbox", 1.0, 114)])
@pytest.mark.parametrize("size", SIZES)
def test_training_and_runtime_see_what_pillow_and_torchvision_make(
    channels: int, given: tuple[Resize, float, int], size: tuple[int, int], tmp_path: Path
) -> None:
    wanted = spec(given[0], channels, given[1], given[2])
    image = picture(*size, channels)
    image.save(tmp_path / "x.png")
    oracle = by_others(image, wanted)
    how = preprocessing(wanted)
    for source in (tmp_path / "x.png", image, np.asarray(image)):
        np.testing.assert_array_equal(preprocess.pixels(source, how), oracle)
    array = np.asarray(image).reshape(size[1], size[0], channels)
    np.testing.assert_array_equal(preprocess.fit_array(array, how), oracle)  # a device without Pillow
    mean, std = (np.array(values, np.float32) for values in (wanted.mean, wanted.std))
    values = (oracle.astype(np.float32) / np.float32(255) - mean) / std
    np.testing.assert_array_equal(evaluate(open_image(tmp_path / "x.png", wanted), wanted), values.transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(1, 300), (400, 2)])
def test_a_letterbox_takes_slender_images(size: tuple[int, int]) -> None:
    found = preprocess.pixels(np.full((size[1], size[0], 3), 255, np.uint8), preprocessing(spec("letterbox", 3, pad=9)))
    line = found[:, WIDTH // 2 - 1 : WIDTH // 2 + 1] if size[0] < size[1] else found[HEIGHT // 2 - 1 : HEIGHT // 2 + 1]
    assert line.max() == 255
    assert found.min() == 9


@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA", "P", "I;16", "CMYK"])
def test_an_image_of_any_mode_becomes_what_pillow_makes_of_it(mode: str, tmp_path: Path) -> None:
    image = picture(WIDTH, HEIGHT, {"LA": 2, "RGBA": 4}.get(mode, 3))
    if mode == "I;16":
        deep = np.random.default_rng(0).integers(0, 1 << 16, (HEIGHT, WIDTH)).astype(np.uint16)
        image, eight = Image.fromarray(deep), Image.fromarray((deep >> 8).astype(np.uint8))
    else:
        image = eight = image.convert(mode)
    file = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    image.save(file)
    for channels in (2, 4):
        found = preprocess.pixels(file, preprocessing(spec("crop", channels)))
        np.testing.assert_array_equal(found, np.asarray(eight.convert("RGBA").convert(MODES[channels])))
    grey = preprocess.pixels(file, preprocessing(spec("crop", 1)))
    if mode in ("L", "I;16"):
        np.testing.assert_array_equal(grey[:, :, 0], np.asarray(eight))  # grey stays grey
    white = Image.new("RGBA", image.size, "white")
    flat = Image.alpha_composite(white, eight.convert("RGBA")).convert("L")
    np.testing.assert_array_equal(grey[:, :, 0], np.asarray(flat))


def test_arrays_get_the_channels_of_the_network() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 1)).astype(np.uint8)
    opaque = np.full_like(grey, 255)
    rgba, la = preprocessing(spec("crop", 4)), preprocessing(spec("crop", 2))
    np.testing.assert_array_equal(preprocess.pixels(grey[:, :, 0], rgba), np.concatenate([grey] * 3 + [opaque], 2))
    np.testing.assert_array_equal(preprocess.pixels(np.concatenate([grey, opaque], 2), la)[:, :, :1], grey)
    colour = np.asarray(picture(WIDTH, HEIGHT, 4))
    np.testing.assert_array_equal(preprocess.pixels(colour, la), np.asarray(Image.fromarray(colour).convert("LA")))
    with pytest.raises(edgekit.runtime.RuntimeFault, match=r"\[height, width, 3\] or \[height, width\] is needed"):
        preprocess.pixels(colour, preprocessing(spec("crop", 3)))


@pytest.mark.parametrize("channels", MODES)
@pytest.mark.parametrize("resize", ["crop", "stretch", "letterbox"])
def test_augmented_images_have_the_shape_and_the_values_of_the_input(channels: int, resize: Resize) -> None:
    given = spec(resize, channels)
    names = ["random_crop", "flip", "vertical_flip", "color_jitter"] + ["trivial_augment"] * (channels in (1, 3))
    black, white = (np.full((HEIGHT, WIDTH, channels), value, np.uint8) for value in (0, 255))
    low, high = (normalise(pixels, given).max((1, 2)) for pixels in (black, white))
    for chosen in (names, names[1:]):
        augment = augmenter(chosen, given)
        torch.manual_seed(0)
        made = np.stack([augment(picture(60, 37, channels, seed)) for seed in range(8)])
        assert made.shape == (8, channels, HEIGHT, WIDTH)
        assert made.dtype == np.float32
        assert (made >= low[:, None, None] - 1e-6).all()
        assert (made <= high[:, None, None] + 1e-6).all()


def test_a_random_crop_keeps_the_proportions_unless_they_are_given_up() -> None:
    """A chequered square of 8 x 8 fields: where each field stays about a square, the proportions were kept."""
    fields = np.kron(np.indices((8, 8)).sum(0) % 2, np.ones((20, 20))).astype(np.uint8) * 255
    image = Image.fromarray(fields)

    def fields_of(resize: Resize) -> list[float]:
        augment = augmenter(["random_crop"], spec(resize, 1))
        torch.manual_seed(0)
        ratios = []
        for _ in range(40):
            made = augment(image)[0] > 0
            across, down = (made[:, 1:] != made[:, :-1]).sum() / HEIGHT, (made[1:] != made[:-1]).sum() / WIDTH
            ratios.append(float((WIDTH / max(across, 1)) / (HEIGHT / max(down, 1))))
        return ratios

    assert 0.7 < np.median(fields_of("crop")) < 1.4
    assert 0.75 * WIDTH / HEIGHT < np.median(fields_of("stretch")) < 1.35 * WIDTH / HEIGHT


@pytest.mark.parametrize("channels", MODES)
@pytest.mark.parametrize("augment", [[], ["random_crop"]])
def test_a_set_gives_the_same_from_memory_and_from_files(channels: int, augment: list[str], tmp_path: Path) -> None:
    samples = []
    for number in range(3):
        picture(50 + number, 300, channels, number).save(tmp_path / f"{number}.png")
        samples.append(Sample(f"{number}.png", 0, "train", ""))
    index = Index(str(tmp_path), ("one",), tuple(samples))
    kept, read = (ImageSet(index, tmp_path, "train", spec("letterbox", channels), augment) for _ in range(2))
    assert kept.preload()
    for place in range(3):
        torch.testing.assert_close(kept[place][0], read[place][0], rtol=0, atol=0)
        assert kept[place][0].shape == (channels, HEIGHT, WIDTH)
