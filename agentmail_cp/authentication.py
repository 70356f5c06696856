"""PURE: what the mail server found out about whether a mail is from whom it claims to be.

Reads what our own server wrote into Authentication-Results (RFC 8601) when a mail came in from outside; which
of a mail's headers those are, the adapter decides, and no other is ever shown to this module. Judges from it
whether a mail is an explicit FAIL (docs/adr/authentication.md). Owns no table and asks for nothing.

Stalwart 0.16 writes `dmarc=none` beside a policy of `quarantine` or `reject` where the sender's domain
has such a policy and neither SPF nor DKIM passed at all; RFC 9989 calls that a fail, and so does `read`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple, TypeGuard, get_args

import msgspec

Result = Literal["pass", "fail", "softfail", "neutral", "none", "temperror", "permerror", "policy"]
"""What a check came to, as RFC 8601 section 2.7 names it; `hardfail`, an old name, is `fail`."""

DmarcPolicy = Literal["none", "quarantine", "reject"]

MOST_DOMAINS: Final = 10
LONGEST_REMEMBERED: Final = 4_000
LONGEST_DOMAIN: Final = 253
"""Characters of a domain name (RFC 1035 section 2.3.4)."""

_SAYS_MOST: Final[Sequence[Result]] = [
    *("pass", "temperror", "fail", "policy"),
    *("permerror", "softfail", "neutral", "none"),
]
"""Of several signatures, which result stands for all: one that passed, else one that might have."""

_OLD_NAMES: Final = {"hardfail": "fail"}

_TOKEN: Final = re.compile(
    r'(?P<space>\s+)|(?P<end>;)|(?P<sign>=)|"(?P<quoted>(?:[^"\\]|\\.)*)"?|(?P<word>[^\s;="(]+)',
    re.DOTALL,
)
"""RFC 8601 section 2.2, as far as it matters. What a quote or a comment begins and nobody ends goes on to
the end."""

_IN_COMMENT: Final = re.compile(r"\\.|[()]", re.DOTALL)
_QUOTED_PAIR: Final = re.compile(r"\\(.)", re.DOTALL)


class Authentication(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the checks of one mail came to. `none`: there was nothing to check.

    `spf_domain` is what SPF was checked for: the domain of the envelope's sender, or the name the server
    greeted with when the envelope has none. `dkim_domains` are those whose signatures passed.
    `dmarc_domain` is that of From. `dmarc_policy` is what that domain asks for; absent when unknown.
    `arc` is absent when the server does not tell.
    """

    spf: Result
    dkim: Result
    dmarc: Result
    arc: Result | None = None
    spf_domain: str | None = None
    dkim_domains: tuple[str, ...] = ()
    dmarc_domain: str | None = None
    dmarc_policy: DmarcPolicy | None = None


class _Token(NamedTuple):
    """A word, or the sign of equality between two."""

    text: str
    sign: bool = False


class _Told(msgspec.Struct, frozen=True):
    """One result: a method, what it came to, and properties in lower case, the first of each name."""

    method: str
    result: Result
    properties: Mapping[str, str]


def read(values: Sequence[str]) -> Authentication | None:
    """What these values of our own server's Authentication-Results say together; None when they name no
    result, as when nobody checked. Never raises, and takes time in proportion to their length.
    """
    # A mail is judged and filed within moments; a hostile one must not be remembered at length.
    return (_remembered if sum(map(len, values)) <= LONGEST_REMEMBERED else _read)(tuple(values))


def _read(values: tuple[str, ...]) -> Authentication | None:
    told = [each for value in values for each in _told(value)]
    known = [each for each in told if each.method in {"spf", "dkim", "dmarc", "arc"}]
    if not known:
        return None
    spf, greeting = _spf(told, "smtp.mailfrom"), _spf(told, "smtp.helo")
    dkim = [each for each in told if each.method == "dkim"]
    dmarc = next((each for each in told if each.method == "dmarc"), None)
    arc = next((each for each in told if each.method == "arc"), None)
    found = Authentication(
        spf=spf.result if spf else "none",
        dkim=_together(each.result for each in dkim),
        dmarc=dmarc.result if dmarc else "none",
        arc=arc.result if arc else None,
        spf_domain=_envelope_domain(spf, greeting) if spf else None,
        dkim_domains=_passed(dkim),
        dmarc_domain=_domain(dmarc.properties.get("header.from")) if dmarc else None,
        dmarc_policy=_policy(dmarc) if dmarc else None,
    )
    return msgspec.structs.replace(found, dmarc=_dmarc(found))


_remembered = functools.lru_cache(maxsize=256)(_read)


def is_fail(found: Authentication | None) -> bool:
    """Whether a mail is an explicit FAIL. A DMARC verdict decides, unless the domain asks for nothing
    (`none`); without one, SPF's fail does where no DKIM signature passed. What could not be checked for
    the moment (`temperror`), and a softfail, never is.
    """
    if found is None or found.dmarc in {"pass", "temperror"}:
        return False
    if found.dmarc == "fail":
        return found.dmarc_policy != "none"
    return found.spf == "fail" and found.dkim not in {"pass", "temperror"}


def _dmarc(found: Authentication) -> Result:
    """The DMARC result, where the server says `none` of a domain that does ask for something."""
    if found.dmarc != "none" or found.dmarc_policy not in {"quarantine", "reject"}:
        return found.dmarc
    return "temperror" if "temperror" in {found.spf, found.dkim} else "fail"


def _spf(told: Iterable[_Told], checked: str) -> _Told | None:
    """SPF's result for the envelope's sender, or for what the server greeted with; the latter alone says
    nothing of the mail.
    """
    return next(
        (each for each in told if each.method == "spf" and checked in each.properties), None
    )


def _together(results: Iterable[Result]) -> Result:
    nothing: Result = "none"
    return min((*results, nothing), key=_SAYS_MOST.index)


def _passed(dkim: Iterable[_Told]) -> tuple[str, ...]:
    """The domains that signed: `header.d`, or that of the user named in `header.i`."""
    named = (
        _domain(each.properties.get("header.d") or each.properties.get("header.i"))
        for each in dkim
        if each.result == "pass"
    )
    return tuple(dict.fromkeys(each for each in named if each))[:MOST_DOMAINS]


def _envelope_domain(spf: _Told, greeting: _Told | None) -> str | None:
    of_sender = _domain(spf.properties["smtp.mailfrom"])
    return of_sender or _domain(greeting.properties.get("smtp.helo") if greeting else None)


def _policy(dmarc: _Told) -> DmarcPolicy | None:
    """What the domain asks for; Stalwart writes `none` of one without a DMARC record, too."""
    told = dmarc.properties.get("policy.dmarc", "").lower()
    if told == dmarc.result == "none":
        return None
    return told if _is_policy(told) else None


def _is_policy(word: str) -> TypeGuard[DmarcPolicy]:
    return word in get_args(DmarcPolicy)


def _is_result(word: str) -> TypeGuard[Result]:
    return word in get_args(Result)


def _domain(address: str | None) -> str | None:
    """The domain of an address, or of nothing but a domain; None for what cannot be one."""
    domain = (address or "").rpartition("@")[2].strip("<>").lower()
    fits = 0 < len(domain) <= LONGEST_DOMAIN and domain.isprintable() and " " not in domain
    return domain if fits else None


def _told(value: str) -> Iterator[_Told]:
    """The results in one value; the first part names who wrote it."""
    for part in _parts(value)[1:]:
        (name, result), *properties = _pairs(part) or [("", "")]
        word = _OLD_NAMES.get(result.lower(), result.lower())
        if _is_result(word):
            # Of properties of one name the first counts: here, the last that is set.
            named = {key.lower(): each for key, each in reversed(properties)}
            yield _Told(name.lower().partition("/")[0], word, named)


def _pairs(part: Sequence[_Token]) -> list[tuple[str, str]]:
    """What stands on both sides of each sign of equality; Stalwart writes nothing for an empty value."""
    ended = [*part, _Token(""), _Token("")]
    around = zip(ended, ended[1:], ended[2:], ended[3:], strict=False)
    return [
        (before.text, "" if then.sign else after.text)
        for before, sign, after, then in around
        if sign.sign and not before.sign and not after.sign
    ]


def _parts(value: str) -> list[list[_Token]]:
    """The words and signs of equality between semicolons, without comments."""
    parts: list[list[_Token]] = [[]]
    word: list[str] = []
    for found in _tokens(value):
        text = _word(found) if found else None
        if text is not None:
            word.append(text)
            continue
        if word:
            parts[-1].append(_Token("".join(word)))
            word = []
        if found and found["sign"]:
            parts[-1].append(_Token("=", sign=True))
        elif found and found["end"]:
            parts.append([])
    return parts


def _tokens(value: str) -> Iterator[re.Match[str] | None]:
    """The tokens, with None for each comment and at the end."""
    at = 0
    while at < len(value):
        found = _TOKEN.match(value, at)
        yield found
        at = found.end() if found else _after_comment(value, at)
    yield None


def _word(found: re.Match[str]) -> str | None:
    """What a token that is a word, or a quoted part of one, means."""
    quoted: str | None = found["quoted"]
    return found["word"] if quoted is None else _QUOTED_PAIR.sub(r"\1", quoted)


def _after_comment(value: str, start: int) -> int:
    """Where the comment that begins here ends; comments may hold comments."""
    depth = 0
    for found in _IN_COMMENT.finditer(value, start):
        depth += {"(": 1, ")": -1}.get(found[0], 0)
        if depth == 0:
            return found.end()
    return len(value)
