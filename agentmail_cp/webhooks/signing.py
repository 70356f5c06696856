"""PURE: how a delivery is signed, so that its receiver can tell it from a forgery and from a repetition.

One signature, as Svix makes it and as Standard Webhooks 1.0.0 specifies it, under both names of its three
headers: `svix-*`, which the contract's customers verify, and `webhook-*`. The id stays the same for
every attempt; the time is that of the attempt, and verifiers refuse one more than five minutes off.
"""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from typing import Final

SECRET_PREFIX: Final = "whsec_"  # noqa: S105
FAMILIES: Final = ("svix", "webhook")
"""What the names of the headers begin with."""


def key_of(secret: str) -> bytes:
    """The key that a secret as it is shown (`whsec_` and base64) stands for. Raises ValueError."""
    return b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """One signature: `v1,` and the base64 of an HMAC-SHA256. `timestamp` is in Unix seconds."""
    signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
    return "v1," + b64encode(hmac.digest(key_of(secret), signed, "sha256")).decode()


def headers(
    secrets: Iterable[str], message_id: str, timestamp: int, body: bytes
) -> Mapping[str, str]:
    """The headers a delivery carries. With several secrets, while one replaces another, each of them signs:
    a receiver is content with one signature it can verify.
    """
    signature = " ".join(sign(secret, message_id, timestamp, body) for secret in secrets)
    values = {"id": message_id, "timestamp": str(timestamp), "signature": signature}
    return {f"{family}-{name}": value for family in FAMILIES for name, value in values.items()}
