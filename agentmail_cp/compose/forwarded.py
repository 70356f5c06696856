"""The mail inside a forward: a block that names it and its words, as text and as HTML.

The parent's HTML comes from a stranger. It is put behind the caller's words, without the parts of a
document that could reach beyond its own place (`<base>`, `<meta>`, scripts, comments left open); what it
looks like is left to it. Every step is linear in the length of its input, whatever the markup.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from email.utils import format_datetime
from html import escape

import msgspec

from agentmail_cp.addresses import display, tame
from agentmail_cp.extract import text_of
from agentmail_cp.mailserver import Address

_RULE = "---------- Forwarded message ---------"
_QUOTE = '<div class="gmail_quote">'
"""The mark by which mail clients and this service's own `extract` know another's words."""

# No alternative runs past the next `<`, or it runs to the end: nothing is looked at twice.
_NOT_BODY = re.compile(
    r"<!--.*?(?:-->|\Z)"
    r"|<(script|title|noframes|template)\b[^<>]*>.*?(?:</\1\s*>|\Z)"
    r"|</?(?:!doctype|html|head|body|base|meta|link|frameset|frame|plaintext"
    r"|script|title|noframes|template)\b[^<>]*(?:>|\Z|(?=<))"
    r"|<![^<>]*>|<\?[^<>]*>",
    re.IGNORECASE | re.DOTALL,
)
_BODY_ENDS = re.compile(r"</body\s*>", re.IGNORECASE)


class Forwarded(msgspec.Struct, frozen=True, kw_only=True):
    """The mail that is forwarded."""

    sender: Address | None
    date: datetime
    subject: str
    to: tuple[Address, ...]
    cc: tuple[Address, ...]
    text: str | None
    html: str | None


def with_forwarded(
    text: str | None, html: str | None, forwarded: Forwarded
) -> tuple[str | None, str | None]:
    """The caller's text and HTML with the forwarded mail after them.

    There is an HTML part when either has one. There is no text part where the caller gave HTML only:
    it would lack the caller's words.
    """
    with_html = html is not None or forwarded.html is not None
    with_text = text is not None or html is None
    return (
        _text(text or "", forwarded) if with_text else None,
        _html(html, text or "", forwarded) if with_html else None,
    )


def _text(text: str, forwarded: Forwarded) -> str:
    lines = [f"{name}: {value}" for name, value in _facts(forwarded)]
    words = forwarded.text
    if words is None and forwarded.html is not None:
        words = text_of(forwarded.html)
    parts = [text.rstrip(), "\n".join([_RULE, *lines]), _clean(words)]
    return "\n\n".join(part for part in parts if part)


def _html(html: str | None, text: str, forwarded: Forwarded) -> str:
    own = _as_html(text) if html is None else html
    facts = "".join(f"<b>{name}:</b> {escape(value)}<br>\n" for name, value in _facts(forwarded))
    words = _as_html(_clean(forwarded.text)) if forwarded.html is None else _body(forwarded.html)
    block = f"{_QUOTE}<div>{_RULE}<br>\n{facts}</div><br>\n{words}</div>"
    ends = [found.start() for found in _BODY_ENDS.finditer(own)]
    at = ends[-1] if ends else len(own)
    return f"{own[:at]}<br>\n{block}{own[at:]}" if own else block


def _facts(forwarded: Forwarded) -> list[tuple[str, str]]:
    """The lines that name the mail; those it does not have are left out."""
    facts = [
        ("From", _shown([forwarded.sender] if forwarded.sender else [])),
        ("Date", format_datetime(forwarded.date)),
        ("Subject", tame(forwarded.subject)),
        ("To", _shown(forwarded.to)),
        ("Cc", _shown(forwarded.cc)),
    ]
    return [(name, value) for name, value in facts if value]


def _shown(addresses: Sequence[Address]) -> str:
    return tame(", ".join(map(display, addresses)))


def _as_html(text: str) -> str:
    lines = escape(text, quote=False).replace("\r\n", "\n").replace("\n", "<br>\n")
    return f"<div>{lines}</div>" if text else ""


def _body(html: str) -> str:
    """What stands in the body of an HTML document, with its styles."""
    html = _clean(html)
    kept: list[str] = []
    inside, start = False, 0
    for found in _NOT_BODY.finditer(html):
        piece = html[start : found.start()]
        inside = _ends_inside(piece, before=inside)
        # What is left must not grow together to what was taken out.
        kept += [piece, " " if inside else ""]
        start = found.end()
    return "".join([*kept, html[start:]]).strip()


def _ends_inside(piece: str, *, before: bool) -> bool:
    """Whether a tag is open at the end of a piece; `before`: whether one was at its beginning."""
    opened, closed = piece.rfind("<"), piece.rfind(">")
    return before if opened == closed else opened > closed


def _clean(text: str | None) -> str:
    """RFC 5322 section 2.3 allows no NUL; a stranger's mail may have one."""
    return (text or "").replace("\0", "")
