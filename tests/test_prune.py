"""Pruned networks against the same networks with those channels set to zero, and against sums made by hand."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from edgekit import choices, models
from edgekit.config.recipe import PruneSection, Recipe
from edgekit.console import Console
from edgekit.disk import json_file
from edgekit.disk.run_directory import Done, RunDirectory
from edgekit.errors import InputError, Shortfall
from edgekit.graph import integer_arithmetic
from edgekit.pipeline import run as pipeline
from edgekit.prune import apply, planning
from edgekit.prune.aim import Aim, CostOf, Gone, counted
from edgekit.prune.cost import Cost
from edgekit.prune.groups import ChannelGraph, followed_by, parts
from edgekit.search import latency_target, stopwatch
from edgekit.types import Checkpoint, InputSpec, ModelSpec, PrunePlan, Pruning
from edgekit.verify import files as verify
from tests import nets

ZOO = ("mobilenetv2_100", "mobilenetv3_small_100", "mobilenetv4_conv_small", "efficientnet_b0", "resnet18")
"""Between them: depthwise, squeeze-and-excite, residual adds, hard-swish, silu."""


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every number of the network its own, batch-norm statistics and biases too; eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor, low, high in (
                (part.weight, 0.5, 1.5),
                (part.bias, -0.5, 0.5),
                (part.running_mean, -0.5, 0.5),
                (part.running_var, 0.5, 1.5),
            ):
                assert tensor is not None
                nn.init.uniform_(tensor, low, high, generator=generator)
        elif isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu", generator=generator)
            if part.bias is not None:
                nn.init.uniform_(part.bias, -0.2, 0.2, generator=generator)
    return module.eval()


def zoo(name: str) -> nn.Module:
    torch.manual_seed(0)
    return randomised(timm.create_model(name, num_classes=10))


def none() -> Iterable[tuple[Tensor, Tensor]]:
    return ()


def decide(module: nn.Module, size: int = 32, share: float = 0.5, kind: str = "macs", **keys: Any) -> PrunePlan:
    section = PruneSection.model_validate({"score": "l2", "steps": 1, kind: share, **keys})
    return planning.decide(module, size, section, keys.pop("batches", none), counted(kind, share))


def pruned(module: nn.Module, plan: PrunePlan, size: int = 32) -> nn.Module:
    narrow = copy.deepcopy(module)
    apply.apply(narrow, plan, size)
    return narrow


# The oracle ----------------------------------------------------------------------------------------


def numbered(module: nn.Module) -> nn.Module:
    """A copy in which every weight is the number of its output channel."""
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for layer in twin.modules():
            if isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
                rows = torch.arange(len(layer.weight), dtype=torch.float32)
                layer.weight.copy_(rows.reshape(-1, *[1] * (layer.weight.ndim - 1)).expand_as(layer.weight))
    return twin


def zeroed(whole: nn.Module, plan: PrunePlan, size: int) -> nn.Module:
    """The whole network with every number of the channels at zero that a pruned, numbered twin lacks."""
    blind = copy.deepcopy(whole)
    twin = dict(pruned(numbered(whole), plan, size).named_modules())
    with torch.no_grad():
        for name, layer in blind.named_modules():
            if not isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
                continue
            left = twin[name].weight
            assert isinstance(left, Tensor)
            gone = torch.ones(len(layer.weight), dtype=torch.bool)
            gone[left.flatten(1)[:, 0].long() if left.ndim > 1 else left.long()] = False
            layer.weight[gone] = 0
            if layer.bias is not None:
                layer.bias[gone] = 0
            if isinstance(layer, nn.BatchNorm2d):
                assert layer.running_mean is not None
                assert layer.running_var is not None
                layer.running_mean[gone] = 0
                layer.running_var[gone] = 1
            elif name in plan.kept:
                assert (~gone).nonzero().flatten().tolist() == list(plan.kept[name])
    return blind


def agree(got: Tensor, expected: Tensor) -> None:
    scale = float(expected.abs().max())
    assert scale > 0
    assert float((got - expected).abs().max()) <= 1e-5 * max(1.0, scale)


@pytest.mark.parametrize("name", [*ZOO, "every"])
def test_pruned_net_equals_the_whole_one_with_those_channels_zeroed(name: str) -> None:
    size = 64
    whole = randomised(nets.Every()) if name == "every" else zoo(name)
    plan = decide(whole, size, score="random", round_to=2 if name == "every" else 8)
    narrow = pruned(whole, plan, size)
    image = torch.rand(2, 3, size, size) * 2 - 1
    with torch.no_grad():
        agree(narrow(image), zeroed(whole, plan, size)(image))
        assert float((narrow(image) - whole(image)).abs().max()) > 1e-3
    apply.check(whole, narrow, plan, size)


def test_check_notices_channels_that_do_not_belong_together() -> None:
    whole = zoo("resnet18")
    plan = decide(whole, score="l2")
    head, kept = next(iter(plan.kept.items()))
    others = sorted(set(range(plan.of[head])) - set(kept))[: len(kept)]
    wrong = PrunePlan({**plan.kept, head: tuple(sorted({*kept[len(others) :], *others}))}, plan.of)
    with pytest.raises(Shortfall, match="does not compute what the unpruned one does"):
        apply.check(whole, pruned(whole, plan), wrong, 32)


def test_channels_that_are_split_or_grouped_stay() -> None:
    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 3)
            self.grouped = nn.Conv2d(16, 16, 3, groups=4)
            self.halved = nn.Conv2d(16, 32, 1)
            self.free = nn.Conv2d(16, 32, 1)
            self.head = nn.Linear(32, 10)

        def forward(self, x: Tensor) -> Tensor:
            left, right = self.halved(self.grouped(self.stem(x))).split(16, 1)
            logits: Tensor = self.head(self.free(left * right).mean((2, 3)))
            return logits

    net = randomised(Split())
    assert [group.head for group in ChannelGraph(net, 32).groups()] == ["free"]
    apply.check(net, pruned(net, decide(net, share=0.95)), decide(net, share=0.95), 32)


# Counting ------------------------------------------------------------------------------------------


def by_hand(module: nn.Module, size: int) -> tuple[int, int]:
    """Parameters and multiply-adds, layer by layer, from the shapes that arrive."""
    parameters = sum(math.prod(tensor.shape) for tensor in module.parameters())
    macs = 0

    def note(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        macs += math.prod(layer.weight.shape) * math.prod(output.shape[2:])

    hooks = [part.register_forward_hook(note) for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        module(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    return parameters, macs


@pytest.mark.parametrize(("name", "kind"), [("mobilenetv2_100", "macs"), ("mobilenetv3_small_100", "parameters")])
def test_targets_are_met_on_the_pruned_net(name: str, kind: str) -> None:
    whole = zoo(name)
    plan = decide(whole, 64, 0.6, kind)
    narrow = pruned(whole, plan, 64)
    assert models.count(narrow, 64) == by_hand(narrow, 64)
    before, after = (by_hand(net, 64)[kind == "macs"] for net in (whole, narrow))
    assert 0.56 < after / before <= 0.6
    gone = {head: plan.of[head] - len(kept) for head, kept in plan.kept.items()}
    cost = Cost(whole, ChannelGraph(whole, 64).groups(), 64)
    assert (cost("parameters", gone), cost("macs", gone)) == by_hand(narrow, 64)


@settings(max_examples=6, deadline=None)
@given(share=st.floats(0.3, 0.95), round_to=st.sampled_from([2, 4, 8]), local=st.booleans())
def test_channels_stay_multiples_of_round_to(share: float, round_to: int, local: bool) -> None:
    net = nets.Every().eval()
    scope = "local" if local else "global"
    try:
        plan = decide(net, share=share, round_to=round_to, scope=scope)
    except InputError:
        with pytest.raises(InputError, match="out of reach"):
            decide(net, share=share, round_to=round_to, scope=scope)
        return
    assert all(len(kept) % round_to == 0 and len(kept) >= round_to for kept in plan.kept.values())
    assert models.count(pruned(net, plan), 32)[1] <= share * models.count(net, 32)[1]


def test_local_scope_takes_the_same_share_everywhere() -> None:
    whole = zoo("resnet18")
    plan = decide(whole, share=0.4, scope="local")
    assert all(abs(len(kept) / plan.of[head] - 0.62) < 0.1 for head, kept in plan.kept.items())
    assert len(plan.kept) == len(ChannelGraph(whole, 32).groups())


# Criteria ------------------------------------------------------------------------------------------


class Tiny(nn.Module):
    """Three channels that one layer writes and one reads, float32 (N, 2, 1, 1) to (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 3, 1, bias=False)
        self.norm = nn.BatchNorm2d(3, eps=0)
        self.two = nn.Conv2d(3, 2, 1)
        with torch.no_grad():
            self.one.weight[:, :, 0, 0] = torch.tensor([[1.0, -2, 2], [3, 0, 4], [0, 0, 6]])
            self.norm.weight[:] = torch.tensor([2.0, -1, 0.5])
            self.two.weight[:, :, 0, 0] = torch.tensor([[1.0, 3, 0], [-1, 4, 4]])
            assert self.norm.running_var is not None
            self.norm.running_var[:] = torch.tensor([4.0, 1, 0.25])

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.two(torch.relu(self.norm(self.one(x)))).mean((2, 3))
        return logits


def scores(name: str, net: nn.Module, gradients: bool = False) -> Tensor:
    (group,) = ChannelGraph(net, 8).groups()
    found = choices.pick("edgekit.prune.scores", name, "prune.score").scores(
        parts(net, group, followed_by(net, 8), gradients), torch.Generator().manual_seed(3)
    )
    assert isinstance(found, Tensor)
    return found


def test_criteria_give_the_sums_of_their_papers() -> None:
    net = Tiny().eval()
    # The norm scales rows by weight / sqrt(variance) = 1, -1, 1. Each layer's norms are divided by their mean.
    rows, columns = torch.tensor([5.0, 7, 6]), torch.tensor([2.0, 7, 4])
    torch.testing.assert_close(scores("l1", net), (rows / 6 + columns / (13 / 3)) / 2)
    rows, columns = torch.tensor([3.0, 5, 6]), torch.tensor([math.sqrt(2), 5, 4])
    torch.testing.assert_close(scores("l2", net), (rows / rows.mean() + columns / columns.mean()) / 2)
    torch.testing.assert_close(scores("bn_scale", net), torch.tensor([2.0, 1, 0.5]) / (3.5 / 3))


def test_folded_scale_counts_and_the_plain_one_does_not() -> None:
    net, louder = Tiny().eval(), Tiny().eval()
    with torch.no_grad():  # ten times the filter in front of a norm that takes it back: the same network
        louder.one.weight[1] *= 10
        assert louder.norm.running_var is not None
        louder.norm.running_var[1] *= 100
    torch.testing.assert_close(scores("l1", louder), scores("l1", net))
    torch.testing.assert_close(scores("l2", louder), scores("l2", net))


def test_taylor_is_the_slope_of_the_loss_along_a_gate() -> None:
    net, fine = Tiny().eval(), Tiny().eval().double()
    x, labels = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0])
    torch.autograd.backward(functional.cross_entropy(net(x), labels))

    def loss(channel: int, gate: float) -> float:
        between = torch.relu(fine.norm(fine.one(x.double())))
        between[:, channel] *= gate
        return float(functional.cross_entropy(fine.two(between).mean((2, 3)), labels))

    step = 1e-5
    with torch.no_grad():
        slopes = [(loss(channel, 1 + step) - loss(channel, 1 - step)) / (2 * step) for channel in range(3)]
    torch.testing.assert_close(scores("taylor", net, gradients=True), torch.tensor(slopes).square(), rtol=1e-4, atol=0)


def test_random_is_seeded_and_a_control() -> None:
    net = nets.settled(nets.Every())
    made = [decide(net, round_to=2, score="random", seed=seed) for seed in (0, 0, 1)]
    assert made[0] == made[1] != made[2]
    assert decide(net, round_to=2) != made[0]


@pytest.mark.parametrize("scope", ["local", "global"])
def test_taylor_goes_through_the_training_images_at_every_step(scope: str) -> None:
    net = nets.settled(nets.Every())
    calls = 0

    def batches() -> Iterable[tuple[Tensor, Tensor]]:
        nonlocal calls
        calls += 1
        return [(nets.images(4, seed), torch.arange(4)) for seed in range(2)]

    section = PruneSection(score="taylor", macs=0.6, steps=3, round_to=2, scope=scope)  # type: ignore[arg-type]
    before = models.state(net)
    plan = planning.decide(net, 32, section, batches, counted("macs", 0.6))
    assert calls == 3
    assert all(torch.equal(tensor, models.state(net)[key]) for key, tensor in before.items())
    apply.check(net, pruned(net, plan), plan, 32)


# Plans and checkpoints -----------------------------------------------------------------------------


def test_plan_survives_json_and_can_be_read(tmp_path: Path) -> None:
    plan = decide(zoo("resnet18"))
    json_file.save(tmp_path / "prune.json", plan)
    assert json_file.load(tmp_path / "prune.json", PrunePlan) == plan
    head, kept = next(iter(plan.kept.items()))
    assert f"{head} {plan.of[head]} -> {len(kept)}" in str(plan)
    assert set(json.loads((tmp_path / "prune.json").read_text())) == {"kept", "of", "dropped"}


@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "torchvision/resnet18"])
def test_pruned_checkpoint_reloads_bit_for_bit(tmp_path: Path, name: str) -> None:
    spec, size = ModelSpec(name, 10), 64
    whole = randomised(models.build(spec, tmp_path))
    plan = decide(whole, size)
    narrow = pruned(whole, plan, size)
    labels = tuple(str(number) for number in range(10))
    checkpoint = Checkpoint(
        models.WEIGHTS, spec, InputSpec(size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), labels, trained=False, plan=plan
    )
    models.save(tmp_path, narrow, checkpoint)
    loaded, found = models.load(tmp_path)
    assert found == checkpoint
    ours, theirs = models.state(narrow), models.state(loaded)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())
    image = torch.rand(1, 3, size, size)
    with torch.no_grad():
        assert torch.equal(loaded(image), narrow(image))
    models.save(tmp_path, narrow, Checkpoint(models.WEIGHTS, spec, checkpoint.input, labels, trained=False))
    with pytest.raises(InputError, match="does not fit the network"):
        models.load(tmp_path)


def test_plan_replays_on_other_weights_of_the_same_net() -> None:
    one, other = zoo("resnet18"), randomised(timm.create_model("resnet18", num_classes=10), seed=5)
    plan = decide(one)
    shapes = [{name: tensor.shape for name, tensor in pruned(net, plan).state_dict().items()} for net in (one, other)]
    assert shapes[0] == shapes[1]


def test_prune_quantize_export_compose(tmp_path: Path) -> None:
    block = nets.Block(8, nn.Hardswish, nn.Hardsigmoid)
    net = nets.Net(
        lambda net, x: net.head(net.block(net.stem(x))), stem=nets.conv(3, 8), block=block, head=nets.head(8)
    )
    whole = nets.settled(net)
    narrow = pruned(whole, decide(whole, share=0.6, round_to=4))
    graph, images = nets.quantize(narrow), nets.images(6, seed=7)
    expected = nets.run(integer_arithmetic.integer_graph(graph), images)
    for name in ("onnx", "tflite"):
        exporter = choices.pick("edgekit.export.formats", name, "export.formats")
        artifact = exporter.export(copy.deepcopy(graph), nets.SIZE, "int8", tmp_path)
        assert artifact.float_ops == 0
        engine = choices.pick("edgekit.runtime.engines", "onnxruntime" if name == "onnx" else "litert", "engine")
        session = engine.load(str(tmp_path / artifact.path), 1, None)
        got = torch.cat(
            [torch.tensor(verify._infer(artifact, session, image.unsqueeze(0).numpy())) for image in images]
        )
        assert torch.equal(got, expected)


# Latency -------------------------------------------------------------------------------------------


class Clock(stopwatch.Stopwatch):
    """A device whose latency is a fixed part and one that follows the multiply-adds, as `Model` believes it to be."""

    def __init__(self, fixed: float, plans: Plans) -> None:
        self.fixed, self.where, self.timed, self.plans = fixed, "a made-up device", 0, plans

    def __call__(self, module: Any) -> tuple[float, float]:
        self.timed += 1
        return 2.0, 2.0 * (self.fixed + (1 - self.fixed) * module)


class Plans:
    """A planner that can leave any share of the multiply-adds from `least` on, and believes in a fixed part."""

    def __init__(self, believed: float, least: float = 0.0) -> None:
        self.believed, self.least = believed, least

    def plan(self, aim: Aim) -> PrunePlan:
        share = (aim.share - self.believed) / (1 - self.believed)
        if share < self.least:
            raise InputError(f"prune.latency: out of reach; the least is {self.least:g}")
        return PrunePlan({"share": (round(share * 1e6),)}, {"share": 1})


def share(plan: PrunePlan) -> Any:
    return plan.kept["share"][0] / 1e6


class Mute:
    def say(self, text: str) -> None:
        assert "of the latency" in text


@given(fixed=st.floats(0, 0.4), believed=st.floats(0, 0.4), target=st.floats(0.5, 0.9))
def test_search_meets_a_latency_that_can_be_met(fixed: float, believed: float, target: float) -> None:
    plans = Plans(believed)
    clock = Clock(fixed, plans)
    _, _, (before, after) = latency_target.search(plans, None, share, clock, target, Mute())  # type: ignore[arg-type]
    assert after / before <= target
    assert clock.timed <= latency_target.TRIES


def test_search_says_how_fast_it_gets() -> None:
    plans = Plans(0.0, least=0.2)
    with pytest.raises(Shortfall, match=r"prune.latency = 0.3: not reached on a made-up device; .* 0\.6"):
        latency_target.search(plans, None, share, Clock(0.5, plans), 0.3, Mute())  # type: ignore[arg-type]


# The stage -----------------------------------------------------------------------------------------


class Told(Console):
    """Remembers what was said, and stops the run where it is told to."""

    def __init__(self, stop: str = "") -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []
        self.stop = stop

    def say(self, text: str) -> None:
        self.lines.append(text)
        if self.stop and self.stop in text:
            raise KeyboardInterrupt


def prune_stage(out: Path, console: Console, **keys: Any) -> Done:
    section = {"score": "taylor", "macs": 0.7, "steps": 2, "recover": 2, "lr": 2e-3, **keys}
    net = {"inverted_residual_setting": [[1, 8, 1, 1], [4, 16, 2, 2]]}
    recipe = Recipe.model_validate(
        {
            "model": {"name": "torchvision/mobilenet_v2", "weights": "none", "options": net},
            "data": {"source": "digits", "input": 16},
            "train": {"epochs": 1, "batch": 64, "lr": 4e-3},
            "prune": {key: value for key, value in section.items() if value is not None},
        }
    )
    pipeline.run(pipeline.Job(recipe, out, out, {}), console, last="prune")
    done = RunDirectory(out).find("prune")
    assert done is not None
    return done


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return prune_stage(tmp_path_factory.mktemp("run"), Told())


def test_stage_writes_a_narrow_network_that_has_recovered(stage: Done) -> None:
    module, checkpoint = models.load(stage.path)
    pruning = json_file.load(stage.path / "pruning.json", Pruning)
    _, before = models.load(stage.path.parent / "2-train")
    assert (checkpoint.parameters, checkpoint.macs) == by_hand(module, 16)
    assert pruning.macs == (before.macs, checkpoint.macs)
    assert checkpoint.macs <= 0.7 * before.macs
    assert json_file.load(stage.path / "prune.json", PrunePlan) == checkpoint.plan == pruning.plan
    whole, first, recovered = pruning.accuracy
    assert whole is not None
    assert first is not None
    assert recovered is not None
    assert recovered > first + 0.2
    assert {score.split: score.accuracy for score in checkpoint.metrics}["val"] == recovered
    assert len(checkpoint.history) == 2
    assert (pruning.latency_ms, pruning.latency_where) == (None, "not measured: no device was given")
    wide, narrow = (models.state(net) for net in (models.build(before.model, stage.path), module))
    for layer, widths in pruning.channels.items():
        assert widths == (len(wide[f"{layer}.weight"]), len(narrow[f"{layer}.weight"]))


def test_stage_goes_on_where_it_was_stopped(stage: Done, tmp_path: Path) -> None:
    out = Path(shutil.copytree(stage.path.parent, tmp_path / "run"))
    shutil.rmtree(out / stage.path.name)
    with pytest.raises(KeyboardInterrupt):
        prune_stage(out, Told(stop="epoch  2/2"))
    told = Told()
    again = prune_stage(out, told)
    assert "  resuming after epoch 1" in told.lines
    assert (again.path / "model.safetensors").read_bytes() == (stage.path / "model.safetensors").read_bytes()
    assert not list(again.path.glob("*.pt"))


def test_stage_replays_a_plan(stage: Done, tmp_path: Path) -> None:
    out = Path(shutil.copytree(stage.path.parent, tmp_path / "run"))
    plan = shutil.copy(stage.path / "prune.json", tmp_path / "mine.json")
    told = Told()
    done = prune_stage(out, told, macs=None, plan=str(plan), recover=0)
    assert models.load(done.path)[1].plan == models.load(stage.path)[1].plan
    assert any("prune.recover = 0" in line for line in told.lines)
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(InputError, match=r"mine.json: cannot be read as edgekit wrote it"):
        prune_stage(out, Told(), macs=None, plan=str(plan), recover=0)
    with pytest.raises(InputError, match=r"prune.latency needs a device to measure on"):
        prune_stage(out, Told(), macs=None, latency=0.5)


# Bad input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"keep": ["layer1.0.convl"]}, 'prune.keep = "layer1.0.convl": no such layer; did you mean "layer1.0.conv'),
        ({"share": 0.001}, "prune.macs = 0.001: out of reach without emptying a group of channels; the least is 0."),
        ({"keep": ["layer1", "layer2", "layer3", "layer4", "conv1"]}, "prune: no group of channels can be pruned"),
        ({"score": "taylor"}, 'prune.score = "taylor": needs images to train on'),
    ],
)
def test_decide_says_what_is_wrong(keys: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as caught:
        decide(zoo("resnet18"), **keys)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_the_narrowest_network_is_not_taken_for_the_fastest() -> None:
    """Where 8 channels take longer than 16, what 16 take can be reached."""
    net = zoo("resnet18")
    section = PruneSection.model_validate({"score": "l2", "steps": 1, "macs": 0.5})
    planner = planning.Planner(net, 32, section, none)
    assert [{len(kept) for kept in plan.kept.values()} for plan in planner.least] == [{8}, {16}]

    def of(_: Cost) -> CostOf:
        def cost(gone: Gone) -> float:
            left = [width - gone.get(head, 0) for head, width in planner.width.items()]
            return sum(100.0 if channels < 16 else channels for channels in left)

        return cost

    whole = sum(planner.width.values())
    reached = 1.1 * 16 * len(planner.width) / whole
    plan = planner.plan(Aim("prune.latency", reached, of, per_cost=True))
    assert all(len(kept) >= 16 for kept in plan.kept.values())
    assert sum(len(kept) for kept in plan.kept.values()) <= reached * whole
    least = f"the least is {16 * len(planner.width) / whole:.3f}"
    with pytest.raises(InputError, match=least):
        planner.plan(Aim("prune.latency", 0.9 * 16 * len(planner.width) / whole, of, per_cost=True))
    kept = PruneSection.model_validate({"score": "l2", "steps": 1, "macs": 0.5, "scope": "global"})
    with pytest.raises(InputError, match=r"the least is .*, where channels are removed in this order"):
        planner.plan(Aim("prune.latency", 1.001 * 16 * len(planner.width) / whole, of), kept)


def test_keep_takes_a_layer_and_what_goes_with_it_out() -> None:
    whole = zoo("resnet18")
    plan = decide(whole, share=0.7, keep=["layer1.1.conv2"])  # its residual chain starts at the first layer
    assert "conv1" not in plan.kept
    assert "layer1.1.conv1" in plan.kept


def test_score_that_applies_nowhere_is_refused() -> None:
    net = nets.Net(lambda net, x: net.head(net.stem(x)), stem=nn.Conv2d(3, 32, 3), head=nets.head(32)).eval()
    with pytest.raises(InputError, match=r'prune.score = "bn_scale": it applies to no group'):
        decide(net, score="bn_scale")


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda plan: PrunePlan({"conv7": (0, 1)}, {"conv7": 2}), 'prune plan: "conv7": no such layer'),
        (
            lambda plan: PrunePlan({"conv1": (0, 1)}, {"conv1": 32}),
            "prune plan: conv1 has 64 output channels",
        ),
        (lambda plan: PrunePlan({"conv1": ()}, {"conv1": 64}), "prune plan: conv1: kept must be ascending channels"),
        (lambda plan: PrunePlan({"conv1": (3, 64)}, {"conv1": 64}), "prune plan: conv1: kept must be ascending"),
        (lambda plan: PrunePlan({"fc": (0, 1)}, {"fc": 10}), "prune plan: fc heads no group that can be pruned"),
    ],
)
def test_plan_of_another_net_is_refused(spoil: Callable[[PrunePlan], PrunePlan], line: str) -> None:
    net = zoo("resnet18")
    with pytest.raises(InputError) as caught:
        apply.apply(net, spoil(PrunePlan({}, {})), 32)
    assert str(caught.value).startswith(line)
