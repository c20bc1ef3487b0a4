"""The runtime as one file that any Python 3.9 or newer can run: ``python3 edgekit-runtime.pyz``. Standard library only.

A zipapp (PEP 441) of `edgekit.runtime` with its schema and the license; the device provides the engine and NumPy.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from edgekit.disk.atomic import cannot_write, write_bytes

LIMIT = 130_000
"""The file stays smaller than this many bytes."""
HOST_ONLY = frozenset({"torch_cuda.py"})
"""Engines that small devices never run."""
MAIN = """\
import sys

if sys.version_info < (3, 9):
    sys.exit("edgekit-runtime: needs Python 3.9 or newer, this is %d.%d" % sys.version_info[:2])

from edgekit.runtime.__main__ import as_program

sys.exit(as_program(prog="edgekit-runtime.pyz"))
"""
"""The entry point, in syntax that the Pythons it refuses can still parse."""
_SHEBANG = b"#!/usr/bin/env python3\n"
_FIRST_DAY = (1980, 1, 1, 0, 0, 0)


def build() -> bytes:
    """The file's bytes, identical for identical sources, Python and zlib."""
    package = Path(__file__).parents[1]
    sources = [
        package / "__init__.py",
        *(path for path in (package / "runtime").rglob("*.py") if path.name not in HOST_ONLY),
        package / "runtime" / "manifest.schema.json",
    ]
    members = {path.relative_to(package.parent).as_posix(): path.read_bytes() for path in sources}
    members |= {"__main__.py": MAIN.encode(), "LICENSE": _license(package).read_bytes()}
    file = io.BytesIO()
    file.write(_SHEBANG)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in sorted(members.items()):
            entry = zipfile.ZipInfo(name, _FIRST_DAY)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return file.getvalue()


def _license(package: Path) -> Path:
    installed = package / "_shipped" / "LICENSE"
    return installed if installed.is_file() else package.parent / "LICENSE"


def write(path: Path) -> int:
    """Write the file and make it executable.

    Returns:
        Its size in bytes.

    Raises:
        InputError: the file cannot be written there.
        DiskFull: there is no room for it.
    """
    data = build()
    assert len(data) < LIMIT
    try:
        write_bytes(path, data)
        path.chmod(0o755)
    except OSError as error:
        raise cannot_write(path, error) from error
    return len(data)
