"""Batches that are mixed with themselves: Mixup (Zhang et al. 2018), CutMix (Yun et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from edgekit.config.train_section import TrainSection

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def mixer(section: TrainSection, classes: int) -> Mix | None:
    """What mixes a batch; None if the recipe does not.

    Args:
        section: the recipe's [train]; with both, each batch takes one of the two.
        classes: number of them.

    Returns:
        A function from images [n, channels, height, width] and labels int64 [n] to mixed images and the shares of the
        classes in them, float32 [n, classes]. Its random numbers come from torch's global generator for the CPU.
    """
    from torchvision.transforms import v2

    ways: list[Mix] = []
    if section.mixup is not None:
        ways.append(v2.MixUp(alpha=section.mixup, num_classes=classes))
    if section.cutmix is not None:
        ways.append(v2.CutMix(alpha=section.cutmix, num_classes=classes))
    if not ways:
        return None
    return ways[0] if len(ways) == 1 else v2.RandomChoice(ways)
