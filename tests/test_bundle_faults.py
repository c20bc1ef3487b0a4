"""A bundle with a fault is refused with one clear line: no byte can change, no member escape, nothing be hidden."""

from __future__ import annotations

import base64
import io
import json
import os
import random
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.runtime import archive as archive_module
from edgekit.runtime import bundle as bundle_module
from edgekit.runtime import manifest_file
from edgekit.runtime.bundle import open_bundle
from edgekit.runtime.errors import RuntimeFault
from tests import bundles

SEALED = bundles.sign(bundles.seal(*bundles.contents()))
WHOLE = archive_module.canonical(SEALED)
ENTRIES = archive_module.layout(len(WHOLE), lambda start, count: WHOLE[start : start + count])


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bundle_module.Bundle]:
    """`open_bundle` for the bytes of a file."""
    path = tmp_path_factory.mktemp("faults") / "a.edgekit"

    def open_bytes(data: bytes, verify: str = "hash", **more: Any) -> bundle_module.Bundle:
        path.write_bytes(data)
        return open_bundle(path, verify=verify, **more)

    return open_bytes


def refusal(opened: Callable[..., bundle_module.Bundle], data: bytes, **more: Any) -> str:
    """What the runtime says to it: one line with the file's name."""
    with pytest.raises(RuntimeFault) as caught:
        opened(data, **more)
    message = str(caught.value)
    assert "a.edgekit: " in message
    assert "\n" not in message
    assert message.isprintable()
    return message


def flipped(place: int, mask: int) -> bytes:
    data = bytearray(WHOLE)
    data[place] ^= mask
    return bytes(data)


CONTENTS = {place for entry in ENTRIES for place in range(entry.offset, entry.offset + entry.size)}
HEADERS = sorted(set(range(len(WHOLE))) - CONTENTS)


def test_the_bundle_itself_is_sound(opened: Callable[..., bundle_module.Bundle]) -> None:
    bundle = opened(WHOLE, trusted_keys=[bundles.public()], require_signature=True)
    assert bundle.trusted
    assert len(HEADERS) == sum(30 + 46 + 2 * len(name) for name in SEALED) + 22


def test_any_flipped_byte_of_a_header_is_refused(opened: Callable[..., bundle_module.Bundle]) -> None:
    """Every byte outside of the contents; without hashes, too, since there the structure alone is left."""
    for place in HEADERS:
        refusal(opened, flipped(place, 1 << place % 8))
        refusal(opened, flipped(place, 0xFF), verify="off")


def test_any_flipped_byte_of_a_member_is_refused(opened: Callable[..., bundle_module.Bundle]) -> None:
    """First and last byte of every member, and some between."""
    generator = random.Random(0)
    for entry in ENTRIES:
        first, last = entry.offset, entry.offset + entry.size - 1
        for place in {first, last, *(generator.randint(first, last) for _ in range(20))}:
            assert entry.name in refusal(opened, flipped(place, 1 << generator.randrange(8)))


def test_a_flipped_byte_of_a_large_bundle_is_refused(opened: Callable[..., bundle_module.Bundle]) -> None:
    """Large enough to be checked in threads."""
    written, members = bundles.contents()
    for name in ("models/waste-int8.onnx", "models/waste-fp32.onnx"):
        members[name] = random.Random(name).randbytes(3_000_000)
    data = archive_module.canonical(bundles.seal(written, members))
    assert opened(data).read("models/waste-fp32.onnx") == members["models/waste-fp32.onnx"]
    for name in ("models/waste-int8.onnx", "models/waste-fp32.onnx", "labels.txt"):
        broken = bytearray(data)
        broken[data.index(members[name]) + len(members[name]) // 2] ^= 1
        assert f"{name} was changed" in refusal(opened, bytes(broken))


@pytest.mark.parametrize("by_name", [True, False])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, by_name: bool) -> None:
    """Members are read when they are needed: all of them are of the file whose structure was checked, or none."""
    path = tmp_path / "a.edgekit"
    path.write_bytes(WHOLE)
    os.utime(path, (1, 1))  # clocks of file systems are coarse
    unread = open_bundle(path, verify="off")
    checked = open_bundle(path)
    name = ENTRIES[1].name
    beside = tmp_path / "b.edgekit"
    beside.write_bytes(flipped(ENTRIES[1].offset, 1))
    if by_name:
        beside.replace(path)
    else:
        path.write_bytes(beside.read_bytes())
    with pytest.raises(RuntimeFault, match="was replaced during reading"):
        unread.read(name)
    assert checked.read(name) == SEALED[name]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_any_flip_anywhere_is_refused(opened: Callable[..., bundle_module.Bundle], place: int, mask: int) -> None:
    refusal(opened, flipped(place, mask))


def test_a_file_cut_short_at_any_length_is_refused(opened: Callable[..., bundle_module.Bundle]) -> None:
    for length in {*range(0, len(WHOLE), 7), *range(len(WHOLE) - 200, len(WHOLE)), *range(100)}:
        refusal(opened, WHOLE[:length])
        refusal(opened, WHOLE[:length], verify="off")


@settings(max_examples=150, deadline=None)
@given(st.binary(min_size=1, max_size=60), st.integers(0, len(WHOLE)))
def test_bytes_put_in_anywhere_are_refused(
    opened: Callable[..., bundle_module.Bundle], more: bytes, place: int
) -> None:
    for at in (place, 0, len(WHOLE)):
        refusal(opened, WHOLE[:at] + more + WHOLE[at:])
    refusal(opened, WHOLE + more, verify="off")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(["", "PK\3\4", "end"]))
def test_random_bytes_are_refused(opened: Callable[..., bundle_module.Bundle], data: bytes, kind: str) -> None:
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(data), 4, 0)
    for verify in ("hash", "off"):
        refusal(opened, data if not kind else b"PK\3\4" + data + (end if kind == "end" else b""), verify=verify)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(range(0, len(WHOLE), 64)), min_size=2, max_size=6, unique=True))
def test_parts_in_another_order_are_refused(opened: Callable[..., bundle_module.Bundle], cuts: list[int]) -> None:
    cuts = sorted({0, *cuts})
    parts = [WHOLE[a:b] for a, b in zip(cuts, [*cuts[1:], len(WHOLE)], strict=True)]
    for mixed in (parts[::-1], [*parts[1:], parts[0]], [*parts, parts[0]], parts[1:]):
        data = b"".join(mixed)
        assert data == WHOLE or refusal(opened, data)


# Zips of other makers ------------------------------------------------------------------------------


def zipped(
    members: Mapping[str, bytes], change: Callable[[zipfile.ZipInfo], None] | None = None, **options: Any
) -> bytes:
    """The members through `zipfile`, with the same dates and attributes, but for `change`."""
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", **options) as archive:
        warnings.simplefilter("ignore")  # "Duplicate name"
        for name, data in members.items():
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 0, 0
            info.compress_type = archive.compression
            if change:
                change(info)
            wanted = info.external_attr
            archive.writestr(info, data)  # gives a member without attributes those of a regular file
            info.external_attr = wanted
    return file.getvalue()


def ordered() -> dict[str, bytes]:
    return {name: SEALED[name] for name in (entry.name for entry in ENTRIES)}


def test_zipfile_can_write_the_same_bytes() -> None:
    """An independent writer: so the format is one that the world knows."""
    assert zipped(ordered()) == WHOLE


def test_a_compressed_member_is_refused(opened: Callable[..., bundle_module.Bundle]) -> None:
    """So there are no zip bombs: a bundle is as large as its file."""
    bomb = {**ordered(), "labels.txt": bytes(10_000_000)}
    assert "is compressed" in refusal(opened, zipped(bomb, compression=zipfile.ZIP_DEFLATED))


def test_links_are_refused(opened: Callable[..., bundle_module.Bundle]) -> None:
    def link(info: zipfile.ZipInfo) -> None:
        if info.filename == "labels.txt":
            info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16

    assert "labels.txt is a link" in refusal(opened, zipped(ordered(), link))


CHANGES: dict[str, Callable[[zipfile.ZipInfo], None]] = {
    "mode": lambda info: setattr(info, "external_attr", 0o644 << 16),
    "date": lambda info: setattr(info, "date_time", (2024, 5, 6, 7, 8, 10)),
    "comment": lambda info: setattr(info, "comment", b"hello"),
    "extra": lambda info: setattr(info, "extra", b"\xfe\xca\x00\x00"),
    "system": lambda info: setattr(info, "create_system", 3),
    "version": lambda info: setattr(info, "create_version", 45),
    "flags": lambda info: setattr(info, "filename", info.filename + "é"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_other_headers_are_refused(opened: Callable[..., bundle_module.Bundle], change: Callable[[Any], None]) -> None:
    data = zipped(ordered(), change)
    assert zipfile.ZipFile(io.BytesIO(data)).testzip() is None
    refusal(opened, data)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../up", "a/../../up", "..", "C:\\x", "a\\..\\b", "a//b", "a/", "./a", "\x1b[31m", "n" * 300],
)
def test_names_that_lead_elsewhere_are_refused(opened: Callable[..., bundle_module.Bundle], name: str) -> None:
    assert "is not a valid member name" in refusal(opened, zipped({**ordered(), name: b"x"}))


def test_a_name_twice_is_refused(opened: Callable[..., bundle_module.Bundle]) -> None:
    members = {**ordered(), "labels.txu": b"others"}
    data = zipped({name: members[name] for name in sorted(members, key=archive_module._order)})
    assert "labels.txt appears twice" in refusal(opened, data.replace(b"labels.txu", b"labels.txt"))


def test_another_order_is_refused(opened: Callable[..., bundle_module.Bundle]) -> None:
    members = ordered()
    assert "out of order" in refusal(opened, zipped(dict(reversed(list(members.items())))))
    assert "out of order" in refusal(opened, zipped({"labels.txt": members.pop("labels.txt"), **members}))


def test_a_zip_comment_is_refused(opened: Callable[..., bundle_module.Bundle]) -> None:
    file = io.BytesIO(WHOLE)
    with zipfile.ZipFile(file, "a") as archive:
        archive.comment = b"hello"
    refusal(opened, file.getvalue())


def test_zip64_is_refused(opened: Callable[..., bundle_module.Bundle]) -> None:
    end = bytearray(WHOLE)
    struct.pack_into("<2H", end, len(WHOLE) - 14, 0xFFFF, 0xFFFF)
    assert "zip64" in refusal(opened, bytes(end))
    struct.pack_into("<2H", end, len(WHOLE) - 14, len(SEALED), len(SEALED))
    struct.pack_into("<I", end, len(WHOLE) - 6, 0xFFFFFFFF)
    assert "zip64" in refusal(opened, bytes(end))


@pytest.mark.parametrize("size", [0, 1, 10**6, 2**31, 2**32 - 1])
def test_sizes_that_lie_are_refused(opened: Callable[..., bundle_module.Bundle], size: int) -> None:
    """The same lie in both headers of the first member."""
    data = bytearray(WHOLE)
    (directory,) = struct.unpack_from("<I", WHOLE, len(WHOLE) - 6)
    struct.pack_into("<2I", data, 18, size, size)
    struct.pack_into("<2I", data, directory + 20, size, size)
    for verify in ("hash", "off"):
        refusal(opened, bytes(data), verify=verify)


def test_a_crc_that_lies_is_refused(opened: Callable[..., bundle_module.Bundle]) -> None:
    """In both headers, of a member whose SHA-256 is right: other tools would call the file broken."""
    first = ENTRIES[1]
    local = first.offset - 30 - len(first.name)
    (directory,) = struct.unpack_from("<I", WHOLE, len(WHOLE) - 6)
    data = bytearray(WHOLE)
    for at in (local + 14, directory + 46 + len(ENTRIES[0].name) + 16):
        assert struct.unpack_from("<I", data, at)[0] == first.crc
        struct.pack_into("<I", data, at, first.crc ^ 1)
    assert f"{first.name} was changed (CRC-32)" in refusal(opened, bytes(data))


# Files that are no bundle --------------------------------------------------------------------------


def test_other_files(opened: Callable[..., bundle_module.Bundle], tmp_path: Path) -> None:
    assert "0 bytes (1 to " in refusal(opened, b"")
    assert "not a zip file" in refusal(opened, bundles.model(int8=True))
    assert "manifest.json is missing" in refusal(opened, archive_module.canonical({"labels.txt": b"a"}))
    assert "its directory is not where it should be" in refusal(opened, b"PK\3\4" + archive_module.canonical({}))
    assert "not a zip file" in refusal(opened, archive_module.canonical({}))
    os.mkfifo(tmp_path / "fifo.edgekit")
    for path, why in (
        (tmp_path, "not a file"),
        (tmp_path / "fifo.edgekit", "not a file"),
        ("/dev/zero", "not a file"),
        (tmp_path / "none.edgekit", "cannot be read: No such file or directory"),
        (tmp_path / "none.json", "cannot be read: No such file or directory"),
        ("a\0b.edgekit", "cannot be read: "),
        ("a\nb.edgekit", "cannot be read: "),
        ("x" * 5000, "cannot be read: File name too long"),
    ):
        with pytest.raises(RuntimeFault, match=why) as caught:
            open_bundle(path)
        assert "\n" not in str(caught.value)


def test_two_gigabytes_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large.edgekit"
    with path.open("wb") as file:
        file.truncate(2**31)  # sparse
    with pytest.raises(RuntimeFault, match=r"2147483648 bytes \(1 to 2147479552 are allowed\)"):
        open_bundle(path)


def test_out_of_memory_is_one_line(
    monkeypatch: pytest.MonkeyPatch, opened: Callable[..., bundle_module.Bundle]
) -> None:
    def nothing_left(*_: object) -> None:
        raise MemoryError

    for module, name in ((archive_module, "layout"), (manifest_file, "read")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, nothing_left)
            assert "out of memory" in refusal(opened, WHOLE)


def test_verify_has_three_levels(opened: Callable[..., bundle_module.Bundle]) -> None:
    with pytest.raises(RuntimeFault, match=r'verify="none": not allowed \(choices: golden, hash, off\)'):
        opened(WHOLE, verify="none")


# Members against the manifest ----------------------------------------------------------------------


def changed(**more: bytes | None) -> bytes:
    """The unsigned bundle with other members, whose manifest still lists the first ones; ``_`` stands for ``/``."""
    members = {**bundles.seal(*bundles.contents())}
    for name, data in more.items():
        key = name.replace("__", ".").replace("_", "/")
        if data is None:
            del members[key]
        else:
            members[key] = data
    return archive_module.canonical(members)


def test_members_are_those_that_are_listed(opened: Callable[..., bundle_module.Bundle]) -> None:
    for verify in ("hash", "off"):
        assert "extra.txt is not listed" in refusal(opened, changed(extra__txt=b"x"), verify=verify)
        assert "labels.txt is missing" in refusal(opened, changed(labels__txt=None), verify=verify)
        assert "labels.txt has 1 bytes, not " in refusal(opened, changed(labels__txt=b"x"), verify=verify)
    same_size = bundles.contents()[1]["golden/0.png"][::-1]
    assert "golden/0.png was changed (SHA-256)" in refusal(opened, changed(golden_0__png=same_size))
    assert opened(changed(golden_0__png=same_size), verify="off").read("golden/0.png") == same_size
    written, members = bundles.contents()
    unlisted = archive_module.canonical({"manifest.json": json.dumps(written).encode(), **members})
    assert '"members" is missing' in refusal(opened, unlisted)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"a\nb\nc", "3 labels for 4 outputs"),
        (b"a\nb\nc\nd\n\n", "5 labels for 4 outputs"),
        (b"a\nb\nc\n\xff", "not UTF-8 (invalid start byte at byte 6)"),
        (b"a\nb\x1b[31m\nc\nd", "control character in line 2"),
        (b"a\nb\rc\nc\nd", "control character in line 2"),
    ],
)
def test_labels_that_do_not_fit(opened: Callable[..., bundle_module.Bundle], text: bytes, why: str) -> None:
    written, members = bundles.contents()
    members["labels.txt"] = text
    assert why in refusal(opened, archive_module.canonical(bundles.seal(written, members)))


def test_a_manifest_beside_its_own_name(tmp_path: Path) -> None:
    written, members = bundles.contents()
    written["labels"] = "signature.json"
    with pytest.raises(RuntimeFault, match=r"signature\.json is a reserved name"):
        open_bundle(bundles.unpack(tmp_path, written, members))


# Signatures ----------------------------------------------------------------------------------------


def forged(change: Callable[[dict[str, Any]], Any]) -> bytes:
    members = dict(SEALED)
    content = json.loads(members["signature.json"])
    content = change(content) or content
    members["signature.json"] = json.dumps(content).encode()
    return archive_module.canonical(members)


def other(content: dict[str, Any]) -> None:
    content["key"] = bundles.public(Ed25519PrivateKey.from_private_bytes(bytes(32)))


def loose(content: dict[str, Any]) -> None:
    """Another base64 text of the same bytes: the bits after the last one are not zero."""
    assert content["key"].endswith("g=")
    content["key"] = content["key"][:-2] + "h="
    assert len(base64.b64decode(content["key"])) == 32


FORGERIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "other key": (other, "its signature by "),
    "zero": (lambda c: c.update(signature=base64.b64encode(bytes(64)).decode()), "its signature by "),
    "short": (lambda c: c.update(signature="AAAA"), "must be 32 and 64 bytes in base64"),
    "number": (lambda c: c.update(key=1), "must be 32 and 64 bytes in base64"),
    "spaces": (lambda c: c.update(key=c["key"] + "\n"), "must be 32 and 64 bytes in base64"),
    "letters": (lambda c: c.update(key="é" * 44), "must be 32 and 64 bytes in base64"),
    "loose": (loose, "must be 32 and 64 bytes in base64"),
    "more": (lambda c: c.update(x=1), "must hold algorithm, key and signature"),
    "less": (lambda c: c.pop("key") and None, "must hold algorithm, key and signature"),
    "list": (lambda _: [1], "must hold algorithm, key and signature"),
    "algorithm": (lambda c: c.update(algorithm="ed448"), 'signed with "ed448", this runtime verifies ed25519'),
}


@pytest.mark.parametrize(("change", "why"), FORGERIES.values(), ids=FORGERIES)
def test_forged_signatures(opened: Callable[..., bundle_module.Bundle], change: Callable[[Any], Any], why: str) -> None:
    for keys in ((), [bundles.public()]):
        assert why in refusal(opened, forged(change), trusted_keys=keys)


def test_a_signature_of_another_manifest(opened: Callable[..., bundle_module.Bundle]) -> None:
    written, members = bundles.contents()
    written["name"] = "other"
    sealed = {**bundles.seal(written, members), "signature.json": SEALED["signature.json"]}
    assert "its signature by " in refusal(opened, archive_module.canonical(sealed))


def test_a_signature_that_is_no_json(opened: Callable[..., bundle_module.Bundle]) -> None:
    sealed = {**SEALED, "signature.json": b"\xff{"}
    assert "signature.json: not usable JSON" in refusal(opened, archive_module.canonical(sealed))
