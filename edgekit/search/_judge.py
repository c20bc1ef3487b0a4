"""Scores quantized graphs against the float network, on the same images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from edgekit.data.dataset import ImageSet
from edgekit.graph import integer_arithmetic
from edgekit.graph.logits import classes
from edgekit.quantize import ptq

IMAGES = 500
"""Most validation images on which a graph is judged."""


class Judge:
    """The float network's predictions on some images, to compare a quantized graph with.

    Args:
        module: the float network, in eval mode.
        images: gives them, float32 (channels, height, width), each time it is called.
        labels: their classes.
        said: which images these are, in words.
    """

    def __init__(
        self, module: nn.Module, images: Callable[[], Iterable[Tensor]], labels: Sequence[int], said: str
    ) -> None:
        self.images = images
        self.labels = torch.tensor(labels)
        self.wanted = self._classes(module)
        self.accuracy = _share(self.wanted, self.labels)
        self.said = said

    @classmethod
    def on_validation(cls, module: nn.Module, val: ImageSet) -> Judge:
        """On the validation split, or `IMAGES` of it."""
        val.preload()
        count = min(len(val), IMAGES)
        places = [place * len(val) // count for place in range(count)]
        labels = [val.samples[place].label for place in places]
        said = f"{count} validation images" if count == len(val) else f"{count} of {len(val)} validation images"
        return cls(module, lambda: (val[place][0] for place in places), labels, said)

    def score(self, result: ptq.Result) -> tuple[float, float]:
        """Accuracy, and agreement with the float network, in exact integer arithmetic."""
        got = self._classes(integer_arithmetic.integer_graph(result.program.module()))
        return _share(got, self.labels), _share(got, self.wanted)

    def _classes(self, module: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.no_grad():
            return torch.cat([classes(module(image.unsqueeze(0))) for image in self.images()])


def _share(a: Tensor, b: Tensor) -> float:
    return (a == b).double().mean().item()
