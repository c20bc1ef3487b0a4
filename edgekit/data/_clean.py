"""Decode every image once, find what is wrong with it, and do what the recipe says."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, get_args

from edgekit.config.recipe import CleanSection
from edgekit.console import Console
from edgekit.data.listing import Item, Listing, Scan
from edgekit.data.transforms import Decoded, decode, strict_pillow
from edgekit.errors import InputError
from edgekit.runtime import files
from edgekit.runtime.image_file import COLORS
from edgekit.types import Finding

Kind = Literal["unreadable", "mode", "range", "orientation", "conflict", "leak", "duplicate"]

_TITLES: dict[Kind, str] = {
    "unreadable": "cannot be read",
    "mode": "not {}",
    "range": "nearly black",
    "orientation": "rotated by EXIF",
    "conflict": "the same pixels under two labels",
    "leak": "the same pixels in two splits",
    "duplicate": "the same pixels twice",
}
_MODES = {
    "1": "black and white", "L": "grey", "LA": "grey with alpha", "I;16": "16-bit grey", "I": "32-bit grey",
    "P": "palette", "PA": "palette with alpha", "RGB": "RGB", "RGBA": "alpha", "CMYK": "CMYK", "YCbCr": "YCbCr",
    "I;16B": "16-bit grey", "I;16L": "16-bit grey", "I;16N": "16-bit grey", "F": "floating-point grey",
}  # fmt: skip
_WANTED = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_SAID = {1: "grey", 2: "grey with alpha", 3: "RGB", 4: "RGB with alpha"}
_KEEPS = {"test": 0, "val": 1, "train": 2}  # of copies in several splits, the one that ranks first stays
_DARK, _DARK_WIDE = 16, 64
"""Levels of 256 that a picture must reach; with more than 8 bits, a range that is not used is the likelier cause."""
_LISTED = 10
_SLENDER = 50


def clean(
    listing: Listing, policy: CleanSection, console: Console, channels: int = 3, slender: bool = False
) -> tuple[list[Scan], tuple[Finding, ...]]:
    """Scan all images and apply the recipe's policy for each kind of flaw.

    Exact duplicates are found by comparing the decoded, upright pixels, in the channels that the network sees. Of
    copies in several splits, the one in the test split stays, else the one in val. Of copies in one split, the first by
    path stays. Images under two labels are all dropped, as neither label can be trusted.

    Args:
        listing: what to scan.
        policy: what to do with each flaw.
        console: progress.
        channels: of the network's input.
        slender: keep images that are too slender to crop.

    Returns:
        The images that stay, in the listing's order, and the findings. If more than ten images are kept with the same
        flaw, they share one finding, which names the first of them and their number.

    Raises:
        InputError: an image has a flaw whose policy is "error", or no image is left.
    """
    images = scan(listing, console, channels, slender)
    findings: list[Finding] = []
    for kind in get_args(Kind):
        action: Literal["error", "drop", "keep"] = getattr(policy, kind)
        flaws = _find(kind, images, listing.labels, channels)
        if kind == "unreadable":
            flaws = dict(listing.problems) | flaws
        if not flaws:
            continue
        if action == "error":
            raise InputError(_explain(kind, flaws, channels))
        if action == "drop":
            images = [image for image in images if image.item.path not in flaws]
            findings += [Finding(kind, path, detail, "drop") for path, detail in flaws.items()]
        else:
            findings += _kept(kind, flaws)
    if not images:
        raise InputError(f"data: no usable image among the {len(listing.items)} in {listing.root}")
    return images, tuple(findings)


def scan(listing: Listing, console: Console, channels: int = 3, slender: bool = False) -> list[Scan]:
    """Read and decode every listed image, on one thread per core; arguments as in `clean`."""
    scans = []
    with (
        strict_pillow(),
        console.bar("reading images", len(listing.items)) as advance,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for image in pool.map(lambda item: _scan(listing.root, item, channels, slender), listing.items):
            scans.append(image)
            advance()
    return scans


def _scan(root: Path, item: Item, channels: int, slender: bool) -> Scan:
    if problem := files.trouble(str(root / item.path)):  # reading a pipe would wait for ever
        return Scan(item, problem=problem)
    try:
        file = (root / item.path).read_bytes()
        if not file:
            return Scan(item, problem="the file is empty")
        decoded = decode(file, COLORS[channels - 1])
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        return Scan(item, problem=_reason(error))
    width, height = decoded.image.size
    if not slender and max(width, height) > _SLENDER * min(width, height):
        return Scan(item, problem=f"{width}x{height} pixels are too slender to resize")
    pixels = hashlib.sha256(repr(decoded.image.size).encode() + decoded.image.tobytes()).hexdigest()
    return Scan(item, hashlib.sha256(file).hexdigest(), pixels, decoded.mode, decoded.turned, _dark(decoded))


def _dark(decoded: Decoded) -> str:
    """How little of its range an image uses, if it is nearly black; else ""."""
    colours = decoded.image if decoded.image.mode == "RGB" else decoded.image.convert("RGB")
    peak = max(high for _, high in colours.getextrema())  # type: ignore[misc]
    levels = 1 << int(peak).bit_length()
    least = _DARK_WIDE if decoded.mode[0] in "IF" else _DARK
    return "" if levels > least else f"no value above {levels / 256:.1%} of white; scale the values before saving"


def _reason(error: Exception) -> str:
    name = type(error).__name__
    if name == "UnidentifiedImageError":
        return "not an image of a known format"
    if name.startswith("DecompressionBomb"):
        return "far too many pixels (decompression bomb)"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return (str(error) or name).splitlines()[0]


def _find(kind: Kind, images: Sequence[Scan], labels: Sequence[str], channels: int) -> dict[str, str]:
    """Path and detail of each image with this flaw, in the order of `images`."""
    if kind == "unreadable":
        return {image.item.path: image.problem for image in images if image.problem}
    if kind == "range":
        return {image.item.path: image.dark for image in images if image.dark}
    if kind == "mode":
        return {
            image.item.path: _MODES.get(image.mode, image.mode) for image in images if image.mode != _WANTED[channels]
        }
    if kind == "orientation":
        return {image.item.path: "rotated or mirrored by EXIF" for image in images if image.turned}
    copies = defaultdict(list)
    for image in images:
        copies[image.pixels].append(image.item)
    flaws: dict[str, str] = {}
    for items in copies.values():
        if len(items) > 1:
            flaws.update(_copies(kind, items, labels))
    return {image.item.path: flaws[image.item.path] for image in images if image.item.path in flaws}


def _copies(kind: Kind, items: Sequence[Item], labels: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Path and detail of each image with the flaw, among images with the same pixels."""
    if kind == "conflict":
        if len({item.label for item in items}) > 1:
            for item in items:
                other = next(other for other in items if other.label != item.label)
                yield item.path, f"labelled {labels[item.label]}; {other.path} is labelled {labels[other.label]}"
    elif kind == "leak":
        stays = min(items, key=lambda item: _KEEPS[item.split or "train"])
        for item in items:
            if item.split != stays.split:
                yield item.path, f"in {item.split}; the same pixels are in {stays.split}: {stays.path}"
    else:
        first: dict[tuple[str | None, int], Item] = {}
        for item in sorted(items, key=lambda item: item.path):
            stays = first.setdefault((item.split, item.label), item)
            if item is not stays:
                yield item.path, f"same pixels as {stays.path}"


def _kept(kind: Kind, flaws: dict[str, str]) -> list[Finding]:
    """Findings about images that stay; many images with the same flaw share one finding."""
    by_detail: dict[str, list[str]] = defaultdict(list)
    for path, detail in flaws.items():
        by_detail[detail].append(path)
    findings = []
    for detail, paths in by_detail.items():
        if len(paths) > _LISTED:
            text = f"{detail}: this and {len(paths) - 1} more images"
            findings.append(Finding(kind, paths[0], text, "keep", len(paths)))
        else:
            findings += [Finding(kind, path, detail, "keep") for path in paths]
    return findings


def _explain(kind: Kind, flaws: dict[str, str], channels: int) -> str:
    shown = [f"{path} ({detail})" for path, detail in list(flaws.items())[:3]]
    more = f" and {len(flaws) - 3} more" if len(flaws) > 3 else ""
    ways = '"drop"' if kind == "unreadable" else '"drop" or "keep"'
    noun = "image" if len(flaws) == 1 else "images"
    title = _TITLES[kind].format(_SAID[channels])
    return (
        f"data: {len(flaws)} {noun}: {title}: {', '.join(shown)}{more}; "
        f"repair or remove them, or set data.clean.{kind} = {ways}"
    )
