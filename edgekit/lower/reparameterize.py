"""Networks that train with several branches and run with one: RepVGG, MobileOne, RepViT, FastViT, GhostNetV3, ...

Such a network has methods (``fuse``, ``reparameterize``, ``switch_to_deploy``) that join its branches and batch norms;
timm calls them. Weights are trained, saved and loaded in the form with branches; graphs are made from the other.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from edgekit.graph.eager import FLOAT_NOISE
from edgekit.types import Size, shape_of

METHODS = ("fuse", "reparameterize", "switch_to_deploy")


def joined(module: nn.Module, size: Size) -> nn.Module:
    """A copy of a network whose branches are joined where it offers that and computes the same without them.

    Args:
        module: in eval mode; it is not changed.
        size: shape of an image.
    """
    if not any(hasattr(part, name) for part in module.modules() for name in METHODS):
        return copy.deepcopy(module)
    from timm.utils.model import reparameterize_model

    example = torch.randn(1, *shape_of(size), generator=torch.Generator().manual_seed(0))
    try:
        changed: nn.Module = reparameterize_model(module).eval()
        same = _same(module, changed, example)
        if not same:  # a deep net may amplify the noise of float32 sums; those of float64 have next to none
            exact = copy.deepcopy(module).double()
            same = _same(exact, reparameterize_model(exact).eval(), example.double())
    except Exception:  # a method of that name that does something else
        return copy.deepcopy(module)
    return changed if same else copy.deepcopy(module)


def _same(module: nn.Module, changed: nn.Module, example: Tensor) -> bool:
    with torch.no_grad():
        wanted, got = module(example), changed(example)
    return got.shape == wanted.shape and float((got - wanted).abs().max()) <= FLOAT_NOISE * float(wanted.abs().max())
