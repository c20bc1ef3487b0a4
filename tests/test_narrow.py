"""Files cut from the whole network's, against real exports of really pruned networks."""

from __future__ import annotations

import copy
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import timm
import torch
from ai_edge_litert.tools import flatbuffer_utils
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import Tensor, nn

from edgekit.config.recipe import QuantizeSection
from edgekit.export import narrow_layers, narrow_onnx, narrow_tflite
from edgekit.export.formats import onnx as to_onnx
from edgekit.export.formats import tflite as to_tflite
from edgekit.export.narrow_shapes import CannotCut, elementwise, leading, reshaped, same_axes
from edgekit.prune import apply
from edgekit.prune.groups import ChannelGraph, Group
from edgekit.runtime.engines import litert
from edgekit.runtime.engines import onnxruntime as ort
from edgekit.search import trial_files
from edgekit.search.narrow_files import Exported, Template
from edgekit.types import PrunePlan, Size
from tests import nets
from tests.file_structure import names, structure

FORMATS = ("onnx", "tflite")
PLAIN = QuantizeSection()


class Branches(nn.Module):
    """Branches that are added, gated and concatenated, a pool of windows, and pixels that are flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nets.conv(3, 8, 3, nn.ReLU6, stride=2)
        self.block = nets.Block(8, nn.Hardswish, nn.Hardsigmoid)
        self.left = nets.conv(8, 6, 1, nn.ReLU)
        self.right = nets.conv(8, 10, 3, nn.ReLU)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.down = nets.conv(16, 12, 3, nn.ReLU6, stride=2)
        self.reduce = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.stem(x))
        x = torch.cat([self.left(x), self.right(x)], 1)
        logits: Tensor = self.head(self.reduce(self.down(self.pool(x))))
        return logits


def shallow(name: str) -> nn.Module:
    """A network of timm with the first two blocks of each stage, or one of this file."""
    torch.manual_seed(0)
    if name == "branches":
        return Branches()
    net: nn.Module = timm.create_model(name, num_classes=10)
    for stage in getattr(net, "blocks", ()):
        del stage[2:]
    return net


def calibrated(net: nn.Module, size: int) -> nn.Module:
    """The network with batch-norm statistics of images: then clamps and hard-swishes get alike ranges at any width."""
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.constant_(part.weight, 1.8)
            part.momentum = 1.0
    with torch.no_grad():
        net.train()(nets.images(16, seed=99, size=size))
    return net.eval()


def random_plan(net: nn.Module, size: Size, seed: int = 0) -> PrunePlan:
    chance = random.Random(seed)
    groups = ChannelGraph(net, size).groups()
    assert groups
    kept = {
        group.head: tuple(sorted(chance.sample(range(group.channels), chance.randint(2, group.channels - 1))))
        for group in groups
    }
    return PrunePlan(kept, {group.head: group.channels for group in groups})


def pruned(net: nn.Module, plan: PrunePlan, size: Size) -> nn.Module:
    narrow = copy.deepcopy(net)
    apply.apply(narrow, plan, size)
    return narrow.eval()


def template(net: nn.Module, size: int, folder: Path, section: QuantizeSection | None = PLAIN) -> Template:
    return Template(net, size, list(nets.images(2, size=size)), nets.LEVELS, section, FORMATS, folder)


def really(net: nn.Module, size: int, folder: Path, section: QuantizeSection = PLAIN) -> dict[str, Path]:
    images = list(nets.images(2, size=size))
    made = trial_files.quick_int8(net, size, images, nets.LEVELS, section, FORMATS, folder)
    return {name: folder / artifact.path for name, artifact in made.items()}


def output(path: Path, seed: int = 0) -> npt.NDArray[Any]:
    """The file's answer to a random image, by its host engine."""
    session = (ort if path.suffix == ".onnx" else litert).load(str(path))
    noise = np.random.default_rng(seed)
    if session.input.dtype == "int8":
        image: npt.NDArray[Any] = noise.integers(-128, 128, session.input.shape, np.int8)
    else:
        image = noise.random(session.input.shape, np.float32) * 2 - 1
    result: npt.NDArray[Any] = session.run(image)
    return result


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("mobilenetv2_050", 64),
        ("mobilenetv3_small_050", 64),
        ("resnet10t", 32),
        ("branches", 32),
    ],
)
def test_a_cut_file_has_the_structure_of_a_real_export(name: str, size: int, tmp_path: Path) -> None:
    net = calibrated(shallow(name), size)
    whole = template(net, size, tmp_path / "whole")
    narrow = calibrated(pruned(net, random_plan(net, size), size), size)
    real = really(narrow, size, tmp_path / "real")
    cut = whole.files(narrow, tmp_path / "cut")
    same = whole.files(net, tmp_path / "same")
    assert whole.exported == []
    for form, path in cut.items():
        assert structure(path) == structure(real[form])
        assert names(path) == names(real[form])
        assert structure(same[form]) == structure(tmp_path / "whole" / same[form].name)
        assert path.stat().st_size < same[form].stat().st_size
        given, wanted = output(path), output(real[form])
        assert (given.shape, given.dtype) == (wanted.shape, wanted.dtype)
        assert np.isfinite(given).all()


@dataclass(frozen=True)
class Whole:
    """A network, its files before rewrites, and what is known of its layers."""

    net: nn.Module
    files: Mapping[str, bytes]
    layers: narrow_layers.Layers
    groups: tuple[Group, ...]


@pytest.fixture(scope="module")
def branches(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    net = nets.settled(Branches())
    graph = trial_files.quick_graph(net, nets.SIZE, list(nets.images(2)), nets.LEVELS, PLAIN)
    folder = tmp_path_factory.mktemp("branches")
    files = {each.__name__.rpartition(".")[2]: each.convert(graph, nets.SIZE, "int8", folder) for each in FILES}
    known = narrow_layers.layers(graph, net, nets.SIZE)
    return Whole(net, files, known, ChannelGraph(net, nets.SIZE).groups())


FILES: Any = (to_onnx, to_tflite)
CUT: Mapping[str, Callable[..., bytes]] = {"onnx": narrow_onnx.narrowed, "tflite": narrow_tflite.narrowed}
LOWERED: Mapping[str, Callable[..., tuple[bytes, Any]]] = {"onnx": to_onnx.lowered, "tflite": to_tflite.lowered}


@settings(max_examples=12)
@given(data=st.data())
def test_any_widths_compute_what_the_whole_file_does_without_the_other_channels(
    data: st.DataObject, branches: Whole, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """To the bit in LiteRT: where nothing reads the last channels of a layer, it makes no difference to cut them."""
    kept: dict[str, tuple[int, ...]] = {}
    gone: defaultdict[str, list[int]] = defaultdict(list)
    for group in branches.groups:
        least = group.channels if group.head == "left.conv" else 2  # of a concatenation, only the last can end earlier
        width = data.draw(st.integers(least, group.channels), label=group.head)
        kept[group.head] = tuple(range(width))
        for member in group.members:
            if member.role == "reads":
                gone[member.layer] += member.places[member.channels >= width].tolist()
    narrow = pruned(branches.net, PrunePlan(kept, {group.head: group.channels for group in branches.groups}), nets.SIZE)
    cuts = narrow_layers.cuts(branches.layers, narrow, nets.SIZE)
    folder = tmp_path_factory.mktemp("widths")
    for form, whole in branches.files.items():
        answers: list[npt.NDArray[Any]] = []
        blind = BLIND[form](whole, order(branches.net), gone)
        for number, content in enumerate((CUT[form](whole, cuts), blind)):
            path = folder / f"{number}.{form}"
            path.write_bytes(LOWERED[form](content)[0])
            answers.append(output(path))
        if form == "tflite":
            np.testing.assert_array_equal(answers[0], answers[1])
        else:  # float rounding may differ between vectors and the rest of a row
            assert np.abs(answers[0] - answers[1]).max() <= 0.02 * np.abs(answers[1]).max()


def order(net: nn.Module) -> list[str]:
    """Weighted layers in order of execution, and the pool that becomes one."""
    seen: list[str] = []
    names = {part: name for name, part in net.named_modules()}
    hooks = [
        part.register_forward_hook(lambda part, *_: seen.append(names[part]))
        for part in names
        if isinstance(part, nn.Conv2d | nn.Linear | nn.AdaptiveAvgPool2d)
    ]
    nets.run(net, nets.images(1))
    for hook in hooks:
        hook.remove()
    return seen


def _blind_onnx(data: bytes, layers: Sequence[str], gone: Mapping[str, list[int]]) -> bytes:
    """The whole file with zeros for the weights that read channels that are gone."""
    model = onnx.load_from_string(data)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node}
    weighted = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    for node, layer in zip(weighted, layers, strict=True):
        tensor = constants[makers[node.input[1]].input[0]]
        values = numpy_helper.to_array(tensor).copy()
        values[:, gone.get(layer, [])] = 0
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return bytes(model.SerializeToString())


def _blind_tflite(data: bytes, layers: Sequence[str], gone: Mapping[str, list[int]]) -> bytes:
    model: Any = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
    graph = model.subgraphs[0]
    kinds = [flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex) for operator in graph.operators]
    weighted = [
        operator
        for operator, kind in zip(graph.operators, kinds, strict=True)
        if kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    ]
    for operator, layer in zip(weighted, layers, strict=True):
        tensor = graph.tensors[operator.inputs[1]]
        buffer = model.buffers[tensor.buffer]
        values = np.frombuffer(bytes(buffer.data), np.int8).reshape(tensor.shape).copy()
        values[..., gone.get(layer, [])] = 0
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


BLIND: Mapping[str, Callable[..., bytes]] = {"onnx": _blind_onnx, "tflite": _blind_tflite}


class Upsampled(nn.Module):
    """A resize of pixels, whose sizes an .onnx file holds for every axis."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nets.conv(3, 8, 3, nn.ReLU, stride=2)
        self.last = nets.conv(8, 12, 3, nn.ReLU)
        self.head = nets.head(12)

    def forward(self, x: Tensor) -> Tensor:
        larger = nn.functional.interpolate(self.stem(x), scale_factor=2.0, mode="nearest")
        logits: Tensor = self.head(self.last(larger))
        return logits


def test_what_cannot_be_cut_exactly_is_exported_and_said(tmp_path: Path) -> None:
    net = nets.settled(Upsampled())
    whole = template(net, nets.SIZE, tmp_path / "whole")
    narrow = pruned(net, random_plan(net, nets.SIZE), nets.SIZE)
    files = whole.files(narrow, tmp_path / "narrow")
    assert [(each.network, each.format) for each in whole.exported] == [("narrow", form) for form in FORMATS]
    assert [each.reason.partition(":")[0].split()[0] for each in whole.exported] == [
        "Resize",
        "RESIZE_NEAREST_NEIGHBOR",
    ]
    real = really(narrow, nets.SIZE, tmp_path / "real")
    for form, path in files.items():
        assert path.read_bytes() == real[form].read_bytes()


def test_other_sizes_and_float_files_are_exported(tmp_path: Path) -> None:
    net = nets.settled(nn.Sequential(nets.conv(3, 8, 3, nn.ReLU, stride=2), nets.head(8)))
    narrow = pruned(net, random_plan(net, nets.SIZE), nets.SIZE)
    whole = Template(net, nets.SIZE, list(nets.images(2)), nets.LEVELS, PLAIN, ["onnx"], tmp_path)
    assert whole.files(narrow, tmp_path / "cut")["onnx"].name == "model-int8.onnx"
    assert whole.exported == []
    larger = whole.files(narrow, tmp_path / "larger", 48)["onnx"]
    assert ort.load(str(larger)).input.shape == (1, 3, 48, 48)
    assert whole.exported == [Exported("larger", "onnx", "an image of another shape: 48")]
    floats = Template(net, nets.SIZE, list(nets.images(2)), nets.LEVELS, None, ["onnx"], tmp_path)
    image = nets.images(1, seed=5)
    answer = ort.load(str(floats.files(narrow, tmp_path / "float")["onnx"])).run(image.numpy())
    np.testing.assert_allclose(answer, nets.run(narrow, image), atol=1e-4)
    assert floats.exported == [Exported("float", "onnx", "a file in fp32")]


def test_a_network_that_differs_in_more_than_widths_is_not_cut(branches: Whole) -> None:
    plan = random_plan(branches.net, nets.SIZE)
    alone = PrunePlan({**plan.kept, "left.conv": (3,)}, plan.of)
    with pytest.raises(
        CannotCut, match=r"left\.conv.weight: .* became .1, "
    ):  # converters treat one channel differently
        narrow_layers.cuts(branches.layers, pruned(branches.net, alone, nets.SIZE), nets.SIZE)
    with pytest.raises(CannotCut, match="only one of the networks has it"):
        narrow_layers.cuts(branches.layers, nets.settled(nets.Every()), nets.SIZE)
    twins = narrow_layers.Layers({"mark": ("0", "1")}, {f"{layer}.weight": (8, 4, 1, 1) for layer in "01"})
    net = nn.Sequential(nn.Conv2d(4, 6, 1, bias=False), nn.Conv2d(4, 8, 1, bias=False))
    with pytest.raises(CannotCut, match="0 and 1: have equal weights"):
        narrow_layers.cuts(twins, net, nets.SIZE)


def test_a_weight_that_the_file_does_not_have_is_noticed(branches: Whole) -> None:
    narrow = pruned(branches.net, random_plan(branches.net, nets.SIZE), nets.SIZE)
    cuts = narrow_layers.cuts(branches.layers, narrow, nets.SIZE)
    lost = {f"{mark}?": cut for mark, cut in cuts.items()}
    for form, data in branches.files.items():
        with pytest.raises(CannotCut, match=r"stem\.conv: its weight was not found in the file"):
            CUT[form](data, lost)


EXTENTS = st.integers(1, 6)


def narrower(data: st.DataObject, shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(data.draw(st.integers(min(extent, 2), extent)) for extent in shape)


@given(st.data())
def test_a_reshape_joins_the_axes_that_it_joined_before(data: st.DataObject) -> None:
    """Runs of axes are drawn, each joined into one, with axes of one between."""
    runs = data.draw(st.lists(st.lists(EXTENTS, min_size=1, max_size=3), min_size=1, max_size=3))
    new_runs = [narrower(data, run) for run in runs]
    ones = [data.draw(st.integers(0, 1)) for _ in runs]

    def joined(each: Sequence[Sequence[int]]) -> tuple[int, ...]:
        return tuple(extent for run, count in zip(each, ones, strict=True) for extent in [*[1] * count, prod(run)])

    def flat(each: Sequence[Sequence[int]]) -> tuple[int, ...]:
        return tuple(extent for run in each for extent in run)

    assert reshaped(flat(runs), joined(runs), flat(new_runs)) == joined(new_runs)


@given(st.data())
def test_operands_broadcast_as_in_numpy_and_constants_follow(data: st.DataObject) -> None:
    whole = data.draw(st.lists(EXTENTS, min_size=1, max_size=4))
    new = narrower(data, whole)
    shown = [data.draw(st.booleans()) for _ in whole]
    start = data.draw(st.integers(0, len(whole) - 1))
    constant = tuple(extent if show else 1 for extent, show in zip(whole, shown, strict=True))[start:]
    result, inputs = elementwise([tuple(whole), constant], tuple(whole), [new, None])
    assert result == inputs[0] == new
    assert np.broadcast_shapes(*inputs) == new
    assert all(extent == 1 for extent, show in zip(inputs[1], shown[start:], strict=True) if not show)


@pytest.mark.parametrize(
    "rule",
    [
        lambda: reshaped((1, 8, 4, 4), (1, 2, 4, 4, 4), (1, 6, 4, 4)),
        lambda: reshaped((1, 8, 4), (1, 4, 8), (1, 6, 4)),
        lambda: elementwise([(1, 8), (1, 8)], (1, 8), [(1, 6), (1, 5)]),
        lambda: same_axes((1, 8, 8, 8), (1, 4, 4, 8), (1, 6, 8, 8)),
        lambda: leading(np.zeros((4, 4)), (5, 4)),
    ],
)
def test_what_does_not_follow_is_refused(rule: Callable[[], object]) -> None:
    with pytest.raises(CannotCut):
        rule()
