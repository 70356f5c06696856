"""DKIM key pairs: how they are made, told to DNS, and kept from others until the mail server has them.

A private key exists in one of two forms: PEM, for the mail server and never stored, and sealed: AES-GCM
under a key that HKDF derives from a secret of the operator's, bound to the id of its row, so that it opens
nowhere else. Both algorithms are used: every receiver knows RSA, and ed25519 (RFC 8463) needs no long
record.
"""

from __future__ import annotations

import asyncio
import secrets
from base64 import b64encode
from typing import Final
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from agentmail_cp.domains.records import Algorithm
from agentmail_cp.settings import Settings

RSA_BITS: Final = 2048
"""What RFC 8301 asks signers for, and the longest that receivers must know."""

ALGORITHMS: Final[tuple[Algorithm, ...]] = ("ed25519", "rsa")

_NONCE: Final = 12
_PURPOSE: Final = b"agentmail-cp dkim private keys"
_ENDINGS: Final[dict[Algorithm, str]] = {"ed25519": "ed", "rsa": "rsa"}


class Unreadable(Exception):
    """A sealed key does not open: it was sealed with another secret, or for another row."""


class Pair(msgspec.Struct, frozen=True):
    """A new key. `private_key` is PEM (PKCS #8), `public_key` the base64 of a record's `p=`."""

    selector: str
    algorithm: Algorithm
    public_key: str
    private_key: str

    def __repr__(self) -> str:
        return f"Pair(selector={self.selector!r})"


async def new_pairs() -> tuple[Pair, ...]:
    """A key of each algorithm, under selectors that no other claim has."""
    return await asyncio.to_thread(_new_pairs)


def sealing_key(settings: Settings) -> bytes:
    """The key under which private keys are stored. The database's URL is the last resort, for services
    without a real mail server: it is the only other secret that all processes share.
    """
    secret = settings.dkim_secret or settings.stalwart_key or settings.database_url
    return HKDF(SHA256(), 32, salt=None, info=_PURPOSE).derive(secret.encode())


def seal(private_key: str, key: bytes, key_id: UUID) -> bytes:
    """A private key as it may be stored in the row `key_id`."""
    nonce = secrets.token_bytes(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, private_key.encode(), key_id.bytes)


def unseal(sealed: bytes, key: bytes, key_id: UUID) -> str:
    """The private key of the row `key_id`. Raises `Unreadable`."""
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], key_id.bytes).decode()
    except (InvalidTag, ValueError):
        raise Unreadable from None


def _new_pairs() -> tuple[Pair, ...]:
    stem = f"am-{secrets.token_hex(5)}"
    return tuple(_pair(f"{stem}-{_ENDINGS[algorithm]}", algorithm) for algorithm in ALGORITHMS)


def _pair(selector: str, algorithm: Algorithm) -> Pair:
    if algorithm == "rsa":
        private: RSAPrivateKey | Ed25519PrivateKey = generate_private_key(65537, RSA_BITS)
        form, encoding = PublicFormat.SubjectPublicKeyInfo, Encoding.DER
    else:
        private = Ed25519PrivateKey.generate()
        # RFC 8463 section 4: the bare key, without the ASN.1 around it.
        form, encoding = PublicFormat.Raw, Encoding.Raw
    public = private.public_key().public_bytes(encoding, form)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Pair(selector, algorithm, b64encode(public).decode(), pem.decode())
