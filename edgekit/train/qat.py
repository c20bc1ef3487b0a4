"""Quantization-aware training: the graph of post-training quantization, trained with fake quantization.

Forward passes round weights and activations as the integer graph will; gradients pass through unchanged (Jacob
et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018). The
teacher is the float network, or that of [distill] (`edgekit.train.distill`). Ranges start from calibration and follow
a moving average; they are frozen for the last part of the training, so that the weights settle on the grid that is
exported. Batch norms keep their statistics: with those of each batch, the network cannot meet a teacher that is
evaluated. Of the states after each epoch, the one with the least loss on validation images is exported, most of which
is the distance to the teacher: their accuracy changes by chance from one epoch to the next, and would often pick an
early one. `benchmarks/qat.py` compares these choices.

Weights are rounded before batch norm, not after it is folded in: scales are per output channel and symmetric, so that
folding multiplies a channel's weights and its scale by the same factor and no rounded value changes. Hence the
folded graph computes what was trained, whatever the network's ``eps`` and momentum are.
"""

from __future__ import annotations

import copy
import math
import time
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import MovingAverageMinMaxObserver, MovingAveragePerChannelMinMaxObserver
from torchao.quantization.pt2e.fake_quantize import FakeQuantize, FakeQuantizeBase, FixedQParamsFakeQuantize
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e

from edgekit.config.recipe import QatSection, QuantizeSection
from edgekit.config.train_section import TrainSection
from edgekit.console import Console
from edgekit.data.dataset import ImageSet, batches
from edgekit.errors import InputError, Shortfall
from edgekit.graph import eager
from edgekit.graph.integer_arithmetic import round_constants
from edgekit.graph.logits import per_class
from edgekit.graph.ops import BATCH_NORM, CLAMPS, QUANTIZE, WEIGHTED, aten, bounds, constant
from edgekit.lower.rewrites import saturation
from edgekit.quantize import ptq
from edgekit.quantize.annotate import Int8Quantizer
from edgekit.quantize.exact_scales import settle
from edgekit.quantize.histogram import grid
from edgekit.train import distill, memory
from edgekit.train.schedules import cosine
from edgekit.types import Size, shape_of

RISING = TrainSection(warmup=0.05)
"""The rate rises over this share of the steps, then falls as a cosine."""
FOLLOW = 0.01
"""Weight of each new batch in the moving average of a range."""


def train(
    module: nn.Module,
    size: Size,
    start: GraphModule,
    images: ImageSet,
    val: ImageSet | None,
    pixels: Tensor,
    section: QuantizeSection,
    console: Console,
    rewrites: Collection[str] | None = None,
    teacher: nn.Module | None = None,
) -> ptq.Result:
    """Train in the quantized graph; the result has the form of post-training quantization's, with trained values.

    On the CPU the same seed gives the same bits (at the same number of threads).

    Args:
        module: the float network, in eval mode.
        size: shape of an image.
        start: its quantized graph, which gives the initial ranges.
        images: the training split, with whatever augmentation it has.
        val: the validation split, whose loss picks the best epoch; without it the last one is taken.
        pixels: every value that the input can take: the 256 grey levels, preprocessed, of each channel.
        section: `keep_float`, and `qat` for the training itself.
        console: gets one line per epoch.
        rewrites: which modules of ``edgekit/lower/rewrites`` may change the graph, as for `start`; None allows all.
        teacher: what to learn from, in eval mode; None: the float network.

    Raises:
        InputError: fewer than two training images.
        Shortfall: the loss is not a number, or the GPU's memory does not hold the batch.
    """
    if len(images) < 2:
        raise InputError(f"quantize.qat: the training split has {len(images)} images; at least 2 are needed")
    batch = min(section.qat.batch, len(images))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchao announces deprecations of its own helpers

        def training(batch: int) -> _Training:
            graph, _ = _prepare(module, size, batch, section, rewrites)
            _take_ranges(graph, start, pixels, section.symmetric)
            return _Training(graph, module, teacher or module, size, batch, section.qat)

        with memory.kept():
            try:
                best = training(batch).run(images, val, console)
            except torch.OutOfMemoryError as error:
                traceback.clear_frames(error.__traceback__)  # they hold the network and what it had laid out
                raise Shortfall(_no_room(batch, lambda part: training(part).try_out())) from error
        final, lowered = _prepare(module, size, 1, section, rewrites)
        final.load_state_dict(best)
        _move(final, False)
        with torch.no_grad():
            _fold_batch_norms(final)
            converted = convert_pt2e(final, fold_quantize=False)
            if rewrites is None or saturation.NAME in rewrites:
                lowered[saturation.NAME] = saturation.apply(converted)
            example = torch.zeros(1, *shape_of(size))
            open_ends = settle(converted, example, pixels)
            round_constants(converted)
            program = torch.export.export(converted, (example,), strict=False)
    return ptq.Result(program, {name: count for name, count in lowered.items() if count}, {}, open_ends)


def _no_room(batch: int, try_out: Callable[[int], None]) -> str:
    def fits(part: int) -> bool:
        try:
            try_out(part)
        except torch.OutOfMemoryError:
            return False
        return True

    text = f"quantize.qat: the GPU's memory does not hold quantize.qat.batch = {batch}"
    part = memory.part(batch, 1, fits)
    return f"{text}, but {part}: set that" if part else f"{text}, nor a single image: lower data.input"


class _MovingRange(MovingAverageMinMaxObserver):  # type: ignore[misc]
    """A symmetric grid is that of post-training quantization; torchao's clips the largest value by half a step."""

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        if self.qscheme != torch.per_tensor_symmetric:
            qparams: tuple[Tensor, Tensor] = super().calculate_qparams()
            return qparams
        scale, zero = grid(float(self.min_val), float(self.max_val), self.quant_min, self.quant_max, symmetric=True)
        like = self.min_val.new_tensor
        return like([scale]), like([zero], dtype=torch.int64)


class _FakeQuantize(FakeQuantize):  # type: ignore[misc]
    """Once its range is frozen, the scale used in training is the one that is converted, bit for bit."""

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        if self.observer_enabled[0]:
            if not torch.isfinite(self.activation_post_process.max_val).all():
                raise FloatingPointError
            qparams: tuple[Tensor, Tensor] = self.activation_post_process.calculate_qparams()
            return qparams
        return self.scale, self.zero_point


class _QatQuantizer(Int8Quantizer):
    """Disables torchao's fusion of batch norm, which assumes one ``eps`` and divides by the channel's factor."""

    def validate(self, model: GraphModule) -> None:
        """Hide batch norm from the fusion that follows annotation."""
        for node in model.graph.nodes:
            if node.op == "call_function" and node.target in BATCH_NORM:
                node.target = _batch_norm
        model.recompile()


def _batch_norm(*arguments: Any) -> Tensor:
    output: Tensor = aten.batch_norm.default(*arguments)
    return output


def _prepare(
    module: nn.Module, size: Size, batch: int, section: QuantizeSection, rewrites: Collection[str] | None
) -> tuple[GraphModule, dict[str, int]]:
    """The float graph of post-training quantization with fake quantizers in place of observers, batch norm unfolded."""
    graph, lowered = ptq.float_graph(module, size, rewrites, batch)
    quantizer = _QatQuantizer(
        _FakeQuantize.with_args(observer=_MovingRange, averaging_constant=FOLLOW),
        _FakeQuantize.with_args(observer=MovingAveragePerChannelMinMaxObserver, averaging_constant=1.0, ch_axis=0),
        section.keep_float,
        section.symmetric,
    )
    return prepare_qat_pt2e(graph, quantizer), lowered


# Ranges --------------------------------------------------------------------------------------------


def _fake_quantizers(graph: GraphModule) -> Iterator[tuple[Node, FakeQuantizeBase]]:
    for node in graph.graph.nodes:
        if node.op == "call_module":
            part = graph.get_submodule(node.target)
            if isinstance(part, FakeQuantizeBase):
                yield node, part


def _take_ranges(graph: GraphModule, start: GraphModule, pixels: Tensor, symmetric: bool = False) -> None:
    """Set every activation's range to that in a quantized graph of the same network; weights set their own.

    The input's range is that of the pixels, as the scale in `start` was already moved away from rounding ties.
    """
    sinks: list[Any] = [node for node in start.graph.nodes if node.target is QUANTIZE]
    places = list(_fake_quantizers(graph))
    for node, part in places:
        source: Any = node.args[0]
        if part.is_per_channel:
            part(constant(graph, source))
        elif source.op == "placeholder":
            part(pixels)
    others = [(node, part) for node, part in places if not part.is_per_channel]
    for (node, part), sink in zip(others, sinks, strict=True):
        source = node.args[0]
        if isinstance(part, FixedQParamsFakeQuantize) or source.op == "placeholder":
            continue
        scale, zero, low, high = float(sink.args[1]), *(int(number) for number in sink.args[2:5])
        # Settling may have extended the range beyond a clamp's bounds; the clamp would then no longer be implied.
        least, most = bounds(source) if source.target in CLAMPS else (-math.inf, math.inf)
        seen = part.activation_post_process
        low = max(low, -high) if symmetric else low  # the range of a grid with one step more below
        seen.min_val.fill_(max((low - zero) * scale, least))
        seen.max_val.fill_(min((high - zero) * scale, most))
        scales, zeros = seen.calculate_qparams()
        part.scale.copy_(scales)
        part.zero_point.copy_(zeros)


def _move(graph: GraphModule, moving: bool, norms: bool = False) -> None:
    """Let ranges and batch-norm statistics follow the data, or freeze them; input and constants never move."""
    for node, part in _fake_quantizers(graph):
        source: Any = node.args[0]
        given = source.op in ("placeholder", "get_attr") and not part.is_per_channel
        part.enable_observer(moving and not given and not isinstance(part, FixedQParamsFakeQuantize))
    for node in _batch_norms(graph):
        node.update_arg(5, moving and norms)
    graph.recompile()


def _batch_norms(graph: GraphModule) -> list[Node]:
    """Batch norms that belong to a weighted operator."""
    return [
        node
        for node in graph.graph.nodes
        if node.target is _batch_norm and node.args[0].target in WEIGHTED and len(node.args[0].users) == 1
    ]


def _fold_batch_norms(graph: GraphModule) -> None:
    """Fold into weights, biases and weight scales, in place: every rounded weight stays the same integer."""
    for node in _batch_norms(graph):
        arguments: Any = node.args
        operator, *holders, _, _, eps, _ = arguments
        gamma, beta, mean, variance = (constant(graph, holder) for holder in holders)
        share = gamma / torch.sqrt(variance + eps)
        rounded = operator.args[1]  # the fake quantizer of the weight, unless the layer stays float
        held = rounded.args[0] if rounded.op == "call_module" else rounded
        weight = constant(graph, held)
        weight.mul_(share.view(-1, *[1] * (weight.dim() - 1)))
        if rounded is not held:
            part: Any = graph.get_submodule(rounded.target)
            part.scale.mul_(share.abs()).clamp_(min=torch.finfo(torch.float32).eps)
        given = operator.args[2] if len(operator.args) > 2 else None
        old = constant(graph, given) if given is not None else torch.zeros_like(mean)
        name = f"{operator.name}_folded_bias"
        graph.register_buffer(name, (old - mean) * share + beta)
        with graph.graph.inserting_before(operator):
            bias = graph.graph.get_attr(name)
        operator.args = (*operator.args[:2], bias, *operator.args[3:])
        node.replace_all_uses_with(operator)
        graph.graph.erase_node(node)
    for node in graph.graph.nodes:
        if node.target is _batch_norm:
            node.target = aten.batch_norm.default
    graph.graph.eliminate_dead_code()
    graph.recompile()


# Training ------------------------------------------------------------------------------------------


class _Training:
    """A graph in training; `best` has the weights with the least loss on validation, or without it the last ones."""

    def __init__(
        self, graph: GraphModule, module: nn.Module, teacher: nn.Module, size: Size, batch: int, section: QatSection
    ) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.graph = graph.to(self.device)
        self.shape = shape_of(size)
        self.form = eager.fastest_format(module, torch.zeros(2, *self.shape))
        self.teacher = copy.deepcopy(teacher).to(self.device, memory_format=self.form)  # type: ignore[call-overload]
        self.batch = batch
        self.section = section
        self.parameters = [parameter for parameter in graph.parameters() if parameter.requires_grad]
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=section.lr, weight_decay=0.0)
        self.best: dict[str, Tensor] = {}
        self.least = math.inf

    def run(self, images: ImageSet, val: ImageSet | None, console: Console) -> dict[str, Tensor]:
        """All epochs; returns `best`, on the CPU."""
        epochs, steps = self.section.epochs, len(images) // self.batch
        standing = round(self.section.freeze * epochs * steps)
        for epoch in range(epochs):
            began, total = time.perf_counter(), 0.0
            _move(self.graph, epoch * steps < standing, self.section.batch_norm == "train")
            with console.bar(f"qat {epoch + 1}/{epochs}", steps) as advance:
                for step, (values, labels) in enumerate(_full(images, self.batch, epoch)):
                    done = epoch * steps + step
                    if done == standing:
                        _move(self.graph, False)
                    total += self._step(values, labels, cosine.factor(RISING, done, epochs * steps))
                    if not math.isfinite(total):
                        raise Shortfall(
                            f"quantize.qat: the loss is not a number at epoch {epoch + 1}, step {step + 1} of {steps}; "
                            f"lower quantize.qat.lr = {self.section.lr:g}"
                        )
                    advance(1, f"loss {total / (step + 1):.3f}")
            note = self._close(val)
            seconds = time.perf_counter() - began
            console.say(f"  qat epoch {epoch + 1}/{epochs}  loss {total / steps:.3f}{note}  {seconds:.0f} s")
        return self.best

    def try_out(self) -> None:
        """Take a step, to see whether the memory suffices."""
        self._step(torch.zeros(self.batch, *self.shape), torch.zeros(self.batch, dtype=torch.int64), 1.0)

    def _step(self, values: Tensor, labels: Tensor, share: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.section.lr * share
        inputs = values.to(self.device, memory_format=self.form)
        with torch.no_grad():
            wanted = per_class(self.teacher(inputs))
        section = self.section
        try:
            logits = per_class(self.graph(inputs))
        except FloatingPointError:
            return math.nan
        loss = distill.loss(logits, wanted, labels.to(self.device), section.distill, section.temperature)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()
        with torch.no_grad():
            for mean, parameter in zip(self.average, self.parameters, strict=True):
                mean.lerp_(parameter, 1 - (section.ema or 0.0))
        return loss.item()

    def _close(self, val: ImageSet | None) -> str:
        """Remember the averaged weights if they are the best so far; returns their scores as text."""
        _move(self.graph, False)
        trained = [parameter.detach().clone() for parameter in self.parameters]
        self._put(self.average)
        loss, said = -math.inf, ""
        if val is not None:
            accuracy, loss = self._validate(val)
            said = f"  val loss {loss:.3f} accuracy {accuracy:.1%}"
        if val is None or loss < self.least or not self.best:
            self.least = loss
            self.best = {key: value.detach().cpu().clone() for key, value in self.graph.state_dict().items()}
        self._put(trained)
        return said

    def _put(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.copy_(value)

    def _validate(self, images: ImageSet) -> tuple[float, float]:
        """Accuracy and loss of the quantized graph. It takes only full batches, so the last one is padded."""
        outputs, wanted, truth = [], [], []
        with torch.no_grad():
            for values, labels in batches(images, self.batch):
                missing = self.batch - len(values)
                filled = torch.cat([values, values[:1].expand(missing, -1, -1, -1)]) if missing else values
                inputs = filled.to(self.device, memory_format=self.form)
                outputs.append(self.graph(inputs)[: len(values)].cpu())
                wanted.append(per_class(self.teacher(inputs))[: len(values)].cpu())
                truth.append(labels)
        logits, labels = per_class(torch.cat(outputs)), torch.cat(truth)
        loss = distill.loss(logits, torch.cat(wanted), labels, self.section.distill, self.section.temperature)
        return (logits.argmax(1) == labels).float().mean().item(), loss.item()


def _full(images: ImageSet, batch: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches of one size, which is all the graph takes. Left-over images are used in another epoch."""
    for values, labels in batches(images, batch, epoch):
        if len(values) >= batch:
            yield values[:batch], labels[:batch]
