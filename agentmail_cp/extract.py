"""What a mail says: text from HTML, a preview, and the new words without the quoted history.

Works on hostile input: nothing here raises, every step is bounded (64 kB are looked at), and where
nothing is left the input itself is the answer, so a mail that only forwards something keeps its text.
Takes up to a second on the worst input: callers run it off the event loop.
"""

# ruff: noqa: RUF001  letters of other alphabets are what this module looks for

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import unescape

import inscriptis
import quotequail

MAX_INPUT = 64 * 1024
"""Characters looked at; quotequail 0.5 and inscriptis 2.7 take seconds on more."""

MAX_PREVIEW = 200

_PREVIEWED = 8 * 1024
_MAX_LINES = 1000
_MAX_LINE = 300
_WRAPPED = 3
"""Lines over which a mail client may wrap the line that introduces a quotation."""

_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)[^<>]*>")
_ANY_TAG = re.compile(r"<[^<>]*>")
_UNSEEN = re.compile(
    r"<(script|style|title|template)\b[^<>]*>.*?(?:</\1\s*>|\Z)", re.IGNORECASE | re.DOTALL
)
_STYLE = re.compile(r"""\bstyle\s*=\s*("[^"]*"|'[^']*'|[^\s>]*)""", re.IGNORECASE)
_HIDDEN = re.compile(r"display\s*:\s*none", re.IGNORECASE)
# Senders pad the preview of a newsletter with these so that nothing of its body shows.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f\u00ad\u034f\u061c\u200b\u200c\u200e\u200f\u2060-\u2064\ufeff]+"
)

_WROTE = (
    r"wrote|schrieb|a écrit|escribió|ha scritto|escreveu|skrev|schreef|geschreven|napisał(?:\(a\)|a)?"
    r"|napsal(?:\(a\)|a)?|kirjoitti|a scris|írta|yazdı|пишет|написал(?:\(а\)|а)?|пише|έγραψε"
)
# "On <date>, <name> <address> wrote:" as clients of some twenty languages say it. A date is asked for,
# so that "As she wrote:" stays; the address form covers languages without a verb at the end.
_INTRO = re.compile(
    rf"(?=.*\d)(?:.*\b(?:{_WROTE})\b[^:：]*[:：]|.*<[^<>\s]+@[^<>\s]+>[^:：]{{0,30}}[:：]"
    r"|.*(?:写道|寫道|さんは書きました|のメール|님이 작성)\s*[:：]|\d{4}年\d{1,2}月\d{1,2}日.*[:：])"
)
_FORWARD = (
    r"Original Message|Original Appointment|Forwarded message|Ursprüngliche Nachricht"
    r"|Weitergeleitete Nachricht|Message d'origine|Message original|Message transféré|Mensaje original"
    r"|Mensaje reenviado|Messaggio originale|Messaggio inoltrato|Mensagem original"
    r"|Mensagem encaminhada|Oorspronkelijk bericht|Doorgestuurd bericht|Originalmeddelande"
    r"|Исходное сообщение|Пересылаемое сообщение|Пересланное сообщение|元のメッセージ|転送メッセージ"
    r"|原始邮件|轉寄郵件|원본 메시지"
)
_DIVIDER = re.compile(rf"[-_*=]{{2,}}\s*(?:{_FORWARD})\s*[-_*=]{{2,}}|_{{20,}}", re.IGNORECASE)
# The header block Outlook puts above a quotation: a From line and another right below.
_FROM_LINE = re.compile(
    r"\*?(?:From|Von|De|Da|Van|От|От кого|Från|Fra|Od|差出人|发件人|寄件者|보낸 사람)\*?\s?[:：]\*?\s*\S"
)
_NEXT_LINE = re.compile(
    r"\*?(?:Sent|Date|To|Gesendet|Datum|An|Envoyé|À|Enviado|Enviada em|Fecha|Para|Data|Inviato|A|Verzonden"
    r"|Aan|Отправлено|Дата|Кому|Skickat|Till|Sendt|Til|Wysłano|Do|送信日時|日時|宛先|发送时间|收件人"
    r"|寄件日期|收件者|보낸 날짜|받는 사람)\*?\s?[:：]"
)
_MOBILE = re.compile(
    r"(?:Sent|Get Outlook|Gesendet|Von meinem|Envoyé|Enviado|Inviato|Verzonden|Verstuurd|Skickat|Отправлено"
    r"|Wysłane)\b.{0,60}\b(?:iPhone|iPad|Android|Outlook|Samsung|Galaxy|Mobile|mobile|Handy|BlackBerry"
    r"|Windows|Yahoo|Mail|Proton|смартфона|устройства)\b.{0,60}|iPhoneから送信|发自我的.{1,30}"
)
_QUOTE_MARKUP = re.compile(
    r"""<[^<>]*\b(?:class\s*=\s*["']?[^"'<>]*\b(?:gmail_quote|gmail_attr|yahoo_quoted|moz-cite-prefix"""
    r"""|protonmail_quote|zmail_extra|tutanota_quote|OutlookMessageHeader)\b"""
    r"""|id\s*=\s*["']?(?:[^"'<>]*(?:divRplyFwdMsg|appendonsend|mail-editor-reference-message-container))"""
    r"""|type\s*=\s*["']?cite\b|name\s*=\s*["']?messageReplySection"""
    r"""|style\s*=\s*["'][^"'<>]*border-top:\s*solid #(?:E1E1E1|B5C4DF) 1\.0pt)[^<>]*>""",
    re.IGNORECASE,
)
_TRAILING_BREAKS = re.compile(r"(?:\s|&nbsp;|<br\s*/?>)+\Z", re.IGNORECASE)
_VOID = frozenset("area base br col embed hr img input link meta param source track wbr".split())
_MAY_INTRODUCE = re.compile(r"^\s*>|(?:[:>]|---)\s*$|_{32}")


def text_of(html: str) -> str:
    """The text a person sees in a piece of HTML, with lines, lists and tables laid out."""
    shown = _UNSEEN.sub(" ", html[:MAX_INPUT].replace("\x00", ""))
    try:
        text = inscriptis.get_text(_STYLE.sub(_only_hiding, shown))
    except Exception:  # noqa: BLE001  lxml and inscriptis raise anything on broken markup
        text = unescape(_ANY_TAG.sub(" ", shown))
    return "\n".join(line.rstrip() for line in text.splitlines()).strip()


def preview(text: str) -> str:
    """The first words of a text on a single line, at most 200 characters."""
    words = _INVISIBLE.sub("", text[: MAX_INPUT // 8]).split()
    return " ".join(words)[:MAX_PREVIEW].rstrip()


def preview_html(html: str) -> str:
    """The first words of HTML as `preview` gives them; 8 kB are looked at, style sheets not counted."""
    return preview(text_of(_UNSEEN.sub(" ", html[:MAX_INPUT])[:_PREVIEWED]))


def reply_text(text: str) -> str:
    """The new words of a mail: no quoted history, no signature.

    An answer written below or between quoted lines is kept without them. Longer texts are cut off at
    `MAX_INPUT`. When nothing would be left, the whole text is returned.
    """
    whole = text[:MAX_INPUT].replace("\r\n", "\n").replace("\r", "\n")
    lines = whole.split("\n")
    new = _without_signature(_without_quotes(lines))
    return "\n".join(new).strip() or whole.strip() or text


def reply_html(html: str) -> str:
    """The part of an HTML mail before its quoted history, with its tags closed.

    HTML over `MAX_INPUT`, without a known mark of quotation, or with nothing before it, is returned
    as it is.
    """
    if len(html) > MAX_INPUT:
        return html
    mark = _QUOTE_MARKUP.search(html)
    if mark is None:
        return html
    top = html[: mark.start()]
    return _closed(top) if _shows_something(top) else html


def _only_hiding(style: re.Match[str]) -> str:
    """Drop every style but hiding: inscriptis 2.7 would print a margin of 10^9 em."""
    return ' style="display:none"' if _HIDDEN.search(style[1]) else ""


def _without_quotes(lines: Sequence[str]) -> list[str]:
    intro = _intro(lines)
    if intro is None:
        return _unquoted(lines)
    start, end = intro
    rest = lines[end:]
    below = _unquoted(rest) if _first_word(rest).startswith(">") else []
    return [*_unquoted(lines[:start]), *below]


def _unquoted(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if not line.startswith(">")]


def _first_word(lines: Sequence[str]) -> str:
    return next((line for line in lines if line.strip()), "").lstrip()


def _intro(lines: Sequence[str]) -> tuple[int, int] | None:
    """Where the first quotation is introduced: first line, and the line after the introduction.

    Lines are cut to a sane length first: quotequail's patterns are cubic in it.
    """
    short = [line[:_MAX_LINE] for line in lines[:_MAX_LINES]]
    return min((found for found in (_own_intro(short), _known_intro(short)) if found), default=None)


def _own_intro(lines: Sequence[str]) -> tuple[int, int] | None:
    for start, line in enumerate(lines):
        stripped = line.strip()
        if not stripped or stripped.startswith(">"):
            continue
        if _DIVIDER.fullmatch(stripped) or _is_header_block(lines, start):
            return start, start + 1
        if end := _wrapped_intro(lines, start):
            return start, end
    return None


def _wrapped_intro(lines: Sequence[str], start: int) -> int | None:
    joined = ""
    for end in range(start, min(start + _WRAPPED, len(lines))):
        if not lines[end].strip():
            return None
        joined = f"{joined} {lines[end].strip()}"
        if joined.endswith((":", "：")):
            return end + 1 if _INTRO.fullmatch(joined.strip()) else None
    return None


def _is_header_block(lines: Sequence[str], start: int) -> bool:
    if not _FROM_LINE.match(lines[start].strip()):
        return False
    return any(_NEXT_LINE.match(line.strip()) for line in lines[start + 1 : start + _WRAPPED])


def _known_intro(lines: Sequence[str]) -> tuple[int, int] | None:
    """What quotequail finds; it answers with the text above the introduction.

    It is slow, and every pattern of its 0.5 needs one of these line ends or a quoted line.
    """
    if not any(_MAY_INTRODUCE.search(line) for line in lines):
        return None
    try:
        pieces = quotequail.quote("\n".join(lines), limit=_MAX_LINES + 1, quote_intro_line=True)
    except Exception:  # noqa: BLE001  a library that fails finds nothing
        return None
    if len(pieces) == 1:
        return None
    start = len(pieces[0][1].split("\n")) if pieces[0][1] else 0
    ends = (end + 1 for end in range(start, len(lines)) if lines[end].rstrip().endswith(":"))
    end = next(ends, start + 1)
    return start, end if end <= start + _WRAPPED else start + 1


def _without_signature(lines: Sequence[str]) -> list[str]:
    kept = list(lines)
    for index, line in enumerate(kept):
        if line.rstrip() == "--" and any(above.strip() for above in kept[:index]):
            kept = kept[:index]
            break
    while kept and (not kept[-1].strip() or _MOBILE.fullmatch(kept[-1].strip()[:_MAX_LINE])):
        kept.pop()
    return kept


def _shows_something(html: str) -> bool:
    seen = _UNSEEN.sub("", html)
    return "<img" in seen.lower() or bool(unescape(_ANY_TAG.sub("", seen)).strip())


def _closed(html: str) -> str:
    """HTML with the tags it leaves open closed, innermost first."""
    trimmed = _TRAILING_BREAKS.sub("", html)
    return trimmed + "".join(f"</{name}>" for name in _open_tags(trimmed))


def _open_tags(html: str) -> Iterator[str]:
    stack: list[str] = []
    for tag in _TAG.finditer(html):
        name = tag[2].lower()
        if not tag[1]:
            if name not in _VOID and not tag[0].endswith("/>"):
                stack.append(name)
        elif stack and stack[-1] == name:
            stack.pop()
    return reversed(stack)
