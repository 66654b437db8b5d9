"""Telling secrets apart without showing them."""

from __future__ import annotations

import hashlib

__all__ = ["fingerprint"]


def fingerprint(content: bytes) -> str:
    """Twelve hexadecimal digits that tell contents apart; guessing a weak secret from them costs a scrypt (RFC 7914) each."""
    return hashlib.scrypt(content, salt=b"octavia-core fingerprint", n=2**12, r=8, p=1, dklen=6).hex()
