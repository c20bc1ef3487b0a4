"""Rectangles, one to four channels, ways to fit an image, tuples and dicts, one logit: from the recipe to a bundle."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import save_file
from torch import nn
from torchvision.transforms import InterpolationMode, v2

import edgekit.runtime as edgekit_runtime
from edgekit import models
from edgekit.config import recipe_file, unused
from edgekit.config.recipe import ModelSection
from edgekit.data.dataset import ImageSet
from edgekit.data.transforms import augmenter, evaluate, normalise, open_image, preprocessing
from edgekit.disk import json_file
from edgekit.errors import InputError
from edgekit.graph.logits import classes, per_class
from edgekit.runtime import preprocess
from edgekit.scores import Accuracy
from edgekit.types import Artifact, Index, InputSpec, Resize, Sample
from tests.support import DEVICE, ROOT, edgekit, environment

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
    with pytest.raises(edgekit_runtime.RuntimeFault, match=r"\[height, width, 3\] or \[height, width\] is needed"):
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


# From the recipe to the bundle ---------------------------------------------------------------------

NET = """
from torch import nn


def conv(source, width, stride=1, groups=1):
    return nn.Sequential(
        nn.Conv2d(source, width, 3, stride, 1, groups=groups, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    )


class Net(nn.Module):
    def __init__(self, num_classes, channels, wrap):
        super().__init__()
        self.wrap = wrap
        self.body = nn.Sequential(conv(channels, 64, 2), conv(64, 64, groups=64), conv(64, 64, 2))
        self.pool = nn.AdaptiveAvgPool2d((1, 2))
        self.head = nn.Linear(128, num_classes)

    def forward(self, x):
        features = self.pool(self.body(x)).flatten(1)
        return self.wrap(features, self.head(features))


def as_dict(num_classes, channels):
    return Net(num_classes, channels, lambda features, logits: {"features": features, "logits": logits})


def as_tuple(num_classes, channels):
    return Net(num_classes, channels, lambda features, logits: (features, logits))


def plain(num_classes, channels=3):
    return Net(num_classes, channels, lambda features, logits: logits)
"""
GREY = """
[model]
name = "net.py:as_dict"
weights = "none"
output = "logits"
head = "sigmoid"
options = {channels = 1}
[data]
source = "image_folder"
path = "images"
input = [24, 40]
channels = 1
resize = "letterbox"
pad = 7
[train]
epochs = 8
batch = 16
lr = 3e-3
frozen = 3
augment = ["random_crop", "color_jitter"]
[prune]
macs = 0.4
round_to = 16
recover = 1
[quantize]
method = "qat"
calibration = 16
sensitivity = false
qat = {epochs = 1, batch = 16}
[lower]
measure = false
[export]
[verify]
[profile]
operators = false
"""
RGBA = """
[model]
name = "net.py:as_tuple"
weights = "none"
output = 1
options = {channels = 4}
[data]
source = "image_folder"
path = "images"
input = [24, 40]
channels = 4
resize = "stretch"
[train]
epochs = 8
batch = 16
lr = 1e-2
augment = ["random_crop"]
[quantize]
calibration = 16
[lower]
measure = false
[export]
formats = ["tflite"]
precisions = ["int8"]
[verify]
"""


@dataclass(frozen=True)
class Done:
    """A finished run."""

    folder: Path
    answer: str

    @property
    def bundle(self) -> Path:
        return next((self.folder / "8-bundle").glob("*.edgekit"))

    @property
    def manifest(self) -> dict[str, Any]:
        with zipfile.ZipFile(self.bundle) as bundle:
            manifest: dict[str, Any] = json.loads(bundle.read("manifest.json"))
            return manifest

    def artifacts(self) -> dict[str, Artifact]:
        return {row.id: row for row in json_file.load(self.folder / "6-export" / "artifacts.json", list[Artifact])}


def sided(folder: Path, channels: int, count: int = 30) -> None:
    """Wide images of two classes: the left or the right half is brighter, in the last channel alone."""
    generator = np.random.default_rng(0)
    for label in range(2):
        (folder / f"side{label}").mkdir(parents=True)
        for number in range(count):
            height, width = int(generator.integers(26, 50)), int(generator.integers(60, 110))
            values = generator.integers(0, 256, (height, width, channels)).astype(np.uint8)
            values[:, :, -1] //= 3
            values[:, width // 2 * label : width // 2 * (label + 1), -1] += 150
            Image.fromarray(values[:, :, 0] if channels == 1 else values).save(
                folder / f"side{label}" / f"{number}.png"
            )


def finished(folder: Path, text: str, channels: int, *words: str | Path) -> Done:
    (folder / "net.py").write_text(NET)
    (folder / "quick.toml").write_text(DEVICE)
    (folder / "mine.toml").write_text(text)
    sided(folder / "images", channels)
    answer = edgekit("run", folder / "mine.toml", "--out", folder / "run", *words, cwd=folder)
    return Done(folder / "run", answer.stdout + answer.stderr)


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("grey")
    return finished(folder, GREY, 1, "--device", folder / "quick.toml")


@pytest.fixture(scope="module")
def rgba(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return finished(tmp_path_factory.mktemp("rgba"), RGBA, 4)


def test_a_grey_rectangle_goes_through_every_stage(grey: Done) -> None:
    shapes = {name: row.input.shape for name, row in grey.artifacts().items()}
    assert shapes == {
        "onnx-fp32": (1, 1, 24, 40), "onnx-int8": (1, 1, 24, 40),
        "tflite-fp32": (1, 24, 40, 1), "tflite-int8": (1, 24, 40, 1),
    }  # fmt: skip
    rows = json_file.load(grey.folder / "7-verify" / "accuracy.json", list[Accuracy])
    assert {row.artifact for row in rows} == {*shapes, "torch-fp32", "torch-int8"}
    for row in rows:
        assert row.passed
        assert row.top1 > 0.9, row
        assert row.agreement > 0.9
        assert row.max_steps in (None, 0.0)
    assert all(
        row.output.shape == (1, 1) and not row.float_ops for row in grey.artifacts().values() if "int8" in row.id
    )


def test_a_bundle_of_a_grey_rectangle_predicts_what_torch_does(grey: Done) -> None:
    module, checkpoint = models.load(grey.folder / "3-prune")
    assert checkpoint.input.shape == (1, 24, 40)
    files = sorted((grey.folder.parent / "images").rglob("*.png"))[::7]
    for artifact, away in (("onnx-fp32", 1e-5), ("tflite-fp32", 1e-5), ("tflite-int8", 0.1)):
        with edgekit_runtime.load(grey.bundle, artifact=artifact) as model:
            assert model.labels == ("side0", "side1")
            for file in files:
                pixels = by_others(Image.open(file), checkpoint.input)
                values = torch.from_numpy((pixels[None].astype(np.float32) / 255 - 0.5) / 0.5).permute(0, 3, 1, 2)
                with torch.no_grad():
                    (chance,) = torch.sigmoid(module(values))[0].tolist()
                found = model(file)
                np.testing.assert_allclose(found.scores, [1 - chance, chance], atol=away)
                assert found.index == int(found.scores[1] > 0.5)
                assert found.label == f"side{found.index}"
                assert [each.index for each in found.top(2)] == [found.index, 1 - found.index]


def test_the_manifest_says_what_the_image_becomes(grey: Done, rgba: Done) -> None:
    manifest = grey.manifest
    assert manifest["version"] == "1.1"
    assert manifest["postprocessing"] == {"activation": "sigmoid"}
    said = manifest["preprocessing"]
    assert {key: said[key] for key in ("color", "height", "width", "resize", "pad")} == {
        "color": "grey", "height": 24, "width": 40, "resize": "letterbox", "pad": 7,
    }  # fmt: skip
    schema = json.loads((ROOT / "edgekit/runtime/manifest.schema.json").read_text())
    for done in (grey, rgba):
        jsonschema.Draft202012Validator(schema).validate(done.manifest)
    assert rgba.manifest["preprocessing"]["color"] == "rgba"
    assert rgba.manifest["postprocessing"] == {"activation": "softmax"}


def test_the_commands_take_a_bundle_of_a_grey_rectangle(grey: Done, tmp_path: Path) -> None:
    images = grey.folder.parent / "images" / "side1"
    for engine in ("onnxruntime", "litert"):
        runtime("selftest", grey.bundle, "--engine", engine)
    found = [json.loads(line)["label"] for line in runtime("predict", grey.bundle, images, "--json").splitlines()]
    assert len(found) == len(list(images.iterdir()))
    assert found.count("side1") > 0.9 * len(found)
    runtime("bench", grey.bundle, "--seconds", "0.05", "--json")
    edgekit("export-c", grey.bundle, "--artifact", "tflite-int8", "--out", tmp_path)
    (header,) = tmp_path.glob("*_model.h")
    assert "_INPUT_SHAPE {1, 24, 40, 1}" in header.read_text()
    page = (grey.folder / "10-report" / "report.html").read_text()
    assert "24 x 40 px, grey" in page


def test_rgba_goes_from_a_tuple_to_a_bundle(rgba: Done) -> None:
    """The class lies in alpha alone."""
    (artifact,) = rgba.artifacts().values()
    assert artifact.input.shape == (1, 24, 40, 4)
    rows = json_file.load(rgba.folder / "7-verify" / "accuracy.json", list[Accuracy])
    assert all(row.passed and row.top1 > 0.9 and row.max_steps in (None, 0.0) for row in rows)
    files = sorted((rgba.folder.parent / "images").rglob("*.png"))
    with edgekit_runtime.load(rgba.bundle) as model:
        right = [model(file).label == file.parent.name for file in files]
        assert sum(right) > 0.9 * len(right)
        array = np.asarray(Image.open(files[0]))
        np.testing.assert_array_equal(model(array).scores, model(files[0]).scores)


def runtime(*words: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "edgekit.runtime", *map(str, words)], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# Networks ------------------------------------------------------------------------------------------


@pytest.fixture
def user(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "torchvision/mobilenet_v3_small"])
@pytest.mark.parametrize("channels", [1, 4])
def test_weights_over_rgb_are_adapted(name: str, channels: int, tmp_path: Path) -> None:
    size = 3, 64, 96
    rgb, *_ = models.create(ModelSection(name=name, weights="none"), 5, size, tmp_path)
    save_file(models.state(rgb), tmp_path / "w.safetensors")
    section = ModelSection(name=name, weights="w.safetensors")
    module, spec, given = models.create(section, 5, (channels, 64, 96), tmp_path)
    assert given.shape == (channels, 64, 96)
    assert len(set(given.mean)) == 1
    assert module(torch.zeros(2, channels, 64, 96)).shape == (2, 5)
    if channels == 1:  # what the same grey image gave as RGB
        image = torch.rand(2, 1, 64, 96)
        torch.testing.assert_close(module(image), rgb(image.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)
    again = models.build(spec, tmp_path)
    again.load_state_dict(module.state_dict())


@pytest.mark.parametrize(
    ("section", "classes", "message"),
    [
        ({"name": "net.py:plain"}, 5, "cannot take an image of 24 x 40 with 1 channels"),
        ({"name": "net.py:as_dict"}, 5, '"logits": (1, 5)); say which entry to take: model.output = "features"'),
        ({"name": "net.py:as_tuple"}, 5, "tuple (0: (1, 128), 1: (1, 5)); say which entry to take: model.output = 0"),
        (
            {"name": "net.py:as_dict", "output": "logit"},
            5,
            'model.output = "logit": no such entry; did you mean "logits"?',
        ),
        ({"name": "net.py:as_dict", "output": "features"}, 5, "its output is (1, 128), expected (1, 5)"),
        ({"name": "net.py:plain", "output": 0}, 5, "model.output = 0: "),
        ({"name": "net.py:plain", "head": "sigmoid"}, 5, "one logit tells 2 classes apart, the data has 5"),
        ({"name": "net.py:one"}, 2, 'set model.head = "sigmoid"'),
    ],
)
def test_a_network_that_does_not_fit_says_what_would(
    section: dict[str, Any], classes: int, message: str, user: Path
) -> None:
    (user / "net.py").write_text(f"{NET}\ndef one(num_classes, channels):\n    return plain(1, channels)\n")
    options = {"channels": 3 if section["name"] == "net.py:plain" and "output" not in section else 1}
    with pytest.raises(InputError) as caught:
        models.create(ModelSection(weights="none", options=options, **section), classes, (1, 24, 40), user)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_logits_and_one_are_the_same_classifier() -> None:
    """Softmax of (0, z) is the sigmoid of z, so cross-entropy is its binary form."""
    logits, labels = torch.randn(50, 1), torch.randint(0, 2, (50,))
    binary = nn.functional.binary_cross_entropy_with_logits(logits[:, 0], labels.float())
    torch.testing.assert_close(nn.functional.cross_entropy(per_class(logits), labels), binary)
    for kind in (logits, logits.numpy()):
        np.testing.assert_array_equal(np.asarray(classes(kind)), (torch.sigmoid(logits[:, 0]) > 0.5).numpy())
    many = torch.randn(50, 4)
    assert (classes(many) == many.argmax(1)).all()
    assert per_class(many) is many


# Recipes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.input=[24]", "data.input = [24]: give the side of a square, e.g. 224, or [height, width]"),
        ("data.input=[24, 40, 3]", "or [height, width], e.g. [96, 160]"),
        ("data.input=[24, 4]", "data.input = [24, 4]: a side has 8 to 1024 pixels"),
        ("data.input=2000", "data.input = 2000: a side has 8 to 1024 pixels"),
        ("data.input=true", "give the side of a square"),
        ("data.input=24.5", "give the side of a square"),
        ("data.channels=5", "data.channels = 5: input should be less than or equal to 4"),
        ("data.resize=letter", 'did you mean "letterbox"?'),
        ("data.pad=256", "data.pad = 256: input should be less than or equal to 255"),
        ("model.output=1.5", 'model.output = 1.5: give a place, e.g. 0, or a key, e.g. "logits"'),
        ("model.std=[1, 1]", "model.std = [1.0, 1.0]: one value for each of data.channels = 3 is needed"),
    ],
)
def test_a_wrong_input_is_explained_in_one_line(override: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        recipe_file.load(ROOT / "recipes" / "digits.toml", [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_alpha_is_not_augmented_by_rules_that_do_not_know_it() -> None:
    with pytest.raises(InputError, match='"trivial_augment" has no rule for alpha'):
        recipe_file.load(ROOT / "recipes" / "digits.toml", ["data.channels=4", 'train.augment=["trivial_augment"]'])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.pad=7"], 'data.pad = 7 has no effect: data.resize is "crop", which has no border'),
        (["data.resize=letterbox", "model.crop=0.9"], "model.crop = 0.9 has no effect"),
    ],
)
def test_keys_that_the_way_to_resize_leaves_without_effect_are_named(overrides: list[str], message: str) -> None:
    (line,) = unused.lines(recipe_file.load(ROOT / "recipes" / "digits.toml", overrides))
    assert message in line


def test_a_square_is_a_square_however_it_is_written() -> None:
    for value in ("32", "[32, 32]"):
        assert recipe_file.load(ROOT / "recipes" / "digits.toml", [f"data.input={value}"]).data.input == 32
    assert recipe_file.load(ROOT / "recipes" / "digits.toml", ["data.input=[24, 40]"]).data.shape == (3, 24, 40)
