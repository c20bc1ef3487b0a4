"""Recipes and devices that ship with edgekit, and how a word on the command line is resolved to one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from edgekit import choices
from edgekit.errors import InputError

Folder = Literal["recipes", "devices"]


def folder(kind: Folder) -> Path:
    """Where the shipped files are: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "_shipped" / kind
    return installed if installed.is_dir() else package.parent / kind


def files(kind: Folder) -> dict[str, Path]:
    """Shipped files by name."""
    return {path.stem: path for path in sorted(folder(kind).glob("*.toml"))}


def is_path(word: str) -> bool:
    """Whether a word is a path, not the name of a shipped file."""
    return word.endswith(".toml") or "/" in word


def find(kind: Folder, word: str, base: Path | None = None) -> Path:
    """The file that a word stands for: a path (relative to `base`), or the name of a shipped file.

    Raises:
        InputError: neither; the message lists similar names.
    """
    noun = kind[:-1]
    if is_path(word):
        path = (base or Path()) / word
        if path.is_file():
            return path
        raise InputError(f"{path}: no such {noun} file")
    known = files(kind)
    if word not in known:
        raise InputError(choices.no_such(word, known, noun) + "; or give the path of a .toml file")
    return known[word]
