"""The wanted state of a Stalwart server, and how an object differs from it. Pure but for reading files.

Owns the TOML files of `stalwart-config/`, in which each setting stands with its reason, the variables
they may name, and the few names this service and the server must agree on. Knows how Stalwart 0.16
spells objects on the wire (sets as objects of `true`, lists as objects by index, expressions), and
never talks to a server: `setup.py` does.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeGuard

import msgspec

from agentmail_cp.mailserver import MOST_APP_PASSWORDS
from agentmail_cp.settings import DEFAULT_IMAP_CONNECTIONS, DEFAULT_MESSAGE_SIZE
from agentmail_cp.sizes import mail_limit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from agentmail_cp.stalwart.certificates import TlsCertificate

OWN_DOMAIN: Final = "control-plane.internal"
SERVICE_ACCOUNT: Final = "agentmail-cp"
MAILBOX_ROLE: Final = "agentmail-cp mailbox"
"""Description of the role every mailbox gets; Stalwart's roles have no other name."""
RETIRED_PREFIX: Final = "retired~"
"""Starts the local part of a retired account. `~` is no character of a username (seed 003)."""

PAUSED_PREFIX: Final = "paused~"
"""Starts an alias that a paused account has for each of its names."""
CATCH_ALL: Final = "catch-all~"
"""The local part of an alias that the catch-all account of a domain has in it."""
SEND_ONLY: Final = "send-only"
BELOW: Final = "below"
PARKED: Final = "parked"
"""What a name below `OWN_DOMAIN` that a domain has for an alias, or for its name, says of it; `below-2`: it
is signed for by the domain two labels up.
"""
DEEPEST: Final = 3
"""How many labels below another a domain may be to be signed for by it."""

DEFAULT_MAIL_SIZE: Final = mail_limit(DEFAULT_MESSAGE_SIZE)
"""Bytes of the largest mail, headers and encoding included."""

FILES: Final = (
    *(
        "certificate",
        "access",
        "server",
        "smtp",
        "domains",
        "mailbox",
        "jmap",
        "webhook",
        "hook",
        "dev",
    ),
)
"""In the order in which objects are made: later ones refer to domains and the certificate of the first."""

ANY: Final = "*"
"""In `match`: the property is there, whatever its value."""

ADDRESS: Final = "^([^+@]+)([+][^@]*)?@(.+)$"
"""In Stalwart's expressions: local part, tag and domain of an address."""
MOST_PARTS: Final = 10_000
LIMIT_PARTS: Final = "\r\n".join(
    (
        'require ["vnd.stalwart.expressions", "foreverypart", "reject"];',
        # Fewer bytes cannot be so many parts.
        "if size :over 50K {",
        '  let "parts" "0";',
        "  foreverypart {",
        '    let "parts" "parts + 1";',
        f'    if eval "parts > {MOST_PARTS}" {{',
        f'      reject "554 5.6.0 This mail has more than {MOST_PARTS} MIME parts.";',
        "      stop;",
        "    }",
        "  }",
        "}",
    )
)
"""The Sieve script (RFC 5228, RFC 5703) that refuses a mail of absurdly many parts."""

PLACEHOLDER: Final = re.compile(r"\$\{([a-z_]+|id:[A-Za-z]+:[^}]+)\}")
LONGEST_SHOWN: Final = 300
PEM: Final = "-----BEGIN CERTIFICATE"

Object = dict[str, Any]
"""An object of Stalwart as JMAP shows it."""


class Doorbell(msgspec.Struct, frozen=True):
    """Where Stalwart rings, the key it signs with, and the shortest pause between rings in ms."""

    url: str
    secret: str
    throttle: int


class Hook(msgspec.Struct, frozen=True):
    """Where Stalwart asks about mail that clients hand in, where it tells of mail we hand in, and the
    token it shows at both.
    """

    url: str
    queued_url: str
    token: str


class OwnServer(msgspec.Struct, frozen=True):
    """A Stalwart that serves nobody else: its name and the `address:port` of each listener."""

    hostname: str
    smtp: tuple[str, ...]
    submission: tuple[str, ...]
    submissions: tuple[str, ...]
    imaps: tuple[str, ...]
    http: tuple[str, ...]


def standard_server(hostname: str) -> OwnServer:
    """A server with the world's ports: 25, 587, 465 and 993, and JMAP on 8080, on every address."""
    return OwnServer(
        hostname=hostname,
        smtp=("[::]:25",),
        submission=("[::]:587",),
        submissions=("[::]:465",),
        imaps=("[::]:993",),
        http=("[::]:8080",),
    )


class Wanted(msgspec.Struct, frozen=True):
    """The variables of the wanted state. `message_size` in bytes.

    `own` None leaves the server's name and listeners alone, `certificate` None its certificates. `dev` is
    for loopback without internet; `dns` is then an address and a UDP port to ask instead of the system's
    resolver, and mail from outside is checked with what it answers.
    """

    domain: str
    message_size: int = DEFAULT_MAIL_SIZE
    imap_connections: int = DEFAULT_IMAP_CONNECTIONS
    doorbell: Doorbell | None = None
    hook: Hook | None = None
    own: OwnServer | None = None
    certificate: TlsCertificate | None = None
    dev: bool = False
    dns: tuple[str, int] | None = None


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One `[[object]]` of the files; the head of smtp.toml explains the fields."""

    type: str
    reason: str
    set: dict[str, Any] = {}
    create: dict[str, Any] = {}
    secret: dict[str, Any] = {}
    match: dict[str, Any] = {}
    derived: dict[str, Any] = {}
    when: str | None = None
    stage: str | None = None
    optional: bool = False
    absent: bool = False

    @property
    def marks(self) -> dict[str, Any]:
        """By what the object is found among others of its type; empty for a singleton."""
        return {**self.match, **self.derived}

    @property
    def title(self) -> str:
        """The object's type and what tells it from others of the type."""
        marks = (value for value in self.marks.values() if value != ANY)
        return " ".join([self.type, *(_mark(mark) for mark in marks)])


class Change(msgspec.Struct, frozen=True):
    """One difference: what the server has, what it should have, and why."""

    object: str
    setting: str
    is_: Any
    should: Any
    reason: str

    @property
    def text(self) -> str:
        """For a person: the difference in one line, the reason in the next."""
        subject = f"{self.object} {self.setting}".strip()
        return f"{subject}: {_difference(self.is_, self.should)}\n    {self.reason}"


class _File(msgspec.Struct, forbid_unknown_fields=True):
    object: list[Entry]


def groups(wanted: Wanted) -> list[tuple[Entry, ...]]:
    """The wanted state: the entries whose condition holds, variables filled in, by object."""
    values = _values(wanted)
    by_object: dict[tuple[str, str], list[Entry]] = {}
    for entry in _read_files():
        if _holds(entry.when, wanted):
            ready = filled(entry, values)
            by_object.setdefault((ready.type, repr(ready.marks)), []).append(ready)
    return [tuple(entries) for entries in by_object.values()]


def mailbox_permissions() -> tuple[str, ...]:
    """What a mailbox may do with its own password."""
    role = next(entry for entry in _read_files() if entry.type == "Role")
    return tuple(role.set["enabledPermissions"])


def filled(entry: Entry, values: Mapping[str, Any]) -> Entry:
    """The entry with placeholders replaced. One that is a whole text keeps its value's type."""
    plain: dict[str, Any] = msgspec.to_builtins(entry)
    return msgspec.convert({name: _fill(value, values) for name, value in plain.items()}, Entry)


def id_places(entry: Entry) -> set[str]:
    """Placeholders `id:Type:name` that stand for the id of an object made earlier in the list."""
    return _places(msgspec.to_builtins(entry))


def matches(found: Object, match: Mapping[str, Any]) -> bool:
    """Whether an object has these properties."""
    return all(
        _at(found, name) is not None if value == ANY else _at(found, name) == value
        for name, value in match.items()
    )


def drift(entry: Entry, found: Object) -> list[Change]:
    """In what an object differs from an entry. Secrets are never shown, so never compared."""
    return [
        Change(entry.title, name, _at(found, name), wire(value), entry.reason)
        for name, value in entry.set.items()
        if _bare(_at(found, name)) != _bare(wire(value))
    ]


def new_object(entries: Iterable[Entry]) -> Object:
    """The object to create, with everything its entries say."""
    made: Object = {}
    for entry in entries:
        given = {**entry.match, **entry.create, **entry.set, **entry.secret}
        for name, value in given.items():
            if value != ANY:
                _place(made, name, wire(value))
    return made


def wire(value: Any) -> Any:
    """A value of the files in Stalwart's spelling (0.16, website: object encoding)."""
    if _is_object(value):
        spelled = {name: wire(inner) for name, inner in value.items()}
        # Stalwart merges into an expression: conditions that are not named would stay.
        return {"match": {}, **spelled} if "else" in spelled else spelled
    if not _is_list(value):
        return value
    if all(isinstance(member, str) for member in value):
        return dict.fromkeys(value, True)
    return {str(index): wire(member) for index, member in enumerate(value)}


def digest(secret: str) -> str:
    """Tells two secrets apart without revealing either."""
    return hmac.new(secret.encode(), b"agentmail-cp doorbell", hashlib.sha256).hexdigest()[:16]


def _read_files() -> Iterator[Entry]:
    folder = _folder()
    for name in FILES:
        text = (folder / f"{name}.toml").read_text(encoding="utf-8")
        yield from msgspec.convert(tomllib.loads(text), _File).object


def _folder() -> Path:
    """Inside an installed package, or beside it in a source checkout."""
    package = Path(__file__).parent.parent
    installed = package / "stalwart_config"
    return installed if installed.is_dir() else package.parent / "stalwart-config"


def _values(wanted: Wanted) -> dict[str, Any]:
    values: dict[str, Any] = {
        "nothing": None,
        "inbound": "(listener == 'smtp' || local_port == 25)",
        "domain": wanted.domain,
        "own_domain": OWN_DOMAIN,
        "service_account": SERVICE_ACCOUNT,
        "mailbox_role": MAILBOX_ROLE,
        "retired_prefix": RETIRED_PREFIX,
        "paused_prefix": PAUSED_PREFIX,
        "catch_all_name": CATCH_ALL,
        "send_only": f".{SEND_ONLY}.{OWN_DOMAIN}",
        "below": f".{BELOW}",
        "address": ADDRESS,
        "paused": (
            f"matches('{ADDRESS}', rcpt) && is_local_address('{PAUSED_PREFIX}' + $1 + '@' + $3)"
        ),
        "limit_parts": LIMIT_PARTS,
        "local_queue": "local",
        "imap_connections": wanted.imap_connections,
        "app_passwords": MOST_APP_PASSWORDS,
        "message_size": wanted.message_size,
        "message_size_text": str(wanted.message_size),
        "request_size": wanted.message_size * 2,
    }
    if wanted.doorbell is not None:
        values["webhook_url"] = wanted.doorbell.url
        values["webhook_secret"] = wanted.doorbell.secret
        values["webhook_secret_digest"] = digest(wanted.doorbell.secret)
        values["webhook_throttle"] = wanted.doorbell.throttle
    if wanted.hook is not None:
        values["hook_url"] = wanted.hook.url
        values["queued_url"] = wanted.hook.queued_url
        values["hook_token"] = wanted.hook.token
        values["hook_token_digest"] = digest(wanted.hook.token)
    if wanted.certificate is not None:
        values["certificate"] = wanted.certificate.chain
        values["certificate_key"] = wanted.certificate.key
        values["certificate_names"] = dict.fromkeys(wanted.certificate.names, True)
    if wanted.dns is not None:
        values["dns_address"], values["dns_port"] = wanted.dns
    if wanted.own is not None:
        listeners = msgspec.structs.asdict(wanted.own)
        values["hostname"] = listeners.pop("hostname")
        values.update({f"bind_{name}": list(binds) for name, binds in listeners.items()})
    return values


def _holds(when: str | None, wanted: Wanted) -> bool:
    if when is None:
        return True
    facts = {
        "dev": wanted.dev,
        "own": wanted.own is not None,
        "webhook": wanted.doorbell is not None,
        "hook": wanted.hook is not None,
        "certificate": wanted.certificate is not None,
        "dns": wanted.dns is not None,
        "checks": not wanted.dev or wanted.dns is not None,
    }
    return all(facts[each.removeprefix("!")] != each.startswith("!") for each in when.split())


def _fill(value: Any, values: Mapping[str, Any]) -> Any:
    if _is_object(value):
        return {name: _fill(inner, values) for name, inner in value.items()}
    if _is_list(value):
        return [_fill(inner, values) for inner in value]
    if not isinstance(value, str):
        return value
    if whole := PLACEHOLDER.fullmatch(value):
        return _value(whole[1], values)
    return PLACEHOLDER.sub(lambda part: str(_value(part[1], values)), value)


def _value(name: str, values: Mapping[str, Any]) -> Any:
    """`id:Type:variable` first has its variable filled in, and becomes an id in a second round."""
    if name.startswith("id:") and name not in values:
        _, kind, variable = name.split(":")
        return f"${{id:{kind}:{values[variable]}}}"
    return values[name]


def _places(value: Any) -> set[str]:
    if _is_object(value):
        return {place for inner in value.values() for place in _places(inner)}
    if _is_list(value):
        return {place for inner in value for place in _places(inner)}
    if not isinstance(value, str):
        return set()
    return {place for place in PLACEHOLDER.findall(value) if place.startswith("id:")}


def _at(found: Object, pointer: str) -> Any:
    """The value at a JMAP patch path (RFC 8620 section 5.3)."""
    value: Any = found
    for step in pointer.split("/"):
        value = value.get(step) if _is_object(value) else None
    return value


def _place(made: Object, pointer: str, value: Any) -> None:
    """Put a value where a patch path points; a create knows no paths."""
    *parents, last = pointer.split("/")
    for step in parents:
        made = made.setdefault(step, {})
    made[last] = value


def _bare(value: Any) -> Any:
    """Without the empty parts that Stalwart may leave out or fill in."""
    if not _is_object(value):
        return value
    inner = {name: _bare(part) for name, part in value.items()}
    return {name: part for name, part in inner.items() if part is not None} or None


def _difference(is_: Any, should: Any) -> str:
    if not (_is_set(is_) and _is_set(should)):
        return f"{_shown(is_)} -> {_shown(should)}"
    lacks = ", ".join(sorted(should.keys() - is_.keys()))
    extra = ", ".join(sorted(is_.keys() - should.keys()))
    return "; ".join([f"lacks {lacks}"] * bool(lacks) + [f"also has {extra}"] * bool(extra))


def _mark(value: Any) -> str:
    return ", ".join(sorted(value)) if _is_set(value) else str(value)


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    if PEM in text:
        return f"certificate {hashlib.sha256(text.encode()).hexdigest()[:16]}"
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def _is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _is_list(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _is_set(value: Any) -> TypeGuard[dict[str, bool]]:
    return _is_object(value) and all(part is True for part in value.values())
