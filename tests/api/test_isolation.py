"""Nobody reads or changes what their key does not reach: every route, tried by everybody who may not.

The cases are generated from `isolation_cases`; each is tried with the victim's own ids in its path, with
the attacker's own inbox or pod in front of them, and with ids that nobody has. A refusal must be the
same for the last as for the first: whoever guesses must not learn that they guessed right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import msgspec
import pytest
import pytest_asyncio
from litestar.routes import HTTPRoute

from agentmail_cp import downloads
from agentmail_cp.access import PERMISSIONS, Reach
from agentmail_cp.app import create_app
from agentmail_cp.sandbox import MailSandbox
from agentmail_cp.web.links import signing_key
from tests import logins, tenants
from tests.api.isolation import (
    CANARY,
    CLIENT_ID,
    Attacker,
    Row,
    Stage,
    added_domain,
    arrived,
    ask,
    at_rest,
    attackers,
    changed,
    doubled,
    made_draft,
    made_webhook,
    staged,
    together,
)
from tests.api.isolation_cases import (
    CASES,
    CHOICES,
    HOSTED_ONLY,
    INBOX,
    POD,
    WITHOUT_KEY,
    Case,
    asking,
    paged,
)
from tests.api.mailbox import rows
from tests.api.write_openapi import description
from tests.fix_app import DOMAIN, Json, Service, a_mail, serving, serving_on_stalwart, settings_for
from tests.fix_front_door import FrontDoor, Porch
from tests.fix_stalwart import StalwartServer
from tests.tenants import Key

STILL: dict[str, Any] = {
    "settle_interval": 3600.0,
    "download_secret": "of this test",
}
"""Nothing is settled unasked, so that what changes was changed by a request."""

REFUSED = {403, 404}


@pytest_asyncio.fixture
async def still_sandbox(
    database_url: str, sandbox_server: tuple[MailSandbox, int], porch: Porch
) -> AsyncGenerator[Service]:
    sandbox, port = sandbox_server
    async with serving(database_url, sandbox, smtp_port=port, porch=porch, **STILL) as running:
        yield running


@pytest_asyncio.fixture
async def still_stalwart(
    database_url: str, stalwart: StalwartServer, front_door: FrontDoor, porch: Porch
) -> AsyncGenerator[Service]:
    async with serving_on_stalwart(database_url, stalwart, front_door, porch, **STILL) as running:
        yield running


@pytest.fixture(
    params=[
        pytest.param("still_sandbox", id="sandbox"),
        pytest.param("still_stalwart", id="stalwart", marks=pytest.mark.stalwart),
    ]
)
def still(request: pytest.FixtureRequest) -> Service:
    """The service in both worlds, settling nothing by itself."""
    return request.getfixturevalue(request.param)


class Watch:
    """Asks, and collects what should not have happened."""

    def __init__(self, stage: Stage, attacker: Attacker, before: Counter[Row]) -> None:
        self.stage = stage
        self.attacker = attacker
        self.wrong: list[str] = []
        self._before = before

    async def ask(self, case: Case, names: Mapping[str, str]) -> httpx.Response:
        """Carry out a case as the attacker; note what it shows or changes that is not theirs."""
        answer = await self.stage.ask(case, names, self.attacker.key)
        own = {*self.attacker.ids, *self.attacker.names.values()}
        if shown := self.stage.shown(answer, own):
            self.note(case, answer, f"shows {shown}")
        if answer.status_code >= 500:
            self.note(case, answer, "fails")
        after = await self.stage.rows()
        if found := changed(self._before, after, self.attacker):
            self.note(case, answer, f"changes {found}")
        self._before = after
        return answer

    def note(self, case: Case, answer: httpx.Response, what: str) -> None:
        self.wrong.append(f"{case.name} {what}: {answer.status_code} {answer.text[:300]}")

    async def refused(
        self, case: Case, names: Mapping[str, str], *, statuses: set[int] = REFUSED
    ) -> None:
        """A case is refused, and no other way than if nothing in its path existed."""
        answer = await self.ask(case, names)
        if answer.status_code not in statuses:
            self.note(case, answer, "is not refused")
        nothing = unknown(names, self.attacker.names)
        same = await self.ask(case, nothing)
        if facts(answer, names) != facts(same, nothing):
            self.note(case, answer, f"tells it from what is not there ({same.text[:300]})")


async def watching(stage: Stage, attacker: Attacker) -> Watch:
    return Watch(await at_rest(stage), attacker, await stage.rows())


def unknown(names: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """The same names, of nothing; what is the attacker's own stays."""
    nothing = {
        "inbox_id": f"nobody@{DOMAIN}",
        "message_id": "<nobody@nowhere.test>",
        "entry": "nobody@lists.test",
        "direction": names["direction"],
        "type": names["type"],
    }
    return {
        name: value if own.get(name) == value else nothing.get(name, str(uuid4()))
        for name, value in names.items()
    }


def facts(answer: httpx.Response, names: Mapping[str, str]) -> tuple[int, str, list[str]]:
    """What an answer says, whichever names the request had."""
    text = answer.text
    if answer.headers.get("content-type", "").startswith("application/json"):
        body: Json = answer.json()
        body.pop("request_id", None)
        text = repr(body)
    for name, value in names.items():
        text = text.replace(value, f"<{name}>")
    return answer.status_code, text, sorted(set(answer.headers) - {"content-length"})


def in_front(case: Case, attacker: Attacker, names: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """The victim's things below the attacker's own: its inbox, then its message in its inbox, and so on."""
    for count in range(1, len(case.parameters)):
        first, rest = case.parameters[:count], case.parameters[count:]
        if set(first) <= attacker.names.keys() and not CHOICES.issuperset(rest):
            yield {**names, **{each: attacker.names[each] for each in first}}


def operations() -> set[tuple[str, str]]:
    """Every method and path that takes a key, described or not."""
    app = create_app(settings_for("postgresql://nobody@127.0.0.1/none"), server=MailSandbox(DOMAIN))
    found: set[tuple[str, str]] = set()
    for route in app.routes:
        path = route.path_format
        if isinstance(route, HTTPRoute) and path not in WITHOUT_KEY:
            found |= {(each, path) for each in route.methods if each != "OPTIONS"}
    return found


def test_every_route_has_a_case() -> None:
    """A new route that nobody tried to misuse could show everything to everybody."""
    described = {
        (method.upper(), path)
        for path, item in description()["paths"].items()
        for method in item
        if path not in WITHOUT_KEY
    }
    tried = {case.operation for case in CASES}
    assert described <= tried
    assert operations() == tried | {case.operation for case in HOSTED_ONLY}


def test_every_permission_is_asked_for_somewhere() -> None:
    """One that nothing asks for keeps nobody from anything."""
    later = {each for each in PERMISSIONS if each.startswith("label_")}
    assert {each for case in CASES for each in case.needs} == PERMISSIONS - later


@pytest.mark.timeout(300)
@pytest.mark.parametrize("who", ["other organization", "other pod", "other inbox"])
async def test_a_key_finds_nothing_beyond_its_reach(still: Service, who: str) -> None:
    """One customer, one pod or one agent could read, send or delete in the name of another."""
    stage = await staged(still)
    attacker = (await attackers(stage))[who]
    stage = await at_rest(stage)
    mail = await stage.mail()
    watch = await watching(stage, attacker)
    for case in (*CASES, *HOSTED_ONLY):
        names = stage.names_for(case)
        if not case.names_something:
            await watch.ask(case, names)
            continue
        if attacker.names.get("pod_id") == names["pod_id"] and case.parameters == ["pod_id"]:
            # Its own pod, of which it has one inbox only.
            await watch.ask(case, names)
            continue
        await watch.refused(case, names)
        for mixed in in_front(case, attacker, names):
            await watch.refused(case, mixed)
    assert not watch.wrong, "\n".join(watch.wrong)
    assert await stage.mail() == mail


@pytest.mark.timeout(300)
async def test_a_path_is_taken_at_its_word(still: Service) -> None:
    """A program that keeps its customers apart by pods or inboxes in paths, with one key for all, would
    show one the other's.
    """
    stage = await staged(still)
    beside = (await attackers(stage))["other pod"]
    key = await tenants.key(still.db, still.organization_id)
    stage = await at_rest(stage)
    mail = await stage.mail()
    watch = await watching(stage, Attacker(key=key, names=beside.names))
    for case in CASES:
        for mixed in in_front(case, beside, stage.names_for(case)):
            await watch.refused(case, mixed, statuses={404})
    assert not watch.wrong, "\n".join(watch.wrong)
    assert await stage.mail() == mail


@pytest.mark.timeout(300)
async def test_a_key_without_the_permission_does_nothing(still: Service) -> None:
    """A key that an agent may lose would do whatever its finder likes."""
    stage = await staged(still)
    stage = await at_rest(stage)
    mail = await stage.mail()
    wrong: list[str] = []
    keys: dict[tuple[str, ...], Key] = {}
    for case in CASES:
        for missing in case.needs:
            without = (missing, *case.instead)
            keys[without] = keys.get(without) or await tenants.key(
                still.db, still.organization_id, permissions=tenants.all_but(*without)
            )
            watch = await watching(stage, Attacker(key=keys[without]))
            answer = await watch.ask(case, stage.names_for(case))
            if answer.status_code != 403 or "missing_permission" not in answer.text:
                watch.note(case, answer, f"takes no {missing}")
            wrong += watch.wrong
    assert not wrong, "\n".join(wrong)
    assert await stage.mail() == mail


async def test_without_a_live_key_there_is_nothing(still: Service) -> None:
    """A key somebody threw away years ago would still open everything."""
    stage = await staged(still)
    expired = await tenants.key(still.db, still.organization_id, expires_at=tenants.long_ago())
    deleted = await tenants.key(still.db, still.organization_id)
    async with still.db.transaction() as tx:
        await tx.execute(
            "delete from api_key where api_key_id = %(id)s", {"id": deleted.api_key_id}
        )
    stage = await at_rest(stage)
    before, mail = await stage.rows(), await stage.mail()
    let_in = [
        f"{case.name}: {answer.status_code} {answer.text}"
        for key in (None, expired, deleted, Key(uuid4(), "inai_" + "0" * 64))
        for case in (*CASES, *HOSTED_ONLY)
        if (answer := await stage.ask(case, stage.names_for(case), key)).status_code != 401
        or stage.shown(answer)
    ]
    assert let_in == []
    assert await stage.rows() == before
    assert await stage.mail() == mail


async def test_a_key_without_a_label_s_permission_finds_no_such_mail(
    still_sandbox: Service,
) -> None:
    """An agent kept from spam would be talked to by it."""
    stage = await staged(still_sandbox)
    key = await tenants.key(
        still_sandbox.db,
        still_sandbox.organization_id,
        permissions=tenants.all_but("label_spam_read"),
    )
    beside = {name: stage.names[name] for name in ("inbox_id", "pod_id")}
    watch = await watching(stage, Attacker(key=key, names=beside))
    for case in CASES:
        names = {**stage.names_for(case), **stage.hidden}
        if {"message_id", "thread_id"} & set(case.parameters):
            await watch.refused(case, names, statuses={404})
        elif stage.hidden["message_id"] in repr(case.content(names)):
            answer = await watch.ask(case, names)
            if case.note and answer.status_code not in {404, 422}:
                watch.note(case, answer, "takes spam")
    assert not watch.wrong, "\n".join(watch.wrong)


def spellings(stage: Stage) -> list[dict[str, str]]:
    """Other names of the victim's things."""
    address, message_id = stage.inbox["inbox_id"], stage.names["message_id"]
    return [
        {"inbox_id": stage.inbox["id"]},
        {"inbox_id": stage.inbox["id"].upper()},
        {"inbox_id": address.upper()},
        {"inbox_id": quote(address, safe="")},
        {"inbox_id": f"Victim <{address}>"},
        {"inbox_id": CLIENT_ID},
        {"inbox_id": str(stage.inbox_uuid)},
        {"pod_id": CLIENT_ID},
        {"pod_id": str(stage.pod_id).upper()},
        {"thread_id": stage.alias},
        {"message_id": message_id.strip("<>")},
        {"message_id": quote(message_id, safe="")},
    ]


@pytest.mark.timeout(300)
async def test_no_other_spelling_leads_to_the_victim(still_sandbox: Service) -> None:
    """A second name of a thing is looked up by other code than the first."""
    stage = await staged(still_sandbox)
    wrong: list[str] = []
    for attacker in together(await attackers(stage)):
        watch = await watching(stage, attacker)
        for case in CASES:
            for other in spellings(stage):
                own_pod = attacker.names["pod_id"] == str(stage.pod_id) and "pod_id" in other
                if other.keys() <= set(case.parameters) and not own_pod:
                    answer = await watch.ask(case, stage.names_for(case) | other)
                    if answer.status_code not in REFUSED:
                        watch.note(case, answer, f"takes {other}")
        wrong += watch.wrong
    assert not wrong, "\n".join(wrong)


async def fresh(stage: Stage, case: Case) -> dict[str, str]:
    """Names for a case that uses up or changes what it names: of things made for it alone."""
    last = case.parameters[-1] if case.parameters else ""
    if case.method != "DELETE" and not case.path.endswith("{draft_id}/send"):
        last = last if (case.method, last) == ("PATCH", "api_key_id") else ""
    if case.path.endswith("/mail-password"):
        organization = stage.service.organization_id
        pod = Reach(organization, stage.pod_id)
        inbox = Reach(organization, stage.pod_id, stage.inbox_uuid)
        await logins.choose(stage.service, Reach(organization), pod, inbox)
        return stage.names_for(case)
    if case.path.endswith("/credentials/rotate"):
        await logins.choose_none(stage.service)
    return {**stage.names_for(case), **await _made(stage, case, last)}


async def _made(stage: Stage, case: Case, name: str) -> dict[str, str]:
    service = stage.service
    match name:
        case "api_key_id":
            key = await tenants.key(
                service.db,
                service.organization_id,
                pod_id=stage.pod_id if case.scope == POD else None,
                inbox_id=stage.inbox_uuid if case.scope == INBOX else None,
                permissions=tenants.only(*case.needs),
            )
            made = {name: str(key.api_key_id)}
        case "message_id" | "thread_id":
            mail = a_mail(stage.inbox["email"], str(uuid4()))
            (made,) = await arrived(service, stage.inbox, mail)
        case "draft_id":
            made = await made_draft(service, stage.inbox)
        case "webhook_id":
            made = await made_webhook(service, case.scope.format(**stage.names))
        case "domain_id":
            made = {name: await added_domain(service, stage.pod_id)}
        case "inbox_id":
            made = await tenants.inbox_in(service, stage.pod_id)
        case "app_password_id":
            made = await logins.app_password(service, stage.inbox)
        case "pod_id":
            made = {name: str(await tenants.pod(service.db, service.organization_id))}
        case _:
            return {}
    return {name: made[name]}


async def test_the_right_key_with_one_permission_succeeds(still: Service) -> None:
    """The tests above would pass if everything were refused."""
    stage = await staged(still)
    wrong: list[str] = []
    for case in CASES:
        names = await fresh(stage, case)
        key = await tenants.key(
            still.db,
            still.organization_id,
            pod_id=stage.pod_id if case.by == POD else None,
            inbox_id=stage.inbox_uuid if case.by == INBOX else None,
            permissions=tenants.only(*case.needs, *case.also),
        )
        answer = await stage.ask(case, names, key)
        if answer.status_code not in {200, 201, 204}:
            wrong.append(f"{case.name} by {case.by}: {answer.status_code} {answer.text[:300]}")
    assert not wrong, "\n".join(wrong)


WORDLESS = {
    "GET /v0/inboxes/{inbox_id}/events",
    "GET /v0/inboxes/{inbox_id}/messages/{message_id}/raw",
    *(case.name for case in CASES if case.needs == ("metrics_read",)),
    *(case.name for case in CASES if case.path.endswith("/deliveries")),
    *(case.name for case in CASES if case.path.endswith("/setup-link")),
    *(f"GET /v0{scope}/mail-password" for scope in (POD, INBOX)),
    "GET /v0/inboxes/{inbox_id}/credentials",
    "GET /v0/pods/{pod_id}/inboxes/credentials/export",
}
"""Answers that hold ids, numbers and links, but nothing that anybody wrote."""


async def test_what_is_shown_within_reach_is_what_is_hidden_beyond(still: Service) -> None:
    """Nothing would be found beyond reach if there were nothing to find."""
    stage = await staged(still)
    silent: set[str] = set()
    for case in CASES:
        if case.method == "GET" and case.names_something:
            answer = await still.client.get(case.url(stage.names_for(case)))
            assert answer.status_code == 200, f"{case.name}: {answer.text}"
            silent |= set() if CANARY in answer.text else {case.name}
    assert silent == WORDLESS - {case.name for case in CASES if not case.names_something}


NEVER_LONG = {
    # One message a thread.
    *(case.name for case in CASES if case.method == "GET" and case.path.endswith("/{thread_id}")),
    # Goes on from an event, which tests of the log try with others' events.
    "GET /v0/inboxes/{inbox_id}/events (log)",
}


@pytest.mark.timeout(300)
async def test_a_page_token_leads_nowhere_else(still_sandbox: Service) -> None:
    """A token is a place in a list; it must not be one in somebody else's."""
    stage = await staged(still_sandbox)
    await doubled(stage)
    everybody = together(await attackers(stage))
    short: set[str] = set()
    wrong: list[str] = []
    for case in paged():
        answer = await stage.ask(
            asking(case, limit="1"),
            stage.names_for(case),
            await tenants.key(still_sandbox.db, still_sandbox.organization_id),
        )
        assert answer.status_code == 200, f"{case.name}: {answer.text}"
        token = answer.json().get("next_page_token")
        if token is None:
            short.add(case.name)
            continue
        for attacker in everybody:
            watch = await watching(stage, attacker)
            answer = await watch.ask(
                asking(case, limit="50", page_token=token),
                {**stage.names_for(case), **attacker.names},
            )
            if answer.status_code not in {200, 400, *REFUSED}:
                watch.note(case, answer, "is puzzled by a token")
            wrong += watch.wrong
    assert not wrong, "\n".join(wrong)
    assert short == NEVER_LONG


async def test_what_is_retained_of_a_deleted_inbox_stays_within_reach(still: Service) -> None:
    """Mail nobody expects to be there any more would be found by somebody else."""
    stage = await staged(still)
    everybody = together(await attackers(stage))
    own = await tenants.key(still.db, still.organization_id, inbox_id=stage.inbox_uuid)
    assert (await still.client.delete(f"/v0/inboxes/{stage.names['inbox_id']}")).status_code == 204
    lists = [
        asking(case, include_deleted="true")
        for case in CASES
        if case.method == "GET" and "threads" in case.path and "search" not in case.path
    ]
    found: set[str] = set()
    for case in lists:
        names = stage.names_for(case)
        answer = await still.client.get(case.url(names))
        found |= {case.path} if CANARY in answer.text else set()
        for attacker in everybody:
            watch = await watching(stage, attacker)
            await watch.ask(case, names)
            assert not watch.wrong, "\n".join(watch.wrong)
        gone = await stage.ask(case, names, own)
        assert gone.status_code == 401, "the key of a deleted inbox lives on"
    assert found == {
        f"/v0{scope}/threads{rest}"
        for scope in ("", POD)
        for rest in ("", "/{thread_id}", "/{thread_id}/attachments/{attachment_id}")
    }


async def test_a_body_names_nothing_beyond_reach(still: Service) -> None:
    """What a path refuses, a field of a body in the attacker's own inbox would hand over."""
    stage = await staged(still)
    wrong: list[str] = []
    for attacker in together(await attackers(stage)):
        watch = await watching(stage, attacker)
        for case in CASES:
            if case.parameters != ["inbox_id"] or case.body is None:
                continue
            names = {**stage.names_for(case), "inbox_id": attacker.names["inbox_id"]}
            answer = await watch.ask(case, names)
            if case.note in {"a reply", "a forward"} and answer.status_code < 400:
                watch.note(case, answer, "takes the victim's message")
        for field in ({"pod_id": str(stage.pod_id)}, {"pod_id": CLIENT_ID}):
            case = Case(method="POST", path="/v0/inboxes", body=lambda _, f=field: f, by=POD)
            answer = await watch.ask(case, {})
            if answer.status_code not in REFUSED:
                watch.note(case, answer, "makes an inbox in the victim's pod")
        wrong += watch.wrong
    assert not wrong, "\n".join(wrong)


async def test_a_client_id_of_somebody_else_gives_nothing_away(still_sandbox: Service) -> None:
    """Whoever asks for a name that is taken elsewhere would be handed what has it."""
    stage = await staged(still_sandbox)
    await still_sandbox.client.post(
        f"/v0/inboxes/{stage.names['inbox_id']}/drafts",
        json={"client_id": CLIENT_ID, "text": CANARY},
    )
    for scope in ("", f"/pods/{stage.pod_id}", f"/inboxes/{stage.names['inbox_id']}"):
        made = await still_sandbox.client.post(
            f"/v0{scope}/webhooks",
            json={
                "client_id": CLIENT_ID,
                "url": f"https://{CANARY}.test/",
                "event_types": ["domain.verified"],
            },
        )
        assert made.status_code == 201, made.text
    everybody = await attackers(stage)
    statuses: dict[tuple[str, str], int] = {}
    for who, attacker in zip(everybody, together(everybody), strict=True):
        watch = await watching(stage, attacker)
        for path in (
            *("/v0/inboxes", "/v0/pods", "/v0/inboxes/{inbox_id}/drafts"),
            *("/v0/webhooks", "/v0/inboxes/{inbox_id}/webhooks"),
        ):
            case = Case(
                method="POST",
                path=path,
                body=lambda _: {
                    "name": "Mine",
                    "client_id": CLIENT_ID,
                    "url": "https://hooks.test/",
                    "event_types": ["domain.verified"],
                },
                by=POD,
            )
            answer = await watch.ask(case, attacker.names)
            statuses[who, path] = answer.status_code
        assert not watch.wrong, "\n".join(watch.wrong)
    assert {path: statuses["other organization", path] for _, path in statuses} == {
        "/v0/inboxes": 201,
        "/v0/pods": 201,
        "/v0/inboxes/{inbox_id}/drafts": 201,
        "/v0/webhooks": 201,
        "/v0/inboxes/{inbox_id}/webhooks": 201,
    }
    # Names are those of a scope: to the key of an inbox both paths are one.
    webhooks = {each: status for each, status in statuses.items() if "webhooks" in each[1]}
    assert webhooks.pop(("other inbox", "/v0/inboxes/{inbox_id}/webhooks")) == 200
    assert set(webhooks.values()) == {201}
    assert statuses["other pod", "/v0/inboxes"] in {403, 404, 409}
    assert statuses["other inbox", "/v0/inboxes"] == 403


async def test_an_idempotency_key_of_somebody_else_gives_nothing_away(
    still_sandbox: Service,
) -> None:
    """The answer somebody else got would be repeated to whoever asks with the same words."""
    stage = await staged(still_sandbox)
    everybody = await attackers(stage)
    await logins.choose_none(still_sandbox)
    owner = await tenants.key(still_sandbox.db, still_sandbox.organization_id)
    for number, case in enumerate(each for each in CASES if each.method == "POST"):
        key = {"Idempotency-Key": f"key-{number}"}
        names = stage.names_for(case)
        first = await ask(
            still_sandbox, "POST", case.url(names), case.content(names), owner.headers | key
        )
        assert first.status_code in {200, 201, 204}, f"{case.name}: {first.text}"
        for who, attacker in everybody.items():
            if not {*case.parameters} <= {*attacker.names, *CHOICES}:
                continue
            own = {**names, **attacker.names}
            second = await ask(
                still_sandbox, "POST", case.url(own), case.content(own), attacker.headers | key
            )
            assert stage.shown(second, attacker.ids) == [], f"{case.name} by {who}: {second.text}"
            assert "idempotent-replayed" not in second.headers, f"{case.name} by {who}"
            if who == "other organization":
                assert second.status_code == first.status_code, f"{case.name}: {second.text}"
                assert not new_ids(first) & new_ids(second), f"{case.name}: {second.text}"


def new_ids(answer: httpx.Response) -> set[str]:
    """What an answer calls a thing that was made, and its secrets."""
    if answer.headers["Content-Type"].startswith("text/csv"):
        return set(answer.text.splitlines()[1:])
    body: Json = answer.json()
    made = (
        *("app_password_id", "password"),
        *("inbox_id", "draft_id", "message_id", "thread_id", "api_key_id", "api_key", "pod_id"),
        *("webhook_id", "secret", "delivery_id", "domain_id"),
    )
    return {body[name] for name in made if body.get(name)} | {
        body.get("credentials", {}).get("password", str(uuid4()))
    }


async def test_a_signed_link_is_good_for_what_it_was_signed_for(still: Service) -> None:
    """Whoever holds one link could make another of it, to somebody else's mail."""
    stage = await staged(still)
    other = (await attackers(stage))["other organization"]
    names, client = stage.names, tenants.client(still, None)
    message = f"/v0/inboxes/{names['inbox_id']}/messages/{quote(names['message_id'], safe='')}"
    answer = await still.client.get(f"{message}/attachments/{names['attachment_id']}")
    path, _, token = answer.json()["download_url"].rpartition("/")
    assert (await client.get(f"{path}/{token}")).text == CANARY
    key = signing_key(settings_for("", **STILL))
    link = downloads.verify(token, key, datetime.now(UTC))
    forged = {
        token[:-1] + ("A" if token[-1] != "A" else "B"),
        *(
            token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
            for at in range(0, 90, 7)
        ),
        token + token,
        token[:40],
        downloads.sign(link, signing_key(settings_for("", download_secret="another"))),
    }
    statuses = {each: (await client.get(f"{path}/{each}")).status_code for each in forged}
    assert set(statuses.values()) == {403}, statuses
    (whose,) = await rows(
        still,
        "select organization_id from inbox where address = %(address)s",
        address=other.names["inbox_id"],
    )
    past = int((datetime.now(UTC) - timedelta(seconds=1)).timestamp())
    for changes, status in (
        ({"organization_id": whose["organization_id"]}, 404),
        ({"inbox_id": uuid4()}, 404),
        ({"expires": past}, 410),
    ):
        crossed = downloads.sign(msgspec.structs.replace(link, **changes), key)
        answer = await client.get(f"{path}/{crossed}")
        assert answer.status_code == status, changes
        assert CANARY not in answer.text


def test_a_changed_row_of_the_victim_would_be_seen() -> None:
    """The comparison of rows is what most of these tests rest on."""
    attacker = Attacker(key=None, ids=frozenset({"mine"}))
    before = Counter({("inbox", '{"id": "mine"}'): 1, ("inbox", '{"id": "yours"}'): 1})
    after = Counter(
        {("inbox", '{"id": "mine", "x": 1}'): 1, ("inbox", '{"id": "yours", "x": 1}'): 1}
    )
    assert changed(before, before, attacker) == []
    assert {row[1] for row in changed(before, after, attacker)} == {
        '{"id": "yours"}',
        '{"id": "yours", "x": 1}',
    }
