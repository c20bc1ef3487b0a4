"""Signatures of bundles: Ed25519 (RFC 8032), checked by the runtime's own verifier and by `cryptography`.

The signature covers the exact bytes of ``manifest.json``, which holds the SHA-256 of every other member.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.deploy.bundle import put
from edgekit.deploy.keys import in_base64, public_key, signature
from edgekit.errors import InputError, Shortfall
from edgekit.runtime import archive, ed25519
from edgekit.runtime.archive import MANIFEST, SIGNATURE
from edgekit.runtime.bundle import open_bundle
from edgekit.runtime.errors import RuntimeFault

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def sign(path: Path, key: Path) -> str:
    """Sign a bundle in place; an existing signature is replaced.

    Returns:
        The public key, in base64.

    Raises:
        InputError: not a bundle, or not a private key.
    """
    members = _members(path)
    members[SIGNATURE] = signature(members[MANIFEST], key)
    put(path, members)
    return str(json.loads(members[SIGNATURE])["key"])


def verify(path: Path, key: Path) -> str:
    """Check a bundle's hashes, and that the owner of a key signed it.

    Both the runtime's own verifier and that of `cryptography` must accept the signature.

    Returns:
        The public key, in base64.

    Raises:
        InputError: not a bundle, or not a public key.
        Shortfall: not signed, signed with another key, changed since it was signed, or a model needs something that
            the signature does not cover.
    """
    public = public_key(key)
    members = _members(path)
    if SIGNATURE not in members:
        raise Shortfall(f"{path}: not signed: edgekit sign {path} --key NAME.key")
    try:
        stored = json.loads(members[SIGNATURE])
        signer, value = str(stored["key"]), base64.b64decode(stored["signature"], validate=True)
    except (ValueError, KeyError, TypeError):
        raise Shortfall(f"{path}: {SIGNATURE} is malformed") from None
    if signer != in_base64(public):
        raise Shortfall(f"{path}: signed with another key, {signer}, not with {key}")
    answers = {_holds(public, value, members[MANIFEST]), _runtime_holds(public, value, members[MANIFEST])}
    if len(answers) > 1:
        raise Shortfall(f"{path}: the two verifiers disagree on its signature: do not trust it")
    if answers == {False}:
        raise Shortfall(f"{path}: the signature is invalid: the manifest is not the one that was signed")
    try:
        open_bundle(str(path), verify="hash", trusted_keys=[signer], require_signature=True).check_models()
    except RuntimeFault as fault:
        raise Shortfall(str(fault)) from fault
    return signer


def _holds(public: Ed25519PublicKey, value: bytes, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        public.verify(value, message)
    except InvalidSignature:
        return False
    return True


def _runtime_holds(public: Ed25519PublicKey, value: bytes, message: bytes) -> bool:
    return ed25519.verify(public.public_bytes_raw(), value, message)


def _members(path: Path) -> dict[str, bytes]:
    """All members of a bundle file, unchanged."""
    try:
        members = {name: bytes(view) for name, view in archive.read(path.read_bytes(), str(path)).items()}
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except RuntimeFault as fault:
        raise InputError(str(fault)) from fault
    if MANIFEST not in members:
        raise InputError(f"{path}: not a bundle: {MANIFEST} is missing")
    return members
