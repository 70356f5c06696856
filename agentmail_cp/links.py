"""PURE: the links of a mail that ask for an action, and how sure it is that they do.

Verifying, resetting and logging in come first; what every mail has (a home page, social networks, a way to
unsubscribe) comes last. Only http and https links a person could follow count, never pictures. What a link
leads to is not judged: a mail that lies has lying links. Works on hostile input in one pass.
"""

# ruff: noqa: RUF001  letters of other alphabets are what this module looks for

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from agentmail_cp.markup import Markup

Kind = Literal["verify", "reset", "login", "invite", "unsubscribe", "other"]

MAX_INPUT = 64 * 1024
"""Characters of a plain text that are looked at."""

MOST = 10
"""Links a mail gives at most, the surest of them."""

LONGEST_URL = 4096
"""Characters; a longer link is left out, as half of it leads elsewhere."""

LONGEST_TEXT = 200

_MOST_LOOKED_AT = 300
_BEFORE = 160
_AFTER = 60
"""Characters around a link in plain text that say what it is for."""


class Link(msgspec.Struct, frozen=True, omit_defaults=True):
    """A link and the words it stands behind. `confidence`, between 0 and 1, says how sure it is that the
    mail asks to follow it.
    """

    url: str
    text: str
    kind: Kind
    confidence: float


_URL = re.compile(
    r"(?<![0-9A-Za-z])https?://[^\s<>\"“”«»「」『』（）【】，。；、]{1,8192}", re.IGNORECASE
)
_TRAILING = ".,;:!?'\"*_~`|>"
_PAIRS = {")": "(", "]": "[", "}": "{"}
_SENTENCES = re.compile(r"[.!?]\s|[。！？]|\n\s{0,20}\n")
_LETTER = re.compile(r"[^\W\d_]")
_CONTROL = re.compile("[\x00-\x20\x7f]")
_BROKEN = re.compile("[\t\r\n]")
_PICTURE = re.compile(r"\.(?:png|gif|jpe?g|svg|webp|ico)$", re.IGNORECASE)
_SOCIAL = re.compile(
    r"(?:^|\.)(?:facebook|twitter|x|instagram|linkedin|youtube|tiktok|pinterest|threads|bsky|discord|medium"
    r"|apps\.apple|play\.google|whatsapp|t|weibo|vk|line)\.(?:com|net|me|app|gg|ru)$"
)
_SOCIAL_PATHS = 2
"""Parts of a path that a profile at a social network has at most; a login there has more."""

_SAID: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    (
        "unsubscribe",
        re.compile(
            r"unsubscribe|opt.?out|abmelden|abbestellen|désinscri|desinscri|désabonner"
            r"|cancelar (?:la )?suscripción|darse de baja|cancelar inscrição|disiscri|cancellati"
            r"|afmelden|uitschrijven|配信停止|購読解除|退订|取消订阅|取消訂閱|수신거부|отписаться"
            r"|wypisz|preferences|einstellungen verwalten|manage (?:your )?(?:email|notif)"
            r"|avregistrera|aboneliğ"
        ),
    ),
    (
        "reset",
        re.compile(
            r"reset|forgot|(?:change|new|choose a|create a|set (?:a|up|your)) (?:new )?password"
            r"|zurücksetzen|neues passwort|passwort (?:ändern|vergessen)|réinitialis"
            r"|nouveau mot de passe|restablec|cambiar (?:la |tu )?contraseña|redefin|nova senha"
            r"|alterar (?:a |sua )?senha|reimposta|ripristina|nuova password|opnieuw instellen"
            r"|wachtwoord (?:wijzigen|herstellen|resetten)|パスワード.{0,8}(?:再設定|リセット|変更)"
            r"|再設定|重置|重設|重设|修改密码|재설정|сброс|восстанов|нов\w+ пароль|zresetuj|återställ"
            r"|nulstil|sıfırla"
        ),
    ),
    (
        "verify",
        re.compile(
            r"verif|confirm|activat|validat|bestätig|aktivier|freischalt|vérif|activer|valider"
            r"|verifica|activar|validar|ativar|conferma|attiva|convalida|bevestig|activeer|確認|認証"
            r"|有効化|登録を完了|验证|驗證|确认|確認|激活|啟用|인증|확인|활성화|подтверд|активир"
            r"|potwierdź|aktywuj|bekräfta|bekræft|bekreft|vahvista|doğrula|onayla|potvrd|ověř|підтверд"
            r"|επιβεβαί|تأكيد|تحقق|אימות|אשר|xác (?:minh|nhận|thực)|complete (?:your )?(?:sign|regist)"
            r"|finish (?:sign|regist|setting)"
        ),
    ),
    (
        "login",
        re.compile(
            r"\blog ?-?in\b|\bsign ?-?in\b|\blogin\b|magic|anmelden|einloggen|se connecter|connexion"
            r"|iniciar sesión|acceder|entrar|accedi|inloggen|aanmelden|ログイン|サインイン|登录|登入"
            r"|登錄|로그인|войти|вход|zaloguj|logga in|log ind|logg inn|kirjaudu|giriş yap|přihlásit"
            r"|đăng nhập"
        ),
    ),
    (
        "invite",
        re.compile(
            r"accept|invit|\bjoin\b|einladung|beitreten|annehmen|rejoindre|accepter|unirse|aceptar"
            r"|aceitar|unisciti|accetta|uitnodiging|招待|参加|邀请|邀請|加入|초대|참여|приглаш|принять"
            r"|присоедин|zaprosz|dołącz"
        ),
    ),
)
"""What the words of a link say it does. The first kind that fits is it."""

_ADDRESSED: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    (
        "unsubscribe",
        re.compile(r"unsub|opt-?out|abmeld|desinscri|email-?pref|/preferences|list-?manage"),
    ),
    ("reset", re.compile(r"reset|forgot|recover|new-?password|change-?password|set-?password")),
    (
        "verify",
        re.compile(r"verif|confirm|activat|validat|bestaetig|\bactivar|optin|opt-in|double-?opt"),
    ),
    ("login", re.compile(r"magic|log-?in\b|sign-?in\b|passwordless|otp|one-?time|sso\b|/auth/")),
    ("invite", re.compile(r"invit|/join\b|accept")),
)
"""What an address itself says."""

_TOKEN = re.compile(r"[?&/=](?=[^?&/=]*\d)[0-9A-Za-z_.~%-]{20,}")
"""A secret in an address: the link is for one person."""


class _Seen(msgspec.Struct, frozen=True):
    """A link, its own words, and in plain text those before it and after it on its line."""

    url: str
    text: str
    before: str = ""
    after: str = ""


def find(text: str, markup: Markup | None = None) -> list[Link]:
    """The links of a mail, the surest first, otherwise in their order: those of its HTML and those that
    stand in its text alone.
    """
    seen = [*_of_anchors(markup), *_of_text(text)] if markup else list(_of_text(text))
    best: dict[str, Link] = {}
    for each in seen:
        link = _rated(each)
        known = best.get(link.url)
        if known is None:
            best[link.url] = link
        elif known.confidence < link.confidence:
            best[link.url] = msgspec.structs.replace(link, text=known.text or link.text)
    return sorted(best.values(), key=lambda each: -each.confidence)[:MOST]


def _of_anchors(markup: Markup) -> Iterator[_Seen]:
    for anchor in markup.anchors:
        # As browsers read an address (WHATWG URL, 4.4): blanks around it and line breaks in it go.
        url = _BROKEN.sub("", anchor.href.strip("\x00\x20\t\r\n\f")).replace(" ", "%20")
        if _followable(url):
            yield _Seen(url, anchor.text[:LONGEST_TEXT])


def _of_text(text: str) -> Iterator[_Seen]:
    looked_at = text[:MAX_INPUT]
    before = 0
    for count, match in enumerate(_URL.finditer(looked_at)):
        if count >= _MOST_LOOKED_AT:
            return
        url = _trimmed(match[0])
        start = match.start()
        if _followable(url):
            rest = looked_at[match.end() : match.end() + _AFTER].partition("\n")[0]
            yield _Seen(url, "", looked_at[max(before, start - _BEFORE) : start], rest)
        before = match.end()


def _trimmed(url: str) -> str:
    """A link in a text without the sentence's own marks after it."""
    while url:
        last = url[-1]
        unpaired = last in _PAIRS and url.count(last) > url.count(_PAIRS[last])
        if last not in _TRAILING and not unpaired:
            return url
        url = url[:-1]
    return url


def _followable(url: str) -> bool:
    """Whether this is a link for people: to the web, and saying where it leads."""
    if len(url) > LONGEST_URL or _CONTROL.search(url):
        return False
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https")
        and bool(host)
        and parts.username is None
        and not _PICTURE.search(parts.path)
    )


def _rated(seen: _Seen) -> Link:
    said = _kind(_SAID, seen.text.casefold())
    addressed = _kind(_ADDRESSED, _address(seen.url))
    kind, confidence = _judged(said, addressed, _about(seen), seen.url)
    return Link(seen.url, seen.text, kind, round(confidence, 2))


def _about(seen: _Seen) -> Kind | None:
    """What the words around a link say it does, if it leads to more than a home page."""
    parts = urlsplit(seen.url)
    if seen.text or (len(parts.path) <= 1 and not parts.query):
        return None
    sentences = [each for each in _SENTENCES.split(seen.before) if _LETTER.search(each)]
    return _kind(_SAID, "".join(sentences[-1:]).casefold()) or _kind(_SAID, seen.after.casefold())


def _judged(
    said: Kind | None, addressed: Kind | None, about: Kind | None, url: str
) -> tuple[Kind, float]:
    if "unsubscribe" in (said, addressed) or (about == "unsubscribe" and not said):
        return "unsubscribe", 0.1
    secret = bool(_TOKEN.search(url))
    if _social(url) and not secret and not addressed:
        return "other", 0.05
    if (said or about or addressed) == "login" and not secret:
        # A page where anybody logs in, not a way in.
        return "login", 0.5
    if kind := said or about:
        sure = kind == addressed or secret
        return kind, (0.85 if said else 0.7) + (0.1 if sure else 0)
    if addressed:
        return addressed, 0.8 if secret else 0.7
    return "other", 0.4 if secret else 0.2


def _kind(patterns: Iterable[tuple[Kind, re.Pattern[str]]], text: str) -> Kind | None:
    return next((kind for kind, pattern in patterns if text and pattern.search(text)), None)


def _address(url: str) -> str:
    """What of an address may say what it does: neither its host nor what it is given."""
    parts = urlsplit(url)
    names = re.sub(r"=[^&]*", "=", parts.query)
    return f"{parts.path}?{names}#{parts.fragment[:LONGEST_TEXT]}".casefold()


def _social(url: str) -> bool:
    parts = urlsplit(url)
    path = [each for each in parts.path.split("/") if each]
    return bool(_SOCIAL.search(parts.hostname or "")) and len(path) <= _SOCIAL_PATHS
