"""The state dicts that a weights file holds, by the name of their entry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from edgekit.errors import InputError
from edgekit.weights import pickled

State = Mapping[str, Tensor]
"""Tensors by name, in the file's order."""

_DEPTH = 3
_MOVE = 'save the network\'s state dict as weights: torch.save(network.state_dict(), "weights.pth"), or safetensors'


@dataclass(frozen=True)
class WeightsFile:
    """A file that was read."""

    name: str
    """For errors: the whole path."""
    short: str
    """For notes: the file's name."""
    entries: Mapping[str, State]
    """Every mapping of names to tensors in it, e.g. "state_dict_ema"; the name of the file's outermost one is ""."""
    ordered: bool
    """Whether its tensors are in the order in which the network registered them; safetensors files sort theirs."""


def read(path: Path) -> WeightsFile:
    """Read a ``.safetensors`` file or what ``torch.save`` wrote. Nothing in it is executed.

    Raises:
        InputError: missing, unreadable, or without tensors.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name the weights file in it (.safetensors, .pth, .ckpt)")
    if not path.is_file():
        raise InputError(f'{path}: no such weights file (or use weights = "pretrained" or "none")')
    try:
        if _is_safetensors(path):
            return WeightsFile(str(path), path.name, {"": load_file(path)}, ordered=False)
        content = pickled.load(path)
    except pickled.Refused as error:
        raise InputError(f"{path}: cannot be read as weights: {error}; {_MOVE}") from error
    except SafetensorError as error:
        raise InputError(f"{path}: cannot be read as weights: damaged ({error})") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read as weights: {error.strerror}") from error
    entries = dict(_entries(content, "", _DEPTH))
    if not entries:
        raise InputError(f"{path}: holds no state dict (a mapping of names to tensors), but {_say(content)}; {_MOVE}")
    return WeightsFile(str(path), path.name, entries, ordered=True)


def _is_safetensors(path: Path) -> bool:
    """By its content: an 8-byte length, then JSON; the name decides for files that are too short or damaged."""
    with path.open("rb") as file:
        return path.suffix == ".safetensors" or file.read(9)[8:] == b"{"


def _entries(value: object, name: str, depth: int) -> Iterator[tuple[str, State]]:
    if isinstance(value, pickled.StandIn):
        value = pickled.module_state(value)
    if not isinstance(value, Mapping) or depth < 0:
        return
    tensors = {key: tensor for key, tensor in value.items() if isinstance(key, str) and isinstance(tensor, Tensor)}
    if tensors:
        yield name, tensors
    for key, inner in value.items():
        if isinstance(key, str):
            yield from _entries(inner, f"{name}/{key}" if name else key, depth - 1)


def _say(content: object) -> str:
    if isinstance(content, pickled.StandIn):
        return f"a pickled {content.of!r}, which is not loaded"
    if isinstance(content, Mapping):
        return f"the entries {', '.join(repr(key) for key in list(content)[:8])}" if content else "an empty mapping"
    return f"a {type(content).__name__}"
