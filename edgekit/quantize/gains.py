"""What each choice of the recipe gains: compare with the same network without it, on held-out images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from edgekit.config.recipe import QuantizeSection
from edgekit.graph import integer_arithmetic
from edgekit.graph.logits import classes
from edgekit.quantize import ptq
from edgekit.types import Gain

IMAGES = 32
"""Most held-out images of the training split."""
WITHOUT: dict[str, dict[str, Any]] = {
    "range": {"range": "minmax", "ranges": {}},
    "equalize": {"equalize": False},
    "rounding": {"rounding": "nearest"},
    "bias_correction": {"bias_correction": False},
}
"""Settings that replace a choice when it is left out."""


def gains(
    module: torch.nn.Module,
    section: QuantizeSection,
    result: ptq.Result,
    make: Callable[[QuantizeSection], ptq.Result],
    images: Iterable[Tensor],
) -> tuple[Gain, ...]:
    """Leave out one choice at a time, and compare the logits with the float network's.

    Args:
        module: the float network, in eval mode.
        section: the choices that made `result`.
        result: the quantized network.
        make: quantizes the same network with other choices.
        images: held-out float32 (channels, height, width); without any, nothing is compared.

    Returns:
        One gain for each choice of `WITHOUT` that `section` makes; a range rule is compared with min-max.
    """
    images = list(images)
    if not images:
        return ()
    with torch.no_grad():
        exact = torch.cat([module(image.unsqueeze(0)) for image in images])
    full = _score(result, images, exact)
    compared = []
    for choice, settings in WITHOUT.items():
        other = section.model_copy(update=settings)
        if other != section:
            sqnr, agreement = _score(make(other), images, exact)
            compared.append(Gain(choice, (sqnr, full[0]), (agreement, full[1])))
    return tuple(compared)


def _score(result: ptq.Result, images: list[Tensor], exact: Tensor) -> tuple[float, float]:
    """SQNR of the logits in dB, and agreement of the top-1 class."""
    integer = integer_arithmetic.integer_graph(result.program.module())
    with torch.no_grad():
        got = torch.cat([integer(image.unsqueeze(0)) for image in images])
    noise = (got - exact).double().square().sum().clamp(min=1e-30)
    sqnr = 10 * torch.log10(exact.double().square().sum().clamp(min=1e-30) / noise)
    return float(sqnr), float((classes(got) == classes(exact)).float().mean())
