"""From a classifier's outputs to classes: one output per class, or one logit for two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def classes(logits: Any) -> Any:
    """The class of each image: the largest output; of a single one, whether it is above zero.

    Args:
        logits: [n, outputs], a tensor or an array.

    Returns:
        int64 [n], of the same kind.
    """
    return (logits[:, 0] > 0) * 1 if logits.shape[1] == 1 else logits.argmax(1)


def per_class(logits: Tensor) -> Tensor:
    """Logits with one column for each class: a single one becomes (0, z), whose softmax is that of the sigmoid.

    Args:
        logits: [n, outputs].

    Returns:
        [n, classes].
    """
    from torch.nn import functional

    return functional.pad(logits, (1, 0)) if logits.shape[1] == 1 else logits
