"""Ed25519 keys (RFC 8032) in PEM files, and signatures made with them, using the `cryptography` package."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.disk.atomic import cannot_write, write_text
from edgekit.errors import InputError, need

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ALGORITHM = "ed25519"


def keygen(name: Path) -> str:
    """Make a key pair in PEM: ``NAME.key`` (PKCS 8, for its owner only) and ``NAME.pub`` (SubjectPublicKeyInfo).

    Returns:
        The public key in the form that devices expect: 32 bytes in base64.

    Raises:
        InputError: one of the files already exists, or cannot be written.
    """
    _package()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private, public = (name.with_name(f"{name.name}.{suffix}") for suffix in ("key", "pub"))
    if public.exists():
        raise InputError(f"{public}: already exists, and keys are never overwritten; give --out another name")
    key = Ed25519PrivateKey.generate()
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    secret = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
    open_text = key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    try:
        # Never readable by others, not even for a moment, and never overwriting another key.
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
            f"{private}: already exists, and keys are never overwritten; give --out another name"
        ) from None
    except OSError as error:
        raise cannot_write(private, error) from error
    return in_base64(key.public_key())


def signature(manifest: bytes, key: Path) -> bytes:
    """The member ``signature.json`` for a manifest.

    Raises:
        InputError: the file is not a private Ed25519 key.
    """
    private = private_key(key)
    content = {
        "algorithm": ALGORITHM,
        "key": in_base64(private.public_key()),
        "signature": base64.b64encode(private.sign(manifest)).decode(),
    }
    return json.dumps(content, sort_keys=True, indent=1).encode() + b"\n"


def private_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key.

    Raises:
        InputError: the file is not one, or is encrypted.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _read(path)
    if b"PUBLIC KEY" in data:
        raise InputError(f"{path}: a public key; signing needs the private one (NAME.key)")
    try:
        key = load_pem_private_key(data, None)
    except TypeError:
        raise InputError(f"{path}: the key is encrypted; give an unencrypted one") from None
    except Exception as error:  # the package raises many kinds
        raise InputError(f"{path}: not a private key in PEM; edgekit keygen makes one") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path}: not an Ed25519 key; bundles need one, as made by edgekit keygen")
    return key


def public_key(path: Path) -> Ed25519PublicKey:
    """Read a public key.

    Raises:
        InputError: the file is not one.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    data = _read(path)
    if b"PRIVATE KEY" in data:
        raise InputError(f"{path}: a private key, which should stay with its owner; give the public one (NAME.pub)")
    try:
        key = load_pem_public_key(data)
    except Exception as error:  # the package raises many kinds
        raise InputError(f"{path}: not a public key in PEM; edgekit keygen makes one") from error
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{path}: not an Ed25519 key; bundles need one, as made by edgekit keygen")
    return key


def _read(path: Path) -> bytes:
    _package()
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def in_base64(key: Ed25519PublicKey) -> str:
    """The 32 bytes of a public key in base64, the form that devices expect."""
    return base64.b64encode(key.public_bytes_raw()).decode()


def _package() -> Any:
    return need("cryptography", extra="compress", purpose="signing")
