"""What Stalwart 0.16 asks us about a mail on its way, checked, decoded and answered: its MTA hooks.

A question is not a doorbell: Stalwart waits for the answer while its client waits, and without one refuses
for now (4xx). There are two hooks (`stalwart-config/hook.toml`): mail clients are asked about at each
recipient and with their whole mail, what comes in by JMAP once. Owns the token Stalwart shows, the reading
of a question and the spelling of an answer. Whose mail it is, and what to do about it, others decide.

Stalwart 0.16 sends the mail as JSON text. Bytes that are not UTF-8 (8-bit text in an older charset, binary
parts of RFC 3030) arrive as U+FFFD and cannot be had back; `Question.exact` tells.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator
from typing import Any, Final, Literal

import msgspec

from agentmail_cp.stalwart.wanted import Hook

HOOK_PATH: Final = "/stalwart/hook"
"""Path of the MTA hook below `AGENTMAIL_CP_STALWART_WEBHOOK_URL`."""

QUEUED_PATH: Final = "/stalwart/queued"
"""Path below the same URL at which Stalwart tells of mail this service handed in."""

ESCAPING: Final = 2
"""How many times its size a mail may take as JSON text. Stalwart escapes line ends, quotes and control
characters only, so that real mail grows by 3 %."""

BODY: Final = b'],"contents":"'
"""Where a mail's headers end and its body begins. Inside of JSON text every quote is escaped, so a mail
cannot spell this."""

WITHOUT_BODY: Final = b'],"contents":"","size":0}}'
LARGEST_HEAD: Final = 1_000_000
"""Bytes of a question before the mail's body."""

Stage = Literal["connect", "ehlo", "auth", "mail", "rcpt", "data"]


class BadQuestion(Exception):
    """The body is not a question of Stalwart's."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One question. `login` is the address of the account that is logged in, None for mail from outside.

    `sender` and `recipients` are the SMTP envelope in lower case; `queue_id` is the number Stalwart's
    events name the mail by once it is queued. At stage `data`: `headers` are raw values with their
    leading blank and line end, `body` is everything after the empty line.
    """

    stage: Stage
    login: str | None = None
    queue_id: int | None = None
    sender: str | None = None
    recipients: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    exact: bool = True


class _Login(msgspec.Struct):
    login: str


class _Queue(msgspec.Struct):
    id: str


class _Context(msgspec.Struct):
    stage: Stage
    sasl: _Login | None = None
    queue: _Queue | None = None


class _Address(msgspec.Struct):
    address: str


class _Envelope(msgspec.Struct, rename={"sender": "from"}):
    sender: _Address
    to: tuple[_Address, ...] = ()


class _Message(msgspec.Struct):
    headers: tuple[tuple[str, str], ...]
    contents: str
    size: int


class _Body(msgspec.Struct):
    context: _Context
    envelope: _Envelope | None = None
    message: _Message | None = None


def token(secret: str) -> str:
    """What Stalwart shows us. Another than the key it signs the webhook with: this one is sent."""
    return hmac.new(secret.encode(), b"agentmail-cp hook", hashlib.sha256).hexdigest()


def hook_at(base_url: str, secret: str) -> Hook:
    """The hooks that Stalwart should have; `base_url` is where it reaches this service."""
    base = base_url.rstrip("/")
    return Hook(url=base + HOOK_PATH, queued_url=base + QUEUED_PATH, token=token(secret))


def is_ours(authorization: str | None, secret: str) -> bool:
    """Whether a request shows the token. Takes the same time either way."""
    given = (authorization or "").encode("utf-8", "replace")
    return hmac.compare_digest(f"Bearer {token(secret)}".encode(), given)


def decode(body: bytes) -> Question:
    """Read one question. Raises `BadQuestion` for anything that is none."""
    try:
        asked = msgspec.json.decode(body, type=_Body)
        queue = asked.context.queue
        queue_id = None if queue is None else int(queue.id, 16)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError) as error:
        # Not the error's own words: they may quote the mail.
        raise BadQuestion(f"not a question of Stalwart's ({type(error).__name__})") from None
    envelope, message = asked.envelope, asked.message
    content = b"" if message is None else message.contents.encode("utf-8", "replace")
    return Question(
        stage=asked.context.stage,
        login=None if asked.context.sasl is None else asked.context.sasl.login,
        queue_id=queue_id,
        sender=None if envelope is None else envelope.sender.address,
        recipients=() if envelope is None else tuple(to.address for to in envelope.to),
        headers=() if message is None else message.headers,
        body=content,
        exact=message is None or _is_exact(message, content),
    )


async def read_head(chunks: AsyncIterator[bytes]) -> Question:
    """A question without the mail's body: of a large mail nothing more is read or kept.

    Raises `BadQuestion`, also for a head of more than `LARGEST_HEAD` bytes.
    """
    read = bytearray()
    async for chunk in chunks:
        start = max(0, len(read) - len(BODY))
        read += chunk
        end = read.find(BODY, start)
        if end >= 0:
            return decode(bytes(read[:end]) + WITHOUT_BODY)
        if len(read) > LARGEST_HEAD:
            break
    raise BadQuestion("not a question of Stalwart's (no mail)")


def _is_exact(message: _Message, content: bytes) -> bool:
    """A byte that is no UTF-8 becomes the three of U+FFFD: then the size no longer fits."""
    head = "".join(f"{name}:{value}" for name, value in message.headers)
    if "\ufffd" not in head and "\ufffd" not in message.contents:
        return True
    return len(head.encode("utf-8", "replace")) + len(b"\r\n") + len(content) == message.size


def accept(message_id: str | None = None, *, replaces: bool = False) -> bytes:
    """Let the mail pass, with this Message-ID (no brackets) in the place of none or of a broken one.

    Stalwart then passes on a mail with this one Message-ID only.
    """
    changes: list[dict[str, Any]] = []
    if message_id is not None:
        header = {"name": "Message-ID", "value": f"<{message_id}>"}
        how = {"type": "changeHeader", "index": 1} if replaces else {"type": "addHeader"}
        changes.append(how | header)
    return msgspec.json.encode({"action": "accept", "modifications": changes})


LONGEST_REPLY: Final = 400
"""Characters of a reply: a line may have 512 bytes with its codes (RFC 5321 section 4.5.3.1.5)."""


def reject(status: int, enhanced: str, text: str, code: str) -> bytes:
    """Refuse the recipient, or the mail, with an SMTP reply: the API's words and, behind them, its code."""
    tidy = " ".join(text.encode("ascii", "replace").decode().split())
    response = {
        "status": status,
        "enhanced_status": enhanced,
        "message": f"{tidy[:LONGEST_REPLY]} [{code}]",
        "disconnect": False,
    }
    return msgspec.json.encode({"action": "reject", "response": response})
