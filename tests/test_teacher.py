"""Learning from another network: real runs and files as teachers, against losses worked out from their own logits."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from torch.nn import functional

from edgekit import models
from edgekit.cli.main import cli
from edgekit.config.distill_section import DistillSection
from edgekit.config.recipe import Recipe
from edgekit.errors import InputError
from edgekit.train import teacher
from edgekit.types import InputSpec

RECIPE = """
[model]
name    = "net.py:build"
weights = "none"
options = {{ width = {width} }}
[data]
source = "digits"
input  = {size}
[train]
epochs = {epochs}
batch  = 64
lr     = 0.01
"""
NET = """
from torch import nn

def build(num_classes, width=8):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8 * width, num_classes),
    )
"""
LABELS = tuple(map(str, range(10)))


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [*map(str, words), "--quiet"])


def recipe(folder: Path, width: int, size: int, epochs: int = 3, more: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "net.py").write_text(NET)
    path = folder / "net.toml"
    path.write_text(RECIPE.format(width=width, size=size, epochs=epochs) + more)
    return path


@pytest.fixture(scope="module")
def wise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a larger network on larger images."""
    folder = tmp_path_factory.mktemp("wise")
    result = call("train", recipe(folder, 16, 24, 4), "--out", folder / "run")
    assert result.exit_code == 0, result.output
    return folder / "run"


def images(count: int = 6, size: int = 16) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_a_run_sees_its_own_size_and_scaling_and_answers_in_our_order(wise: Path) -> None:
    spec, ours = InputSpec(16, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)), LABELS[::-1]
    net = teacher.load(str(wise), Path(), spec, ours)
    module, checkpoint = models.load(wise / "2-train")
    own = checkpoint.input
    pixels = images() * torch.tensor(spec.std).view(1, 3, 1, 1) + torch.tensor(spec.mean).view(1, 3, 1, 1)
    large = functional.interpolate(pixels, (24, 24), mode="bilinear", antialias=True)
    fed = (large - torch.tensor(own.mean).view(1, 3, 1, 1)) / torch.tensor(own.std).view(1, 3, 1, 1)
    with torch.no_grad():
        expected = module.eval()(fed).flip(1)
        torch.testing.assert_close(net(images()), expected, atol=1e-4, rtol=1e-4)


def test_the_loss_is_hintons(wise: Path) -> None:
    made = Recipe.model_validate(
        {
            "model": {"name": "net"},
            "data": {"source": "digits"},
            "distill": DistillSection(teacher=str(wise), weight=0.25, temperature=3.0),
        }
    )
    spec = InputSpec(16, (0.5,) * 3, (0.5,) * 3)
    criterion = teacher.criterion(
        made, Path(), spec, LABELS, lambda _, logits, labels: functional.cross_entropy(logits, labels)
    )
    student, labels = torch.randn(6, 10, generator=torch.Generator().manual_seed(1)), torch.arange(6)
    with torch.no_grad():
        wanted = teacher.load(str(wise), Path(), spec, LABELS)(images())
    p = (wanted.double() / 3).softmax(1).numpy()
    q = (student.double() / 3).softmax(1).numpy()
    soft = 9 * (p * np.log(p / q)).sum(1).mean()
    hard = -np.log(student.double().softmax(1).numpy()[range(6), range(6)]).mean()
    assert float(criterion(images(), student, labels)) == pytest.approx(0.75 * hard + 0.25 * soft, rel=1e-5)


def test_a_student_ends_where_its_teacher_is_and_is_trained_again_for_another_one(wise: Path, tmp_path: Path) -> None:
    """Labels have no weight here: all that the student knows it has from its teacher."""
    taught = recipe(tmp_path / "taught", 8, 16, 6, f'[distill]\nteacher = "{wise}"\nweight = 1.0\n')
    result = call("train", taught, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    _, checkpoint = models.load(tmp_path / "run" / "2-train")
    assert next(score.accuracy for score in checkpoint.metrics if score.split == "val") > 0.8
    before = (tmp_path / "run" / "2-train" / "stage.json").read_bytes()
    assert call("train", taught, "--out", tmp_path / "run").exit_code == 0
    assert (tmp_path / "run" / "2-train" / "stage.json").read_bytes() == before
    other = tmp_path / "other"
    shutil.copytree(wise, other)
    weights = other / "2-train" / models.WEIGHTS
    shutil.copy(weights, tmp_path / "kept")
    state = models.load(other / "2-train")[0]
    with torch.no_grad():
        next(state.parameters()).mul_(0.5)
    models.save(other / "2-train", state, models.load(other / "2-train")[1])
    words = ("--set", f"distill.teacher={other}", "--set", "train.epochs=1")
    assert call("train", taught, "--out", tmp_path / "run", *words).exit_code == 0
    first = (tmp_path / "run" / "2-train" / "stage.json").read_bytes()
    shutil.copy(tmp_path / "kept", weights)
    assert call("train", taught, "--out", tmp_path / "run", *words).exit_code == 0
    assert (tmp_path / "run" / "2-train" / "stage.json").read_bytes() != first


def test_recovery_and_quantization_aware_training_ask_the_teacher(
    wise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    usual = teacher._Adapted.forward

    def counted(self: teacher._Adapted, values: torch.Tensor) -> torch.Tensor:
        asked.append(len(values))
        return usual(self, values)

    monkeypatch.setattr(teacher._Adapted, "forward", counted)
    more = (
        f'[distill]\nteacher = "{wise}"\n[prune]\nmacs = 0.7\nround_to = 2\nsteps = 1\nrecover = 1\n'
        '[quantize]\nmethod = "qat"\nrescue = []\nmax_drop = 100\nsensitivity = false\n'
        "[quantize.qat]\nepochs = 1\n[lower]\nmeasure = false\n"
    )
    made = recipe(tmp_path / "taught", 8, 16, 1, more)
    counts = []
    for command in ("train", "prune", "compress"):
        result = call(command, made, "--out", tmp_path / "run")
        assert result.exit_code == 0, result.output
        counts.append(sum(asked))
    images_of_an_epoch = counts[0]
    assert counts[1] == 2 * images_of_an_epoch
    assert counts[2] > counts[1] + 0.9 * images_of_an_epoch  # it takes whole batches only


def linear(path: Path, classes: int = 10, size: int = 16) -> np.ndarray:
    """An ONNX file that multiplies the mean colours by a matrix; the matrix."""
    weight = np.random.default_rng(0).normal(size=(3, classes)).astype(np.float32)
    kind = onnx.TensorProto.FLOAT
    ends = [
        onnx.helper.make_tensor_value_info(name, kind, shape)
        for name, shape in (("x", [1, 3, size, size]), ("y", [1, classes]))
    ]
    nodes = [
        onnx.helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        onnx.helper.make_node("Flatten", ["mean"], ["flat"]),
        onnx.helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    graph = onnx.helper.make_graph(nodes, "net", ends[:1], ends[1:], [onnx.numpy_helper.from_array(weight, "w")])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), path)
    return weight


def test_a_file_is_asked_image_by_image(tmp_path: Path) -> None:
    weight = linear(tmp_path / "net.onnx")
    net = teacher.load("net.onnx", tmp_path, InputSpec(16, (0.5,) * 3, (0.5,) * 3), LABELS)
    expected = images().mean((2, 3)).numpy() @ weight
    np.testing.assert_allclose(net(images()).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mobilenetv2_10", "did you mean"),
        ("nowhere/run", "no such file or run directory"),
        ("empty", "no finished training in this folder"),
        ("net.txt", "neither a run directory nor an .onnx or .tflite file"),
        ("small.onnx", r"its input is \[1, 3, 8, 8\], and the data's is \[1, 3, 16, 16\]"),
        ("few.onnx", "it has 4 outputs, and the data 10 classes"),
        ("broken.onnx", "distill.teacher = broken.onnx"),
    ],
)
def test_bad_teachers_are_named(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "net.txt").write_text("")
    (tmp_path / "broken.onnx").write_text("no graph")
    linear(tmp_path / "small.onnx", size=8)
    linear(tmp_path / "few.onnx", classes=4)
    with pytest.raises(InputError, match=said):
        teacher.load(name, tmp_path, InputSpec(16, (0.5,) * 3, (0.5,) * 3), LABELS)


def test_a_teacher_of_other_classes_is_refused(wise: Path) -> None:
    spec = InputSpec(16, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(InputError, match="it alone has 9; it lacks nine"):
        teacher.load(str(wise), Path(), spec, (*LABELS[:9], "nine"))


def test_a_recipe_without_a_teacher_is_recorded_as_before() -> None:
    made = Recipe.model_validate({"model": {"name": "net"}, "data": {"source": "digits"}})
    assert "distill" not in made.model_dump()
