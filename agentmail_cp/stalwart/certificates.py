"""The certificate an operator gives for Stalwart: read, and refused with a reason when it would not do. Pure.

Stalwart 0.16 takes a certificate whatever its dates, and at the next reload or start drops one that has
expired and shows one it signed itself: mail clients warn, and nobody has said a word. So we look first.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


class BadCertificate(ValueError):
    """The certificate, or its key, cannot be used. The message says why, and never shows the key."""


class Expired(BadCertificate):
    """The certificate was good once."""


class TlsCertificate(msgspec.Struct, frozen=True):
    """A chain in PEM with its private key, and the names it is for."""

    chain: str
    key: str
    names: tuple[str, ...]

    def __repr__(self) -> str:
        return f"TlsCertificate({', '.join(self.names)})"


def read(chain: str, key: str, now: datetime | None = None) -> TlsCertificate:
    """Read a certificate, its issuers' behind it, and its key. Raises `BadCertificate`, also `Expired`."""
    try:
        own = x509.load_pem_x509_certificates(chain.encode())[0]
    except ValueError:
        raise BadCertificate("the certificate is no PEM certificate") from None
    _check_dates(own, now or datetime.now(UTC))
    names = _names(own)
    if not names:
        raise BadCertificate("the certificate names no host (subjectAltName)")
    if _public(own) != _public_of(key):
        raise BadCertificate("the key belongs to another certificate")
    return TlsCertificate(chain, key, names)


def _check_dates(own: x509.Certificate, now: datetime) -> None:
    if own.not_valid_after_utc <= now:
        raise Expired(f"the certificate expired on {own.not_valid_after_utc:%Y-%m-%d}")
    if own.not_valid_before_utc > now:
        raise BadCertificate(f"the certificate begins on {own.not_valid_before_utc:%Y-%m-%d} only")


def _names(own: x509.Certificate) -> tuple[str, ...]:
    try:
        found = own.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(found.value.get_values_for_type(x509.DNSName))


def _public(own: x509.Certificate) -> bytes:
    return own.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _public_of(key: str) -> bytes:
    try:
        private = serialization.load_pem_private_key(key.encode(), password=None)
    except (ValueError, TypeError):
        raise BadCertificate("the key is no PEM private key without a password") from None
    return private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
