"""Post-training quantization: observe a float network on real images, then write the scales into its graph."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch.export import ExportedProgram
from torchao.quantization.pt2e import PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from edgekit import choices
from edgekit.errors import InputError, Shortfall
from edgekit.lower import hard_sigmoid, hard_swish, saturation, silu
from edgekit.quantize._annotate import Int8Quantizer
from edgekit.quantize._correct import Calibration, correct_biases
from edgekit.quantize._exact import settle
from edgekit.quantize._graph import trace
from edgekit.quantize._integer import round_constants
from edgekit.recipe import QuantizeSection

FLOAT_REWRITES = (hard_swish, hard_sigmoid, silu)
"""Applied to the float graph, before anything is observed."""


def quantize(
    module: torch.nn.Module,
    size: int,
    images: Iterable[torch.Tensor],
    pixels: torch.Tensor,
    section: QuantizeSection,
) -> tuple[ExportedProgram, dict[str, int]]:
    """Static int8 by calibration.

    Args:
        module: the float network, in eval mode.
        size: side of the square input.
        images: float32 tensors of shape (3, size, size), preprocessed as the network expects.
        pixels: every value that the input can take: the 256 grey levels, preprocessed, of each channel.
        section: the recipe's choices.

    Returns:
        The program with a Q/DQ pair at each border of an integer kernel (weights are float, quantized in the graph),
        and how often each rewrite of ``edgekit/lower`` was applied.

    Raises:
        InputError: `keep_float` names a layer that is not there; no calibration images.
        Shortfall: an activation is NaN or infinite.
    """
    _check_layers(module, section.keep_float)
    observer = choices.pick("edgekit.quantize", section.range, "quantize.range").observer()
    quantizer = Int8Quantizer(observer, PerChannelMinMaxObserver, section.keep_float)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torchao announces deprecations of its own helpers
        graph: Any = trace(copy.deepcopy(module), size).module()  # rewrites change weights
        lowered = {rewrite.NAME: rewrite.apply(graph) for rewrite in FLOAT_REWRITES}
        prepared = prepare_pt2e(graph, quantizer)
        calibration = Calibration(prepared)
        for image in images:
            if not bool(torch.isfinite(calibration.observe(image.unsqueeze(0))).all()):
                raise Shortfall(
                    f"quantize: calibration image {calibration.images} gives NaN or infinite outputs; "
                    "check the checkpoint and model.mean / model.std"
                )
        if not calibration.images:
            raise InputError("quantize.calibration: no images in the training split to calibrate with")
        converted = convert_pt2e(prepared, fold_quantize=False)
        lowered[saturation.NAME] = saturation.apply(converted)
        settle(converted, torch.zeros(1, 3, size, size), pixels)
        if section.bias_correction:
            correct_biases(converted, calibration.means())
        round_constants(converted)
        program = torch.export.export(converted, (torch.zeros(1, 3, size, size),), strict=False)
    return program, {name: count for name, count in lowered.items() if count}


def _check_layers(module: torch.nn.Module, names: Iterable[str]) -> None:
    known = [name for name, _ in module.named_modules() if name]
    for name in names:
        if name not in known:
            raise InputError(f"quantize.keep_float = {choices.no_such(name, known, 'layer')}")
