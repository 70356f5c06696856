"""Bring a Stalwart 0.16 to the state this service needs, and say how it differs from it.

Owns every change to a server's settings; what is wanted, and why, stands in `wanted.py` and its
files. A server is in one of two states: prepared (its store was only ever opened in recovery mode,
so Stalwart's default objects are not there yet, and making a role would keep them out for good) or
started. `apply` does what the state allows and says what remains. It never destroys what the files
do not name, never shows a secret and, when it only checks, sends no write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentmail_cp.mailserver import MailServerError, ServerStatus
from agentmail_cp.sizes import mail_limit
from agentmail_cp.stalwart import certificates, mtahook
from agentmail_cp.stalwart.calls import Call, SetError, reference
from agentmail_cp.stalwart.errors import SetupError
from agentmail_cp.stalwart.hooks import DOORBELL_PATH
from agentmail_cp.stalwart.jmap import JmapClient, LoginRefused, basic, bearer
from agentmail_cp.stalwart.keyfile import new_key_file, read_key
from agentmail_cp.stalwart.wanted import (
    MAILBOX_ROLE,
    OWN_DOMAIN,
    RETIRED_PREFIX,
    SERVICE_ACCOUNT,
    Change,
    Doorbell,
    Entry,
    Hook,
    Object,
    OwnServer,
    Wanted,
    drift,
    filled,
    groups,
    id_places,
    mailbox_permissions,
    matches,
    new_object,
    wire,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from agentmail_cp.settings import Settings
    from agentmail_cp.stalwart.certificates import TlsCertificate

__all__ = [
    "MAILBOX_ROLE",
    "OWN_DOMAIN",
    "RETIRED_PREFIX",
    "SERVICE_ACCOUNT",
    "Change",
    "Doorbell",
    "Hook",
    "OwnServer",
    "Report",
    "SetupError",
    "Wanted",
    "apply",
    "make_key",
    "read_key",
    "run_apply",
    "run_status",
    "status",
    "wanted_state",
]

PRODUCT: Final = "Stalwart"

SCHEMAS: Final = {"25gnm1_xB9bPk-puX9VTFMP1W5V-1muUWuK964-_uEw": "0.16.18"}
"""The version by the hash of its object schema, to which `GET /api/schema` redirects."""

MANY: Final = frozenset({"Account", "Domain"})
"""Types with more objects than one answer holds: asked for by filter, never listed."""

FEWEST_CALLS: Final = 16
"""Calls every Stalwart takes in one request."""

RELOADED_BY: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("Account", "Domain", "Role", "NetworkListener"), ()),
    "Certificate": ("ReloadTlsCertificates",),
    "SystemSettings": ("ReloadSettings", "ReloadTlsCertificates"),
}
"""Actions that make Stalwart take notice of a changed type, where that is not `ReloadSettings` alone. With
none, it sees the change at once or at its next start.
"""

NEEDED: Final = (
    *("authenticate", "impersonate", "unlimitedRequests", "unlimitedUploads", "fetchAnyBlob"),
    *("emailSend", "emailReceive", "jmapThreadGet", "jmapIdentityGet", "jmapCoreEcho"),
    *(f"sysAccount{verb}" for verb in ("Get", "Create", "Update", "Destroy", "Query")),
    *(f"sysDomain{verb}" for verb in ("Get", "Create", "Update", "Query")),
    *(f"sysDkimSignature{verb}" for verb in ("Get", "Create", "Update", "Destroy", "Query")),
    *(f"jmapSieveScript{verb}" for verb in ("Get", "Create", "Destroy")),
    *("sysSystemSettingsGet", "sysQueuedMessageUpdate"),
    *(f"sysRole{verb}" for verb in ("Get", "Query")),
    *(f"sysAppPassword{verb}" for verb in ("Get", "Create", "Destroy")),
    *(f"jmapMailbox{verb}" for verb in ("Get", "Changes", "Query", "Create", "Update")),
    *(f"jmapEmail{verb}" for verb in ("Get", "Changes", "Query", "Create", "Update", "Destroy")),
    *("jmapEmailImport", "jmapBlobGet", "jmapBlobUpload"),
    *(f"jmapEmailSubmission{verb}" for verb in ("Get", "Changes", "Query", "Create", "Update")),
    *(f"sysQueuedMessage{verb}" for verb in ("Get", "Query")),
    *(f"sysArfExternalReport{verb}" for verb in ("Get", "Query", "Destroy")),
)
"""Permissions the running service uses. What mailboxes get is needed too, see `needed`."""


class Report(msgspec.Struct, frozen=True):
    """What `apply` found and did. `started` False: apply again after Stalwart's first real start.

    `key_file` is where a new API key was written. `keyless`: no key is known, and no file to write one.
    `expired` says why the certificate of the settings was left alone.
    """

    changes: tuple[Change, ...]
    checked_only: bool
    started: bool = True
    restart: bool = False
    key_file: str | None = None
    keyless: bool = False
    expired: str | None = None

    @property
    def text(self) -> str:
        """For a person at a terminal."""
        lines = [change.text for change in self.changes]
        if not self.changes:
            lines.append("Stalwart is set up as wanted; nothing to change.")
        elif self.checked_only:
            lines.append(f"{len(self.changes)} differences. Run `agentmail-cp stalwart apply`.")
        else:
            lines.append(f"{len(self.changes)} changes made.")
        if self.restart:
            lines.append("Restart Stalwart: it opens and closes ports only when it starts.")
        if not self.started:
            lines.append("Start Stalwart without recovery mode, then apply again.")
        if self.key_file:
            lines.append(f"A new API key was written to {self.key_file}.")
        if self.expired:
            lines.append(f"The certificate was not looked at: {self.expired}. Renew it.")
        if self.keyless:
            lines.append("The service needs an API key: apply with --key-file to have one made.")
        return "\n".join(lines)


class _Got(msgspec.Struct):
    found: list[dict[str, Any]] = msgspec.field(name="list")


class _Done(msgspec.Struct, rename="camel"):
    created: dict[str, dict[str, Any]] | None = None
    not_created: dict[str, SetError] | None = None
    not_updated: dict[str, SetError] | None = None
    not_destroyed: dict[str, SetError] | None = None

    @property
    def refused(self) -> SetError | None:
        for errors in (self.not_created, self.not_updated, self.not_destroyed):
            if errors:
                return next(iter(errors.values()))
        return None


class _Self(msgspec.Struct):
    permissions: tuple[str, ...]


def wanted_state(settings: Settings, *, own: OwnServer | None = None, dev: bool = False) -> Wanted:
    """The variables as the settings have them. Raises SetupError for a webhook without a secret, and for a
    certificate that would not do.
    """
    return Wanted(
        domain=settings.domain,
        message_size=message_size(settings),
        imap_connections=settings.imap_connections_per_inbox,
        doorbell=_doorbell(settings),
        hook=_hook(settings),
        own=own,
        certificate=_certificate(settings)[0],
        dev=dev,
    )


def message_size(settings: Settings) -> int:
    """Bytes of the largest mail Stalwart takes, at every door."""
    return mail_limit(settings.max_message_size)


def needed() -> tuple[str, ...]:
    """Permissions our key must have: its own, and every one it grants to mailboxes."""
    return tuple(dict.fromkeys((*NEEDED, *mailbox_permissions())))


async def status(client: JmapClient) -> ServerStatus:
    """Version and missing permissions. Raises SetupError for what is not a Stalwart 0.16."""
    mine = await _introduce(client)
    missing = tuple(name for name in needed() if name not in mine.permissions)
    return ServerStatus(PRODUCT, await _version(client), missing)


async def apply(client: JmapClient, wanted: Wanted, *, check: bool) -> Report:
    """Make the server as wanted, or with `check` only list the differences.

    Raises SetupError when Stalwart refuses a change, MailServerError when it is away.
    """
    mine = await _introduce(client)
    _demand(mine, wanted, check=check)
    started = await _was_started(client)
    server = _Server(client, check=check)
    wished = [group for group in groups(wanted) if started or group[0].stage != "started"]
    await server.read(wished)
    for group in wished:
        await server.bring(group)
    if started and not check:
        await server.reload()
    touched = {change.object.split()[0] for change in server.changes}
    return Report(
        changes=tuple(server.changes),
        checked_only=check,
        started=started,
        restart=started and not check and "NetworkListener" in touched,
    )


async def make_key(client: JmapClient, path: Path) -> None:
    """Have a new API key of the service account made and write it to a file. Older ones stay valid until
    they are destroyed. Raises SetupError; none is made, or left, that could not be written.
    """
    with new_key_file(path) as write:
        account = await _service_account(client)
        made = await _create_key(client, account)
        try:
            write(made.secret)
        except OSError:
            await _destroy_key(client, account, made)
            raise


async def run_apply(
    settings: Settings,
    *,
    check: bool,
    own: OwnServer | None = None,
    dev: bool = False,
    key_file: Path | None = None,
) -> Report:
    """What `agentmail-cp stalwart apply` does.

    Logs in as `settings.stalwart_admin`, else with our key. Makes a key and writes it to `key_file`
    (mode 0600) unless that file already holds one that works; it is shown nowhere else.
    Raises SetupError with a sentence for a person.
    """
    if settings.stalwart_url is None:
        raise SetupError("AGENTMAIL_CP_STALWART_URL is not set: where is Stalwart?")
    wanted = wanted_state(settings, own=own, dev=dev)
    client = JmapClient(settings.stalwart_url, _login(settings))
    try:
        report = await apply(client, wanted, check=check)
        report = msgspec.structs.replace(report, expired=_certificate(settings)[1])
        if not report.started or await _has_key(settings, key_file):
            return report
        return await _with_key(client, report, key_file)
    except MailServerError as error:
        raise SetupError(f"{settings.stalwart_url}: {error}") from error
    finally:
        await client.close()


async def run_status(settings: Settings) -> ServerStatus:
    """What `agentmail-cp stalwart status` shows. Raises SetupError with a sentence for a person."""
    if settings.stalwart_url is None:
        raise SetupError("AGENTMAIL_CP_STALWART_URL is not set: where is Stalwart?")
    client = JmapClient(settings.stalwart_url, _login(settings, prefer_key=True))
    try:
        return await status(client)
    except MailServerError as error:
        raise SetupError(f"{settings.stalwart_url}: {error}") from error
    finally:
        await client.close()


class _Server:
    """The server's objects as far as the wanted state names them, and the changes made to them."""

    def __init__(self, client: JmapClient, *, check: bool) -> None:
        self._client = client
        self._check = check
        self._objects: dict[str, list[Object]] = {}
        self._reloads: dict[str, None] = {}
        self.changes: list[Change] = []

    async def read(self, wished: Iterable[tuple[Entry, ...]]) -> None:
        """Read every singleton and every short list in as few requests as possible."""
        heads = {group[0].type: group[0] for group in wished if group[0].type not in MANY}
        calls = [_get(head) for head in heads.values()]
        # Without the session, which tells the real limit: an own server shows it to our key only.
        for start in range(0, len(calls), FEWEST_CALLS):
            answers = await self._client.call(*calls[start : start + FEWEST_CALLS], repeat=True)
            self._objects |= {name: got.into(_Got).found for name, got in answers.items()}

    async def bring(self, group: tuple[Entry, ...]) -> None:
        """Compare one object with what is wanted and change it."""
        group = tuple([filled(entry, await self._ids(entry)) for entry in group])
        head = group[0]
        found = await self._find(head)
        if head.absent:
            return await self._remove(head, found)
        if found is None:
            return None if head.optional else await self._create(group)
        return await self._update(group, found)

    async def reload(self) -> None:
        """Make Stalwart read its settings again, if any changed."""
        for action in sorted(self._reloads):
            call = Call("x:Action/set", {"create": {"reload": {"@type": action}}}, "0")
            done = (await self._client.call(call))["0"].into(_Done)
            if done.refused is not None:
                raise SetupError(
                    "The settings are stored, but Stalwart refuses to use them before its next "
                    f"start: {done.refused.sentence}"
                )

    async def _find(self, head: Entry) -> Object | None:
        if head.type in MANY:
            return await _find_one(self._client, head.type, head.match)
        objects = self._objects[head.type]
        return next((found for found in objects if matches(found, head.marks)), None)

    async def _ids(self, entry: Entry) -> dict[str, Any]:
        """Values of `${id:Type:name}`: the id of an object made earlier in the list."""
        ids: dict[str, Any] = {}
        for place in id_places(entry):
            _, kind, name = place.split(":")
            found = await self._named(kind, name)
            ids[place] = found["id"] if found else None
        return ids

    async def _named(self, kind: str, name: str) -> Object | None:
        """An object by its name; a certificate has none but itself."""
        if kind != "Certificate":
            return await _find_one(self._client, kind, {"name": name})
        call = Call("x:Certificate/get", {"ids": None}, "0")
        found = (await self._client.call(call, repeat=True))["0"].into(_Got).found
        return next((one for one in found if matches(one, {"certificate/value": name})), None)

    async def _create(self, group: tuple[Entry, ...]) -> None:
        head = group[0]
        self.changes.append(Change(head.title, "", None, "exists", head.reason))
        await self._write(head, {"create": {"new": new_object(group)}})

    async def _update(self, group: tuple[Entry, ...], found: dict[str, Any]) -> None:
        patch: dict[str, Any] = {}
        for entry in group:
            differences = drift(entry, found)
            self.changes.extend(differences)
            patch.update({change.setting: change.should for change in differences})
            if differences:
                secrets = {name: wire(value) for name, value in entry.secret.items()}
                # An object with a secret in it is given anew as a whole.
                patch = {name: value for name, value in patch.items() if not _within(name, secrets)}
                patch.update(secrets)
        if patch:
            await self._write(group[0], {"update": {found["id"]: patch}})

    async def _remove(self, head: Entry, found: Object | None) -> None:
        if found is None:
            return
        self.changes.append(Change(head.title, "", "exists", None, head.reason))
        await self._write(head, {"destroy": [found["id"]]})

    async def _write(self, head: Entry, arguments: dict[str, Any]) -> None:
        if self._check:
            return
        call = Call(f"x:{head.type}/set", arguments, "0")
        done = (await self._client.call(call))["0"].into(_Done)
        if done.refused is not None:
            raise SetupError(f"Stalwart refuses {head.title}: {done.refused.sentence}")
        self._reloads |= dict.fromkeys(RELOADED_BY.get(head.type, ("ReloadSettings",)))


async def _introduce(client: JmapClient) -> _Self:
    """Who we are to the server; tells a wrong password from a wrong server."""
    try:
        return await client.get_json("/api/account", _Self)
    except LoginRefused:
        raise SetupError(
            "Stalwart does not accept the login. `apply` needs AGENTMAIL_CP_STALWART_ADMIN "
            "(user:password of an administrator) or AGENTMAIL_CP_STALWART_KEY."
        ) from None
    except MailServerError as error:
        if "HTTP 404" in str(error) or "unknown to this version" in str(error):
            raise SetupError(
                "What answers there is no Stalwart 0.16: older versions have no /api/account. "
                "Check AGENTMAIL_CP_STALWART_URL, or upgrade Stalwart."
            ) from None
        raise


def _demand(mine: _Self, wanted: Wanted, *, check: bool) -> None:
    """Refuse a login that could not finish the work, before anything is changed."""
    verbs = ("Get",) if check else ("Get", "Create", "Update")
    kinds = {group[0].type: group[0] for group in groups(wanted)}
    missing = [
        permission
        for kind, head in kinds.items()
        for verb in (*verbs, *(("Query",) if kind in MANY else ()))
        if (head.marks or verb != "Create")
        and (permission := f"sys{kind}{verb}") not in mine.permissions
    ]
    if missing:
        raise SetupError(
            f"The login lacks the permission {', '.join(missing)}. Set "
            "AGENTMAIL_CP_STALWART_ADMIN to user:password of a Stalwart administrator."
        )


async def _version(client: JmapClient) -> str:
    """Stalwart tells nobody its version, but where its object schema lies."""
    place = await client.redirection("/api/schema") or ""
    return SCHEMAS.get(place.rpartition("/")[2], "0.16")


async def _was_started(client: JmapClient) -> bool:
    """Whether Stalwart's default objects are there: it makes them at its first normal start."""
    answer = (await client.call(Call("x:Role/get", {"ids": None}, "0"), repeat=True))["0"]
    return bool(answer.into(_Got).found)


async def _service_account(client: JmapClient) -> str:
    domain = await _find_one(client, "Domain", {"name": OWN_DOMAIN})
    match = {"name": SERVICE_ACCOUNT, "domainId": domain["id"] if domain else None}
    account = await _find_one(client, "Account", match)
    if account is None:
        raise SetupError("The service account is missing. Run `agentmail-cp stalwart apply`.")
    return str(account["id"])


async def _find_one(client: JmapClient, kind: str, match: Mapping[str, Any]) -> Object | None:
    if None in match.values():
        return None
    answers = await client.call(
        Call(f"x:{kind}/query", {"filter": dict(match)}, "q"),
        Call(f"x:{kind}/get", {"#ids": reference("q", f"x:{kind}/query", "/ids")}, "g"),
        repeat=True,
    )
    found = answers["g"].into(_Got).found
    return next((one for one in found if matches(one, match)), None)


async def _has_key(settings: Settings, key_file: Path | None) -> bool:
    key = settings.stalwart_key if key_file is None else read_key(key_file)
    if not key or settings.stalwart_url is None:
        return False
    client = JmapClient(settings.stalwart_url, bearer(key))
    try:
        await client.get_json("/api/account", _Self)
    except LoginRefused:
        return False
    finally:
        await client.close()
    return True


async def _with_key(client: JmapClient, report: Report, key_file: Path | None) -> Report:
    if key_file is None:
        return msgspec.structs.replace(report, keyless=True)
    reason = "The service logs in with it."
    missing = Change("ApiKey", str(key_file), None, "a key that works", reason)
    report = msgspec.structs.replace(report, changes=(*report.changes, missing))
    if report.checked_only:
        return report
    await make_key(client, key_file)
    return msgspec.structs.replace(report, key_file=str(key_file))


class _ApiKey(msgspec.Struct):
    id: str
    secret: str

    def __repr__(self) -> str:
        return f"_ApiKey({self.id!r})"


async def _create_key(client: JmapClient, account: str) -> _ApiKey:
    key = {"description": SERVICE_ACCOUNT, "permissions": {"@type": "Inherit"}}
    done = await _set_keys(client, account, {"create": {"key": key}})
    if done.refused is not None:
        raise SetupError(
            f"Stalwart made no API key ({done.refused.sentence}). If there are too many, remove "
            f"unused keys of {SERVICE_ACCOUNT}@{OWN_DOMAIN}."
        )
    return msgspec.convert((done.created or {})["key"], _ApiKey)


async def _destroy_key(client: JmapClient, account: str, key: _ApiKey) -> None:
    done = await _set_keys(client, account, {"destroy": [key.id]})
    if done.refused is not None:
        raise SetupError(
            f"An API key was made that could not be written, and Stalwart keeps it "
            f"({done.refused.sentence}). Remove the newest key of {SERVICE_ACCOUNT}@{OWN_DOMAIN}."
        )


async def _set_keys(client: JmapClient, account: str, arguments: dict[str, Any]) -> _Done:
    call = Call("x:ApiKey/set", {"accountId": account, **arguments}, "0")
    return (await client.call(call))["0"].into(_Done)


def _login(settings: Settings, *, prefer_key: bool = False) -> str:
    if settings.stalwart_key and (prefer_key or not settings.stalwart_admin):
        return bearer(settings.stalwart_key)
    if settings.stalwart_admin:
        user, _, password = settings.stalwart_admin.partition(":")
        return basic(user, password)
    raise SetupError(
        "Set AGENTMAIL_CP_STALWART_ADMIN to user:password of a Stalwart administrator, "
        "or AGENTMAIL_CP_STALWART_KEY to our API key."
    )


def _doorbell(settings: Settings) -> Doorbell | None:
    if settings.stalwart_webhook_url is None:
        return None
    if not settings.stalwart_webhook_secret:
        raise SetupError(
            "AGENTMAIL_CP_STALWART_WEBHOOK_SECRET is not set: without it anybody could ring. "
            "Any long random text will do."
        )
    return Doorbell(
        url=settings.stalwart_webhook_url.rstrip("/") + DOORBELL_PATH,
        secret=settings.stalwart_webhook_secret,
        throttle=round(settings.stalwart_webhook_throttle * 1000),
    )


def _hook(settings: Settings) -> Hook | None:
    if settings.stalwart_webhook_url is None or not settings.stalwart_webhook_secret:
        return None
    return mtahook.hook_at(settings.stalwart_webhook_url, settings.stalwart_webhook_secret)


def _certificate(settings: Settings) -> tuple[TlsCertificate | None, str | None]:
    """The certificate of the settings, and why it is left alone when it has expired: a renewal that did not
    come about must not keep everything else from starting.
    """
    chain, key = settings.stalwart_certificate, settings.stalwart_certificate_key
    if chain is None and key is None:
        return None, None
    if chain is None or key is None:
        raise SetupError(
            "AGENTMAIL_CP_STALWART_CERTIFICATE and AGENTMAIL_CP_STALWART_CERTIFICATE_KEY go together; "
            "set both, or none."
        )
    try:
        return certificates.read(chain, key), None
    except certificates.Expired as error:
        return None, str(error)
    except certificates.BadCertificate as error:
        raise SetupError(
            f"AGENTMAIL_CP_STALWART_CERTIFICATE will not do: {error}. Give both files of one certificate."
        ) from None


def _within(pointer: str, places: Iterable[str]) -> bool:
    return any(pointer.startswith(f"{place}/") for place in places)


def _get(head: Entry) -> Call:
    ids = None if head.marks else ["singleton"]
    return Call(f"x:{head.type}/get", {"ids": ids}, head.type)
