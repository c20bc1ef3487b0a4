"""Post-training quantization: observe a float network on real images, then write the scales into its graph."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
from torch.export import ExportedProgram
from torchao.quantization.pt2e import PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from edgekit import choices
from edgekit.errors import InputError, Shortfall
from edgekit.quantize._annotate import Int8Quantizer
from edgekit.quantize._graph import trace
from edgekit.quantize._integer import round_biases
from edgekit.recipe import QuantizeSection


def quantize(
    module: torch.nn.Module, size: int, images: Iterable[torch.Tensor], section: QuantizeSection
) -> ExportedProgram:
    """Static int8 by calibration.

    Args:
        module: the float network, in eval mode.
        size: side of the square input.
        images: float32 tensors of shape (3, size, size), preprocessed as the network expects.
        section: the recipe's choices.

    Returns:
        The program with a Q/DQ pair at each border of an integer kernel. Weights are float, quantized in the graph.

    Raises:
        InputError: `keep_float` names a layer that is not there; no calibration images.
        Shortfall: an activation is NaN or infinite.
    """
    _check_layers(module, section.keep_float)
    observer = choices.pick("edgekit.quantize", section.range, "quantize.range").observer()
    quantizer = Int8Quantizer(observer, PerChannelMinMaxObserver, section.keep_float)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torchao announces deprecations of its own helpers
        prepared = prepare_pt2e(trace(module, size).module(), quantizer)
        seen = 0
        for image in images:
            output = prepared(image.unsqueeze(0))
            seen += 1
            if not bool(torch.isfinite(output).all()):
                raise Shortfall(
                    f"quantize: calibration image {seen} gives NaN or infinite outputs; "
                    "check the checkpoint and model.mean / model.std"
                )
        if not seen:
            raise InputError("quantize.calibration: no images in the training split to calibrate with")
        converted = convert_pt2e(prepared, fold_quantize=False)
        round_biases(converted)
        return torch.export.export(converted, (torch.zeros(1, 3, size, size),), strict=False)


def _check_layers(module: torch.nn.Module, names: Iterable[str]) -> None:
    known = [name for name, _ in module.named_modules() if name]
    for name in names:
        if name not in known:
            raise InputError(f"quantize.keep_float = {choices.no_such(name, known, 'layer')}")
