"""One case for each thing a key can ask for: what it takes, with a request that would succeed.

`CASES` is a table of its own, not made from the routes' guards: it says what the contract asks for, so a
guard that is forgotten is found. A route without a case fails `test_every_route_has_a_case`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import msgspec

from agentmail_cp.web.refusals import REFUSALS
from tests.api.write_openapi import description

Json = dict[str, Any]
Names = Mapping[str, str]
"""Path parameters, and whatever else a body names."""

ORGANIZATION, POD, INBOX = "", "/pods/{pod_id}", "/inboxes/{inbox_id}"

_PARAMETER = re.compile(r"\{(\w+)\}")

CHOICES = frozenset({"direction", "type", "app_id", "provider_id"})
"""Path parameters that name nothing anybody owns."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One operation. `needs` are the permissions it takes, `instead` those that do as well; `body` makes
    what it sends out of the names; `by` is the reach of the narrowest key that may, `ORGANIZATION`, `POD`
    or `INBOX`. `also` are permissions it takes as well, too many to try without each.
    """

    method: str
    path: str
    needs: tuple[str, ...] = ()
    body: Callable[[Names], Json] | None = None
    query: str = ""
    by: str
    note: str = ""
    instead: tuple[str, ...] = ()
    also: tuple[str, ...] = ()

    @property
    def operation(self) -> tuple[str, str]:
        return self.method, self.path

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}{f' ({self.note})' if self.note else ''}"

    @property
    def parameters(self) -> list[str]:
        return _PARAMETER.findall(self.path)

    @property
    def names_something(self) -> bool:
        """Whether its path leads to things somebody owns."""
        return not CHOICES.issuperset(self.parameters)

    @property
    def scope(self) -> str:
        """Where its path begins."""
        return next((each for each in (POD, INBOX) if self.path.startswith(f"/v0{each}")), "")

    def url(self, names: Names) -> str:
        path = _PARAMETER.sub(lambda found: quote(names[found[1]], safe=""), self.path)
        return path + self.query

    def content(self, names: Names) -> Json | None:
        return self.body(names) if self.body else None


def _said(**fields: Any) -> Callable[[Names], Json]:
    return lambda _names: fields


def _below(
    scopes: str,
    method: str,
    tail: str,
    *needs: str,
    body: Callable[[Names], Json] | None = None,
    query: str = "",
    by: str | None = None,
    note: str = "",
    instead: tuple[str, ...] = (),
    also: tuple[str, ...] = (),
) -> Iterator[Case]:
    """A case below each of some scopes: `o`rganisation, `p`od, `i`nbox."""
    for letter in scopes:
        scope = {"o": ORGANIZATION, "p": POD, "i": INBOX}[letter]
        yield Case(
            method=method,
            path=f"/v0{scope}{tail}",
            needs=needs,
            body=body,
            query=query,
            by=scope if by is None else by,
            note=note,
            instead=instead,
            also=also,
        )


def _recipients(names: Names) -> Json:
    return {"to": [names["inbox_id"]], "subject": "s", "text": "t"}


def _messages(names: Names) -> Json:
    return {"message_ids": [names["message_id"]]}


def _relabelled(names: Names) -> Json:
    return {**_messages(names), "add_labels": ["seen-by-test"]}


_TOMORROW = (datetime.now(UTC) + timedelta(days=1)).isoformat()
_LABEL = _said(add_labels=["seen-by-test"])
_WORDS = "?q=canary7f3a"
_KEYS, _DRAFTS, _INBOXES = "/api-keys", "/drafts", "/inboxes"
_MESSAGES, _THREADS, _LISTS = "/messages", "/threads", "/lists/{direction}/{type}"
_KEY = f"{_KEYS}/{{api_key_id}}"
_DRAFT = f"{_DRAFTS}/{{draft_id}}"
_MESSAGE = f"{_MESSAGES}/{{message_id}}"
_THREAD = f"{_THREADS}/{{thread_id}}"
_FILE = "/attachments/{attachment_id}"
_WEBHOOKS = "/webhooks"
_WEBHOOK = f"{_WEBHOOKS}/{{webhook_id}}"
_DELIVERIES = f"{_WEBHOOK}/deliveries"
_DELIVERY = f"{_DELIVERIES}/{{delivery_id}}"
_DOMAINS = "/domains"
_DOMAIN = f"{_DOMAINS}/{{domain_id}}"
_CREDENTIALS = "/credentials"
_APP_PASSWORDS = "/app-passwords"
_MAIL_PASSWORD = "/mail-password"
_EXPORT = f"{_INBOXES}{_CREDENTIALS}/export"
_ALL_OF_MAIL = (
    *("draft_create", "draft_delete", "draft_read", "draft_send", "draft_update"),
    *("label_blocked_read", "label_spam_read", "label_trash_read", "label_unauthenticated_read"),
    *("message_delete", "message_read", "message_reply", "message_send", "message_update"),
)
"""What whoever makes a mail login has to be allowed: all that its holder can do."""

_SILENT = ["domain.verified"]
"""Types that nothing causes here, so that nothing is delivered unasked."""

CASES: tuple[Case, ...] = (
    *_below("o", "GET", "/auth/me", by=INBOX),
    *_below("o", "GET", "/organizations"),
    *_below("opi", "GET", _KEYS, "api_key_read"),
    *_below(
        *("opi", "POST", _KEYS, "api_key_create"),
        body=_said(name="made", permissions={"api_key_create": True}),
    ),
    *_below("opi", "GET", _KEY, "api_key_read"),
    *_below("opi", "PATCH", _KEY, "api_key_update", body=_said(name="renamed")),
    *_below("opi", "DELETE", _KEY, "api_key_delete"),
    *_below("op", "GET", _DOMAINS, "domain_read", by=POD),
    *_below(
        *("o", "POST", _DOMAINS, "domain_create"),
        body=_said(domain="made.test", inbound_enabled=False),
        by=POD,
    ),
    *_below(
        *("p", "POST", _DOMAINS, "domain_create"),
        body=_said(domain="made-in-pod.test", inbound_enabled=False),
    ),
    *_below("op", "GET", _DOMAIN, "domain_read", by=POD),
    *_below("op", "PATCH", _DOMAIN, "domain_update", body=_said(feedback_enabled=False), by=POD),
    *_below("op", "DELETE", _DOMAIN, "domain_delete", by=POD),
    *_below("op", "POST", f"{_DOMAIN}/verify", "domain_update", by=POD),
    *_below("op", "GET", f"{_DOMAIN}/zone-file", "domain_read", by=POD),
    *_below("op", "GET", f"{_DOMAIN}/setup-link", "domain_read", by=POD),
    *_below("op", "POST", f"{_DOMAIN}/dkim/rotate", "domain_update", by=POD),
    *_below("opi", "GET", _DRAFTS, "draft_read"),
    *_below("opi", "GET", _DRAFT, "draft_read"),
    *_below("opi", "GET", _DRAFT + _FILE, "draft_read"),
    *_below("i", "POST", _DRAFTS, "draft_create", body=_recipients),
    *_below(
        *("i", "POST", _DRAFTS, "draft_create", "draft_send"),
        body=lambda names: {**_recipients(names), "send_at": _TOMORROW},
        note="scheduled",
    ),
    *_below(
        *("i", "POST", _DRAFTS, "draft_create", "message_read"),
        body=lambda names: {"in_reply_to": names["message_id"], "text": "t"},
        note="a reply",
    ),
    *_below(
        *("i", "POST", _DRAFTS, "draft_create", "message_read"),
        body=lambda names: {"forward_of": names["message_id"], "to": [names["inbox_id"]]},
        note="a forward",
    ),
    *_below("i", "PATCH", _DRAFT, "draft_update", body=_said(subject="changed")),
    *_below(
        *("i", "PATCH", _DRAFT, "draft_update", "draft_send"),
        body=_said(send_at=_TOMORROW),
        note="scheduled",
    ),
    *_below("i", "DELETE", _DRAFT, "draft_delete"),
    *_below("i", "POST", f"{_DRAFT}/send", "draft_send", body=_said()),
    *_below("op", "GET", _INBOXES, "inbox_read"),
    *_below("op", "POST", _INBOXES, "inbox_create", body=_said(), by=POD),
    *_below("op", "GET", f"{_INBOXES}/search", "inbox_read", query=_WORDS),
    *_below("o", "GET", INBOX, "inbox_read", by=INBOX),
    *_below("p", "GET", INBOX, "inbox_read"),
    *_below("o", "PATCH", INBOX, "inbox_update", body=_said(display_name="New"), by=INBOX),
    *_below("p", "PATCH", INBOX, "inbox_update", body=_said(display_name="New")),
    *_below("op", "DELETE", INBOX, "inbox_delete", by=POD),
    *_below("op", "GET", _EXPORT, "inbox_read"),
    *_below("op", "POST", _EXPORT, "inbox_update", body=_said(rotate=True), also=_ALL_OF_MAIL),
    *_below("i", "GET", _CREDENTIALS, "inbox_read"),
    *_below("i", "GET", f"{_CREDENTIALS}/profile.mobileconfig", "inbox_read"),
    *_below("i", "POST", f"{_CREDENTIALS}/rotate", "inbox_update", also=_ALL_OF_MAIL),
    *_below("i", "GET", _APP_PASSWORDS, "inbox_read"),
    *_below(
        *("i", "POST", _APP_PASSWORDS, "inbox_update"),
        body=_said(name="made"),
        also=_ALL_OF_MAIL,
    ),
    *_below("i", "GET", f"{_APP_PASSWORDS}/{{app_password_id}}", "inbox_read"),
    *_below("i", "DELETE", f"{_APP_PASSWORDS}/{{app_password_id}}", "inbox_update"),
    *_below("opi", "GET", _MAIL_PASSWORD, "inbox_read"),
    *_below("opi", "PUT", _MAIL_PASSWORD, "inbox_update", body=_said(), also=_ALL_OF_MAIL),
    *_below("opi", "DELETE", _MAIL_PASSWORD, "inbox_update", also=_ALL_OF_MAIL),
    *_below("opi", "GET", "/events", "message_read"),
    *_below("i", "GET", "/events", "message_read", query="?after=start", note="log"),
    *_below("opi", "GET", _LISTS, "list_entry_read"),
    *_below("opi", "POST", _LISTS, "list_entry_create", body=_said(entry="new@lists.test")),
    *_below("opi", "GET", f"{_LISTS}/{{entry}}", "list_entry_read"),
    *_below("opi", "DELETE", f"{_LISTS}/{{entry}}", "list_entry_delete"),
    *_below("i", "GET", _MESSAGES, "message_read"),
    *_below("i", "POST", _MESSAGES, "message_send", body=_recipients),
    *_below("i", "POST", f"{_MESSAGES}/send", "message_send", body=_recipients),
    *_below("i", "POST", f"{_MESSAGES}/batch-get", "message_read", body=_messages),
    *_below("i", "POST", f"{_MESSAGES}/batch-update", "message_update", body=_relabelled),
    *_below("i", "GET", f"{_MESSAGES}/search", "message_read", query=_WORDS),
    *_below("i", "GET", f"{_MESSAGES}/wait", "message_read", query="?since=2026-01-01&timeout=0"),
    *_below("i", "GET", _MESSAGE, "message_read"),
    *_below("i", "PATCH", _MESSAGE, "message_update", body=_LABEL),
    *_below("i", "DELETE", _MESSAGE, "message_delete"),
    *_below("i", "GET", _MESSAGE + _FILE, "message_read"),
    *_below("i", "GET", f"{_MESSAGE}/raw", "message_read"),
    *_below(
        *("i", "POST", f"{_MESSAGE}/reply", "message_reply"),
        body=_said(text="t"),
        instead=("message_send",),
    ),
    *_below(
        *("i", "POST", f"{_MESSAGE}/reply", "message_send"),
        body=_said(text="t", to="a@elsewhere.test"),
        note="to somebody else",
    ),
    *_below(
        *("i", "POST", f"{_MESSAGE}/reply-all", "message_reply"),
        body=_said(text="t"),
        instead=("message_send",),
    ),
    *_below(
        *("i", "POST", f"{_MESSAGE}/forward", "message_send", "message_read"), body=_recipients
    ),
    *_below("opi", "GET", "/metrics", "metrics_read"),
    *_below("opi", "GET", "/metrics/events", "metrics_read"),
    *_below("opi", "GET", "/metrics/usage", "metrics_read"),
    *_below("opi", "GET", "/metrics/rates", "metrics_read"),
    *_below("o", "GET", "/pods", "pod_read", by=POD),
    *_below("o", "POST", "/pods", "pod_create", body=_said(name="Made")),
    *_below("p", "GET", "", "pod_read"),
    *_below("p", "PATCH", "", "pod_update", body=_said(name="Renamed")),
    *_below("p", "DELETE", "", "pod_delete", by=ORGANIZATION),
    *_below("opi", "GET", _THREADS, "message_read"),
    *_below("opi", "GET", f"{_THREADS}/search", "message_read", query=_WORDS),
    *_below("opi", "GET", _THREAD, "message_read"),
    *_below("opi", "GET", _THREAD + _FILE, "message_read"),
    *_below("opi", "PATCH", _THREAD, "message_update", body=_LABEL),
    *_below("opi", "DELETE", _THREAD, "message_delete"),
    *_below("opi", "GET", _WEBHOOKS, "webhook_read"),
    *_below(
        *("opi", "POST", _WEBHOOKS, "webhook_create"),
        body=_said(url="https://hooks.test/new", event_types=_SILENT),
    ),
    *_below("opi", "GET", _WEBHOOK, "webhook_read"),
    *_below("opi", "PATCH", _WEBHOOK, "webhook_update", body=_said(event_types=_SILENT)),
    *_below("opi", "PUT", _WEBHOOK, "webhook_update", body=_said(event_types=_SILENT)),
    *_below("opi", "DELETE", _WEBHOOK, "webhook_delete"),
    *_below("opi", "GET", f"{_WEBHOOK}/headers", "webhook_read"),
    *_below(
        *("opi", "PATCH", f"{_WEBHOOK}/headers", "webhook_update"),
        body=_said(headers={"X-New": "1"}),
    ),
    *_below("opi", "POST", f"{_WEBHOOK}/secret/rotate", "webhook_update", body=_said()),
    *_below("opi", "POST", f"{_WEBHOOK}/test", "webhook_update", body=_said()),
    *_below(
        *("opi", "POST", f"{_WEBHOOK}/replay", "webhook_update"),
        body=_said(since="2026-01-01T00:00:00Z"),
    ),
    *_below("opi", "GET", _DELIVERIES, "webhook_read"),
    *_below("opi", "GET", _DELIVERY, "webhook_read"),
    *_below("opi", "POST", f"{_DELIVERY}/resend", "webhook_update"),
)

HOSTED_ONLY: tuple[Case, ...] = tuple(
    Case(method=method, path=f"/v0{refusal.path.replace(':str}', '}')}", by=ORGANIZATION)
    for refusal in REFUSALS
    for method in refusal.methods
)
"""Routes in no description, which answer politely that there is nothing of the kind."""

WITHOUT_KEY = {
    "/.well-known/autoconfig/mail/config-v1.1.xml": "mail clients ask before anybody logs in",
    "/.well-known/mta-sts.txt": "other mail servers ask",
    "/Autodiscover/Autodiscover.xml": "mail clients ask before anybody logs in",
    "/autodiscover/autodiscover.xml": "mail clients ask before anybody logs in",
    "/mail/config-v1.1.xml": "mail clients ask before anybody logs in",
    "/health": "asked by what restarts the service",
    "/health/live": "asked by what restarts the service",
    "/metrics": "kept from outside by the operator",
    "/openapi.json": "read before anybody has a key",
    "/openapi.json/openapi.json": "Litestar's other name of it",
    "/openapi.json/{path}": "Litestar's other name of it",
    "/stalwart/doorbell": "the mail server has a secret of its own",
    "/stalwart/hook": "the mail server has a secret of its own",
    "/stalwart/queued": "the mail server has a secret of its own",
    "/v0/downloads/{token}": "whoever holds a signed link may follow it",
}
"""Paths that take no API key, and why."""


def paged() -> list[Case]:
    """Every list that has pages."""
    described = description()["paths"]
    return [
        case
        for case in CASES
        if case.method == "GET"
        and any(
            each["name"] == "page_token"
            for each in described[case.path]["get"].get("parameters", ())
        )
    ]


def asking(case: Case, **query: str) -> Case:
    """The same list with more in its query."""
    more = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
    return msgspec.structs.replace(case, query=f"{case.query}{'&' if case.query else '?'}{more}")
