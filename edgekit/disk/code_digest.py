"""What a result owes to edgekit's own code: a digest of the modules that made it. Standard library only.

A result that is kept depends on its inputs and on the code that made it. The modules behind a result are found by
following imports in the source, those inside functions too, so that nothing heavy is imported to know them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
NEUTRAL = (
    "edgekit.choices", "edgekit.config", "edgekit.console", "edgekit.disk", "edgekit.errors",
    "edgekit.pipeline.port", "edgekit.pipeline.provenance", "edgekit.pipeline.state", "edgekit.report.live",
)  # fmt: skip
"""Modules and packages that a result does not depend on: they carry inputs, which keys hold themselves, or messages, or
show what is going on."""
_TYPES = re.compile(r"^if TYPE_CHECKING:\n(?:[ \t].*\n|\n)+", re.M)
_FROM = re.compile(r"^[ \t]*from (edgekit[\w.]*) import (\([^)]*\)|.*)", re.M)
_IMPORT = re.compile(r"^[ \t]*import (edgekit[\w.]*)", re.M)
_MENU = re.compile(r"""(?:pick|import_module)\(\s*"(edgekit\.[\w.]+)\"""")
_QUOTED = re.compile(r'"(edgekit\.[\w.]+)"')


def digest(module: str, root: Path = ROOT) -> str:
    """SHA-256 over the source of a module and of all edgekit modules behind it, with the data files beside them.

    Args:
        module: dotted name, e.g. ``edgekit.pipeline.stages.quantize``.
        root: folder of the package ``edgekit``.
    """
    hasher = hashlib.sha256()
    for path in files(module, root):
        hasher.update(_hashed(path, root))
    return hasher.hexdigest()


@cache
def files(module: str, root: Path = ROOT) -> tuple[Path, ...]:
    """The files of `digest`, sorted: sources, and what other files lie in their folders."""
    paths: dict[str, Path] = {}
    left = [module]
    while left:
        name = left.pop()
        path = _path(name, root)
        if name in paths or path is None or (name != module and _is_neutral(name)):
            continue
        paths[name] = path
        left += _imports(path, root)
    beside = {file for folder in {path.parent for path in paths.values()} for file in _beside(folder)}
    return tuple(sorted({*paths.values(), *beside}, key=str))


@cache
def _hashed(path: Path, root: Path) -> bytes:
    return f"{path.relative_to(root).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()


@cache
def _beside(folder: Path) -> tuple[Path, ...]:
    """Data files of a package."""
    suffixes = (".py", ".pyc")
    return tuple(path for path in folder.iterdir() if path.is_file() and path.suffix not in suffixes)


def _is_neutral(name: str) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in NEUTRAL)


@cache
def _path(name: str, root: Path) -> Path | None:
    """The file of a module or package; None if there is none."""
    place = root.joinpath(*name.split(".")[1:])
    return next((path for path in (place / "__init__.py", place.with_suffix(".py")) if path.is_file()), None)


@cache
def _imports(path: Path, root: Path) -> tuple[str, ...]:
    """Names of modules that a source file may use: imported, chosen from a menu, or run as a process."""
    source = path.read_text(encoding="utf-8")
    if path.name != "__init__.py":  # the runtime's imports its names on first use
        source = _TYPES.sub("", source)
    return tuple(dict.fromkeys(_names(source, root)))


def _names(source: str, root: Path) -> Iterator[str]:
    for package, names in _FROM.findall(source):
        for word in re.sub(r"#.*", "", names).strip("()").split(","):
            module = f"{package}.{word.split(' as ')[0].strip()}"
            yield module if _path(module, root) else package
    yield from _IMPORT.findall(source)
    yield from _QUOTED.findall(source)
    for menu in _MENU.findall(source):
        folder = root.joinpath(*menu.split(".")[1:])
        yield from (f"{menu}.{path.stem}" for path in sorted(folder.glob("*.py")))
