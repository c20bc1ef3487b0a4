from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from onnx import numpy_helper
from torch import Tensor, nn
from torch.fx import GraphModule

from edgekit import choices
from edgekit.config.recipe import QuantizeSection
from edgekit.console import Console
from edgekit.data.dataset import ImageSet
from edgekit.errors import InputError, Shortfall
from edgekit.graph import integer_arithmetic
from edgekit.graph.kernels import float_layers
from edgekit.graph.ops import QUANTIZE
from edgekit.quantize import exact_scales, ptq
from edgekit.search import ladder
from edgekit.train import qat as qat_module
from edgekit.verify import files as verify
from tests import digits, nets
from tests.digits import Digits

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    return digits.digits(tmp_path_factory)


@pytest.fixture(scope="module")
def few(data: Digits) -> ImageSet:
    """Every tenth training image."""
    samples = data.index.split("train")[::10]
    return ImageSet(replace(data.index, samples=samples), data.root, "train", digits.SPEC)


def section(**qat: Any) -> QuantizeSection:
    return QuantizeSection.model_validate(
        {"method": "qat", "qat": {"epochs": 1, "batch": 32, "lr": 1e-3, "batch_norm": "train", **qat}}
    )


def plain(data: Digits, module: nn.Module) -> ptq.Result:
    return ptq.quantize(module, digits.SIZE, data.images(), digits.PIXELS, QuantizeSection())


def train(
    data: Digits,
    images: ImageSet,
    chosen: QuantizeSection,
    module: nn.Module | None = None,
    val: ImageSet | None = None,
) -> ptq.Result:
    module = module or data.module
    start = plain(data, module).program.module()
    return qat_module.train(module, digits.SIZE, start, images, val, digits.PIXELS, chosen, QUIET)


def prepared(module: nn.Module, batch: int = 8) -> GraphModule:
    """In training, with the ranges of post-training quantization."""
    graph, _ = qat_module._prepare(module, nets.SIZE, batch, QuantizeSection(), None)
    qat_module._take_ranges(graph, nets.quantize(module), nets.LEVELS)
    return graph


def sinks(graph: GraphModule) -> list[Any]:
    return [node for node in graph.graph.nodes if node.target is QUANTIZE]


def scales(graph: GraphModule) -> list[float]:
    return [float(node.args[1]) for node in sinks(graph)]


# --- what it is for


@pytest.fixture(scope="module")
def rescued(data: Digits) -> tuple[nn.Module, ptq.Result]:
    """A network that post-training quantization ruins, trained in the quantized graph."""
    module = digits.spoiled(data.module, 256.0)  # 512 leaves too little to train with on some processors
    return module, train(data, data.train, section(epochs=2, lr=3e-3), module, data.val)


def test_training_takes_back_most_of_what_quantization_lost(
    data: Digits, rescued: tuple[nn.Module, ptq.Result]
) -> None:
    module, result = rescued
    exact = digits.accuracy(module, data.val)
    before = digits.accuracy(integer_arithmetic.integer_graph(plain(data, module).program.module()), data.val)
    after = digits.accuracy(integer_arithmetic.integer_graph(result.program.module()), data.val)
    assert before < exact - 0.1
    assert after > before + 0.5 * (exact - before)


def test_trained_graph_is_the_graph_of_post_training_quantization_with_other_numbers(
    data: Digits, rescued: tuple[nn.Module, ptq.Result]
) -> None:
    module, result = rescued
    ours, theirs = result.program.module(), plain(data, module).program.module()
    assert [(n.op, n.target) for n in ours.graph.nodes if n.op == "call_function"] == [
        (n.op, n.target) for n in theirs.graph.nodes if n.op == "call_function"
    ]
    assert result.lowered == plain(data, module).lowered
    assert scales(ours)[0] == scales(theirs)[0]  # the grid of pixels is given, not learned
    assert scales(ours)[1:] != scales(theirs)[1:]


def test_trained_scales_travel_into_both_formats_and_engines_give_the_same_integers(
    data: Digits, rescued: tuple[nn.Module, ptq.Result], tmp_path: Path
) -> None:
    _, result = rescued
    graph = result.program.module()
    made = [
        choices.pick("edgekit.export.formats", name, "").export(graph, digits.SIZE, "int8", tmp_path)
        for name in ("onnx", "tflite")
    ]
    trained = {(np.float32(node.args[1]), node.args[2]) for node in graph.graph.nodes if node.target is QUANTIZE}
    assert grids_of_onnx(tmp_path / "model-int8.onnx") <= trained
    assert grids_of_onnx(tmp_path / "model-int8.onnx") <= grids_of_tflite(tmp_path / "model-int8.tflite") <= trained
    images = torch.stack([data.val[place][0] for place in range(0, len(data.val), 9)])
    wanted = nets.run(integer_arithmetic.integer_graph(graph), images).numpy()
    for artifact in made:
        session = verify._open(artifact, tmp_path)
        got = [verify._infer(artifact, session, image.unsqueeze(0).numpy()) for image in images]
        session.close()
        assert np.array_equal(np.concatenate(got), wanted)


def grids_of_onnx(path: Path) -> set[tuple[np.float32, int]]:
    """(scale, zero point of int8) of the activations."""
    graph = onnx.load(path).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = set()
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] not in constants:
            zero = constants[node.input[2]]
            found.add((np.float32(constants[node.input[1]]), int(zero) - (128 if zero.dtype == np.uint8 else 0)))
    return found


def grids_of_tflite(path: Path) -> set[tuple[np.float32, int]]:
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    found = set()
    for tensor in interpreter.get_tensor_details():
        grid = tensor["quantization_parameters"]
        if tensor["dtype"] == np.int8 and len(grid["scales"]) == 1:
            found.add((grid["scales"][0], int(grid["zero_points"][0])))
    return found


def test_settling_moves_trained_scales_by_less_than_two_percent(
    data: Digits, few: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    before: list[GraphModule] = []

    def settle(graph: GraphModule, example: Tensor, pixels: Tensor) -> int:
        before.append(copy.deepcopy(graph))
        return exact_scales.settle(graph, example, pixels)

    monkeypatch.setattr(qat_module, "settle", settle)
    after = train(data, few, section()).program.module()
    moved = [new / old for old, new in zip(scales(before[0]), scales(after), strict=True)]
    shifted = [node.args[0].name.startswith(("add", "hardtanh")) for node in sinks(before[0])]
    assert min(moved) > 0.999999
    assert max(share for share, sum_with_three in zip(moved, shifted, strict=True) if not sum_with_three) < 1.02


# --- batch norm and ranges


def odd() -> nn.Module:
    """Batch norms with another eps, a negative and a zero factor."""
    module = nets.settled(nets.Every())
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eps = 1e-3
            with torch.no_grad():
                part.weight[0] *= -1
                part.weight[1] = 0
    return module


def test_folding_batch_norm_changes_no_result() -> None:
    graph, images = prepared(odd()), nets.images(8)
    qat_module._move(graph, False)
    with torch.no_grad():
        wanted = graph(images)
        qat_module._fold_batch_norms(graph)
        got = graph(images)
    assert "batch_norm" not in graph.code
    step = float(wanted.abs().max()) / 255
    assert float((got - wanted).abs().max()) < 2 * step


def test_before_any_step_the_rounded_network_is_close_to_the_float_one() -> None:
    module, images = odd(), nets.images(8)
    graph = prepared(module)
    qat_module._move(graph, False)
    with torch.no_grad():
        exact, rounded = module(images), graph(images)
    assert float((exact - rounded).norm() / exact.norm()) < 0.05


@pytest.mark.parametrize(("moving", "norms"), [(True, True), (True, False), (False, False)])
def test_statistics_and_ranges_move_only_where_they_are_let(moving: bool, norms: bool) -> None:
    graph = prepared(nets.settled(nets.Every()))
    qat_module._move(graph, moving, norms)
    before = {key: value.clone() for key, value in graph.state_dict().items()}
    graph(nets.images(8, seed=5))
    changed = {key for key, value in graph.state_dict().items() if not torch.equal(value, before[key])}
    statistics = {key for key in before if "running" in key}
    ranges = {key for key in before if key.endswith(".scale")}
    given = [key for key in ranges if key.startswith("activation_post_process_0.")]
    assert len(given) == 1
    assert statistics & changed == (statistics if norms else set())
    assert (len(changed & ranges) > len(ranges) / 2) is moving
    assert changed <= statistics | {key for key in before if key.startswith("activation_post_process")}
    assert not changed & set(given)


def test_freeze_is_a_share_of_the_steps(data: Digits, few: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    move, step = qat_module._move, qat_module._Training._step

    def moved(graph: GraphModule, moving: bool, norms: bool = False) -> None:
        steps.append("move" if moving else "stand")
        move(graph, moving, norms)

    def stepped(self: Any, *arguments: Any) -> float:
        steps.append("step")
        return step(self, *arguments)

    monkeypatch.setattr(qat_module, "_move", moved)
    monkeypatch.setattr(qat_module._Training, "_step", stepped)
    train(data, few, section(epochs=2, batch=25, freeze=0.7))  # 126 images: 5 steps an epoch
    first, second = ["move", *["step"] * 5, "stand"], ["move", "step", "step", "stand", "step", "step", "step", "stand"]
    assert steps == [*first, *second, "stand"]


# --- promises


def state(result: ptq.Result) -> dict[str, Tensor]:
    return dict(result.program.state_dict) | dict(result.program.constants)


def test_same_seed_gives_the_same_bits_and_another_seed_others(data: Digits, few: ImageSet) -> None:
    first, again = train(data, few, section()), train(data, few, section())
    assert scales(first.program.module()) == scales(again.program.module())
    assert all(torch.equal(value, state(again)[key]) for key, value in state(first).items())
    other = ImageSet(replace(data.index, samples=few.samples), data.root, "train", digits.SPEC, seed=1)
    assert scales(train(data, other, section()).program.module()) != scales(first.program.module())


def test_the_teacher_is_the_float_network_not_the_labels(data: Digits, few: ImageSet) -> None:
    wrong = tuple(replace(sample, label=(sample.label + 1) % 10) for sample in few.samples)
    misled = ImageSet(replace(data.index, samples=wrong), data.root, "train", digits.SPEC)
    chosen = section(epochs=4, lr=5e-3)
    right = []
    for weight in (1.0, 0.0):
        updated = chosen.model_copy(update={"qat": chosen.qat.model_copy(update={"distill": weight})})
        graph = train(data, misled, updated).program.module()
        right.append(digits.accuracy(integer_arithmetic.integer_graph(graph), few))
    assert right[0] > 0.9 > 0.6 > right[1]


def test_what_is_kept_is_the_average_of_the_weights(
    data: Digits, few: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    ends: list[Tensor] = []
    step, close = qat_module._Training._step, qat_module._Training._close

    def stepped(self: Any, *arguments: Any) -> float:
        if not seen:
            seen.append(self.parameters[0].detach().clone())
        loss = step(self, *arguments)
        seen.append(self.parameters[0].detach().clone())
        return loss

    def closed(self: Any, val: ImageSet | None) -> str:
        ends.append(self.average[0].clone())
        return close(self, val)

    monkeypatch.setattr(qat_module._Training, "_step", stepped)
    monkeypatch.setattr(qat_module._Training, "_close", closed)
    train(data, few, section(ema=0.25, batch=25))
    average = seen[0]
    for value in seen[1:]:
        average = 0.25 * average + 0.75 * value
    assert len(seen) == 6
    assert not torch.allclose(average, seen[-1], rtol=1e-7)
    assert torch.allclose(average, ends[0])


def test_the_epoch_nearest_to_the_teacher_is_kept_not_the_luckiest(
    data: Digits, few: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([(0.5, 0.3), (0.9, 0.2), (0.99, 0.25)])
    averages: list[Tensor] = []
    kept: list[Tensor] = []
    run = qat_module._Training.run

    def validate(self: Any, images: ImageSet) -> tuple[float, float]:
        averages.append(next(self.graph.parameters()).detach().clone())
        return next(scores)

    def ran(self: Any, *arguments: Any) -> dict[str, Tensor]:
        best = run(self, *arguments)
        kept.append(best[next(name for name, _ in self.graph.named_parameters())])
        return best

    monkeypatch.setattr(qat_module._Training, "_validate", validate)
    monkeypatch.setattr(qat_module._Training, "run", ran)
    train(data, few, section(epochs=3), val=few)
    assert torch.equal(kept[0], averages[1])
    assert not torch.equal(kept[0], averages[2])


def test_the_loss_on_validation_images_is_that_of_training(
    data: Digits, few: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rate of almost zero leaves the graph as it is; its loss by hand, also of the last batch, which is padded."""
    seen: list[tuple[float, float]] = []
    graphs: list[GraphModule] = []
    validate = qat_module._Training._validate

    def watched(self: Any, images: ImageSet) -> tuple[float, float]:
        seen.append(validate(self, images))
        graphs.append(self.graph)
        return seen[-1]

    monkeypatch.setattr(qat_module._Training, "_validate", watched)
    train(data, few, section(lr=1e-12, freeze=0.0, distill=0.7, temperature=3.0), val=few)
    images = torch.stack([few[place][0] for place in range(len(few))])
    labels = torch.tensor([sample.label for sample in few.samples])
    assert len(few) % 32
    padded = torch.cat([images, images[: -len(few) % 32]]).split(32)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        logits = torch.cat([graphs[0](batch) for batch in padded])[: len(few)].double()
        teacher = data.module(images).double()
    soft, aim = (torch.softmax(each / 3, 1) for each in (logits, teacher))
    learnt = 9 * (aim * (aim.log() - soft.log())).sum(1).mean()
    hard = -torch.log_softmax(logits, 1)[range(len(labels)), labels].mean()
    assert seen[0][1] == pytest.approx(float(0.3 * hard + 0.7 * learnt), rel=1e-4)
    assert seen[0][0] == pytest.approx(float((logits.argmax(1) == labels).double().mean()))


def test_layers_kept_in_float_stay_so(data: Digits, few: ImageSet) -> None:
    chosen = section().model_copy(update={"keep_float": ["depthwise"]})
    start = ptq.quantize(data.module, digits.SIZE, data.images(), digits.PIXELS, chosen).program.module()
    result = qat_module.train(data.module, digits.SIZE, start, few, None, digits.PIXELS, chosen, QUIET)
    assert float_layers(result.program.module()) == ["depthwise.conv"]


def test_a_rate_that_explodes_is_a_shortfall_that_names_the_key(data: Digits, few: ImageSet) -> None:
    with pytest.raises(Shortfall, match=r"not a number at epoch 1, step .*lower quantize.qat.lr"):
        train(data, few, section(lr=1e30))


def test_one_image_is_not_enough(data: Digits, few: ImageSet) -> None:
    one = ImageSet(replace(data.index, samples=few.samples[:1]), data.root, "train", digits.SPEC)
    with pytest.raises(InputError, match="at least 2"):
        train(data, one, section())


def test_the_recipe_can_ask_for_it_at_once(data: Digits, few: ImageSet, tmp_path: Path) -> None:
    material = ladder.Material(
        data.module, digits.SIZE, data.images(), digits.PIXELS, few, few, None, [], tmp_path, QUIET
    )
    climb = ladder.climb(material, section().model_copy(update={"sensitivity": False, "max_drop": 5.0}))
    assert [rung.name for rung in climb.rungs] == ["qat"]
    assert climb.rungs[0].holds
