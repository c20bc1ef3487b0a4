"""Whether tensors of a file fit a network: by name, or by order and shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from edgekit.weights.file import State

# Of batch norm, which nothing here reads and files from before PyTorch 0.4.1 lack, and of torch's averaged models.
_COUNTERS = ("num_batches_tracked", "n_averaged")
# What Keras and JAX call the same things.
_SAME = {"gamma": "weight", "kernel": "weight", "scale": "weight", "beta": "bias"}
_SAME |= {"moving_mean": "running_mean", "moving_variance": "running_var"}


@dataclass(frozen=True)
class Slots:
    """What a network has room for."""

    tensors: State
    """Its own state dict, in the order in which it registered them."""
    head: str
    """Name of its classifier."""
    swap: bool
    """Whether a head that does not fit may keep its own values."""

    def in_head(self, name: str) -> bool:
        """Whether a tensor is the classifier's."""
        return name == self.head or name.startswith(f"{self.head}.")


@dataclass(frozen=True)
class Fit:
    """How some tensors fit."""

    state: State
    """Those to load, by the network's names; without `swapped`."""
    swapped: Mapping[str, Tensor]
    """Tensors of a head for another number of classes."""
    problems: Sequence[str]
    """What does not fit, in words; empty if they fit."""


def by_name(state: State, slots: Slots) -> Fit:
    """Hold tensors against a network by their names."""
    own = slots.tensors
    differ = [key for key in own if key in state and own[key].shape != state[key].shape]
    swapped = [key for key in differ if slots.in_head(key) and own[key].shape[1:] == state[key].shape[1:]]
    wrong = [key for key in differ if key not in swapped]
    missing = [key for key in own if key not in state and not key.endswith(_COUNTERS)]
    problems = [f"{key} is {_shape(state[key])}, the network's {_shape(own[key])}" for key in wrong]
    problems += [f"{key} is missing" for key in missing if not (slots.swap and slots.in_head(key))]
    problems += [f"{key} is not in the network" for key in state if key not in own and not slots.in_head(key)]
    loaded = {key: value for key, value in state.items() if key in own and key not in swapped}
    return Fit(loaded, {key: state[key] for key in swapped}, problems)


def by_order(state: State, slots: Slots) -> dict[str, str] | None:
    """Pair a network's tensors with those of a file: one after the other, of the same shape and kind.

    Weights, biases, means and variances have one shape in a batch norm, so the ends of their names have to agree.

    Returns:
        The file's name of each tensor by the network's, or None if any of them differ.
    """
    own = [name for name in slots.tensors if not name.endswith(_COUNTERS)]
    theirs = [name for name in state if not name.endswith(_COUNTERS)]
    if slots.swap and len(theirs) < len(own):
        own = [name for name in own if not slots.in_head(name)]
    if len(own) != len(theirs):
        return None
    for mine, other in zip(own, theirs, strict=True):
        here, there = slots.tensors[mine].shape, state[other].shape
        alike = here == there or (slots.in_head(mine) and here[1:] == there[1:])
        if not alike or _kind(mine) != _kind(other):
            return None
    return dict(zip(own, theirs, strict=True))


def _shape(tensor: Tensor) -> str:
    return "x".join(str(side) for side in tensor.shape) or "a scalar"


def _kind(name: str) -> str:
    leaf = name.rpartition(".")[2]
    return _SAME.get(leaf, leaf)
