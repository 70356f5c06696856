"""PURE: mail passwords, made and hashed."""

from __future__ import annotations

import base64
import hashlib
import secrets

PASSWORD_BYTES = 24


def new_password(entropy: bytes) -> str:
    """A mail password of 192 bits out of 256 random ones. It never begins with what a spreadsheet takes for
    a formula.
    """
    text = base64.urlsafe_b64encode(entropy[:PASSWORD_BYTES]).decode()
    return text if text[0] != "-" else f"_{text[1:]}"


def password_hash(password: str) -> str:
    """`{SSHA512}` as Stalwart 0.16 takes it. The secret is random, so a slow hash would guard nothing."""
    salt = secrets.token_bytes(16)
    digest = hashlib.sha512(password.encode() + salt).digest()
    return "{SSHA512}" + base64.b64encode(digest + salt).decode()
