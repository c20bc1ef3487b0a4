"""Classification data sets that torchvision can download."""

from __future__ import annotations

import inspect
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from edgekit import choices
from edgekit.config.recipe import DataSection
from edgekit.data.listing import Item, Listing, expand
from edgekit.errors import InputError
from edgekit.types import Split

USES: tuple[str, ...] = ("name", "path")
Part = tuple[dict[str, Any], Split | None]
"""Keyword arguments of the constructor, and the split that they select."""

_WHOLE: tuple[Part, ...] = (({}, None),)
_FLAG: tuple[Part, ...] = (({"train": True}, "train"), ({"train": False}, "test"))
_TWO: tuple[Part, ...] = (({"split": "train"}, "train"), ({"split": "test"}, "test"))
_THREE: tuple[Part, ...] = (({"split": "train"}, "train"), ({"split": "val"}, "val"), ({"split": "test"}, "test"))
_VALID: tuple[Part, ...] = (({"split": "train"}, "train"), ({"split": "valid"}, "val"), ({"split": "test"}, "test"))

_SETS: dict[str, tuple[Part, ...]] = {
    "CIFAR10": _FLAG,
    "CIFAR100": _FLAG,
    "Country211": _VALID,
    "DTD": _THREE,
    "EuroSAT": _WHOLE,
    "FGVCAircraft": _THREE,
    "FashionMNIST": _FLAG,
    "Flowers102": _THREE,
    "Food101": _TWO,
    "GTSRB": _TWO,
    "Imagenette": (({"split": "train"}, "train"), ({"split": "val"}, "val")),
    "KMNIST": _FLAG,
    "MNIST": _FLAG,
    "OxfordIIITPet": (({"split": "trainval"}, "train"), ({"split": "test"}, "test")),
    "RenderedSST2": _THREE,
    "STL10": _TWO,
    "SUN397": _WHOLE,
    "SVHN": _TWO,
    "USPS": _FLAG,
}


def listing(data: DataSection, base: Path, work: Path) -> Listing:
    """List a torchvision data set with its official splits, downloading it unless it already exists.

    Splits that it lacks are made from its training images. Image files stay where torchvision puts them; data sets
    that come as arrays (CIFAR10, MNIST, ...) are written as PNG, ``images/<split>/<class>/<number>.png``.

    Args:
        data: `name` is the data set, `path` the folder to download into (default: ``$XDG_CACHE_HOME/edgekit``).
        base: the recipe's folder.
        work: folder to write ``images`` into.

    Raises:
        InputError: unknown name, or the data does not exist locally and cannot be downloaded.
    """
    if data.name is None:
        raise InputError('data.name: this key is required with data.source = "torchvision", e.g. "Flowers102"')
    if data.name not in _SETS:
        raise InputError(f"data.name = {choices.no_such(data.name, _SETS, 'data set')}")
    root = _folder(data, base)
    labels: tuple[str, ...] = ()
    items: list[Item] = []
    written = False
    for options, split in _SETS[data.name]:
        part = _open(data.name, root, options)
        labels = labels or _labels(part)
        pairs = _files(part)
        if pairs is None:
            written = True
            pairs = _write(part, work / "images", split or "all")
        start = work / "images" if written else root
        items += [Item(Path(os.path.relpath(file, start)).as_posix(), label, split) for file, label in pairs]
    names = labels or tuple(str(number) for number in range(max(item.label for item in items) + 1))
    return Listing(work / "images" if written else root, names, tuple(sorted(items, key=lambda item: item.path)))


def _folder(data: DataSection, base: Path) -> Path:
    if data.path:
        return expand(data.path, base)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "edgekit"


def _open(name: str, root: Path, options: dict[str, Any]) -> Any:
    from torchvision import datasets

    kind = getattr(datasets, name)
    if "loader" in inspect.signature(kind).parameters:
        options = options | {"loader": Path}  # "loads" a path instead of an image
    try:
        root.mkdir(parents=True, exist_ok=True)
        with redirect_stdout(sys.stderr):  # stdout is for results only
            return kind(root=root, download=True, **options)
    except (OSError, RuntimeError) as error:  # urllib's URLError is an OSError; a failed checksum a RuntimeError
        reason = str(getattr(error, "reason", None) or error).splitlines()[0].rstrip(":")
        raise InputError(
            f"data.name: {name} is not in {root} and cannot be downloaded ({reason}); "
            "connect to the internet once, or set data.path to a folder that holds it"
        ) from None


def _labels(part: Any) -> tuple[str, ...]:
    names = getattr(part, "classes", ())
    return tuple(name if isinstance(name, str) else str(name[0]) for name in names)


def _files(part: Any) -> list[tuple[Path, int]] | None:
    """(file, label) of each image, or None if the data set holds arrays."""
    if hasattr(part, "loader"):
        return [(Path(file), int(label)) for file, label in (part[place] for place in range(len(part)))]
    if hasattr(part, "_samples"):  # GTSRB
        return [(Path(file), int(label)) for file, label in part._samples]
    if hasattr(part, "_images"):  # OxfordIIITPet
        return [(Path(file), int(label)) for file, label in zip(part._images, part._labels, strict=True)]
    return None


def _write(part: Any, root: Path, folder: str) -> list[tuple[Path, int]]:
    pairs = []
    for number in range(len(part)):
        image, label = part[number]
        file = root / folder / str(int(label)) / f"{number:06}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file, compress_level=1)
        pairs.append((file, int(label)))
    return pairs
