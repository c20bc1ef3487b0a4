"""``signature.json`` of a bundle: who vouches for its manifest."""

from __future__ import annotations

import base64
import binascii
import os
from typing import TYPE_CHECKING

from edgekit.runtime import _schema, _source, archive, ed25519
from edgekit.runtime.errors import RuntimeFault

if TYPE_CHECKING:
    from collections.abc import Iterable

# RFC 8410: SubjectPublicKeyInfo of an Ed25519 key, before its 32 bytes.
_SPKI = bytes.fromhex("302a300506032b6570032100")
_BEGIN, _END = "-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----"


def public_key(text: str) -> bytes | None:
    """The 32 bytes of an Ed25519 public key, given in PEM or base64; None if the text is neither."""
    text = text.strip()
    if not text.startswith(_BEGIN):
        return _exactly(text, 32)
    if not text.endswith(_END):
        return None
    info = _exactly("".join(text[len(_BEGIN) : -len(_END)].split()), len(_SPKI) + 32)
    return info[len(_SPKI) :] if info and info.startswith(_SPKI) else None


def trusted_keys(given: Iterable[str | os.PathLike[str]]) -> dict[bytes, str]:
    """Public keys, each with the text it was given as.

    Args:
        given: base64 text, or a file that holds one key in PEM or base64.

    Raises:
        RuntimeFault: neither.
    """
    if isinstance(given, (str, os.PathLike)):
        given = (given,)
    keys = {}
    for item in given:
        words = os.fspath(item)
        key = _exactly(words, 32) if isinstance(item, str) else None
        if key is None and not os.path.exists(words):
            raise RuntimeFault(f"trusted key {words[:200]!a}: neither a public key (32 bytes in base64) nor a file")
        if key is None:
            text = _source.contents(words, 2**16).decode("latin-1")
            key = public_key(text)
            if "PRIVATE KEY" in text:
                raise RuntimeFault(f"trusted key {words}: a private key; give the matching public key")
        if key is None:
            raise RuntimeFault(f"trusted key {words}: holds no Ed25519 public key (PEM, or 32 bytes in base64)")
        keys[key] = words
    return keys


def signer(data: bytes, manifest: bytes, path: str) -> bytes:
    """The public key that signed the manifest.

    Args:
        data: content of ``signature.json``: algorithm, key and signature.
        manifest: exact bytes of ``manifest.json``.
        path: the bundle's name in error messages.

    Raises:
        RuntimeFault: the signature of these bytes by the key it names is invalid.
    """
    stated = _schema.parse(data, f"{path}: {archive.SIGNATURE}")
    if not isinstance(stated, dict) or stated.keys() != {"algorithm", "key", "signature"}:
        raise archive.unsound(path, f"{archive.SIGNATURE} must hold algorithm, key and signature, and nothing else")
    if stated["algorithm"] != "ed25519":
        algorithm = _schema.shown(stated["algorithm"])
        raise RuntimeFault(f"{path}: signed with {algorithm}, this runtime verifies ed25519: update edgekit here")
    key, signature = _exactly(stated["key"], 32), _exactly(stated["signature"], 64)
    if key is None or signature is None:
        raise archive.unsound(path, f"{archive.SIGNATURE}: key and signature must be 32 and 64 bytes in base64")
    if not ed25519.verify(key, signature, manifest):
        raise archive.unsound(path, f"its signature by {base64.b64encode(key).decode()} is invalid")
    return key


def _exactly(text: object, size: int) -> bytes | None:
    """Exactly `size` bytes from base64; None if the text is anything but their canonical encoding."""
    if not isinstance(text, str):
        return None
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        return None
    return data if len(data) == size and base64.b64encode(data).decode() == text else None
