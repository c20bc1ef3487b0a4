"""edgekit explain, on networks that read a known corner of an image, and on numbers with a known answer."""

from __future__ import annotations

import csv
import json
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import timm
import torch
from click.testing import CliRunner
from click.testing import Result as Answer
from PIL import Image as Pillow
from scipy import stats
from torch import Tensor, nn
from torchvision import models as zoo

from edgekit import choices, models
from edgekit.cli.main import cli
from edgekit.config.recipe import QuantizeSection, Recipe
from edgekit.data import index_file
from edgekit.data.transforms import levels
from edgekit.disk import json_file
from edgekit.disk.run_directory import RunDirectory
from edgekit.explain import grad_cam, judging, occlusion
from edgekit.explain.network import Array, Network, log_odds, of_module, probabilities
from edgekit.explain.occlusion import Grid
from edgekit.explain.records import JSON, PAGE, TABLE, Result, Yardstick
from edgekit.quantize import ptq
from edgekit.scores import EVIDENCE, Accuracy, Explained
from edgekit.types import Artifact, Checkpoint, Index, InputSpec, ModelSpec, Sample
from tests.conftest import TinyRun

SIDE = 32
NET = """
import torch
from torch import nn


class Corner(nn.Module):
    '''Is one corner of the image brighter than the mean, or darker? It sees nothing else.'''

    def __init__(self, outputs, corner, channels):
        super().__init__()
        self.features = nn.Conv2d(channels, 2, 4, 4)
        self.act = nn.ReLU()
        self.head = nn.Linear(2 * 8 * 8, outputs)
        with torch.no_grad():
            self.features.weight[0], self.features.weight[1] = 1 / 16, -1 / 16
            self.features.bias.zero_()
            there = torch.zeros(2, 8, 8)
            rows, columns = (slice(4) if corner < 2 else slice(4, 8)), (slice(4) if corner % 2 == 0 else slice(4, 8))
            there[0, rows, columns], there[1, rows, columns] = 0.25, -0.25
            self.head.weight.copy_(torch.stack([-there.flatten(), there.flatten()])[-outputs:])
            self.head.bias.zero_()

    def forward(self, x):
        return self.head(self.act(self.features(x)).flatten(1))


def build(num_classes, corner=0, channels=3, in_chans=None):
    return Corner(num_classes, corner, in_chans or channels)
"""
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def picture(label: int, seed: int, channels: int = 3) -> npt.NDArray[np.uint8]:
    """The corners at the top left and the bottom right are bright or dark, by various amounts; the others are noise."""
    draw = np.random.default_rng(seed)
    values = draw.integers(90, 166, (SIDE, SIDE, channels))
    for rows, columns in ((slice(16), slice(16)), (slice(16, 32), slice(16, 32))):
        amount = draw.integers(80, 120, (4, 4)).repeat(4, 0).repeat(4, 1)[..., None]
        values[rows, columns] = 128 + amount * (1 if label else -1)
    return values.astype(np.uint8)


def int8(module: nn.Module, spec: InputSpec, form: str, folder: Path) -> Artifact:
    """The network as a real int8 file."""
    shape = spec.shape
    batch = torch.stack([tensor(picture(seed % 2, seed, shape[0]), spec) for seed in range(16)])
    program = ptq.quantize(
        module, shape, batch, torch.from_numpy(levels(spec)), QuantizeSection(float_operators="allow")
    ).program
    made: Artifact = choices.pick("edgekit.export.formats", form, "x").export(program.module(), shape, "int8", folder)
    return made


def tensor(pixels: npt.NDArray[np.uint8], spec: InputSpec) -> Tensor:
    values = (pixels.astype(np.float32).transpose(2, 0, 1) / 255 - 0.5) / 0.5
    return torch.from_numpy(np.ascontiguousarray(values))


@dataclass(frozen=True)
class Made:
    """A run directory made by hand."""

    path: Path
    module: nn.Module
    spec: InputSpec


def make(
    folder: Path, files: dict[str, tuple[str, int]], outputs: int = 2, channels: int = 3, pruned: int | None = None
) -> Made:
    """A run whose float network reads the corner at the top left.

    Args:
        folder: to write into.
        files: id of each int8 file: its format, and the corner that it reads.
        outputs: 1 for one logit.
        channels: of the images.
        pruned: the corner that a pruned network reads, if there is one.
    """
    run, images = folder / "run", folder / "images"
    images.mkdir(parents=True)
    (folder / "net.py").write_text(NET)
    spec = InputSpec(SIDE, (0.5,) * channels, (0.5,) * channels)
    model = ModelSpec(f"{folder / 'net.py'}:build", outputs, {"channels": channels}, channels)
    samples = []
    for seed in range(12):
        values = picture(seed % 2, seed, channels)
        Pillow.fromarray(values[..., 0] if channels == 1 else values).save(images / f"{seed}.png")
        samples.append(Sample(f"{seed}.png", seed % 2, "test", ""))
    module = models.build(model, folder).eval()
    directory = RunDirectory(run)
    run.mkdir()
    recipe = Recipe.model_validate(
        {
            "name": "corner",
            "model": {"name": model.name, "weights": "none"},
            "data": {"source": "image_folder", "path": "x"},
            **({} if pruned is None else {"prune": {"macs": 0.5}}),
        }
    )
    json_file.save(run / "recipe.json", {"base": str(folder), "recipe": recipe.model_dump(mode="json")})
    index = Index(str(images), ("dark", "bright"), tuple(samples))
    directory.stage("data", {}, lambda work: index_file.save(index, work))
    checkpoint = Checkpoint("model.safetensors", model, spec, index.labels, trained=False)
    trained = directory.stage("train", {}, lambda work: models.save(work, module, checkpoint))

    if pruned is not None:
        small = replace(checkpoint, model=replace(model, options={"channels": channels, "corner": pruned}))
        other = models.build(small.model, folder)
        trained = directory.stage("prune", {}, lambda work: models.save(work, other, small))

    def export(work: Path) -> None:
        artifacts = []
        for name, (form, corner) in files.items():
            (folder / name).mkdir()
            other = models.build(replace(model, options={"channels": channels, "corner": corner}), folder).eval()
            artifact = int8(other, spec, form, folder / name)
            file = f"{name}{Path(artifact.path).suffix}"
            shutil.move(folder / name / artifact.path, work / file)
            artifacts.append(replace(artifact, id=name, path=file))
        json_file.save(work / "artifacts.json", artifacts)

    directory.stage("export", {"network": trained.digest}, export)
    return Made(run, module, spec)


@pytest.fixture(scope="module")
def corner(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Files of the float network in both engines, and one that reads the corner at the bottom right."""
    files = {"onnx-int8": ("onnx", 0), "tflite-int8": ("tflite", 0), "onnx-other": ("onnx", 3)}
    return make(tmp_path_factory.mktemp("corner"), files)


@pytest.fixture(scope="module")
def explained(corner: Made) -> Result:
    answer = call(corner.path, "--images", 12)
    assert answer.exit_code == 0, answer.output
    return json_file.load(corner.path / "explain" / JSON, Result)


def call(*words: str | int | Path, quiet: bool = True) -> Answer:
    return CliRunner().invoke(cli, ["explain", *map(str, words), *(["--quiet"] if quiet else [])])


def total(values: Sequence[Sequence[float]], corner: int) -> float:
    """What lies in one corner of a map of 7 x 7 patches, those across the middle included."""
    rows, columns = (slice(4) if corner < 2 else slice(3, 7)), (slice(4) if corner % 2 == 0 else slice(3, 7))
    return float(np.abs(np.array(values)[rows, columns]).sum())


# Where the evidence is -----------------------------------------------------------------------------


def test_evidence_lies_in_the_corner_that_each_network_reads(explained: Result) -> None:
    """In torch, ONNX Runtime and LiteRT alike."""
    for one in explained.images:
        assert one.predicted == one.label
        corners = {"float": (one.evidence, 0)}
        corners |= {look.network: (look.evidence, 3 if look.network == "onnx-other" else 0) for look in one.looks}
        assert set(corners) == {"float", "onnx-int8", "tflite-int8", "onnx-other"}
        for values, where in corners.values():
            assert total(values, where) > 0.999 * np.abs(values).sum() > 0


def test_a_file_that_reads_another_corner_is_right_for_another_reason(explained: Result) -> None:
    found = {each.network: each for each in explained.networks}
    assert {name: (each.agreement, each.moved, each.judged) for name, each in found.items()} == {
        "onnx-int8": (1, 0, 12),
        "tflite-int8": (1, 0, 12),
        "onnx-other": (1, 12, 12),
    }
    assert found["onnx-other"].share is not None
    assert found["onnx-other"].share[1] > 0.7  # Wilson: 12 of 12
    assert explained.yardstick.limit is not None
    for each in found.values():
        assert each.correlation is not None
        assert (each.correlation < 0 < explained.yardstick.limit) == (each.network == "onnx-other")


def test_float_maps_explain_the_same_network_and_not_another(explained: Result) -> None:
    for each in explained.networks:
        assert each.own is not None
        assert each.by_float is not None
        assert each.gap is not None
        assert each.gap[0] == pytest.approx(each.own.score - each.by_float.score)
        assert (each.gap[1] > 0.2) == (each.network == "onnx-other")
        assert abs(each.gap[0]) < 0.01 or each.network == "onnx-other"


def test_strict_names_the_file_and_its_share(corner: Made, tmp_path: Path) -> None:
    answer = call(corner.path, "--images", 4, "--out", tmp_path / "out", "--strict", "--json")
    assert answer.exit_code == 1
    said = json.loads(answer.stdout)
    assert said["sampled"] == 4
    assert said == json.loads((tmp_path / "out" / JSON).read_text())
    assert "allows 5% of the images" in answer.stderr
    assert "onnx-other: 4 of 4 (51.0% to 100.0%)" in answer.stderr
    assert "tflite" not in answer.stderr
    assert call(corner.path, "--images", 4, "--out", tmp_path / "out", "--strict", "--max-moved", "100%").exit_code == 0


def test_the_runs_report_has_the_results_and_the_way_to_the_pictures(tiny: TinyRun, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny.path, run)
    assert call(run, "--images", 8).exit_code == 0

    def reported() -> list[str]:
        answer = CliRunner().invoke(cli, ["report", str(run), "--quiet"])
        assert answer.exit_code == 0, answer.output
        (folder,) = run.glob("*-report")
        shown = _networks(folder)
        for page in (folder / "report.html", folder / "report.md"):
            assert ("../explain/explain.html" in page.read_text()) == bool(shown)
        assert (folder / "../explain/explain.html").is_file()
        return shown

    found = json_file.load(run / "explain" / JSON, Result)
    assert reported() == [row.network for row in found.networks]
    file = run / "explain" / "evidence.json"
    file.write_text(file.read_text().replace(json_file.load(file, Explained).made_from, "other files"))
    assert reported() == []


def _networks(folder: Path) -> list[str]:
    return [row["network"] for row in json.loads((folder / "report.json").read_text())["evidence"]]


def test_more_images_than_there_are_is_said_and_the_same_seed_draws_the_same(corner: Made, tmp_path: Path) -> None:
    answer = call(corner.path, "--images", 500, "--out", tmp_path / "a", "--seed", 7, quiet=False)
    assert answer.exit_code == 0
    assert "500 images were asked for, there are 12: all are explained" in answer.stderr
    assert "49 patches, 12 x " in answer.stderr
    call(corner.path, "--images", 5, "--out", tmp_path / "b", "--seed", 7)
    many, few = (json_file.load(tmp_path / name / JSON, Result) for name in "ab")
    assert [one.path for one in few.images[:5]] == [one.path for one in many.images[:5]]
    assert all("sample" in one.chosen for one in few.images[:5])
    assert not any("sample" in one.chosen for one in few.images[5:])  # they changed most, and do not count
    assert few.networks[2].judged == 5


@pytest.mark.parametrize(("outputs", "channels"), [(1, 1), (2, 4)])
def test_one_logit_and_other_channels(outputs: int, channels: int, tmp_path: Path) -> None:
    made = make(tmp_path, {"onnx-int8": ("onnx", 0)}, outputs, channels)
    answer = call(made.path, "--images", 6, "--strict")
    assert answer.exit_code == 0, answer.output
    found = json_file.load(made.path / "explain" / JSON, Result)
    assert {one.predicted for one in found.images} == {"dark", "bright"}
    for one in found.images:
        for values in (one.evidence, one.looks[0].evidence):
            assert total(values, 0) > 0.999 * np.abs(values).sum() > 0
            assert np.min(values) > -0.01  # evidence for the class, be it the one that the logit means or the other
        assert np.shape(one.grad_cam) == (8, 8)
    assert (found.networks[0].agreement, found.networks[0].moved) == (1, 0)


@pytest.mark.parametrize(("where", "moved"), [(0, 0), (3, 5)])
def test_a_pruned_network_is_compared_with_the_unpruned_one(where: int, moved: int, tmp_path: Path) -> None:
    made = make(tmp_path, {}, pruned=where)
    answer = call(made.path, "--images", 5, "--json")
    assert answer.exit_code == 0, answer.output
    (found,) = json.loads(answer.stdout)["networks"]
    assert (found["network"], found["engine"], found["agreement"]) == ("torch-pruned", "torch", 1)
    assert (found["moved"], found["judged"]) == (moved, 5)


# Numbers -------------------------------------------------------------------------------------------


def fake(logits: Any) -> Network:
    return Network("fake", "none", "0", logits)


def test_insertion_and_deletion_by_hand() -> None:
    """Four patches that add 0.45, 0.27, 0.135 and 0.045 to a probability of 0.05."""
    amounts = np.array([0.45, 0.27, 0.135, 0.045])
    image = np.ones((1, 2, 4), np.float32)

    def logits(images: Array) -> Array:
        p = 0.05 + images[:, 0, 0] @ amounts
        found: Array = np.log(p / (1 - p)).astype(np.float32)[:, None]
        return found

    patches = Grid((0, 2), (0, 1, 2, 3, 4))
    found = occlusion.areas(fake(logits), image, 1, patches, amounts[None])
    assert found.insertion == pytest.approx((0.05 / 2 + 0.5 + 0.77 + 0.905 + 0.95 / 2) / 4, abs=1e-6)
    assert found.deletion == pytest.approx((0.95 / 2 + 0.5 + 0.23 + 0.095 + 0.05 / 2) / 4, abs=1e-6)
    worst = occlusion.areas(fake(logits), image, 1, patches, -amounts[None])
    assert worst.score < 0 < found.score
    evidence = occlusion.evidence(fake(logits), image, 1, patches)
    odds = [math.log(p / (1 - p)) for p in (0.95, 0.5, 0.68, 0.815, 0.905)]
    np.testing.assert_allclose(evidence[0], odds[0] - np.array(odds[1:]), atol=1e-5)
    other = occlusion.evidence(fake(logits), image, 0, patches)
    np.testing.assert_allclose(other, -evidence, atol=1e-6)


def test_log_odds_and_probabilities() -> None:
    logits = np.log(np.array([[0.2, 0.5, 0.3], [0.7, 0.1, 0.2]])).astype(np.float32) + 40
    np.testing.assert_allclose(probabilities(logits), [[0.2, 0.5, 0.3], [0.7, 0.1, 0.2]], rtol=1e-5)
    np.testing.assert_allclose(log_odds(logits, 1), np.log([0.5 / 0.5, 0.1 / 0.9]), atol=1e-5)
    sure = np.array([[90.0, 0, 0]], np.float32)
    assert log_odds(sure, 0)[0] == pytest.approx(90 - math.log(2))  # where the probability is 1 in float64


@pytest.mark.parametrize("seed", range(3))
def test_rank_correlation_by_the_formula(seed: int) -> None:
    """Without ties rho is 1 - 6 sum(d^2) / (n (n^2 - 1))."""
    draw = np.random.default_rng(seed)
    a, b = (draw.permutation(49).astype(np.float64).reshape(7, 7) for _ in "ab")
    expected = 1 - 6 * ((a - b) ** 2).sum() / (49 * (49**2 - 1))
    assert judging.correlation(np.exp(a / 9), b**2) == pytest.approx(expected)
    assert judging.correlation(np.ones((7, 7)), b) == 0
    steps = [np.floor(each / 5) for each in (a, b, a + b)]  # many ties, as in a file's outputs
    expected = stats.spearmanr(np.stack([each.ravel() for each in steps]), axis=1).statistic
    np.testing.assert_allclose(judging.correlations(steps), expected)


def test_round_off_where_there_is_no_evidence_does_not_count() -> None:
    """Most of a map may be zeros, which float32 sums in another order on another processor."""
    draw = np.random.default_rng(0)
    clean = np.where(np.arange(49).reshape(7, 7) % 7 < 3, draw.random((7, 7)), 0.0)
    noisy = clean + draw.normal(0, 2**-24, (7, 7))
    assert judging.correlation(clean, noisy) == pytest.approx(1)
    assert judging.correlation(clean, 1e3 * noisy) == pytest.approx(1)


def test_a_map_on_another_grid_keeps_its_mean() -> None:
    patches = occlusion.grid(30, 50, 7)
    assert patches.shape == (5, 9)
    draw = np.random.default_rng(0).normal(size=patches.shifted.shape)
    assert patches.shifted.shape == (6, 10)
    found = occlusion.resampled(draw, patches.shifted, patches)
    pixels = draw.repeat(np.diff(patches.shifted.rows), 0).repeat(np.diff(patches.shifted.columns), 1)
    rows, columns = np.array(patches.rows), np.array(patches.columns)
    by_hand = [[pixels[rows[i] : rows[i + 1], columns[j] : columns[j + 1]].mean() for j in range(9)] for i in range(5)]
    np.testing.assert_allclose(found, by_hand)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (1, 40), (16, 16), (224, 224), (96, 33)])
def test_patches_cover_every_pixel_once(height: int, width: int) -> None:
    for patches in (grid := occlusion.grid(height, width, 7), grid.shifted):
        image = np.ones((3, height, width), np.float32)
        hide = np.eye(patches.cells, dtype=np.bool_).reshape(-1, *patches.shape)
        hidden = 1 - occlusion.views(image, hide, patches)
        np.testing.assert_array_equal(hidden.sum(0), image)
        assert hidden.any((1, 2, 3)).all()


def test_the_limit_is_floats_own() -> None:
    draw = np.random.default_rng(0)
    maps = [draw.normal(size=(7, 7)) for _ in range(20)]
    own = [0.1, *np.linspace(0.5, 0.9, 19)]
    clear = [judging.repeats(value, 49) for value in own]
    assert clear == [False, *[True] * 19]
    stick = judging.yardstick(maps, own, clear)
    assert stick.limit == pytest.approx(np.quantile(own[1:], 0.05))
    assert stick.detects is not None
    assert stick.detects > 0.95  # maps of noise have nothing in common
    assert judging.moved(0.4, 0.8, stick)
    assert not judging.moved(0.6, 0.8, stick)
    assert not judging.moved(0.4, 0.3, stick)  # float is no more like itself
    assert judging.yardstick(maps[:1], [0.1], [False]).limit is None
    assert judging.yardstick([], [], []) == Yardstick(None, None, None)


def test_intervals() -> None:
    assert judging.share(0, 0) is None
    assert judging.share(1, 10) == pytest.approx((0.1, 0.0179, 0.4042), abs=1e-4)  # Newcombe 1998, by hand
    assert judging.mean([1.0]) is None
    assert judging.mean([1.0, 2.0, 3.0]) == pytest.approx(
        (2, 2 - 4.3027 / math.sqrt(3), 2 + 4.3027 / math.sqrt(3)), abs=1e-4
    )


# Grad-CAM ------------------------------------------------------------------------------------------


class Masked(nn.Module):
    """Sees one corner, then averages over all places: here a map tells where."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2, 1)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4, 2)
        mask = torch.zeros(1, 1, 16, 16)
        mask[..., 8:, :8] = 1
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.pool(self.act(self.conv(x) * self.mask)).flatten(1))
        return logits


def by_formula(module: nn.Module, layer: str, image: Tensor, label: int) -> npt.NDArray[np.float32]:
    """Selvaraju et al., equations 1 and 2."""
    kept: list[Tensor] = []
    hook = module.get_submodule(layer).register_forward_hook(lambda part, given, output: kept.append(output))
    logit = module(image.unsqueeze(0))[0, label]
    hook.remove()
    (gradient,) = torch.autograd.grad(logit, kept[0])
    weights = gradient.mean((2, 3), keepdim=True)
    found: npt.NDArray[np.float32] = torch.relu((weights * kept[0]).sum(1))[0].detach().numpy()
    return found


@pytest.mark.parametrize("net", [Masked, lambda: zoo.mobilenet_v3_small(num_classes=5)])
def test_captum_agrees_with_the_formula(net: Any) -> None:
    torch.manual_seed(0)
    module = net().eval()
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    cam, layer = grad_cam.mapper(module, (3, 32, 32))
    assert cam is not None
    for label in (0, 1):
        np.testing.assert_allclose(cam(image.numpy(), label), by_formula(module, layer, image, label), atol=1e-6)


def test_the_peak_lies_in_the_corner_that_the_network_reads() -> None:
    torch.manual_seed(0)
    module = Masked().eval()
    cam, layer = grad_cam.mapper(module, (3, 32, 32))
    assert layer == "act"
    assert cam is not None
    image = np.random.default_rng(0).normal(size=(3, 32, 32)).astype(np.float32)
    found = np.stack([cam(image, label) for label in (0, 1)])
    assert found.max() > 0
    assert found[:, :8].max() == found[:, :, 8:].max() == 0
    patches = occlusion.grid(32, 32, 8)
    evidence = np.abs(occlusion.evidence(of_module("net", module), image, 1, patches))
    inside = evidence[3:, :5].sum()  # the kernels see a pixel beyond the corner
    assert inside == pytest.approx(evidence.sum())


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("torchvision/mobilenet_v2", "features"),
        ("torchvision/resnet18", "layer4"),
        ("torchvision/densenet121", "features"),
        ("torchvision/squeezenet1_1", "classifier.2"),
        ("mobilenetv3_small_050", "blocks"),
        ("vit_tiny_patch16_224", None),
        ("torchvision/swin_t", "permute"),
    ],
)
def test_the_last_map_is_found_in_the_graph(name: str, layer: str | None) -> None:
    side = 224 if name.startswith("vit") else 64
    if name.startswith("torchvision/"):
        module: nn.Module = zoo.get_model(name.partition("/")[2], weights=None, num_classes=3)
    else:
        module = timm.create_model(name, num_classes=3)
    found, part = grad_cam.last_map(module.eval(), torch.zeros(1, 3, side, side))
    if layer is None:
        assert part is None
        assert "no last feature map" in found
    else:
        assert found == layer


def test_a_map_beside_another_way_is_not_the_last() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b = (nn.Conv2d(count, 4, 3, padding=1) for count in (3, 4, 4))
            self.head = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            logits: Tensor = self.head(torch.cat([self.a(x).mean((2, 3)), self.b(x).mean((2, 3))], 1))
            return logits

    assert grad_cam.last_map(Two().eval(), torch.zeros(1, 3, 16, 16))[0] == "stem"

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3 * 16 * 16, 2)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(x.flatten(1))
            return logits

    cam, why = grad_cam.mapper(Flat().eval(), (3, 16, 16))
    assert cam is None
    assert why == "the network has no feature map that all evidence goes through"


# A run of the pipeline -----------------------------------------------------------------------------


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.alts: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [str(value) for name, value in attrs if name in ("src", "href") and value]
        self.alts += [str(value) for name, value in attrs if name == "alt"]
        self.ids += [str(value) for name, value in attrs if name == "id"]


def test_a_run_of_the_pipeline(tiny: TinyRun, tmp_path: Path) -> None:
    out = tmp_path / "out"
    answer = call(tiny.path, "--images", 8, "--out", out)
    assert answer.exit_code == 0, answer.output
    assert f"pictures: {out / PAGE}" in answer.output
    found = json_file.load(out / JSON, Result)
    scores = {row.artifact: row for row in json_file.load(tiny.path / "7-verify/accuracy.json", list[Accuracy])}
    assert found.looked_at == found.available == scores["torch-fp32"].images
    assert found.top1 == pytest.approx(scores["torch-fp32"].top1)
    assert [each.network for each in found.networks] == ["onnx-int8", "tflite-int8"]
    for each in found.networks:
        assert each.top1 == pytest.approx(scores[each.network].top1)
        assert each.agreement == pytest.approx(scores[each.network].agreement)
    assert found.networks[0].correlation == found.networks[1].correlation  # the same integers
    with (out / TABLE).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * len(found.images)
    assert [row["correlation"] for row in rows[:2]] == [f"{look.correlation:.4f}" for look in found.images[0].looks]
    assert sorted(path.name for path in out.iterdir()) == sorted((PAGE, JSON, TABLE, Path(EVIDENCE).name))


def test_the_page_needs_nothing_else(corner: Made, explained: Result) -> None:
    text = (corner.path / "explain" / PAGE).read_text()
    reader = Reader()
    reader.feed(text)
    assert [each for each in reader.sources if not each.startswith(("data:", "#"))] == []
    assert {"moved", "changed", "random", "how"} <= set(reader.ids)
    assert "wrong" not in reader.ids  # none is
    assert reader.alts.count("What onnx-other looks at in 3.png") == reader.alts.count("3.png") >= 1
    assert "onnx-other is right for another reason on 12 of 12 images." in text


def test_without_captum_grad_cam_is_left_out_and_said(
    corner: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("captum", "captum.attr"):
        monkeypatch.setitem(sys.modules, name, None)
    answer = call(corner.path, "--images", 1, "--out", tmp_path / "out", quiet=False)
    assert answer.exit_code == 0
    said = "Grad-CAM is left out: Grad-CAM needs captum, which is not installed: pip install 'edgekit[explain]'"
    assert said in answer.stdout
    assert said in answer.stderr
    assert "pip install" in (tmp_path / "out" / PAGE).read_text()
    assert all(one.grad_cam == () for one in json_file.load(tmp_path / "out" / JSON, Result).images)


# Bad input -----------------------------------------------------------------------------------------


def broken(made: Made, folder: Path, what: str) -> Path:
    """A copy of a run with something wrong."""
    run = Path(shutil.copytree(made.path, folder / "run", ignore=shutil.ignore_patterns("explain")))
    directory = RunDirectory(run)
    if what == "no run":
        (run / "recipe.json").unlink()
    elif what in ("data", "train", "export"):
        shutil.rmtree(directory.folder(what))
    elif what == "changed":
        (directory.folder("export") / "onnx-int8.onnx").write_bytes(b"x")
    elif what == "earlier":
        shutil.rmtree(directory.folder("train"))
        module, checkpoint = models.load(made.path / "2-train")
        with torch.no_grad():
            next(module.parameters()).mul_(2)
        directory.stage("train", {}, lambda work: models.save(work, module, checkpoint))
    elif what in ("moved", "damaged", "no test"):
        index, root = index_file.load_rooted(directory.folder("data"))
        images = Path(shutil.copytree(root, folder / "images"))
        if what == "moved":
            (images / "3.png").rename(images / "3.jpg")
        else:
            (images / "3.png").write_text("no image")
        samples = tuple(replace(sample, split="train" if what == "no test" else "test") for sample in index.samples)
        shutil.rmtree(directory.folder("data"))
        directory.stage("data", {}, lambda work: index_file.save(Index(str(images), index.labels, samples), work))
    return run


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("no run", "is not a run directory (it has no recipe.json)"),
        ("data", "its stage data is not finished, or its files were changed; run edgekit compress"),
        ("train", "its stage train is not finished"),
        ("export", "there is no compressed network to explain"),
        ("changed", "its stage export is not finished, or its files were changed"),
        ("earlier", "its files are of an earlier network; run edgekit compress"),
        ("moved", "3.png: no such file; 1 of 12 test images are gone: put them back"),
        ("damaged", "3.png: cannot be read as an image any more"),
        ("no test", "the data has neither a test nor a validation split"),
    ],
)
def test_what_cannot_be_explained_is_refused_in_one_line(corner: Made, tmp_path: Path, what: str, said: str) -> None:
    run = broken(corner, tmp_path, what)
    answer = call(run)
    assert answer.exit_code == 2, answer.output
    assert answer.stdout == ""
    assert said in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert not (run / "explain").exists()


def test_other_engines_are_asked_if_they_run_a_file(corner: Made, tmp_path: Path) -> None:
    words = ("--images", 2, "--out", tmp_path / "out", "--engine")
    answer = call(corner.path, *words, "openvino", "--engine", "onnxruntime", "--json")  # the latter is asked anyway
    assert answer.exit_code == 0, answer.output
    found = {each["network"]: each["engine"] for each in json.loads(answer.stdout)["networks"]}
    assert list(found)[3:] == ["onnx-int8 in openvino", "onnx-other in openvino"]
    assert found["onnx-int8 in openvino"] == "openvino"
    for name, said in (
        ("openvno", 'no such engine; did you mean "openvino"?'),
        ("executorch", "runs executorch files"),
    ):
        answer = call(corner.path, *words, name)
        assert answer.exit_code == 2
        assert said in answer.stderr


@pytest.mark.parametrize("words", [("--images", 0), ("--grid", 1), ("--max-moved", "5"), ("--seed", -1)])
def test_options_out_of_range_are_usage_errors(corner: Made, words: tuple[str, str | int]) -> None:
    answer = call(corner.path, *words)
    assert answer.exit_code == 2
    assert f"Invalid value for '{words[0]}'" in answer.stderr


def test_outputs_that_are_no_numbers_are_a_shortfall(tmp_path: Path, corner: Made) -> None:
    run = Path(shutil.copytree(corner.path, tmp_path / "run"))
    module, checkpoint = models.load(run / "2-train")
    with torch.no_grad():
        next(module.parameters()).fill_(math.nan)
    shutil.rmtree(run / "2-train")
    directory = RunDirectory(run)
    trained = directory.stage("train", {}, lambda work: models.save(work, module, checkpoint))
    shutil.move(run / "6-export", tmp_path / "old")
    (run / "6-export").mkdir()
    shutil.rmtree(run / "6-export")

    def export(work: Path) -> None:
        for file in (tmp_path / "old").iterdir():
            if file.name != "stage.json":
                shutil.copy(file, work)

    directory.stage("export", {"network": trained.digest}, export)
    answer = call(run)
    assert answer.exit_code == 1
    assert "explain: torch-fp32: NaN or infinite outputs: there is nothing to explain" in answer.stderr
