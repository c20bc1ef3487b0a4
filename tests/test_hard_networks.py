"""Networks that are written in unusual ways, against the same networks as PyTorch runs them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import CondConv2d, StdConv2d
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from edgekit import models
from edgekit.config.recipe import PruneSection, QuantizeSection, Recipe
from edgekit.console import Console
from edgekit.data.dataset import ImageSet
from edgekit.data.transforms import levels
from edgekit.errors import InputError, Shortfall
from edgekit.export import sources
from edgekit.graph import eager
from edgekit.graph.exported_program import output_scale, trace
from edgekit.graph.integer_arithmetic import integer_graph
from edgekit.graph.ops import ADDS, DEQUANTIZE, QUANTIZE
from edgekit.lower import portable, weights
from edgekit.lower.rewrites import average_pool
from edgekit.profile import torch_reference
from edgekit.prune import apply, planning
from edgekit.prune.aim import counted
from edgekit.prune.cost import Cost
from edgekit.prune.groups import ChannelGraph
from edgekit.quantize import ptq
from edgekit.runtime import engine_menu
from edgekit.runtime.engines import torch_cuda
from edgekit.runtime.port import dequantize
from edgekit.train import qat
from edgekit.train.loop import train
from edgekit.types import HOST_ENGINES, ModelSpec
from edgekit.verify.files import feed
from tests import colours, nets
from tests.nets import Net, conv, head

QUIET = Console(quiet=True)


def stem(activation: type[nn.Module] | None = nn.ReLU) -> nn.Module:
    return conv(3, 16, 3, activation, stride=2)


def tied() -> dict[str, nn.Module]:
    first, second = nn.Linear(16, 16), nn.Linear(16, 16)
    second.weight = first.weight
    return {"first": first, "second": second}


def twice(width: int = 16, groups: int = 1) -> nn.Module:
    part = conv(width, width, 3, nn.ReLU, groups=groups)
    return Net(lambda net, x: net.head(net.part(net.part(net.stem(x)))), stem=stem(), part=part, head=head(width))


def scales(activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    """A head that is shared by two scales."""

    def run(net: Any, x: Tensor) -> Tensor:
        y = net.stem(x)
        total: Tensor = net.head(net.part(y)) + net.head(net.part(functional.max_pool2d(y, 2)))
        return total

    return Net(run, stem=stem(), part=conv(16, 16, 3, activation), head=head(16))


def two_norms() -> nn.Module:
    """One convolution that two batch norms and a residual read."""

    def run(net: Any, x: Tensor) -> Tensor:
        y = net.conv(net.stem(x))
        logits: Tensor = net.head(functional.relu(net.one(y)) + net.two(y) + y)
        return logits

    parts = {"one": nn.BatchNorm2d(16), "two": nn.BatchNorm2d(16), "conv": nn.Conv2d(16, 16, 3, bias=False)}
    return Net(run, stem=stem(), **parts, head=head(16))


def one_norm() -> nn.Module:
    """One batch norm after two convolutions."""

    def run(net: Any, x: Tensor) -> Tensor:
        logits: Tensor = net.head(functional.relu(net.norm(net.b(functional.relu(net.norm(net.a(net.stem(x))))))))
        return logits

    convolutions = {name: nn.Conv2d(16, 16, 3, bias=False) for name in "ab"}
    return Net(run, stem=stem(), **convolutions, norm=nn.BatchNorm2d(16), head=head(16))


def tied_linear() -> nn.Module:
    def run(net: Any, x: Tensor) -> Tensor:
        logits: Tensor = net.second(functional.relu(net.first(net.pool(net.stem(x)).flatten(1))))
        return logits

    return Net(run, stem=stem(), pool=nn.AdaptiveAvgPool2d(1), **tied())


class ChannelsLast(nn.Module):
    """A ConvNeXt block without its layer norm: the map is as high as it has channels, so that axes can be mixed up."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.project = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(functional.relu(self.expand(x.permute(0, 2, 3, 1))))
        total: Tensor = x + y.permute(0, 3, 1, 2)
        return total


class Standardised(nn.Conv2d):
    """Weight standardisation by hand."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding)


class Cosine(nn.Module):
    """A head whose weights are normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, 16, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x.mean((2, 3)), functional.normalize(self.weight))


class Conditional(nn.Module):
    """A convolution whose weights depend on the image, and a batch norm behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.route = CondConv2d(16, 16, 3, padding=1, num_experts=2), nn.Linear(16, 2)
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.norm(self.conv(x, torch.sigmoid(self.route(x.mean((2, 3))))))
        return functional.relu(mixed)


class Expanded(nn.Module):
    """Squeeze and excite, as SENet and ECA write it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(x.mean((2, 3)))).view(x.size(0), 16, 1, 1)
        return x * gate.expand_as(x)


NETS: dict[str, Callable[[], nn.Module]] = {
    "a layer used twice": twice,
    "a depthwise layer used twice": lambda: twice(groups=16),
    "a head for two scales": scales,
    "two norms after one convolution": two_norms,
    "one norm after two convolutions": one_norm,
    "tied linear layers": tied_linear,
    "channels-last linear layers": lambda: nn.Sequential(stem(), ChannelsLast(), head(16)),
    "weight norm": lambda: nn.Sequential(
        parametrizations.weight_norm(nn.Conv2d(3, 16, 3)), nn.BatchNorm2d(16), nn.ReLU(), head(16)
    ),
    "spectral norm": lambda: nn.Sequential(parametrizations.spectral_norm(nn.Conv2d(3, 16, 3)), nn.ReLU(), head(16)),
    "StdConv2d": lambda: nn.Sequential(StdConv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), head(16)),
    "weight standardisation": lambda: nn.Sequential(Standardised(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), head(16)),
    "a cosine head": lambda: nn.Sequential(stem(), Cosine()),
    "conditional convolution": lambda: nn.Sequential(stem(), Conditional(), head(16)),
}


def sqnr(exact: Tensor, got: Tensor) -> float:
    return float(10 * torch.log10(exact.double().square().sum() / (exact - got).double().square().sum()))


@pytest.mark.parametrize("name", NETS)
def test_int8_is_close_to_the_users_network(name: str) -> None:
    module = nets.settled(NETS[name]())
    section = QuantizeSection(equalize=True, float_operators="allow")
    result = ptq.quantize(module, nets.SIZE, nets.images(8, seed=1), nets.LEVELS, section)
    images = nets.images(4, seed=5)
    assert sqnr(nets.run(module, images), nets.run(integer_graph(result.program.module()), images)) > 20


@pytest.mark.parametrize("name", ["a head for two scales", "two norms after one convolution", "weight norm"])
def test_rounded_weights_are_close_to_the_users_network(name: str) -> None:
    module = nets.settled(NETS[name]())
    images = nets.images(4, seed=5)
    assert sqnr(nets.run(module, images), nets.run(sources.rounded(module, nets.SIZE, "fp16"), images)) > 50


@pytest.mark.parametrize(
    ("step", "name", "layer"),
    [("_unshare", "a layer used twice", "part.conv"), ("_split", "two norms after one convolution", "add")],
)
def test_a_graph_that_differs_from_the_network_is_not_compressed(
    step: str, name: str, layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, step, lambda *_: None)
    monkeypatch.setattr(ptq, "FLOAT_REWRITES", ())
    with pytest.raises(Shortfall, match=f'does not compute what the network does .*, first in layer "{layer}"'):
        nets.quantize(nets.settled(NETS[name]()))


def test_bias_correction_takes_the_mean_of_each_channel_wherever_channels_are() -> None:
    module: Any = nets.settled(nn.Sequential(stem(), ChannelsLast(), head(16)))
    images = nets.images(4, seed=1)
    section = QuantizeSection()
    found = ptq.observe(module, nets.SIZE, images, nets.LEVELS, section).calibration.means()
    with torch.no_grad():
        exact = module[0](images).mean((0, 2, 3))
    torch.testing.assert_close(found["linear"].float(), exact, rtol=1e-3, atol=1e-4)


# Training and pruning ------------------------------------------------------------------------------

LENET = """
from torch import nn
from torch.nn import functional


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 5, stride=2), nn.Linear(8 * 6 * 6, classes)

    def forward(self, x):
        x = functional.relu(self.stem(x))
        return self.head(x.view(x.size(0), -1))


class Shared(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stem, self.conv, self.norm = nn.Conv2d(3, 16, 3, 2), nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, classes)

    def forward(self, x):
        x = functional.relu(self.stem(x))
        for _ in range(2):
            x = functional.relu(self.norm(self.conv(x)))
        return self.head(x.mean((2, 3)))


class Random(Net):
    def forward(self, x):
        return super().forward(functional.dropout(x, 0.5))


class Batch(Net):
    def __init__(self, classes):
        super().__init__(classes)
        self.norm = nn.BatchNorm2d(3, track_running_stats=False)

    def forward(self, x):
        return super().forward(self.norm(x))


class Alone(Net):
    def forward(self, x):
        return self.head(functional.relu(self.stem(x)).view(1, -1))


def lenet(num_classes): return Net(num_classes)
def shared(num_classes): return Shared(num_classes)
def random(num_classes): return Random(num_classes)
def batch(num_classes): return Batch(num_classes)
def alone(num_classes): return Alone(num_classes)
"""


def recipe(folder: Path, name: str) -> Recipe:
    (folder / "hard.py").write_text(LENET)
    model = {"name": f"hard.py:{name}", "weights": "none"}
    return Recipe.model_validate({**colours.make_recipe(epochs=4).model_dump(exclude={"model"}), "model": model})


def trained(folder: Path, name: str) -> nn.Module:
    index = colours.write_images(folder)
    work = folder / "work"
    work.mkdir()
    checkpoint = train(recipe(folder, name), index, folder, folder, work, QUIET)
    assert checkpoint.metrics[0].accuracy > 0.9
    return models.load(work)[0]


def test_a_network_whose_code_views_memory_trains_and_runs(tmp_path: Path) -> None:
    module = trained(tmp_path, "lenet")
    torch_reference.write(module, 16, tmp_path / "torch.pt2")
    image = nets.images(1, size=16)
    got = torch_cuda.load(str(tmp_path / "torch.pt2"), provider="cpu").run(image.numpy())
    np.testing.assert_allclose(got, module(image).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_only_a_network_that_runs_in_channels_last_gets_it(tmp_path: Path) -> None:
    images = torch.zeros(2, 3, 16, 16)
    spec = ModelSpec(f"{tmp_path}/hard.py:lenet", 3, {})
    (tmp_path / "hard.py").write_text(LENET)
    assert eager.fastest_format(models.build(spec, tmp_path), images) is torch.contiguous_format
    usual = nets.settled(nets.Every())
    form = eager.fastest_format(usual, images)
    assert form is torch.channels_last
    assert eager.format_of(usual) is torch.contiguous_format
    assert eager.format_of(usual.to(memory_format=form)) is form


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("random", r"another answer each time.*hard.py, line 31 .*dropout.*F\.dropout\(x, p, self\.training\)"),
        ("batch", 'depends on the images beside it: batch norm "norm".*track_running_stats=True'),
        ("alone", "takes one image, but not a batch of two"),
    ],
)
def test_a_network_whose_answers_cannot_be_repeated_is_refused_at_once(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        models.create(recipe(tmp_path, name).model, 3, 16, tmp_path)


class Amplifier(nn.Module):
    """Makes the noise of float32 sums as large as its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 64, 3)
        self.linear = nn.Linear(64 * 14 * 14, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(1e7 * self.linear(self.conv(x).flatten(1)))


def test_noise_that_a_deep_network_amplifies_is_not_taken_for_the_images_beside_it() -> None:
    eager.check_repeatable(Amplifier().eval(), (3, 16, 16))

    class Centred(Amplifier):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x - x.mean(0, keepdim=True) / 2)

    with pytest.raises(InputError, match="depends on the images beside it: a layer"):
        eager.check_repeatable(Centred().eval(), (3, 16, 16))


def test_hooks_that_compute_weights_do_not_keep_a_network_from_being_copied() -> None:
    with pytest.warns(FutureWarning):
        module = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 4, 3)))
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(module)
    eager.release(module)
    image = nets.images(1)
    torch.testing.assert_close(copy.deepcopy(module)(image), module(image))


def test_training_in_the_quantized_graph_keeps_a_layer_that_is_used_twice(tmp_path: Path) -> None:
    module = trained(tmp_path, "shared")
    index = colours.write_images(tmp_path)
    spec = models.load(tmp_path / "work")[1].input
    images = ImageSet(replace(index, samples=index.samples[::2]), tmp_path, "train", spec)
    still = {"epochs": 1, "lr": 1e-9, "batch_norm": "frozen"}
    section = QuantizeSection.model_validate({"method": "qat", "qat": still})
    pixels = torch.from_numpy(levels(spec))
    start = ptq.quantize(module, 16, [images[n][0] for n in range(16)], pixels, QuantizeSection()).program.module()
    result = qat.train(module, 16, start, images, None, pixels, section, QUIET)
    batch = torch.stack([images[n][0] for n in range(8)])
    assert sqnr(nets.run(module, batch), nets.run(integer_graph(result.program.module()), batch)) > 20


@pytest.mark.parametrize(
    "name", ["a head for two scales", "a depthwise layer used twice", "two norms after one convolution"]
)
def test_pruning_counts_and_cuts_a_layer_that_is_used_twice(name: str) -> None:
    module = nets.settled(NETS[name]())
    groups = ChannelGraph(module, nets.SIZE).groups()
    assert Cost(module, groups, nets.SIZE)("macs", {}) == models.count(module, nets.SIZE)[1]
    section = PruneSection(macs=0.6, round_to=4, score="l1")
    plan = planning.decide(module, nets.SIZE, section, list, counted("macs", 0.6))
    pruned = copy.deepcopy(module)
    apply.apply(pruned, plan, nets.SIZE)
    apply.check(module, pruned, plan, nets.SIZE)
    assert models.count(pruned, nets.SIZE)[1] <= 0.6 * models.count(module, nets.SIZE)[1]


def test_pruning_leaves_tied_and_computed_layers_alone() -> None:
    section = PruneSection(macs=0.6, round_to=4, score="l1")
    for name in ("tied linear layers", "weight norm"):
        with pytest.raises(InputError, match="no group of channels can be pruned"):
            planning.decide(nets.settled(NETS[name]()), nets.SIZE, section, list, counted("macs", 0.6))


# Pools, sums and files -----------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 5), st.integers(1, 3), st.booleans(), st.booleans(), st.booleans(), st.sampled_from([None, 5]),
    st.sampled_from([(7, 9), (8, 13)]),
)  # fmt: skip
def test_average_pools_become_convolutions(
    kernel: int, stride: int, padded: bool, ceil: bool, include: bool, divisor: int | None, size: tuple[int, int]
) -> None:
    pool = nn.AvgPool2d(kernel, stride, kernel // 2 * padded, ceil, include, divisor)
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    graph: Any = torch.export.export(pool, (image,)).module()
    assert average_pool.matches(graph) == average_pool.apply(graph) == 1
    assert not any("pool" in str(node.target) for node in graph.graph.nodes)
    torch.testing.assert_close(graph(image), pool(image))


@pytest.mark.parametrize(("size", "outputs"), [(12, 7), (7, 3), (9, 3), (5, 7), (8, 1)])
def test_adaptive_pools_become_pools_of_fixed_windows(size: int, outputs: int) -> None:
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    for pool in (nn.AdaptiveMaxPool2d(outputs), nn.AdaptiveAvgPool2d(outputs)):
        graph: Any = trace(pool, size).module()
        portable.apply(graph)
        average_pool.apply(graph)
        mean = isinstance(pool, nn.AdaptiveAvgPool2d) and outputs == 1  # of the whole image: both engines agree
        assert mean == any("adaptive" in str(node.target) for node in graph.graph.nodes)
        torch.testing.assert_close(graph(image), pool(image))


def loud() -> nn.Module:
    return nn.Sequential(stem(None), nn.Hardswish(), conv(16, 16, 3, nn.ReLU))


def amplify(part: Any) -> None:
    """Let the hard-swish of `loud` see values in the thousands."""
    with torch.no_grad():
        for tensor in (part[0].bn.weight, part[0].bn.bias, part[2].bn.running_mean):
            tensor.mul_(2000)
        part[2].bn.running_var.mul_(2000**2)


class Everything(nn.Module):
    """One of each: float32 (N, 3, 32, 32) to (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared = stem(), conv(16, 16, 3, nn.ReLU)
        self.norms = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(2))
        self.conv = nn.Conv2d(16, 16, 2, bias=False)
        self.last = ChannelsLast()
        self.gate = Expanded()
        self.computed = nn.Sequential(
            parametrizations.weight_norm(nn.Conv2d(16, 16, 1)), nn.ReLU(), StdConv2d(16, 16, 1), nn.ReLU()
        )
        self.first, self.second = tied().values()
        self.head = nn.Linear(16, 10)
        self.loud = loud()

    def forward(self, x: Tensor) -> Tensor:
        x = self.gate(self.last(self.shared(self.shared(self.stem(x)) + self.loud(x))))
        y = self.conv(x)
        x = functional.relu(self.norms[0](y)) + self.norms[1](y)
        x = functional.avg_pool2d(x, 2, ceil_mode=True) + functional.avg_pool2d(x, 3, 2, 1, divisor_override=5)
        x = functional.adaptive_max_pool2d(self.computed(x), 2)
        logits: Tensor = self.head(self.second(functional.relu(self.first(x.mean((2, 3))))))
        return logits


def test_files_of_all_of_it_agree_with_torch_in_both_engines(tmp_path: Path) -> None:
    module: Any = nets.settled(Everything())
    amplify(module.loud)
    images = nets.images(4, seed=5)
    graph = nets.quantize(module)
    made = nets.export(portable.module(module, nets.SIZE), graph, tmp_path)
    exact, integers = nets.run(module, images), nets.run(integer_graph(graph), images)
    assert sqnr(exact, integers) > 20
    step = output_scale(graph)
    assert step is not None
    for artifact in made.artifacts.values():
        session = engine_menu.engine(HOST_ENGINES[artifact.format]).load(str(tmp_path / artifact.path), threads=1)
        outputs = [session.run(feed(artifact, session, image.unsqueeze(0).numpy())) for image in images]
        got = torch.from_numpy(np.concatenate([dequantize(output, session.output) for output in outputs]))
        if artifact.precision == "int8":
            assert float((got - integers).abs().max()) < step / 2, artifact.id
        else:
            torch.testing.assert_close(got, exact, rtol=1e-4, atol=1e-4)


def test_no_step_of_a_sum_is_so_fine_that_litert_wraps_round() -> None:
    module: Any = nets.settled(nn.Sequential(loud(), head(16)))
    amplify(module[0])
    graph = nets.quantize(module)
    ratios = []
    for node in graph.graph.nodes:
        if node.target in ADDS:
            users = [user if user.target is QUANTIZE else next(iter(user.users)) for user in node.users]
            ratios += [
                float(source.args[1]) / float(users[0].args[1])
                for source in node.all_input_nodes
                if source.target is DEQUANTIZE
            ]
    assert 64 < max(ratios) < 256
