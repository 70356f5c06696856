"""Certificates made for one test: signed by an authority of the test's own, of any age."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AGE = timedelta(days=100)
"""How long ago a certificate began, unless another age is asked for."""


class Pair(msgspec.Struct, frozen=True):
    """A certificate and its key, both PEM."""

    chain: str
    key: str


class Authority:
    """Signs certificates; `root` is what its clients trust, PEM. One below another signs in its name."""

    def __init__(
        self, above: Authority | None = None, *, left: timedelta = timedelta(days=365)
    ) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named("The tests' own authority" if above is None else "One below it")
        issuer = above or self
        unsigned = _unsigned(self._name, issuer._name, self._key, AGE, left)
        basic = x509.BasicConstraints(ca=True, path_length=1 if above is None else 0)
        own = unsigned.add_extension(basic, critical=True).sign(issuer._key, hashes.SHA256())
        text = own.public_bytes(Encoding.PEM).decode()
        self.root = text if above is None else above.root
        self._behind = "" if above is None else text

    def sign(
        self,
        *names: str,
        age: timedelta = AGE,
        left: timedelta = timedelta(days=90),
        purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
    ) -> Pair:
        """A certificate for these names, so old, that ends in `left`, which may be over."""
        key = ec.generate_private_key(ec.SECP256R1())
        unsigned = _unsigned(_named(names[0] if names else "nobody"), self._name, key, age, left)
        unsigned = unsigned.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        if names:
            hosts = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
            unsigned = unsigned.add_extension(hosts, critical=False)
        signed = unsigned.sign(self._key, hashes.SHA256())
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Pair(signed.public_bytes(Encoding.PEM).decode() + self._behind, private.decode())


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _unsigned(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    age: timedelta,
    left: timedelta,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - age)
        .not_valid_after(now + left)
    )
