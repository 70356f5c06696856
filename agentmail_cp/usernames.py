"""Usernames: the part of an inbox's address before the `@`.

Owns which names are allowed (seed 003), which are kept back, and how a random one looks. A name that
breaks a rule is refused, never mended: upper case is not folded, so an address is what was asked for.
"""

from __future__ import annotations

import re
import string
from random import Random

from agentmail_cp.errors import Invalid

MAX_USERNAME = 64

RESERVED = frozenset(
    {"postmaster", "abuse", "mailer-daemon", "hostmaster", "admin", "root", "noreply"}
    | {"control-plane"}
)
"""Names of roles a domain must answer for itself (RFC 2142, RFC 5321), and our own account."""

_ALLOWED = re.compile(r"[a-z0-9._-]+")
_EDGE = "-._"
_SUFFIX = string.ascii_lowercase + string.digits
# Base 32 without letters that read like digits, so a name can be told over the telephone.
_TAIL = "23456789abcdefghjkmnpqrstuvwxyz"
_ADJECTIVES = (
    "amber autumn bold brave bright brisk calm clear clever copper coral crisp curious daring dawn"
    " eager early fair fleet gentle glad golden grand green happy honest humble jolly keen kind lively"
    " loyal lucid lucky merry mild misty modest mellow neat nimble noble olive patient plain proud"
    " quick quiet rapid ready rosy royal silent silver simple smart snowy steady sunny swift tidy"
    " warm wise witty"
).split()
_NOUNS = (
    "acorn anchor aspen badger bay beacon birch breeze bridge brook canyon cedar cliff cloud comet"
    " cove crane creek dune eagle ember falcon fern field finch fjord forest garden glade grove harbor"
    " hawk hill island jay lagoon lake lark leaf maple marsh meadow mesa moon oak ocean orchard otter"
    " owl pebble pine plain pond rain reef river robin shore sky spruce star stone summit swan tide"
    " trail valley willow"
).split()


def check(username: str, field: str = "username") -> str:
    """Return an allowed username unchanged.

    Raises `Invalid`: INVALID_USERNAME, RESERVED_USERNAME.
    """
    if reason := _objection(username):
        raise Invalid(
            field,
            reason,
            fix="Use 1 to 64 lower-case letters, digits, hyphens, dots and underscores, starting and "
            "ending with a letter or digit, like support-eu.",
            detail="INVALID_USERNAME",
        )
    if username in RESERVED:
        raise Invalid(
            field,
            f"The username {username} is reserved.",
            fix="Choose another one.",
            detail="RESERVED_USERNAME",
        )
    return username


def random_username(rng: Random) -> str:
    """A readable name like `quiet-river-4k7xz`, one of about 10^11."""
    tail = "".join(rng.choices(_TAIL, k=5))
    return f"{rng.choice(_ADJECTIVES)}-{rng.choice(_NOUNS)}-{tail}"


def shared_username(username: str, rng: Random) -> str:
    """`username` with a random suffix, for a domain several organisations share.

    Raises `Invalid` INVALID_USERNAME when there is no room for the suffix.
    """
    suffix = "-" + "".join(rng.choices(_SUFFIX, k=6))
    longest = MAX_USERNAME - len(suffix)
    if len(username) > longest:
        raise Invalid(
            "username",
            f"This username has {len(username)} characters; on this domain it gets a random suffix.",
            fix=f"Use at most {longest} characters, or a domain of your own.",
            detail="INVALID_USERNAME",
        )
    return username + suffix


def _objection(username: str) -> str | None:
    if not 1 <= len(username) <= MAX_USERNAME:
        return f"A username has 1 to {MAX_USERNAME} characters; this one has {len(username)}."
    if not _ALLOWED.fullmatch(username):
        return "A username holds only lower-case letters, digits, hyphens, dots and underscores."
    if username[0] in _EDGE or username[-1] in _EDGE:
        return "A username cannot start or end with a hyphen, a dot or an underscore."
    if ".." in username or "--" in username:
        return "A username cannot hold two dots or two hyphens in a row."
    return None
