"""Signature checks against RFC 8032's vectors, `cryptography`, and forgeries that a lax verifier takes."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.runtime import ed25519

# RFC 8032, section 7.1: public key, message, signature.
RFC = (
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
    (
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        hashlib.sha512(b"abc").hexdigest(),
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ),
)
P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
seeds = st.binary(min_size=32, max_size=32)


def openssl(key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


@pytest.mark.parametrize(("key", "message", "signature"), RFC)
def test_vectors_of_the_rfc(key: str, message: str, signature: str) -> None:
    words = bytes.fromhex(key), bytes.fromhex(signature), bytes.fromhex(message)
    assert openssl(*words)
    assert ed25519.verify(*words)


@settings(max_examples=60, deadline=None)
@given(seeds, st.binary(max_size=300))
def test_signatures_of_cryptography_hold(seed: bytes, message: bytes) -> None:
    private = Ed25519PrivateKey.from_private_bytes(seed)
    key = private.public_key().public_bytes_raw()
    assert ed25519.verify(key, private.sign(message), message)
    assert not ed25519.verify(key, private.sign(message), message + b"\0")


@settings(max_examples=150, deadline=None)
@given(seeds, st.binary(min_size=1, max_size=40), st.integers(0), st.integers(1, 255))
def test_a_changed_byte_never_holds(seed: bytes, message: bytes, place: int, flip: int) -> None:
    private = Ed25519PrivateKey.from_private_bytes(seed)
    words = bytearray(private.public_key().public_bytes_raw() + private.sign(message) + message)
    words[place % len(words)] ^= flip
    parts = bytes(words[:32]), bytes(words[32:96]), bytes(words[96:])
    assert not openssl(*parts)
    assert not ed25519.verify(*parts)


@settings(max_examples=100, deadline=None)
@given(seeds, st.binary(min_size=64, max_size=64), st.binary(max_size=20))
def test_random_bytes_are_no_signature(key: bytes, signature: bytes, message: bytes) -> None:
    assert not ed25519.verify(key, signature, message)


@pytest.mark.parametrize("sizes", [(31, 64), (33, 64), (32, 63), (32, 65), (0, 0)])
def test_wrong_lengths(sizes: tuple[int, int]) -> None:
    assert not ed25519.verify(bytes(sizes[0]), bytes(sizes[1]), b"")


def test_s_has_one_encoding() -> None:
    """S + L fulfils the same equation: without the bound everyone could make a second signature of the first."""
    private = Ed25519PrivateKey.from_private_bytes(bytes(32))
    key, signature = private.public_key().public_bytes_raw(), private.sign(b"m")
    s = int.from_bytes(signature[32:], "little")
    assert ed25519.verify(key, signature, b"m")
    assert not ed25519.verify(key, signature[:32] + (s + L).to_bytes(32, "little"), b"m")


@pytest.mark.parametrize(
    "key",
    [
        (1).to_bytes(32, "little"),  # the neutral element, (0, 1)
        (P - 1).to_bytes(32, "little"),  # (0, -1), of order 2
        (0).to_bytes(32, "little"),  # (sqrt(-1), 0), of order 4
        (1 << 255).to_bytes(32, "little"),
        (P + 1).to_bytes(32, "little"),  # (0, 1) once more, not reduced
        (1 | 1 << 255).to_bytes(32, "little"),  # (0, 1) once more, x = "-0"
        bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),  # of order 8
    ],
    ids=["neutral", "order 2", "order 4", "order 4, -x", "not reduced", "minus zero", "order 8"],
)
def test_keys_of_small_order_sign_nothing(key: bytes) -> None:
    """R = S·B with any S is a signature of some messages by such a key, and of all by the neutral one."""
    base = Ed25519PrivateKey.from_private_bytes(bytes(32))
    scalar = bytearray(hashlib.sha512(bytes(32)).digest()[:32])
    scalar[0] &= 248
    scalar[31] = scalar[31] & 63 | 64
    s = int.from_bytes(scalar, "little") % L
    forged = base.public_key().public_bytes_raw() + s.to_bytes(32, "little")
    messages = [bytes([number]) for number in range(32)]
    assert not any(ed25519.verify(key, forged, message) for message in messages)
    if key == (1).to_bytes(32, "little"):  # else the test would say nothing
        assert all(openssl(key, forged, message) for message in messages)


def test_points_off_the_curve_are_no_keys() -> None:
    signature = Ed25519PrivateKey.from_private_bytes(bytes(32)).sign(b"m")
    assert not any(ed25519.verify(y.to_bytes(32, "little"), signature, b"m") for y in (2, 5, 7, P, P + 3, 2**255 - 1))
