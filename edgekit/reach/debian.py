"""Debian packages without apt and without root: the index, package dependencies, and package files."""

from __future__ import annotations

import hashlib
import lzma
import re
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from edgekit.errors import InputError

MIRROR = "https://deb.debian.org/debian"
TIMEOUT = 60.0
"""Seconds to wait without receiving a byte."""
_FIELD = re.compile(r"^(Package|Version|Depends|Pre-Depends|Filename|SHA256): (.*)$", re.MULTILINE)
_ARCHIVE, _HEADER = b"!<arch>\n", 60


@dataclass(frozen=True)
class Package:
    """One package of one architecture."""

    name: str
    version: str
    file: str
    """Path relative to the mirror."""
    sha256: str
    needs: tuple[tuple[str, ...], ...]
    """Depends and Pre-Depends: any one name of each inner tuple is enough."""


def fetch(url: str) -> bytes:
    """The content behind a URL.

    Raises:
        InputError: it cannot be fetched.
    """
    try:
        # A new opener: the shared one keeps the proxies of the environment in which it was first used.
        with urllib.request.build_opener().open(url, timeout=TIMEOUT) as answer:
            content: bytes = answer.read()
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise InputError(f"{url}: cannot be fetched ({getattr(error, 'reason', error)}); check the network") from error
    return content


def index(mirror: str, suite: str, arch: str) -> dict[str, Package]:
    """Every package of a suite's ``main`` for one architecture, by name.

    The index itself is trusted because of the mirror's TLS certificate; packages are checked against the index.

    Raises:
        InputError: it cannot be fetched.
    """
    text = lzma.decompress(fetch(f"{mirror}/dists/{suite}/main/binary-{arch}/Packages.xz")).decode()
    return parse(text)


def parse(text: str) -> dict[str, Package]:
    """Packages of a ``Packages`` file by name; if there are several versions, the first."""
    packages: dict[str, Package] = {}
    for paragraph in text.split("\n\n"):
        fields = dict(_FIELD.findall(paragraph))
        if "Package" in fields and "Filename" in fields:
            wanted = ",".join(filter(None, (fields.get("Pre-Depends"), fields.get("Depends"))))
            needs = tuple(
                tuple(re.split(r"[\s(:]", choice.strip(), maxsplit=1)[0] for choice in clause.split("|"))
                for clause in wanted.split(",")
                if clause.strip()
            )
            package = Package(fields["Package"], fields["Version"], fields["Filename"], fields["SHA256"], needs)
            packages.setdefault(package.name, package)
    return packages


def closure(packages: Mapping[str, Package], roots: Sequence[str], without: Collection[str] = ()) -> list[Package]:
    """The roots and all their dependencies, sorted by name.

    Args:
        packages: `index`.
        roots: names.
        without: packages to leave out, with dependencies of theirs alone: maintainer scripts are never run here.

    Raises:
        InputError: a root is not in the index.
    """
    missing = [name for name in roots if name not in packages]
    if missing:
        raise InputError(f"the package index has no {', '.join(missing)}")
    chosen: dict[str, Package] = {}
    todo = list(roots)
    while todo:
        name = todo.pop()
        if name in chosen or name in without:
            continue
        chosen[name] = packages[name]
        for choices in packages[name].needs:
            known = [choice for choice in choices if choice in packages or choice in without]
            todo += known[:1]  # none: a virtual package, which these libraries do not need
    return [chosen[name] for name in sorted(chosen)]


def download(mirror: str, package: Package, folder: Path, say: Callable[[str], None] = lambda _: None) -> Path:
    """Download a package's file, unless it is there already with the right hash.

    Raises:
        InputError: it cannot be fetched, or does not match the index.
    """
    path = folder / Path(package.file).name
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == package.sha256:
        return path
    say(f"  {package.name} {package.version}")
    content = fetch(f"{mirror}/{package.file}")
    if hashlib.sha256(content).hexdigest() != package.sha256:
        raise InputError(f"{mirror}/{package.file}: its SHA-256 is not the one in the package index; try again")
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_bytes(content)
    partial.replace(path)
    return path


def unpack(path: Path, into: Path) -> None:
    """Write a .deb file's content below a folder (deb(5): an ar archive with a tar archive inside).

    Raises:
        InputError: it is not a .deb file, or a path in it leaves the folder.
    """
    data = _data(path.read_bytes())
    if data is None:
        raise InputError(f"{path}: not a Debian package")
    try:
        with tarfile.open(fileobj=BytesIO(data)) as tar:
            if hasattr(tarfile, "tar_filter"):
                tar.extractall(into, filter="tar")
            else:  # Python before 3.11.4, such as Debian 12's
                _check_inside(tar, into)
                tar.extractall(into)  # noqa: S202
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError) as error:
        raise InputError(f"{path}: cannot be unpacked: {error}") from error


def _check_inside(tar: tarfile.TarFile, into: Path) -> None:
    """Raise TarError if a name leads out of the folder, as the filter "tar" does."""
    root = into.resolve()
    for member in tar:
        if not (root / member.name.lstrip("/")).resolve().is_relative_to(root):
            raise tarfile.TarError(f"{member.name!r} would be extracted outside of the folder")
        member.name = member.name.lstrip("/")


def _data(content: bytes) -> bytes | None:
    """The member called data.tar.*; None if there is none."""
    if not content.startswith(_ARCHIVE):
        return None
    place = len(_ARCHIVE)
    while place + _HEADER <= len(content):
        name, size = content[place : place + 16].strip(), content[place + 48 : place + 58].strip()
        if not size.isdigit():
            return None
        place += _HEADER
        if name.startswith(b"data.tar"):
            return content[place : place + int(size)]
        place += int(size) + int(size) % 2
    return None
