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
_HEADERS = 6
"""Lines of a header block that are looked at."""
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
    r"wrote|schrieb|geschrieben|a écrit|escribió|va escriure|ha scritto|escreveu|skrev|schreef"
    r"|geschreven|napisał(?:\(a\)|a)?|pisze|napsal(?:\(a\)|a)?|píše|napísal(?:\(a\)|a)?|kirjoitti|a scris"
    r"|írta|yazdı|пишет|написал(?:\(а\)|а)?|пише|έγραψε|menulis|đã viết"
)
_ADDRESS = r"<[^<>\s]+@[^<>\s]+>"
# "On <date>, <name> <address> wrote:" as clients of some thirty languages say it. A date is asked for,
# so that "As she wrote:" stays; the address forms cover languages without a verb at the end.
_INTRO = re.compile(
    rf"(?=.*\d)(?:.*\b(?:{_WROTE})\b[^:：]*[:：]|.*{_ADDRESS}[^:：]{{0,30}}[:：]"
    rf"|.*{_ADDRESS}.{{0,60}}\d[:.]\d\d\D{{0,20}}[:：]"
    r"|.*(?:写道|寫道|さんは書きました|のメール|님이 작성|작성)\s*[:：]|\d{4}年\d{1,2}月\d{1,2}日.*[:：])"
    rf"|(?:Quoting|Zitat von|Citando|Citation de|Citat från) .*{_ADDRESS}:"
)
_FORWARD = (
    r"Original Message|Original Appointment|Forwarded message|Ursprüngliche Nachricht"
    r"|Weitergeleitete Nachricht|Message d'origine|Message original|Message transféré|Mensaje original"
    r"|Mensaje reenviado|Messaggio originale|Messaggio inoltrato|Mensagem original"
    r"|Mensagem encaminhada|Oorspronkelijk bericht|Doorgestuurd bericht|Originalmeddelande"
    r"|Исходное сообщение|Пересылаемое сообщение|Пересланное сообщение|元のメッセージ|転送メッセージ"
    r"|原始邮件|轉寄郵件|원본 메시지"
)
_DIVIDER = re.compile(
    rf"[-_*=]{{2,}}\s*(?:{_FORWARD})\s*[-_*=]{{2,}}|_{{20,}}"
    r"|(?:Begin forwarded message|Anfang der weitergeleiteten (?:Nachricht|E-Mail)|Début du message"
    r" (?:transféré|réexpédié)|Inicio del mensaje reenviado|Inizio messaggio inoltrato"
    r"|Begin doorgestuurd bericht|Início da mensagem reencaminhada|Начало переадресованного сообщения"
    r"|转发的邮件|下に転送されたメッセージ)\s?[:：]"
    # What help desks put above the history.
    r"|\W*(?:please )?(?:type|write|reply)\b.{0,40}\babove this line\W*",
    re.IGNORECASE,
)
# The header block Outlook puts above a quotation: a From line, others right below, and among them an
# address or a subject, without which "From: Berlin / To: Paris" would be one.
_FROM_LINE = re.compile(
    r"\*?(?:From|Von|De|De la|Da|Van|От|От кого|Від|Från|Fra|Lähettäjä|Od|Feladó|Kimden|Από|من|מאת"
    r"|差出人|发件人|發件人|寄件者|보낸 사람)\*?\s?[:：]\*?\s*\S"
)
_NEXT_LINE = re.compile(
    r"\*?(?:Sent|Date|To|Gesendet|Datum|An|Envoyé|Date|À|Enviado|Enviado el|Enviada em|Fecha|Para|Data"
    r"|Inviato|A|Verzonden|Aan|Отправлено|Дата|Кому|Надіслано|Skickat|Till|Sendt|Dato|Til|Lähetetty"
    r"|Vastaanottaja|Wysłano|Do|Odesláno|Datum|Komu|Elküldve|Címzett|Gönderildi|Gönderilme|Kime|Trimis"
    r"|Către|Στάλθηκε|Προς|تم الإرسال|إلى|נשלח|אל|送信日時|日時|宛先|发送时间|發送時間|收件人|寄件日期"
    r"|收件者|보낸 날짜|받는 사람)\*?\s?[:：]"
)
_SUBJECT_LINE = re.compile(
    r"\*?(?:Subject|Betreff|Objet|Asunto|Assunto|Oggetto|Onderwerp|Тема|Ämne|Emne|Aihe|Temat|Předmět"
    r"|Predmet|Tárgy|Konu|Subiect|Θέμα|الموضوع|נושא|件名|主题|主題|主旨|제목)\*?\s?[:：]"
)
_SENT_FIRST = re.compile(
    r"\*?(?:Sent|Date|Gesendet|Datum|Envoyé|Fecha|Data|Inviato)\*?\s?[:：].*\d"
)
_DEVICE = (
    r"\b(?:iPhon|iPad|iOS|Android|Outlook|Samsung|Galaxy|Huawei|Xiaomi|Pixel|BlackBerry|Windows|Yahoo"
    r"|Gmail|GMX|WEB\.DE|Mail|Proton|Spark|Superhuman|mobile|phone|smartphone|handy|Mobiltelefon|tablet"
    r"|Orange|смартфона|устройства|Почты)"
)
_MOBILE = re.compile(
    r"(?:Sent (?:from|with|via|using)|Gesendet (?:von|mit)|Von (?:meinem|Yahoo)|Diese Nachricht wurde von"
    r"|Envoyé (?:de|depuis|à partir|avec)|Enviado (?:desde|do|de|pelo|a partir|con)|Inviato (?:da|dal)"
    r"|(?:Verzonden|Verstuurd) (?:vanaf|met|via)|Skickat från|Sendt (?:fra|med)|Lähetetty"
    r"|Wysłan[eo] (?:z|przez)|Odesláno z|Odoslané z|Отправлено (?:с|из)|Надіслано з|Απεστάλη από"
    r"|Trimis de pe|Gửi từ|Dikirim dari|נשלח מה?|أُ?رسلت من)\b.{0,60}"
    rf"{_DEVICE}.{{0,60}}"
    r"|(?:Get|Télécharger|Obtenir|Obtener|Obter o|Scarica|Hanki|Hämta|Hent|Pobierz) Outlook"
    r" (?:for|pour|para|per|för|til|dla)\b.{0,60}|Outlook (?:für|voor) .{0,20}(?:beziehen|herunterladen"
    r"|downloaden).{0,60}"
    r"|iPhone[’']umdan gönderildi|(?:iPhone|iPad|Android)から送信|(?:发自我的|從我的|从我的).{1,30}"
    r"|나의 .{1,30}에서 보냄",
    re.IGNORECASE,
)
_QUOTE_MARKUP = re.compile(
    r"""<[^<>]*\b(?:class\s*=\s*["']?[^"'<>]*\b(?:gmail_quote|gmail_attr|yahoo_quoted|moz-cite-prefix"""
    r"""|protonmail_quote|zmail_extra|tutanota_quote|OutlookMessageHeader)\b"""
    r"""|id\s*=\s*["']?(?:[^"'<>]*(?:divRplyFwdMsg|appendonsend|isReplyContent|mail-editor-reference-message-container"""
    r"""|ms-outlook-mobile-reference-message))"""
    r"""|type\s*=\s*["']?cite\b|name\s*=\s*["']?(?:messageReplySection|quote\b)"""
    r"""|style\s*=\s*["'][^"'<>]*border-top:\s*solid #(?:E1E1E1|B5C4DF) 1\.0pt)[^<>]*>""",
    re.IGNORECASE,
)
_DIRECTION = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# Spaces and breaks at the end of HTML, read backwards: a search for them from the front starts anew at
# each one and takes seconds for some thousand that are not at the end.
_BREAKS_BACKWARDS = re.compile(r"(?:\s|;psbn&|>/?\s*rb<)*", re.IGNORECASE)
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
    short = [_DIRECTION.sub("", line[:_MAX_LINE]) for line in lines[:_MAX_LINES]]
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
    first, *below = (line.strip() for line in lines[start : start + _HEADERS])
    if _SENT_FIRST.match(first):
        return any(_FROM_LINE.match(line) and "@" in line for line in below[:1])
    if not _FROM_LINE.match(first) or not any(_NEXT_LINE.match(line) for line in below[:2]):
        return False
    return "@" in first or any(_SUBJECT_LINE.match(line) for line in below)


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
    trimmed = _without_trailing_breaks(html)
    return trimmed + "".join(f"</{name}>" for name in _open_tags(trimmed))


def _without_trailing_breaks(html: str) -> str:
    breaks = _BREAKS_BACKWARDS.match(html[::-1])
    return html[: len(html) - breaks.end()] if breaks else html


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
