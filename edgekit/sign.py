"""Ed25519 keys and signatures of bundles (RFC 8032), with the `cryptography` package.

What is signed are the exact bytes of ``manifest.json``, which holds the SHA-256 of every other member.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.bundle import put
from edgekit.errors import InputError, Shortfall, need
from edgekit.runtime import _ed25519, _zip
from edgekit.runtime._bundle import open_bundle
from edgekit.runtime._errors import RuntimeFault
from edgekit.runtime._zip import MANIFEST, SIGNATURE
from edgekit.stage import cannot_write, write_text

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ALGORITHM = "ed25519"


def keygen(name: Path) -> str:
    """Make a pair of keys: ``NAME.key`` (PKCS 8, for its owner alone) and ``NAME.pub`` (SubjectPublicKeyInfo), PEM.

    Returns:
        The public key as devices take it: 32 bytes in base64.

    Raises:
        InputError: one of the files is there already, or cannot be written.
    """
    _package()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private, public = (name.with_name(f"{name.name}.{suffix}") for suffix in ("key", "pub"))
    if public.exists():
        raise InputError(f"{public}: is there already, and keys are never overwritten; give --out another name")
    key = Ed25519PrivateKey.generate()
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    secret = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
    open_text = key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    try:
        # Never readable by others, not even for a moment, and never in place of another key.
        with open(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            try:
                file.write(secret)
                file.flush()
                os.fsync(file.fileno())
                write_text(public, open_text.decode())
            except OSError:
                private.unlink()
                raise
    except FileExistsError:
        raise InputError(
            f"{private}: is there already, and keys are never overwritten; give --out another name"
        ) from None
    except OSError as error:
        raise cannot_write(private, error) from error
    return _raw(key.public_key())


def signature(manifest: bytes, key: Path) -> bytes:
    """The member ``signature.json`` for a manifest.

    Raises:
        InputError: the file is no private Ed25519 key.
    """
    private = _private(key)
    content = {
        "algorithm": ALGORITHM,
        "key": _raw(private.public_key()),
        "signature": base64.b64encode(private.sign(manifest)).decode(),
    }
    return json.dumps(content, sort_keys=True, indent=1).encode() + b"\n"


def sign(path: Path, key: Path) -> str:
    """Sign a bundle in place; an earlier signature goes.

    Returns:
        The public key, in base64.

    Raises:
        InputError: no bundle, or no private key.
    """
    members = _members(path)
    members[SIGNATURE] = signature(members[MANIFEST], key)
    put(path, members)
    return str(json.loads(members[SIGNATURE])["key"])


def verify(path: Path, key: Path) -> str:
    """Check a bundle's hashes, and that the owner of a key has signed it.

    The runtime's own verifier and that of `cryptography` are asked; both must say yes.

    Returns:
        The public key, in base64.

    Raises:
        InputError: no bundle, or no public key.
        Shortfall: not signed, signed with another key, or not what was signed.
    """
    public = _public(key)
    members = _members(path)
    if SIGNATURE not in members:
        raise Shortfall(f"{path}: not signed: edgekit sign {path} --key NAME.key")
    try:
        found = json.loads(members[SIGNATURE])
        signer, value = str(found["key"]), base64.b64decode(found["signature"], validate=True)
    except (ValueError, KeyError, TypeError):
        raise Shortfall(f"{path}: {SIGNATURE} is not as edgekit writes it") from None
    if signer != _raw(public):
        raise Shortfall(f"{path}: signed with another key, {signer}, not with {key}")
    answers = {_holds(public, value, members[MANIFEST]), _runtime_holds(public, value, members[MANIFEST])}
    if len(answers) > 1:
        raise Shortfall(f"{path}: the two verifiers disagree on its signature: do not trust it")
    if answers == {False}:
        raise Shortfall(f"{path}: the signature does not hold: the manifest is not the one that was signed")
    try:
        open_bundle(str(path), verify="hash", trusted_keys=[signer], require_signature=True)
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
    return _ed25519.verify(public.public_bytes_raw(), value, message)


def _members(path: Path) -> dict[str, bytes]:
    """All members of a bundle file as they lie there."""
    try:
        members = {name: bytes(view) for name, view in _zip.read(path.read_bytes(), str(path)).items()}
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except RuntimeFault as fault:
        raise InputError(str(fault)) from fault
    if MANIFEST not in members:
        raise InputError(f"{path}: no bundle: it holds no {MANIFEST}")
    return members


def _private(path: Path) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _read(path)
    if b"PUBLIC KEY" in data:
        raise InputError(f"{path}: a public key; signing takes the private one (NAME.key)")
    try:
        key = load_pem_private_key(data, None)
    except TypeError:
        raise InputError(f"{path}: the key is encrypted; give one that is not") from None
    except Exception as error:  # of many kinds
        raise InputError(f"{path}: not a private key in PEM as edgekit keygen writes it") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path}: a key of another kind; bundles take Ed25519, as edgekit keygen makes it")
    return key


def _public(path: Path) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    data = _read(path)
    if b"PRIVATE KEY" in data:
        raise InputError(f"{path}: a private key, which should stay with its owner; give the public one (NAME.pub)")
    try:
        key = load_pem_public_key(data)
    except Exception as error:  # of many kinds
        raise InputError(f"{path}: not a public key in PEM as edgekit keygen writes it") from error
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{path}: a key of another kind; bundles take Ed25519, as edgekit keygen makes it")
    return key


def _read(path: Path) -> bytes:
    _package()
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _raw(key: Ed25519PublicKey) -> str:
    return base64.b64encode(key.public_bytes_raw()).decode()


def _package() -> Any:
    return need("cryptography", extra="compress", purpose="signing")
