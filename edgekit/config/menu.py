"""The validator of words that choose a module from a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgekit import choices


@dataclass(frozen=True)
class Menu:
    """Validator: the word must name a public module of `folder`."""

    folder: str

    def __call__(self, word: str) -> str:
        """The word; ValueError with the choices if there is no such module."""
        allowed = choices.names(self.folder)
        if word not in allowed:
            raise ValueError(choices.no_such(word, allowed))
        return word


def menu(folder: str) -> Callable[[str], str]:
    """The validator of words that name a module of `folder`."""
    return Menu(folder)
