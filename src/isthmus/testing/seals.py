"""Opaque blocks (signatures, encrypted reasoning) that only the simulator that made them accepts back.

Vendors bind such blocks to an organisation and check them when a conversation returns. A seal does the
same, so that a gateway which drops, edits or re-routes one is refused as it would be by the vendor.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac


def seal(organisation: str, text: str) -> str:
    """The text, closed for one organisation: base64 of 16 bytes of HMAC-SHA256 and the masked text."""
    plain = text.encode()
    return base64.b64encode(_tag(organisation, plain) + _mask(plain)).decode()


def unseal(organisation: str, sealed: str) -> str | None:
    """The text of a seal of this organisation; None for anything else, be it one bit away."""
    try:
        data = base64.b64decode(sealed, validate=True)
    except (binascii.Error, ValueError):
        return None
    plain = _mask(data[16:])
    if not hmac.compare_digest(_tag(organisation, plain), data[:16]):
        return None
    return plain.decode()


def _tag(organisation: str, plain: bytes) -> bytes:
    return hmac.digest(organisation.encode(), plain, hashlib.sha256)[:16]


def _mask(data: bytes) -> bytes:
    # Not secrecy: the text must only not be legible where a reader should treat the block as opaque.
    return bytes(byte ^ 0xA5 for byte in data)
