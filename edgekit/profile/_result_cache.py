"""Results kept between calls: one JSON file each, named by the hash of everything the result depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from edgekit.disk import json_file
from edgekit.errors import InputError

T = TypeVar("T")


class Keep:
    """A folder of results.

    Args:
        folder: created when the first result is kept; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._wanted: set[str] = set()

    def find(self, key: Mapping[str, Any], kind: type[T]) -> T | None:
        """The result measured earlier under the same conditions; None if there is none, or if it is damaged."""
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        try:
            return json_file.load(path, kind)
        except InputError:
            return None

    def add(self, key: Mapping[str, Any], result: Any) -> None:
        """Keep a result; safe to call from several threads."""
        path = self._path(key)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            json_file.save(path, result)

    def tidy(self) -> None:
        """Remove results that were neither looked up nor added."""
        for path in self._folder.glob("*.json") if self._folder else ():
            if path.name not in self._wanted:
                path.unlink()

    def _path(self, key: Mapping[str, Any]) -> Path | None:
        if self._folder is None:
            return None
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32] + ".json"
        self._wanted.add(name)
        return self._folder / name
