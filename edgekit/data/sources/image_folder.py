"""A folder with one subfolder of images per class, with or without predefined splits."""

from __future__ import annotations

from pathlib import Path

from edgekit.config.recipe import DataSection
from edgekit.data.listing import (
    SPLIT_WORDS,
    Item,
    Listing,
    Problem,
    composed,
    image_files,
    label_numbers,
    read_labels,
    source_path,
    subfolders,
)
from edgekit.errors import InputError
from edgekit.types import Split

USES: tuple[str, ...] = ("path", "labels", "order")


def listing(data: DataSection, base: Path, work: Path) -> Listing:
    """List ``path/<split>/<class>/*`` where ``path/train`` holds folders, else ``path/<class>/*``.

    Split folders are train, val (or valid, validation) and test; images may lie deeper inside their class
    folder. Labels are the class folders' names (NFC) in ``data.order``, or the order of the file ``data.labels``.

    Args:
        data: `path` is the folder.
        base: the recipe's folder.
        work: not used.

    Raises:
        InputError: no such folder, no class folders, a class without images, a folder beside the splits that is
            not a split itself, two folders for one split.
    """
    root = source_path(data.path, base, "image_folder").resolve()
    if not root.is_dir():
        raise InputError(f'data.path = "{data.path}": expected a folder of images, but this is a file ({root})')
    entries: list[tuple[str, str, Split | None]] = []
    problems: list[Problem] = []
    for folder, split in _split_folders(root):
        prefix = f"{folder.name}/" if split else ""
        names, links = subfolders(folder)
        problems += [(f"{prefix}{path}", problem) for path, problem in links]
        for name in names:
            paths, flaws = image_files(folder / name)
            if not paths:
                why = f" ({flaws[0][0] or name}: {flaws[0][1]})" if flaws else ""
                raise InputError(f"{folder / name}: this class has no images{why}; add some, or remove the folder")
            entries += [(f"{prefix}{name}/{path}", composed(name), split) for path in paths]
            problems += [(f"{prefix}{name}/{path}", problem) for path, problem in flaws]
        if not any(entry[2] == split for entry in entries):
            raise InputError(f"{folder}: contains no class folders with images; expected {prefix}<class>/<image>")
    given = read_labels(data.labels, base) if data.labels else None
    labels, numbers = label_numbers({label for _, label, _ in entries}, given, data.order)
    items = tuple(Item(path, numbers[label], split) for path, label, split in sorted(entries))
    return Listing(root, labels, items, tuple(problems))


def _split_folders(root: Path) -> list[tuple[Path, Split | None]]:
    names, _ = subfolders(root)
    # A class may be called "train" (bus, car, train): then it holds images, not class folders.
    if "train" not in names or not subfolders(root / "train")[0]:
        return [(root, None)]
    strange = [name for name in names if name not in SPLIT_WORDS]
    if strange:
        raise InputError(
            f"{root}: {strange[0]}/ is beside train/ but not a split (train, val, test); move it out of this folder"
        )
    splits = [SPLIT_WORDS[name] for name in names]
    if len(set(splits)) < len(splits):
        raise InputError(f"{root}: more than one folder for the validation split ({', '.join(names)}); keep one")
    return [(root / name, split) for name, split in zip(names, splits, strict=True)]
