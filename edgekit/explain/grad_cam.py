"""Grad-CAM of the float network, by captum.

Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.errors import MissingPackage, need
from edgekit.explain.network import Array, Floats

Mapper = Callable[[Array, int], Floats]
"""From an image, float32 (channels, height, width), and a class to a map of any size, none of it below 0."""


def mapper(module: nn.Module, shape: tuple[int, int, int]) -> tuple[Mapper | None, str]:
    """What computes the maps of a network, and on which layer's output; None, and why there is nothing.

    Args:
        module: in eval mode.
        shape: of its input, (channels, height, width).
    """
    try:
        captum = need("captum.attr", extra="explain", purpose="Grad-CAM")
    except MissingPackage as error:
        return None, str(error)
    try:
        name, layer = last_map(module, torch.zeros(1, *shape))
        if layer is None:
            return None, name

        def cam(image: Array, label: int) -> Floats:
            pixels = torch.from_numpy(image[None]).requires_grad_()
            gradients = captum.LayerGradCam(lambda x: score(module(x), label), layer)
            found: Floats = gradients.attribute(pixels, relu_attributions=True)[0, 0].detach().double().numpy()
            return found

        cam(np.zeros(shape, np.float32), 0)
    except Exception as error:  # a network of the user's own may not be differentiable, in any way
        return None, f"the network has no gradients: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
    return cam, name


def score(logits: Tensor, label: int) -> Tensor:
    """The logit of a class, (n,); of a single one for two classes, the first has its negative."""
    if logits.shape[1] == 1:
        return logits[:, 0] if label else -logits[:, 0]
    return logits[:, label]


def last_map(module: nn.Module, pixels: Tensor) -> tuple[str, nn.Module | None]:
    """The last module whose output is a map of the image that every way from the image to the answer leads through.

    Found in the graph of one inference, not by names: autograd knows the ways. What has positions in another layout
    after that map, as the tokens of attention, holds later evidence, of which there is no map.

    Args:
        module: in eval mode.
        pixels: one image, float32 (1, channels, height, width).

    Returns:
        Its name and the module; or why there is none, and None.
    """
    pixels = pixels.clone().requires_grad_()
    outputs: list[tuple[str, nn.Module, Tensor]] = []
    calls: Counter[nn.Module] = Counter()

    def record(name: str) -> Callable[..., None]:
        def hook(part: nn.Module, inputs: Any, output: Any) -> None:
            calls[part] += 1
            if isinstance(output, Tensor):
                outputs.append((name, part, output))

        return hook

    hooks = [part.register_forward_hook(record(name)) for name, part in module.named_modules() if name]
    try:
        logits = module(pixels)
    finally:
        for hook in hooks:
            hook.remove()
    for name, part, output in reversed(outputs):
        if sum(size > 1 for size in output.shape[1:]) < 2:
            continue  # pooled: no positions
        if not _is_map(output, pixels):
            shape = " x ".join(map(str, output.shape[1:]))
            return f'the network has no last feature map: "{name}" gives {shape}, not channels x height x width', None
        if calls[part] == 1 and output.grad_fn is not None and _all_through(logits.grad_fn, output.grad_fn, pixels):
            return name, part
    return "the network has no feature map that all evidence goes through", None


def _is_map(output: Tensor, pixels: Tensor) -> bool:
    """Whether an output is (1, channels, height, width) with the image's aspect ratio, but for rounding."""
    if output.ndim != 4:
        return False
    (high, wide), (height, width) = output.shape[2:], pixels.shape[2:]
    return bool(high <= height and wide <= width and abs(high * width - wide * height) <= 2 * max(height, width))


def _all_through(end: Any, gate: Any, start: Tensor) -> bool:
    """Whether every way back from `end` to the leaf `start` in autograd's graph leads through `gate`."""
    met, seen, ahead = False, {gate}, [end]
    while ahead:
        node = ahead.pop()
        met = met or node is gate
        if node in seen:
            continue
        seen.add(node)
        if getattr(node, "variable", None) is start:
            return False
        ahead += [before for before, _ in node.next_functions if before is not None]
    return met
