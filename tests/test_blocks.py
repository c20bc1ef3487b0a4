"""Residual blocks: found as timm marks them, left out as if the network had been written without them."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from edgekit import models
from edgekit.config.fit_section import FitSection
from edgekit.config.recipe import PruneSection
from edgekit.console import Console
from edgekit.disk import json_file
from edgekit.disk.run_directory import RunDirectory
from edgekit.errors import InputError, Shortfall
from edgekit.fit import depth
from edgekit.fit.widths import Budget
from edgekit.pipeline import run as pipeline
from edgekit.prune import apply, blocks
from edgekit.prune.cost import Cost
from edgekit.prune.groups import ChannelGraph
from edgekit.prune.planning import Planner
from edgekit.types import PrunePlan, Pruning
from tests import fit_job, nets

NAMES = ("swish", "silu", "relu6")


def every() -> nn.Module:
    return nets.settled(nets.Every())


@pytest.mark.parametrize("name", ["mobilenetv2_100", "efficientnet_lite0", "mobilenetv3_small_100", "efficientnet_b0"])
def test_blocks_are_those_that_timm_gives_a_skip(name: str) -> None:
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=6)
    state = {key: value.clone() for key, value in module.state_dict().items()}
    marked = [block for block, part in module.named_modules() if getattr(part, "has_skip", False)]
    assert list(blocks.residual(module, 64)) == marked
    assert module.training
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())


def test_blocks_of_torchvision_with_an_activation_after_the_sum() -> None:
    torch.manual_seed(0)
    module = torchvision.models.resnet18(num_classes=6)
    wanted = [name for name, part in module.named_modules() if hasattr(part, "bn2") and part.downsample is None]
    assert list(blocks.residual(module, 64)) == wanted


def test_what_is_no_residual_block() -> None:
    twice = nets.conv(8, 8, 3, nn.ReLU)
    net = nets.Net(
        lambda net, x: net.head(net.twice(net.twice(net.scaled(net.stem(x))))),
        stem=nets.conv(3, 8, 3, nn.ReLU),
        scaled=nets.Net(lambda net, x: 2 * x + net.conv(x), conv=nets.conv(8, 8, 3)),
        twice=nets.Net(lambda net, x: x + net.conv(x), conv=twice),
        head=nets.head(8),
    )
    assert blocks.residual(nets.settled(net), nets.SIZE) == {}


def test_a_block_is_one_only_if_its_last_layer_ends_all_that_it_adds() -> None:
    net = nets.Net(
        lambda net, x: net.head(net.both(net.stem(x))),
        stem=nets.conv(3, 8, 3, nn.ReLU),
        both=nets.Net(lambda net, x: x + net.one(x) + net.other(x), one=nets.conv(8, 8, 3), other=nets.conv(8, 8, 3)),
        head=nets.head(8),
    )
    assert blocks.residual(nets.settled(net), nets.SIZE) == {}


def test_without_a_block_the_network_is_what_one_would_have_written() -> None:
    whole = every()
    pruned = copy.deepcopy(whole)
    graph = ChannelGraph(whole, nets.SIZE)
    width = graph.group("relu6.expand.conv")
    assert width is not None
    kept = tuple(range(0, width.channels, 2))
    plan = PrunePlan({width.head: kept}, {width.head: width.channels}, ("swish", "silu"))
    apply.apply(pruned, plan, nets.SIZE)
    apply.check(whole, pruned, plan, nets.SIZE)
    assert str(plan) == f"without swish, without silu, relu6.expand.conv {width.channels} -> {len(kept)}"

    written: Any = copy.deepcopy(whole)
    apply.apply(written, replace(plan, dropped=()), nets.SIZE)
    images = nets.images(4)
    with torch.no_grad():
        expected = written.head(written.down(written.relu6(written.stem(images))))
        torch.testing.assert_close(pruned(images), expected)
    assert not any(name.startswith(("swish.", "silu.")) for name, _ in pruned.named_modules())


def test_a_plan_for_another_network_is_refused() -> None:
    for name in ("swosh", "stem", "swish.gate"):
        with pytest.raises(InputError, match=f"prune plan: .*{name}.*residual block.*another network"):
            apply.apply(every(), PrunePlan({}, {}, (name,)), nets.SIZE)


def test_a_network_that_still_has_a_block_is_noticed() -> None:
    whole = every()
    with pytest.raises(Shortfall, match="does not compute what the unpruned one does"):
        apply.check(whole, copy.deepcopy(whole), PrunePlan({}, {}, ("silu",)), nets.SIZE)


def test_plans_of_before_blocks_could_go_are_read(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"kept": {"conv": [0, 2]}, "of": {"conv": 4}}')
    assert json_file.load(tmp_path / "plan.json", PrunePlan) == PrunePlan({"conv": (0, 2)}, {"conv": 4})


def test_what_is_left_is_exported_and_agrees_to_one_step(tmp_path: Path) -> None:
    job = fit_job.make(tmp_path, {})
    json_file.save(tmp_path / "plan.json", PrunePlan({}, {}, ("4",)))
    section = PruneSection(plan="plan.json", recover=0)
    recipe = job.recipe.model_copy(update={"prune": section, "fit": None})
    outcome = pipeline.run(replace(job, recipe=recipe), Console(quiet=True), "verify")
    checkpoint = outcome.results.checkpoint
    assert checkpoint is not None
    assert checkpoint.plan == PrunePlan({}, {}, ("4",))
    module, _ = models.load(RunDirectory(job.out).folder("prune"))
    assert isinstance(module[4], nn.Identity)  # type: ignore[index]
    assert checkpoint.macs == models.count(module, 32)[1]
    pruning = json_file.load(RunDirectory(job.out).folder("prune") / "pruning.json", Pruning)
    assert pruning.channels == {"4.part.conv": (128, 0)}
    steps = [row.max_steps for row in outcome.results.accuracy if row.max_steps is not None]
    assert steps
    assert max(steps) <= 1


# Which ones go -------------------------------------------------------------------------------------


def whole_net(keep: list[str] | None = None) -> Any:
    """The net, of whose blocks "silu" adds next to nothing; labels are what it says."""
    module: Any = every()
    with torch.no_grad():
        module.silu.project.bn.weight.mul_(1e-3)
        module.silu.project.bn.bias.mul_(1e-3)
        images = nets.images(16)
        labels = module(images).argmax(1)
    section = PruneSection(macs=0.5, keep=keep or [])
    planner = Planner(module, nets.SIZE, section, lambda: [(images, labels)])
    return SimpleNamespace(module=module, size=nets.SIZE, section=section, planner=planner)


class Pixels:
    """A latency model: time follows the multiply-adds, in units of those of the whole network."""

    def __init__(self, cost: Cost) -> None:
        self.whole = self.macs(cost.shapes({}))

    def macs(self, shapes: Any) -> float:
        return float(
            sum(
                each.kernel * each.outputs * (1 if each.kind == "depthwise" else each.inputs) * each.pixels
                for each in shapes
            )
        )

    def predict(self, shapes: Any) -> Any:
        return SimpleNamespace(ms=self.macs(shapes) / self.whole)


def gone(whole: Any, max_ms: float) -> tuple[str, ...]:
    models: Any = {"board": Pixels(whole.planner.cost)}
    return depth.expendable(whole, Budget(FitSection(max_ms=max_ms), models, 1.0))


def test_the_block_that_adds_next_to_nothing_goes_first() -> None:
    whole = whole_net()
    assert gone(whole, 0.9) == ("silu",)
    assert "silu" in gone(whole, 0.4)
    shapes = whole.planner.cost.shapes({})
    pixels = Pixels(whole.planner.cost)
    for max_ms in (0.8, 0.6, 0.3):
        dropped = gone(whole, max_ms)
        left = [each for each in shapes if each.name.partition(".")[0] not in dropped]
        aim = 1 / max_ms - depth.SAVED * (1 / max_ms - 1)
        enough = pixels.predict(left).ms / max_ms <= aim
        assert enough or set(dropped) == set(NAMES)


def test_blocks_go_where_the_file_is_what_is_too_large() -> None:
    """Time is no object; "silu", which adds next to nothing, is left out for its share of the weights."""
    whole = whole_net()
    models: Any = {"board": Pixels(whole.planner.cost)}
    held = sum(value.numel() for name, value in whole.module.named_parameters() if "silu." in name and value.dim() == 4)
    all_of_it = sum(value.numel() for value in whole.module.parameters() if value.dim() in (2, 4))
    assert depth.expendable(whole, Budget(FitSection(max_ms=100.0, max_mb=2.0), models, 1 / all_of_it)) == ()
    for over in (1.01, 2.0):
        found = depth.expendable(whole, Budget(FitSection(max_ms=100.0, max_mb=1 / over), models, 1 / all_of_it))
        assert "silu" in found
        assert (found == ("silu",)) == (over * held / all_of_it >= depth.SAVED * (over - 1))


def test_blocks_that_are_kept_stay() -> None:
    for layer in ("silu", "silu.gate.reduce"):
        found = gone(whole_net([layer]), 0.1)
        assert found
        assert "silu" not in found


def test_a_network_without_blocks_has_none_to_lose() -> None:
    images = nets.images(4)
    module = nets.settled(nn.Sequential(nets.conv(3, 16), nets.conv(16, 32), nets.head(32)))
    planner = Planner(module, nets.SIZE, PruneSection(macs=0.5), lambda: [(images, torch.zeros(4, dtype=torch.int64))])
    whole: Any = SimpleNamespace(module=module, size=nets.SIZE, section=PruneSection(macs=0.5), planner=planner)
    assert gone(whole, 0.5) == ()
