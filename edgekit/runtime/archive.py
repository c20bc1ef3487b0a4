"""The container of a bundle: a zip file whose every byte follows from the names and contents of its members.

Members are stored, not compressed, one right after the other: ``manifest.json`` first, ``signature.json`` last, the
others by name. Dates, attributes and flags are fixed; there are no extra fields, comments or zip64 records. So a reader
can work out each header itself and compare: a flipped, added or missing byte is refused, and the same content always
gives the same file. Any zip tool reads it (APPNOTE.TXT, the .ZIP File Format Specification 6.3.10).
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

from edgekit.runtime.errors import RuntimeFault

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn

MANIFEST, SIGNATURE = "manifest.json", "signature.json"
LIMIT = 0x7FFFF000
"""Most bytes of a file, just below 2 GiB: what Linux reads in one call, and what any reader takes without zip64."""
MOST = 10_000
"""Most members of a bundle."""
LONGEST = 403
"""Most bytes of a name."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}(/[A-Za-z0-9][A-Za-z0-9._-]{0,99}){0,3}")  # `member` of the schema
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_VERSION, _DATE = 20, 0x21  # 1980-01-01, the first day a zip file knows
_LINK, _KIND = 0o120000, 0o170000


class Entry(NamedTuple):
    """A member's place in the file."""

    name: str
    offset: int
    size: int
    crc: int
    """CRC-32 that the headers state; not yet compared with the content."""


def unsound(path: str, why: str) -> RuntimeFault:
    """The fault of a file that is not an intact bundle."""
    return RuntimeFault(f"{path}: not a sound bundle: {why}; fetch or pack it again")


def read(data: bytes | memoryview, path: str = "bundle") -> dict[str, memoryview]:
    """Members by name, in the file's order, as views of `data`.

    Args:
        data: the whole file.
        path: its name in error messages.

    Raises:
        RuntimeFault: any byte differs from what `canonical` writes.
    """
    view = memoryview(data)
    members = {}
    for name, offset, size, crc in layout(len(view), lambda start, count: bytes(view[start : start + count]), path):
        members[name] = view[offset : offset + size]
        if zlib.crc32(members[name]) != crc:
            raise unsound(path, f"{name} was changed (CRC-32)")
    return members


def layout(size: int, fetch: Callable[[int, int], bytes], path: str = "bundle") -> list[Entry]:
    """Where the members are: names and headers are checked, contents are not.

    Args:
        size: size of the file in bytes.
        fetch: takes an offset and a count, and returns those bytes of the file.
        path: its name in error messages.

    Raises:
        RuntimeFault: a byte outside the contents differs from what `canonical` writes.
    """

    def refuse(why: str) -> NoReturn:
        raise unsound(path, why)

    if size > LIMIT:
        refuse("2 GiB or more")
    end = size - _END.size
    if end < 0 or fetch(0, 4) != b"PK\3\4":
        refuse("not a zip file")
    tag, disk, disks, count, total, length, start, comment = _END.unpack(fetch(end, _END.size))
    if tag != b"PK\5\6":
        refuse("its end is missing, or something was appended")
    if 0xFFFF in (count, total) or 0xFFFFFFFF in (length, start):
        refuse("zip64")
    largest = MOST * (_CENTRAL.size + LONGEST)
    if (disk, disks, comment, total) != (0, 0, 0, count) or start + length != end or length > largest:
        refuse("its directory is not where it should be")
    if count > MOST:
        refuse(f"{count} members (at most {MOST})")
    directory = fetch(start, length)
    entries: list[Entry] = []
    seen: set[str] = set()
    here = at = 0
    for _ in range(count):
        if at + _CENTRAL.size > length:
            refuse("its directory ends early")
        field = _CENTRAL.unpack_from(directory, at)
        method, crc, bytes_of_member, bytes_of_name, attributes = field[4], field[7], field[9], field[10], field[15]
        stop = at + _CENTRAL.size + bytes_of_name
        raw = directory[at + _CENTRAL.size : stop]
        name = raw.decode("latin-1")
        if not NAME.fullmatch(name):
            refuse(f"{name[:80]!a} is not a valid member name")
        if attributes >> 16 & _KIND == _LINK:
            refuse(f"{name} is a link")
        if method:
            refuse(f"{name} is compressed")
        if entries and _order(name) <= _order(entries[-1].name):
            refuse(f"{name} appears twice" if name in seen else f"{name} is out of order")
        first = here + _LOCAL.size + len(raw)
        if first + bytes_of_member > start:
            refuse(f"{name} is larger than its space")
        headers = _local(raw, crc, bytes_of_member), _central(raw, crc, bytes_of_member, here)
        if (fetch(here, first - here), directory[at:stop]) != headers:
            refuse(f"the header of {name} was changed")
        entries.append(Entry(name, first, bytes_of_member, crc))
        seen.add(name)
        here, at = first + bytes_of_member, stop
    if (here, at) != (start, length):
        refuse("it holds bytes that belong to no member")
    return entries


def canonical(members: Mapping[str, bytes]) -> bytes:
    """The one zip file with these members.

    Raises:
        RuntimeFault: a name that a bundle may not hold, or too much content.
    """
    chunks: list[bytes] = []
    directory: list[bytes] = []
    here = 0
    for name in sorted(members, key=_order):
        if not NAME.fullmatch(name):
            raise RuntimeFault(f"{name!a}: not a valid member name: letters, digits, . _ - and up to three /")
        content, raw = members[name], name.encode("ascii")
        crc = zlib.crc32(content)
        if here + len(content) > LIMIT:
            raise RuntimeFault(f"{name}: the bundle would reach 2 GiB; pack fewer files")
        directory.append(_central(raw, crc, len(content), here))
        chunks += [_local(raw, crc, len(content)), content]
        here += _LOCAL.size + len(raw) + len(content)
    length = sum(map(len, directory))
    if here + length + _END.size > LIMIT or len(directory) > MOST:
        raise RuntimeFault(f"a bundle holds less than 2 GiB and at most {MOST} members; pack fewer files")
    end = _END.pack(b"PK\5\6", 0, 0, len(directory), len(directory), length, here, 0)
    return b"".join([*chunks, *directory, end])


def _order(name: str) -> tuple[int, str]:
    return ({MANIFEST: 0, SIGNATURE: 2}.get(name, 1), name)


def _local(name: bytes, crc: int, size: int) -> bytes:
    return _LOCAL.pack(b"PK\3\4", _VERSION, 0, 0, 0, _DATE, crc, size, size, len(name), 0) + name


def _central(name: bytes, crc: int, size: int, offset: int) -> bytes:
    fixed = (_VERSION, _VERSION, 0, 0, 0, _DATE)
    return _CENTRAL.pack(b"PK\1\2", *fixed, crc, size, size, len(name), 0, 0, 0, 0, 0, offset) + name
