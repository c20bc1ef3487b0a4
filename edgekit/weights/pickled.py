"""Reading torch's pickles without running anything that they name.

A checkpoint of a training script holds more than tensors: the command line (``argparse.Namespace``), hyperparameters,
paths, numpy scalars, sometimes the whole module. torch's weights-only loader refuses what it does not know. Here an
inert class takes the place of each unknown name before that loader reads the file, so that nothing of the file's
choosing is imported or called.
"""

from __future__ import annotations

import io
import pickletools
import re
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Self, cast

import torch
from torch import Tensor

# What is only kept asks for none of these; a file that does was made to run something.
_PROGRAM = re.compile(
    r"(os|posix|nt|sys|subprocess|pty|socket|shutil|runpy|importlib|webbrowser|ctypes|code|commands)\..*"
    r"|builtins\.(?!(set|frozenset|slice|complex|bytearray|range|object|dict|list|tuple|int|float|bool|str|bytes|type|"
    r"getattr)$).*"
)
_OLD = 5
"""Pickles at the start of a file from before torch 1.6: magic number, version, system, content, names of storages."""
_UNKNOWN = "it is damaged, or neither a safetensors file nor one of torch.save"


class Refused(Exception):
    """A file cannot be read as weights; the message says why, as the end of a sentence."""


class StandIn:
    """In the place of an object whose class is not loaded: remembers what it would have been made of."""

    of = ""
    """Dotted name of that class."""
    made_of: tuple[Any, ...]
    state: Any

    def __new__(cls, *made_of: Any) -> Self:
        """Remember the arguments; nothing else happens."""
        self = super().__new__(cls)
        self.made_of, self.state = made_of, None
        return self

    def __init__(self, *made_of: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Items(StandIn, list[Any]):
    """In the place of a subclass of list."""


class _Table(StandIn):
    """In the place of a subclass of dict: torch's loader fills nothing but true ones."""

    def __new__(cls, *made_of: Any) -> Self:
        """A plain table in its place."""
        return cast(Self, OrderedDict())


def load(path: Path) -> object:
    """What ``torch.save`` has written to a file: tensors (on the CPU), containers, and a `StandIn` for all else.

    Raises:
        Refused: it is no such file, it is damaged, or it asks to run something.
        OSError: it cannot be read.
    """
    kinds: dict[str, type[StandIn]] = {}
    for stream in _pickles(path):
        try:
            kinds |= _kinds(stream)
        except (ValueError, IndexError, KeyError, AttributeError, MemoryError) as error:
            # no pickle, half of one, or one that claims a string of terabytes
            raise Refused(_UNKNOWN) from error
    for name in sorted(kinds):
        if _PROGRAM.fullmatch(name):
            raise Refused(f"it asks to run {name!r}, which no weights need; nothing was run, and nothing is loaded")
    inert: list[Any] = [(type(kind.__name__, (kind,), {"of": name}), name) for name, kind in kinds.items()]
    try:
        with torch.serialization.safe_globals(inert), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise anything; torch's own advice is to switch the protection off
        raise Refused("it holds more than tensors and plain values, in a way that cannot be read safely") from error


def module_state(module: StandIn) -> dict[str, Tensor]:
    """State dict of a network that was pickled whole; empty if `module` was none."""
    parts = module.state if isinstance(module.state, Mapping) else {}
    found: dict[str, Tensor] = {}
    passing = parts.get("_non_persistent_buffers_set") or ()
    for table in ("_parameters", "_buffers"):
        own = parts.get(table)
        found |= {
            name: value
            for name, value in (own.items() if isinstance(own, Mapping) else ())
            if isinstance(value, Tensor) and name not in passing
        }
    children = parts.get("_modules")
    for name, child in children.items() if isinstance(children, Mapping) else ():
        if isinstance(child, StandIn):
            found |= {f"{name}.{key}": value for key, value in module_state(child).items()}
    return found


def _pickles(path: Path) -> Iterator[IO[bytes]]:
    """The pickles of a file: one in each zip archive of today's torch, several in a row before torch 1.6."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            file.seek(0)
            yield from (file for _ in range(_OLD))
            return
        try:
            with zipfile.ZipFile(file) as archive:
                names = archive.namelist()
                if any(name.endswith("constants.pkl") for name in names):
                    raise Refused("it is a TorchScript program: save torch.jit.load(FILE).state_dict() instead")
                yield from (io.BytesIO(archive.read(name)) for name in names if name.endswith("data.pkl"))
        except zipfile.BadZipFile as error:
            raise Refused("it is damaged or cut short") from error


def _kinds(stream: IO[bytes]) -> dict[str, type[StandIn]]:
    """What each name that a pickle uses stands for, told by what is done with its objects; nothing is executed."""
    kinds: dict[str, type[StandIn]] = {}
    memo: dict[object, str] = {}
    stack: list[str] = []  # the name behind each object, or ""
    marks: list[int] = []

    def pop(slots: list[pickletools.StackObject]) -> None:
        start = marks.pop() if pickletools.markobject in slots else len(stack) - len(slots)
        del stack[start:]

    for op, arg, _ in pickletools.genops(stream):
        match op.name:
            case "MARK":
                marks.append(len(stack))
            case "GLOBAL":
                stack.append(_global(str(arg)))
                kinds.setdefault(stack[-1], StandIn)
            case "BINPUT" | "LONG_BINPUT":
                memo[arg] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[arg])
            case "NEWOBJ" | "REDUCE" | "BUILD":
                stack.pop()
            case "APPEND" | "APPENDS" | "SETITEM" | "SETITEMS":
                pop(op.stack_before[1:])
                if stack[-1]:
                    kinds[stack[-1]] = _Items if op.name.startswith("APPEND") else _Table
            case _:
                pop(op.stack_before)
                stack.extend("" for _ in op.stack_after)
    return kinds


def _global(words: str) -> str:
    """The dotted name that a pickle's ``module name`` means today, as torch's loader translates it."""
    module, _, name = words.partition(" ")
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"
