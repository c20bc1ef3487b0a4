"""Ed25519 signatures: verification (RFC 8032, section 5.1.7). Standard library only.

Strict: S below the group's order, points in their canonical encoding, no key of small order (such a key "signs" more
than one message). The equation is the one without the cofactor. Not in constant time: a verifier handles no secrets.
"""

from __future__ import annotations

import hashlib

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_ROOT = pow(2, (_P - 1) // 4, _P)  # of -1

_Point = tuple[int, int, int, int]  # extended homogeneous coordinates X, Y, Z, T with x = X/Z, y = Y/Z, xy = T/Z
_ZERO: _Point = (0, 1, 1, 0)


def verify(key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` (64 bytes) is that of `message` by the public `key` (32 bytes)."""
    if len(key) != 32 or len(signature) != 64:
        return False
    a, s = _decode(key), int.from_bytes(signature[32:], "little")
    if a is None or s >= _L or _encode(_double(_double(_double(a)))) == _encode(_ZERO):
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little") % _L
    # R = S·B - k·A, both multiples in one pass over the bits (Straus).
    minus_a = (_P - a[0], a[1], 1, _P - a[3])
    table = (_ZERO, _BASE, minus_a, _add(_BASE, minus_a))
    r = _ZERO
    for bit in range(252, -1, -1):
        r = _double(r)
        choice = (s >> bit & 1) + 2 * (k >> bit & 1)
        if choice:
            r = _add(r, table[choice])
    return _encode(r) == signature[:32]  # a non-canonical encoding of R is refused


def _add(a: _Point, b: _Point) -> _Point:
    """RFC 8032, section 5.1.4."""
    ax, ay, az, at = a
    bx, by, bz, bt = b
    p, q = (ay - ax) * (by - bx) % _P, (ay + ax) * (by + bx) % _P
    c, d = 2 * _D * at * bt % _P, 2 * az * bz % _P
    e, f, g, h = q - p, d - c, d + c, q + p
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _double(a: _Point) -> _Point:
    """RFC 8032, section 5.1.4."""
    x, y, z, _ = a
    p, q = x * x % _P, y * y % _P
    h = p + q
    e, g = h - (x + y) * (x + y) % _P, p - q
    f = 2 * z * z + g
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _encode(a: _Point) -> bytes:
    inverse = pow(a[2], _P - 2, _P)
    x, y = a[0] * inverse % _P, a[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _decode(data: bytes) -> _Point | None:
    """RFC 8032, section 5.1.3; None if the bytes encode no point."""
    value = int.from_bytes(data, "little")
    sign, y = value >> 255, value & (1 << 255) - 1
    if y >= _P:
        return None
    square = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if x * x % _P != square:
        x = x * _ROOT % _P
    if x * x % _P != square or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = _P - x
    return x, y, 1, x * y % _P


_BASE = _decode((4 * pow(5, _P - 2, _P) % _P).to_bytes(32, "little")) or _ZERO
