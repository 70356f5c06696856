"""Certificates made for one test: signed by an authority of the test's own, of any age."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

AGE = timedelta(days=100)
"""How long ago every certificate began."""


class Pair(msgspec.Struct, frozen=True):
    """A certificate and its key, both PEM."""

    chain: str
    key: str


class Authority:
    """Signs certificates; `root` is what its clients trust, PEM."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named("The tests' own authority")
        unsigned = _unsigned(self._name, self._name, self._key, timedelta(days=365))
        basic = x509.BasicConstraints(ca=True, path_length=0)
        root = unsigned.add_extension(basic, critical=True).sign(self._key, hashes.SHA256())
        self.root = root.public_bytes(Encoding.PEM).decode()

    def sign(self, *names: str, left: timedelta = timedelta(days=90)) -> Pair:
        """A certificate for these names that ends in `left`, which may be over."""
        key = ec.generate_private_key(ec.SECP256R1())
        unsigned = _unsigned(_named(names[0] if names else "nobody"), self._name, key, left)
        if names:
            hosts = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
            unsigned = unsigned.add_extension(hosts, critical=False)
        signed = unsigned.sign(self._key, hashes.SHA256())
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Pair(signed.public_bytes(Encoding.PEM).decode(), private.decode())


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _unsigned(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, left: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - AGE)
        .not_valid_after(now + left)
    )
