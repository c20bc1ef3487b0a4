"""Opening a bundle, or a hand-written manifest beside a model: what it holds is checked before it is used."""

from __future__ import annotations

import binascii
import hashlib
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgekit.runtime import archive, manifest_file, model_file
from edgekit.runtime._source import File, Folder
from edgekit.runtime.errors import RuntimeFault

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from edgekit.runtime._source import Wait

_CONTROL = re.compile("[\x00-\x1f\x7f]")
LEVELS = ("golden", "hash", "off")
"""Values of ``verify``."""


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. Made by `open_bundle`."""

    path: str
    manifest: dict[str, Any] = field(repr=False)
    """As `manifest.schema.json` describes it."""
    labels: tuple[str, ...] = field(repr=False)
    """One per output, in order; empty if the bundle has none."""
    digest: str
    """SHA-256 of manifest.json in hex: the identity of the bundle, since the manifest holds the hashes of the rest."""
    signed_by: str | None
    """Public key in base64 whose signature is valid; None for an unsigned bundle, and with ``verify="off"``."""
    trusted: bool
    """Whether that key is one of the trusted ones. Anyone can sign with a key of their own."""
    verify: str
    """What was checked: hash, off, or golden, which here means hash: replaying is left to the caller's engine."""
    _source: File | Folder = field(repr=False)

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the members, including ``manifest.json`` and ``signature.json``."""
        return self._source.names()

    def read(self, member: str) -> bytes:
        """Content of a member.

        Raises:
            RuntimeFault: there is no such member, or its file (of a hand-written manifest) is not what was listed.
        """
        return self._source.read(member)

    def view(self, member: str) -> memoryview:
        """Like `read`, for the buffer protocol."""
        return memoryview(self._source.read(member))

    def model(self, artifact: dict[str, Any]) -> bytes:
        """Content of the file of an artifact, which needs nothing outside itself; see `edgekit.runtime.model_file`.

        Raises:
            RuntimeFault: as `read`; the file is damaged, or its weights or operators lie elsewhere.
        """
        content = self._source.read(artifact["file"])
        model_file.check(content, artifact["format"], f"{self.path}: {artifact['file']}")
        return content

    def check_models(self) -> None:
        """Ask of every artifact what `model` asks of the one that runs.

        Raises:
            RuntimeFault: as `model`.
        """
        for artifact in self.manifest["artifacts"]:
            self.model(artifact)

    def artifact(self, id: str | None = None, formats: Iterable[str] | None = None) -> dict[str, Any]:  # noqa: A002
        """An entry of the manifest's ``artifacts``.

        Args:
            id: which one; None takes the first in the manifest whose format runs.
            formats: those that run here (``onnx``, ``tflite``); None allows any.

        Raises:
            RuntimeFault: there is no such artifact; the message lists those that exist.
        """
        artifacts: list[dict[str, Any]] = self.manifest["artifacts"]
        runs = None if formats is None else tuple(formats)
        for artifact in artifacts:
            if id in (None, artifact["id"]) and (runs is None or artifact["format"] in runs):
                return artifact
        there = ", ".join(f"{artifact['id']} ({artifact['format']})" for artifact in artifacts)
        wanted = " or ".join(runs or ()) + " " if runs else ""
        name = f'called "{id}" ' if id is not None else ""
        raise RuntimeFault(f"{self.path}: no {wanted}artifact {name}(there are: {there})")


def open_bundle(
    path: str | os.PathLike[str],
    verify: str = "golden",
    trusted_keys: Sequence[str | os.PathLike[str]] = (),
    require_signature: bool = False,
) -> Bundle:
    """Open a bundle, or a hand-written manifest (``*.json``) whose members are files in its folder.

    Each member is read once. The file's structure and manifest are always checked; with "golden" and "hash" so are the
    CRC-32 and SHA-256 of every member, and the signature, if any. A hand-written manifest need not list hashes;
    what it does list is checked.

    Args:
        path: the file.
        verify: "golden", "hash" or "off". Golden vectors are for the caller, who has an engine: `_golden.replay`.
        trusted_keys: public keys in base64, or files that hold one (PEM or base64). A bundle signed with another key
            is refused. An unsigned bundle is refused only with `require_signature`.
        require_signature: refuse a bundle that none of the trusted keys signed.

    Raises:
        RuntimeFault: not readable, damaged, against the schema, or not signed as required.
    """
    bundle, wait = begin(path, verify, trusted_keys, require_signature)
    wait()
    return bundle


def begin(
    path: str | os.PathLike[str],
    verify: str = "golden",
    trusted_keys: Sequence[str | os.PathLike[str]] = (),
    require_signature: bool = False,
) -> tuple[Bundle, Wait]:
    """As `open_bundle`, but threads may still be hashing, while the caller imports an engine.

    Returns:
        The bundle, and a function to call before any member is used; it raises what hashing found.

    Raises:
        RuntimeFault: as `open_bundle`, for everything but hashes.
    """
    where = os.fspath(path)
    if verify not in LEVELS:
        raise RuntimeFault(f'verify="{verify}": not allowed (choices: {", ".join(LEVELS)})')
    trusted = _trusted(trusted_keys)
    if require_signature and not trusted:
        raise RuntimeFault("require_signature needs trusted_keys: anyone can sign with a key of their own")
    if trusted and verify == "off":
        raise RuntimeFault('verify="off" does not check signatures: with trusted_keys use "hash" or "golden"')
    try:
        source = Folder(where) if where.endswith(".json") else File(where)
        raw = source.read(archive.MANIFEST)
        manifest = manifest_file.read(raw, where)
        wait = source.check(manifest, contents=verify != "off")
        try:
            key = _signer(source, raw, where) if verify != "off" else None
            labels = _labels(source, manifest, where)
        except RuntimeFault:
            wait()  # damage would explain this fault
            raise
    except MemoryError:
        raise RuntimeFault(f"{where}: out of memory while opening it") from None
    signed_by = binascii.b2a_base64(key, newline=False).decode() if key else None
    if trusted and key not in trusted and (key or require_signature):
        by = f"signed by {signed_by}" if key else "not signed"
        raise RuntimeFault(f"{where}: {by} (trusted: {', '.join(trusted.values())}); fetch it from its maker")
    digest = hashlib.sha256(raw).hexdigest()
    return Bundle(where, manifest, labels, digest, signed_by, key in trusted, verify, source), wait


def _trusted(keys: Sequence[str | os.PathLike[str]]) -> dict[bytes, str]:
    if isinstance(keys, (list, tuple)) and not keys:  # saves importing what reads signatures
        return {}
    from edgekit.runtime import _signature

    return _signature.trusted_keys(keys)


def _signer(source: File | Folder, manifest: bytes, where: str) -> bytes | None:
    if archive.SIGNATURE not in source.names():
        return None
    from edgekit.runtime import _signature

    return _signature.signer(source.read(archive.SIGNATURE), manifest, where)


def _labels(source: File | Folder, manifest: dict[str, Any], where: str) -> tuple[str, ...]:
    if "labels" not in manifest:
        return ()
    name = manifest["labels"]
    try:
        text = source.read(name).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RuntimeFault(f"{where}: {name}: not UTF-8 ({error.reason} at byte {error.start}); convert it") from None
    lines = text.replace("\r\n", "\n").split("\n")
    labels = tuple(lines[:-1] if lines[-1] == "" else lines)
    for number, label in enumerate(labels, 1):
        if _CONTROL.search(label):
            raise RuntimeFault(f"{where}: {name}: control character in line {number}; remove it")
    outputs = manifest_file.classes(manifest["artifacts"][0])
    if len(labels) != outputs and not (len(labels) == 2 and manifest_file.binary(manifest)):
        raise RuntimeFault(f"{where}: {name}: {len(labels)} labels for {outputs} outputs; one label per line is needed")
    return labels
