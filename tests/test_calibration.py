from __future__ import annotations

import hashlib
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgekit.config.recipe import QuantizeSection
from edgekit.disk import json_file
from edgekit.errors import InputError, Shortfall
from edgekit.graph import exported_program, integer_arithmetic
from edgekit.pipeline.stages import quantize as stage
from edgekit.quantize import gains, ptq
from edgekit.quantize.calibration_images import Images, digest
from edgekit.types import Artifact, Index, InputSpec, Quantization, Sample
from tests import nets
from tests.conftest import TinyRun


def observe(module: nn.Module, images: Any, **choice: Any) -> ptq.Observed:
    return ptq.observe(module, nets.SIZE, images, nets.LEVELS, QuantizeSection(**choice))


# --- bad input


def broken(name: str) -> nn.Module:
    """A network with a weight that is not a number."""
    module = nets.settled(nets.Every())
    with torch.no_grad():
        module.get_parameter(f"{name}.weight").view(-1)[0] = torch.nan
    return module


@pytest.mark.parametrize("layer", ["swish.depthwise.conv", "silu.gate.reduce", "head.3"])
def test_observe_names_the_first_layer_with_nan(layer: str) -> None:
    with pytest.raises(Shortfall, match=f'calibration image 1 gives NaN or infinite values, first in layer "{layer}";'):
        observe(broken(layer), nets.images(2))


def test_observe_names_the_layer_that_overflows_and_the_image() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 4, 1)).eval()
    with torch.no_grad():
        for weight in (module.get_parameter("0.weight"), module.get_parameter("2.weight")):
            weight.fill_(1e30)
    images = nets.images(3).clamp(max=-0.01)  # relu: all zero
    images[1] = 1.0
    with pytest.raises(Shortfall, match='image 2 gives NaN or infinite values, first in layer "2"'):
        observe(module, images)


def test_observe_says_when_the_image_itself_is_not_finite() -> None:
    images = nets.images(2)
    images[1, 0, 0, 0] = torch.inf
    with pytest.raises(Shortfall, match="image 2 gives NaN or infinite values, itself"):
        observe(nets.settled(nets.conv(3, 4)), images)


def test_observe_refuses_images_of_the_wrong_shape() -> None:
    with pytest.raises(InputError, match=r"image 1 has the shape \(3, 40, 40\), but the network takes \(3, 32, 32\)"):
        observe(nets.settled(nets.conv(3, 4)), nets.images(2, size=40))


def test_observe_refuses_an_iterator_which_could_be_read_once_only() -> None:
    with pytest.raises(TypeError, match="more than once"):
        observe(nets.settled(nets.conv(3, 4)), iter(nets.images(2)))


def test_quantize_survives_a_dead_layer_and_names_it() -> None:
    module = nets.settled(nn.Sequential(nets.conv(3, 8, 3, nn.ReLU), nets.conv(8, 8, 3, nn.ReLU), nets.head(8)))
    with torch.no_grad():
        bias = module.get_parameter("1.bn.bias")
        bias.fill_(-1000.0)  # relu lets nothing through
    section = QuantizeSection(rounding="adaptive")
    result = ptq.quantize(module, nets.SIZE, nets.images(4), nets.LEVELS, section)
    dead = [note.partition(":")[0] for note in result.notes if note.endswith("zero on every calibration image")]
    assert dead == ["1.conv", "2.0"]
    graph = result.program.module()
    assert all(0 < tensor.scale < 1e3 for tensor in exported_program.plan(graph))
    images = nets.images(4, seed=8)
    exact = nets.run(module, images)
    torch.testing.assert_close(nets.run(integer_arithmetic.integer_graph(graph), images), exact, atol=0.01, rtol=0.01)


def test_quantize_survives_dead_channels() -> None:
    module = nets.settled(nn.Sequential(nets.conv(3, 8, 3, nn.ReLU), nets.conv(8, 8, 3, nn.ReLU), nets.head(8)))
    with torch.no_grad():
        for name in ("0", "1"):
            module.get_parameter(f"{name}.conv.weight")[:4] = 0
    images = nets.images(8, seed=8)
    exact = nets.run(module, images)
    for choice in ({}, {"rounding": "adaptive"}, {"equalize": True}):
        section = QuantizeSection(**choice)
        program = ptq.quantize(module, nets.SIZE, nets.images(8), nets.LEVELS, section).program
        got = nets.run(integer_arithmetic.integer_graph(program.module()), images)
        assert float((got - exact).abs().max()) < 0.1 * float(exact.abs().max())


SOURCE = """
import torch
from torch import nn

class Odd(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x

def build(num_classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), Odd())
"""


def test_trace_names_the_line_that_torch_export_cannot_take(tmp_path: Path) -> None:
    file = tmp_path / "my_net.py"
    file.write_text(SOURCE)
    code: dict[str, Any] = {"__name__": "my_net"}
    exec(compile(SOURCE, str(file), "exec"), code)
    with pytest.raises(InputError, match=r"torch\.export cannot take this network") as raised:
        exported_program.trace(code["build"](10).eval(), nets.SIZE)
    assert f'{file}, line 7 ("if x.sum() > 0:")' in str(raised.value)
    assert "data-dependent" in str(raised.value)
    assert "\n" not in str(raised.value)


def index(*labels: int, classes: int = 3) -> Index:
    samples = tuple(Sample(f"{place}.png", label, "train", "0") for place, label in enumerate(labels))
    return Index(".", tuple("abc"[:classes]), samples)


def test_one_class_is_refused_only_when_the_data_has_no_other() -> None:
    several = index(0, 1, 2)
    assert stage.one_class(several, several.samples) == ""
    assert stage.one_class(several, several.samples[:1]) == 'calibrated on images of class "a" only'
    alone = index(0, 0)
    with pytest.raises(InputError, match='all training images are of class "a", but the data has 3 classes'):
        stage.one_class(alone, alone.samples)
    single = index(0, 0, classes=1)
    assert stage.one_class(single, single.samples) == ""


# --- the images, their hash, and what a run records


def test_digest_is_that_of_the_sorted_paths_and_hashes() -> None:
    samples = [Sample(f"{name}.png", 0, "train", hashlib.sha256(name.encode()).hexdigest()) for name in "cab"]
    lines = [f"{name}.png\0{hashlib.sha256(name.encode()).hexdigest()}\n" for name in "abc"]
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert digest(samples) == expected
    random.Random(0).shuffle(samples)
    assert digest(samples) == expected
    assert digest([replace(samples[0], sha256="0"), *samples[1:]]) != expected
    assert digest(samples[1:]) != expected


def test_images_can_be_read_again_and_count_the_first_pass(tiny: TinyRun) -> None:
    records = json.loads((tiny.path / "5-quantize" / "calibration.json").read_text())
    samples = [Sample(**record) for record in records][:3]
    found = json.loads((tiny.path / "1-data" / "index.json").read_text())["root"]
    counted: list[int] = []
    root = tiny.path / "1-data" / found
    images = Images(root, samples, InputSpec(16, (0.5,) * 3, (0.5,) * 3), lambda: counted.append(0))
    first, second = torch.stack(list(images)), torch.stack(list(images))
    assert first.shape == (3, 3, 16, 16)
    assert torch.equal(first, second)
    assert len(counted) == len(images) == 3
    assert images.describe(2) == f"2 ({samples[1].path})"


def test_a_run_records_the_images_that_calibrated_its_files(tiny: TinyRun) -> None:
    quantization = json_file.load(tiny.path / "5-quantize" / "quantization.json", Quantization)
    samples = [Sample(**record) for record in json.loads((tiny.path / "5-quantize" / "calibration.json").read_text())]
    assert quantization.images == len(samples) == 16
    assert quantization.calibration_sha256 == digest(samples)
    artifacts = json_file.load(tiny.path / "6-export" / "artifacts.json", list[Artifact])
    hashes = {artifact.id: artifact.calibration_sha256 for artifact in artifacts}
    assert hashes["onnx-int8"] == hashes["tflite-int8"] == quantization.calibration_sha256
    assert hashes["onnx-fp32"] is hashes["tflite-fp32"] is None
    (gain,) = quantization.gains
    assert gain.choice == "bias_correction"


# --- what choices bought


def test_gains_leave_out_one_choice_at_a_time() -> None:
    module = nets.settled(nn.Sequential(nets.conv(3, 8, 3, nn.ReLU6, stride=2), nets.head(8)))
    asked: list[QuantizeSection] = []

    def make(section: QuantizeSection) -> ptq.Result:
        asked.append(section)
        return ptq.quantize(module, nets.SIZE, nets.images(4, seed=1), nets.LEVELS, section)

    section = QuantizeSection(range="mse", rounding="adaptive", sensitivity=False)
    result = make(section)
    held_out = nets.images(6, seed=9)
    found = gains.gains(module, section, result, make, held_out)
    assert [gain.choice for gain in found] == ["range", "rounding", "bias_correction"]
    assert [(one.range, one.rounding, one.bias_correction) for one in asked[1:]] == [
        ("minmax", "adaptive", True),
        ("mse", "nearest", True),
        ("mse", "adaptive", False),
    ]
    assert len({gain.sqnr_db[1] for gain in found}) == 1  # with all of them
    exact, got = (
        nets.run(module, held_out),
        nets.run(integer_arithmetic.integer_graph(result.program.module()), held_out),
    )
    sqnr = 10 * torch.log10(exact.square().sum() / (got - exact).square().sum())
    assert found[0].sqnr_db[1] == pytest.approx(float(sqnr), rel=1e-3)
    assert found[0].agreement[1] == float((exact.argmax(1) == got.argmax(1)).float().mean())


def test_gains_are_none_without_images_or_choices() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3)).eval()
    section = QuantizeSection(bias_correction=False)
    result = ptq.quantize(module, nets.SIZE, nets.images(1), nets.LEVELS, section)

    def never(section: QuantizeSection) -> ptq.Result:
        raise AssertionError

    assert gains.gains(module, section, result, never, nets.images(2)) == ()
    none: list[Tensor] = []
    assert gains.gains(module, QuantizeSection(), result, never, none) == ()
