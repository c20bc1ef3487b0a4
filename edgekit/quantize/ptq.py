"""Post-training quantization: observe a float network on real images, then write the scales into its graph."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torchao.quantization.pt2e import PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from edgekit import choices
from edgekit.config.recipe import QuantizeSection
from edgekit.errors import InputError, Shortfall
from edgekit.graph.exported_program import trace
from edgekit.graph.float_operators import advice, named
from edgekit.graph.integer_arithmetic import round_constants
from edgekit.lower import canonical, portable, weights
from edgekit.lower.port import GraphRewrite
from edgekit.lower.reparameterize import joined
from edgekit.lower.rewrites import (
    average_pool,
    batch_norm,
    constants,
    hard_sigmoid,
    hard_swish,
    saturation,
    silu,
    token_rows,
)
from edgekit.quantize import _correct, _ranges, faithful
from edgekit.quantize._equalize import equalize
from edgekit.quantize._replay import not_finite
from edgekit.quantize._rounding import round_weights
from edgekit.quantize.annotate import Int8Quantizer, without_kernel
from edgekit.quantize.calibration_images import Images
from edgekit.quantize.exact_scales import settle
from edgekit.quantize.histogram import Histogram
from edgekit.types import Size, shape_of

FLOAT_REWRITES: tuple[GraphRewrite, ...] = (
    batch_norm,
    constants,
    hard_swish,
    hard_sigmoid,
    silu,
    average_pool,
    token_rows,
)
"""Applied to the float graph, before anything is observed."""

EQUALIZE = 64
"""Images on which equalization measures channels."""
FEW = 8
"""Images kept for choices that run the network again."""


@dataclass(frozen=True)
class Result:
    """A quantized network, and how it was made."""

    program: ExportedProgram
    """A Q/DQ pair at each border of an integer kernel; weights are float on their grid, quantized in the graph."""
    lowered: dict[str, int]
    """How often each rewrite of ``edgekit/lower/rewrites`` was applied; without those that were not."""
    ranges: dict[str, str]
    """Range rule by tensor; empty if all are the same."""
    open_ends: int
    """Kernels whose rounding may tie, as `settle` counts them."""
    notes: tuple[str, ...] = ()
    """Remarks for the report, one line each."""


@dataclass(frozen=True)
class Observed:
    """A float graph and what calibration saw in it: enough to quantize it in several ways."""

    prepared: GraphModule
    calibration: _correct.Calibration
    size: Size
    pixels: Tensor
    images: tuple[Tensor, ...]
    """The first few, for choices that run the network again."""
    lowered: dict[str, int]
    saturate: bool
    notes: tuple[str, ...]


def quantize(
    module: torch.nn.Module,
    size: Size,
    images: Iterable[Tensor],
    pixels: Tensor,
    section: QuantizeSection,
    rewrites: Collection[str] | None = None,
) -> Result:
    """Static int8 by calibration: `observe`, then `decide`.

    Args:
        module: the float network, in eval mode; it is not changed.
        size: shape of an image.
        images: float32 tensors of that shape, preprocessed as the network expects. Some choices read
            them more than once, so an iterator is refused.
        pixels: every value that the input can take: the 256 grey levels, preprocessed, of each channel.
        section: the recipe's choices.
        rewrites: which modules of ``edgekit/lower/rewrites`` may change the graph; None allows all.

    Raises:
        InputError: a named layer does not exist; no images, or images of the wrong shape; a network that
            torch.export cannot take.
        Shortfall: a value of the network is NaN or infinite, or an operator has no int8 form and may not be float.
    """
    return decide(observe(module, size, images, pixels, section, rewrites), section)


def observe(
    module: torch.nn.Module,
    size: Size,
    images: Iterable[Tensor],
    pixels: Tensor,
    section: QuantizeSection,
    rewrites: Collection[str] | None = None,
) -> Observed:
    """Run the float network over the images and record what the choices of `section` need to know.

    The record does not grow with the number of images. Arguments and errors are those of `quantize`.
    """
    if iter(images) is images:
        raise TypeError("images: some choices read them more than once; give a list, not an iterator")
    _check_layers(module, size, "keep_float", section.keep_float)
    _check_layers(module, size, "ranges", section.ranges)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torchao announces deprecations of its own helpers
        graph, lowered = float_graph(module, size, rewrites)
        notes: list[str] = []
        weights.fold_batch_norms(graph)
        faithful.check(module, graph, images)
        if section.equalize:
            scaled, total = equalize(graph, islice(images, EQUALIZE))
            notes.append(f"equalize: channels of {scaled} of {total} groups of layers were scaled")
            faithful.check(module, graph, images)
        quantizer = Int8Quantizer(Histogram, PerChannelMinMaxObserver, section.keep_float, section.symmetric)
        prepared = prepare_pt2e(graph, quantizer)
        if section.float_operators == "refuse" and (odd := without_kernel(prepared, section.keep_float)):
            raise Shortfall(
                f"quantize: {len(odd)} operator{'s have' if len(odd) > 1 else ' has'} no int8 form: "
                f"{', '.join(map(named, odd))}; {advice(odd)}"
            )
        calibration = _correct.Calibration(prepared, moments=section.rounding == "adaptive")
        describe = images.describe if isinstance(images, Images) else str
        for number, image in enumerate(images, 1):
            _observe(calibration, image, size, describe(number))
        if not calibration.images:
            raise InputError("quantize.calibration: no images in the training split to calibrate with")
    return Observed(
        prepared=prepared,
        calibration=calibration,
        size=size,
        pixels=pixels,
        images=tuple(islice(images, FEW)),
        lowered=lowered,
        saturate=rewrites is None or saturation.NAME in rewrites,
        notes=(*notes, *_dead(prepared)),
    )


def float_graph(
    module: torch.nn.Module, size: Size, rewrites: Collection[str] | None = None, batch: int = 1
) -> tuple[GraphModule, dict[str, int]]:
    """The float graph to quantize, with batch norm not yet folded, and how often each rewrite was applied.

    Args:
        module: the float network, in eval mode; it is not changed.
        size: shape of an image.
        rewrites: as in `quantize`.
        batch: images that the graph takes at once.
    """
    graph = trace(joined(module, size), size, batch).module()  # a copy: rewrites change weights
    weights.apply(graph)
    portable.apply(graph)
    canonical.apply(graph)
    chosen = [rewrite for rewrite in FLOAT_REWRITES if rewrites is None or rewrite.NAME in rewrites]
    applied = {rewrite.NAME: rewrite.apply(graph) for rewrite in chosen}
    weights.separate(graph)
    return graph, applied


def decide(observed: Observed, section: QuantizeSection) -> Result:
    """Quantize an observed graph, which is not changed.

    Args:
        observed: with the same `keep_float`, `activations` and `equalize`, and with adaptive `rounding` if this section
            has it.
        section: the recipe's choices.

    Raises:
        InputError: a layer of `ranges` computes nothing that is quantized.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        prepared = copy.deepcopy(observed.prepared)
        ranges = _ranges.decide(prepared, section, observed.pixels, observed.images)
        converted = convert_pt2e(prepared, fold_quantize=False)
        lowered = dict(observed.lowered)
        if observed.saturate:
            lowered[saturation.NAME] = saturation.apply(converted)
        example = torch.zeros(1, *shape_of(observed.size))
        open_ends = settle(converted, example, observed.pixels)
        moments = observed.calibration.moments if section.rounding == "adaptive" else {}
        exact = _correct.weights(converted)
        rounded = round_weights(converted, moments, centred=section.bias_correction)
        if section.bias_correction:
            _correct.correct_biases(converted, exact, observed.calibration.means())
        round_constants(converted)
        program = torch.export.export(converted, (example,), strict=False)
    notes = list(observed.notes)
    if section.rounding == "adaptive" and (left := [name for name, done in rounded.items() if not done]):
        notes.append(f"rounding: {', '.join(left)} stay rounded to nearest: too wide for these images")
    return Result(program, {name: count for name, count in lowered.items() if count}, ranges, open_ends, tuple(notes))


def _observe(calibration: _correct.Calibration, image: Tensor, size: Size, name: str) -> None:
    if tuple(image.shape) != shape_of(size):
        raise InputError(
            f"quantize: calibration image {name} has the shape {tuple(image.shape)}, but the network takes "
            f"{shape_of(size)}; check data.input and data.channels"
        )
    try:
        finite = bool(torch.isfinite(calibration.observe(image.unsqueeze(0))).all())
    except FloatingPointError:  # raised by an observer
        finite = False
    if not finite:
        layer = not_finite(calibration.graph_module, image.unsqueeze(0))
        where = "itself" if layer == "input" else f'first in layer "{layer}"'
        raise Shortfall(
            f"quantize: calibration image {name} gives NaN or infinite values, {where}; "
            "check the checkpoint and model.mean / model.std"
        )


def _dead(prepared: GraphModule) -> tuple[str, ...]:
    return tuple(
        f"{_ranges.title(nodes[0])}: its output is zero on every calibration image"
        for seen, nodes in _ranges.observers(prepared).items()
        if seen.dead
    )


def _check_layers(module: torch.nn.Module, size: Size, key: str, names: Collection[str]) -> None:
    known = [name for name, _ in joined(module, size).named_modules() if name] if names else []
    for name in names:
        if name not in known:
            raise InputError(f"quantize.{key} = {choices.no_such(name, known, 'layer')}")
