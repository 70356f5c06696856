"""Mail passwords, app passwords and API keys as mail passwords, as callers see them."""

from __future__ import annotations

import asyncio
import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from psycopg import sql

from agentmail_cp import access, credentials
from agentmail_cp.access import MAIL_CLIENT, Reach
from agentmail_cp.mailserver import MailServerUnavailable
from agentmail_cp.sandbox import Faults, MailSandbox
from tests.api.faults import mistake
from tests.fix_app import Json, Service, until

KEY = {"Idempotency-Key": "again"}
COLUMNS = ["email", "imap_host", "imap_port", "smtp_host", "smtp_port", "username", "password"]


def path(inbox: Json, *rest: str) -> str:
    return "/".join([f"/v0/inboxes/{inbox['inbox_id']}", *rest])


def sandbox_of(service: Service) -> MailSandbox:
    assert isinstance(service.server, MailSandbox)
    return service.server


async def password_of(service: Service, inbox: Json) -> str | None:
    """The hash the mail server has for an inbox."""
    sandbox = sandbox_of(service)
    account = await sandbox.find_account(inbox["email"])
    assert account is not None
    return sandbox.mailbox(account.account_id).password_hash


async def key_for(service: Service, **fields: Any) -> Json:
    """A new API key of the organisation."""
    answer = await service.client.post("/v0/api-keys", json={"name": "clients", **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def choose(service: Service, where: str = "", **body: object) -> Json:
    answer = await service.client.put(f"/v0{where}/mail-password", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def rows(answer: httpx.Response) -> list[dict[str, str]]:
    assert answer.status_code == 200, answer.text
    return list(csv.DictReader(io.StringIO(answer.text)))


async def test_what_a_mail_client_needs_is_shown_without_a_password(service: Service) -> None:
    inbox = await service.inbox("ada")
    answer = await service.client.get(path(inbox, "credentials"))
    shown = answer.json()
    assert shown["username"] == shown["email"] == inbox["email"]
    assert shown["password_kind"] == "own"
    assert (shown["imap"]["port"], shown["imap"]["tls"]) == (993, "implicit")
    assert (shown["smtp"]["port"], shown["smtp"]["tls"]) == (587, "starttls")
    assert (shown["smtps"]["port"], shown["smtps"]["tls"]) == (465, "implicit")
    assert [each["client"] for each in shown["presets"]] == ["thunderbird", "apple_mail", "generic"]
    assert inbox["credentials"]["password"] not in answer.text
    assert "password" not in shown


async def test_a_rotated_password_is_told_once_and_replaces_the_former(service: Service) -> None:
    """An agent whose password leaked would go on sharing its mailbox."""
    inbox = await service.inbox("ada")
    before = await password_of(service, inbox)
    first = await service.client.post(path(inbox, "credentials", "rotate"), headers=KEY)
    assert first.status_code == 200, first.text
    assert first.json()["password"] != inbox["credentials"]["password"]
    assert await password_of(service, inbox) != before
    again = await service.client.post(path(inbox, "credentials", "rotate"), headers=KEY)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json() == first.json()
    assert "password" not in (await service.client.get(path(inbox, "credentials"))).json()


async def test_a_replay_tells_no_password_that_no_longer_works(service: Service) -> None:
    """A script that repeats its requests would lock its mail client out."""
    client = service.client
    body = {"username": "ada"}
    inbox = (
        await client.post("/v0/inboxes", json=body, headers={"Idempotency-Key": "make"})
    ).json()
    rotated = await client.post(path(inbox, "credentials", "rotate"), headers=KEY)
    replay = await client.post("/v0/inboxes", json=body, headers={"Idempotency-Key": "make"})
    assert replay.headers["Idempotent-Replayed"] == "true"
    assert replay.status_code == 201
    assert "credentials" not in replay.json()
    await client.post(path(inbox, "credentials", "rotate"))
    replay = await client.post(path(inbox, "credentials", "rotate"), headers=KEY)
    assert "password" not in replay.json()
    assert "password" in rotated.json()


async def test_a_rotation_the_mail_server_did_not_answer_is_made_good_by_its_repetition(
    service: Service,
) -> None:
    """The password that was set and never told would be the only one."""
    inbox = await service.inbox("ada")
    sandbox_of(service).faults = Faults(down=True)
    answer = await service.client.post(path(inbox, "credentials", "rotate"), headers=KEY)
    assert answer.status_code == 503
    assert "Retry-After" in answer.headers
    sandbox_of(service).faults = Faults()
    before = await password_of(service, inbox)
    answer = await service.client.post(path(inbox, "credentials", "rotate"), headers=KEY)
    assert answer.status_code == 200, answer.text
    assert await password_of(service, inbox) != before


async def test_only_a_key_that_may_do_all_a_mail_client_can_makes_a_login(service: Service) -> None:
    """A key that may only read would give itself a mailbox to send from."""
    inbox = await service.inbox("ada")
    permissions = dict.fromkeys(sorted(MAIL_CLIENT), True) | {"inbox_update": True}
    weak = permissions | {"message_delete": False}
    ends = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    attempts: list[tuple[str, str, Json | None]] = [
        ("POST", path(inbox, "credentials", "rotate"), None),
        ("POST", path(inbox, "app-passwords"), {"name": "x"}),
        ("PUT", path(inbox, "mail-password"), {}),
        ("PUT", "/v0/mail-password", {}),
        ("DELETE", "/v0/mail-password", None),
        ("POST", "/v0/inboxes/credentials/export", {"rotate": True}),
    ]
    for fields, code in (
        ({"permissions": weak}, "missing_permission"),
        ({"permissions": permissions, "expires_at": ends}, "permission_escalation"),
    ):
        secret = (await key_for(service, **fields))["api_key"]
        for method, where, body in attempts:
            headers = {"Authorization": f"Bearer {secret}"}
            answer = await service.client.request(method, where, json=body, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (403, code)


async def test_a_key_that_was_just_revoked_makes_no_login_that_outlives_it(
    service: Service,
) -> None:
    """A replica remembers a key for a moment: long enough to make a password that nobody revokes."""
    inbox = await service.inbox("ada")
    secret = (await key_for(service))["api_key"]
    headers = {"Authorization": f"Bearer {secret}"}
    remembered = await service.client.get("/v0/auth/me", headers=headers)
    async with service.db.transaction() as tx:
        await tx.execute(
            "delete from api_key where api_key_id = %s", [remembered.json()["api_key_id"]]
        )
    for method, where, body in (
        ("POST", path(inbox, "credentials", "rotate"), None),
        ("POST", path(inbox, "app-passwords"), {"name": "x"}),
        ("PUT", "/v0/mail-password", {"api_key": service.key}),
        ("POST", "/v0/inboxes/credentials/export", {"rotate": True}),
    ):
        answer = await service.client.request(method, where, json=body, headers=headers)
        assert answer.status_code == 401, f"{where}: {answer.text}"


async def test_an_app_password_is_told_once_and_listed_without_its_secret(
    anywhere: Service,
) -> None:
    inbox = await anywhere.inbox("ada")
    ends = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)
    wish = {
        "name": "Ada's phone, at home",
        "access": "read",
        "expires_at": ends.isoformat(),
        "allowed_ips": ["192.0.2.7", "2001:db8::/32"],
    }
    answer = await anywhere.client.post(path(inbox, "app-passwords"), json=wish)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert made["username"] == inbox["email"]
    (listed,) = (await anywhere.client.get(path(inbox, "app-passwords"))).json()["app_passwords"]
    assert listed["app_password_id"] == made["app_password_id"]
    assert (listed["name"], listed["access"]) == (wish["name"], "read")
    assert datetime.fromisoformat(listed["expires_at"]) == ends
    assert sorted(listed["allowed_ips"]) == ["192.0.2.7", "2001:db8::/32"]
    assert "password" not in listed
    where = path(inbox, "app-passwords", made["app_password_id"])
    assert (await anywhere.client.delete(where)).status_code == 204
    assert (await anywhere.client.delete(where)).status_code == 404
    assert (await anywhere.client.get(path(inbox, "app-passwords"))).json()["count"] == 0


async def test_a_repeated_request_makes_one_app_password_and_tells_it_again(
    anywhere: Service,
) -> None:
    """Each lost answer would leave a login that nobody knows and nobody revokes."""
    inbox = await anywhere.inbox("ada")
    where = path(inbox, "app-passwords")
    first, second = [
        await anywhere.client.post(where, json={"name": "phone"}, headers=KEY) for _ in range(2)
    ]
    assert (first.status_code, second.status_code) == (201, 201)
    assert second.headers["Idempotent-Replayed"] == "true"
    assert first.json()["password"] == second.json()["password"]
    assert (await anywhere.client.get(where)).json()["count"] == 1
    await anywhere.client.delete(f"{where}/{first.json()['app_password_id']}")
    gone = await anywhere.client.post(where, json={"name": "phone"}, headers=KEY)
    assert gone.status_code == 404


@pytest.mark.parametrize("key", [{}, KEY], ids=["without a key", "with a key"])
async def test_of_a_request_whose_answer_was_lost_nothing_stays(
    service: Service, key: dict[str, str]
) -> None:
    """The mail server made an app password, and nobody was told its secret."""
    inbox = await service.inbox("ada")
    where = path(inbox, "app-passwords")
    sandbox = sandbox_of(service)
    sandbox.faults = Faults(lost_answer=True, methods=frozenset({"create_app_password"}))
    answer = await service.client.post(where, json={"name": "phone"}, headers=key)
    assert answer.status_code == 503, answer.text
    sandbox.faults = Faults()
    account = await sandbox.find_account(inbox["email"])
    assert account is not None
    assert len(await sandbox.app_passwords(account.account_id)) == 1
    assert (await service.client.get(where)).json()["count"] == 0, "nobody can use it"
    if key:
        answer = await service.client.post(where, json={"name": "phone"}, headers=key)
        assert answer.status_code == 201, answer.text
        assert len(await sandbox.app_passwords(account.account_id)) == 1
        return
    async with service.db.transaction() as tx:
        await tx.execute("update app_password set lease_until = now() - interval '1 s'")
    await until(lambda: sandbox.app_passwords(account.account_id), lambda seen: seen == ())


async def test_more_app_passwords_than_an_inbox_may_have_are_refused(service: Service) -> None:
    inbox = await service.inbox("ada")
    sandbox_of(service).most_app_passwords = 2
    for _ in range(2):
        await service.client.post(path(inbox, "app-passwords"), json={"name": "x"})
    answer = await service.client.post(path(inbox, "app-passwords"), json={"name": "x"})
    assert (answer.status_code, answer.json()["code"]) == (403, "limit_exceeded")


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 129}, "name"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "3000-01-01T00:00:01Z"}, "expires_at"),
        ({"expires_at": "9999-12-31T23:59:59Z"}, "expires_at"),
        ({"expires_at": "9999-12-31T23:59:59-12:00"}, "expires_at"),
        ({"expires_at": "0001-01-01T00:00:00+12:00"}, "expires_at"),
        ({"allowed_ips": ["home"]}, "allowed_ips"),
        ({"allowed_ips": ["192.0.2.1"] * 33}, "allowed_ips"),
        ({"allowed_ips": ["192.0.2.1", "0.0.0.0/0"]}, "allowed_ips"),
        ({"allowed_ips": ["::/0"]}, "allowed_ips"),
        ({"allowed_ips": ["128.0.0.0/7"]}, "allowed_ips"),
        ({"allowed_ips": ["2000::/3"]}, "allowed_ips"),
        ({"allowed_ips": ["0.0.0.0"]}, "allowed_ips"),
        ({"allowed_ips": ["0.0.0.9/8"]}, "allowed_ips"),
        ({"allowed_ips": ["fe80::1%eth0"]}, "allowed_ips"),
        ({"access": "all"}, "access"),
    ],
)
async def test_what_does_not_fit_an_app_password_is_named(
    service: Service, wrong: Json, field: str
) -> None:
    """Whoever sets up a device would be told the mail server's own words, and not which field to mend."""
    inbox = await service.inbox("ada")
    answer = await service.client.post(path(inbox, "app-passwords"), json={"name": "x", **wrong})
    refused = mistake(answer, field)
    if field == "expires_at":
        assert refused["errors"][0]["code"] == "TIME_OUT_OF_RANGE"


async def test_an_api_key_becomes_the_password_of_every_inbox_old_and_new(
    service: Service,
) -> None:
    """Seed 004: the password of an inbox is the organisation's API key."""
    old = await service.inbox("old")
    before = await password_of(service, old)
    key = await key_for(service)
    shown = await choose(service, api_key=key["api_key"])
    assert (shown["scope"], shown["api_key_id"]) == ("organization", key["api_key_id"])
    assert "pending" not in shown
    new = await service.inbox("new")
    hashes = {await password_of(service, old), await password_of(service, new)}
    assert before not in hashes
    assert len(hashes) == 1
    assert new["credentials"]["password_kind"] == "api_key"
    assert "password" not in new["credentials"]
    got = (await service.client.get(path(old, "credentials"))).json()
    assert (got["password_kind"], got["api_key_prefix"]) == ("api_key", key["prefix"])


async def test_the_narrowest_choice_holds(service: Service) -> None:
    inbox, other = await service.inbox("one"), await service.inbox("two")
    wide, narrow = await key_for(service), await key_for(service)
    await choose(service, f"/inboxes/{inbox['inbox_id']}", api_key=narrow["api_key"])
    await choose(service, api_key=wide["api_key"])
    shown = (await service.client.get(path(inbox, "mail-password"))).json()
    assert (shown["scope"], shown["api_key_id"]) == ("inbox", narrow["api_key_id"])
    assert await password_of(service, inbox) != await password_of(service, other)
    assert (await service.client.delete(path(inbox, "mail-password"))).status_code == 204
    assert (await service.client.delete(path(inbox, "mail-password"))).status_code == 404
    assert await password_of(service, inbox) == await password_of(service, other)
    shown = (await service.client.get(path(inbox, "mail-password"))).json()
    assert (shown["scope"], shown["api_key_id"]) == ("organization", wide["api_key_id"])


async def test_without_a_body_the_callers_own_key_is_chosen(service: Service) -> None:
    inbox = await service.inbox("ada")
    answer = await service.client.put("/v0/mail-password")
    assert answer.status_code == 200, answer.text
    who = (await service.client.get("/v0/auth/me")).json()
    assert answer.json()["api_key_id"] == who["api_key_id"]
    assert (await service.client.get(path(inbox, "mail-password"))).status_code == 200


async def test_a_choice_taken_back_leaves_no_login_until_a_password_is_set(
    service: Service,
) -> None:
    inbox = await service.inbox("ada")
    await choose(service)
    refused = await service.client.post(path(inbox, "credentials", "rotate"))
    assert refused.status_code == 409
    assert (await service.client.delete("/v0/mail-password")).status_code == 204
    assert await password_of(service, inbox) is None
    shown = (await service.client.get(path(inbox, "credentials"))).json()
    assert shown["password_kind"] == "none"
    assert (await service.client.get("/v0/mail-password")).status_code == 404
    rotated = await service.client.post(path(inbox, "credentials", "rotate"))
    assert rotated.json()["password_kind"] == "own"
    assert await password_of(service, inbox) is not None


async def test_only_a_live_key_of_ours_that_reads_and_sends_can_be_chosen(
    service: Service,
) -> None:
    """Another tenant's key, or one that may only read, would open mailboxes."""
    inbox, other = await service.inbox("ada"), await service.inbox("bob")
    reader = await key_for(service, permissions={"messages:read": True})
    own = f"/v0/inboxes/{other['inbox_id']}/api-keys"
    narrow = (await service.client.post(own, json={"name": "narrow"})).json()
    async with service.db.transaction() as tx:
        stranger = await access.create_organization(tx, "Other")
        made = await access.create_key(
            tx, Reach(stranger.organization_id), prefix="inai_", name="theirs"
        )
    where = path(inbox, "mail-password")
    for secret, status in (
        (reader["api_key"], 403),
        (narrow["api_key"], 400),
        (made.secret, 400),
        ("inai_none", 400),
    ):
        answer = await service.client.put(where, json={"api_key": secret})
        assert answer.status_code == status, answer.text
        assert secret not in answer.text
    # What a script sends whose variable is not set: the key of the request was not meant.
    assert (await service.client.put(where, json={"api_key": ""})).status_code == 400
    assert (await service.client.get(where)).status_code == 404


async def _deleted(service: Service, key: Json) -> None:
    answer = await service.client.delete(f"/v0/api-keys/{key['api_key_id']}")
    assert answer.status_code == 204


async def _narrowed(service: Service, key: Json) -> None:
    body = {"permissions": {"message_read": True}}
    answer = await service.client.patch(f"/v0/api-keys/{key['api_key_id']}", json=body)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("end", [_deleted, _narrowed], ids=["deleted", "narrowed"])
async def test_a_key_that_is_revoked_opens_no_mailbox_once_that_is_answered(
    service: Service, end: Any
) -> None:
    inbox = await service.inbox("ada")
    key = await key_for(service)
    await choose(service, api_key=key["api_key"])
    assert await password_of(service, inbox) is not None
    await end(service, key)
    assert await password_of(service, inbox) is None
    assert (await service.client.get("/v0/mail-password")).status_code == 404


async def test_a_key_that_expires_takes_its_login_along(service: Service) -> None:
    inbox = await service.inbox("ada")
    ends = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    key = await key_for(service, expires_at=ends)
    await choose(service, api_key=key["api_key"])
    async with service.db.transaction() as tx:
        await tx.execute(
            "update api_key set expires_at = now() where api_key_id = %s", [key["api_key_id"]]
        )
    await until(lambda: password_of(service, inbox), lambda seen: seen is None)


async def test_a_key_revoked_while_the_mail_server_is_away_opens_nothing_when_it_is_back(
    service: Service,
) -> None:
    """An outage at the wrong moment would leave a revoked key with every mailbox."""
    inbox = await service.inbox("ada")
    key = await key_for(service)
    await choose(service, api_key=key["api_key"])
    sandbox_of(service).faults = Faults(down=True)
    await _deleted(service, key)
    shown = (await service.client.get(path(inbox, "credentials"))).json()
    assert (shown["password_kind"], shown["pending"]) == ("own", True)
    sandbox_of(service).faults = Faults()
    await until(lambda: password_of(service, inbox), lambda seen: seen is None)


async def test_an_inbox_made_while_its_password_is_revoked_has_none(service: Service) -> None:
    """Between looking the password up and showing the inbox lies the mail server's answer."""
    key = await key_for(service)
    await choose(service, api_key=key["api_key"])
    sandbox = sandbox_of(service)
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        reached.set()
        await go_on.wait()

    sandbox.before["create_account"] = hold
    making = asyncio.create_task(service.inbox("late"))
    await reached.wait()
    await _deleted(service, key)
    go_on.set()
    inbox = await making
    await until(lambda: password_of(service, inbox), lambda seen: seen is None)


async def test_no_plaintext_of_a_key_or_password_is_in_the_database(service: Service) -> None:
    """Whoever reads a backup would read everybody's mail."""
    inbox = await service.inbox("ada")
    key = await key_for(service)
    rotated = await service.client.post(path(inbox, "credentials", "rotate"), headers=KEY)
    app = await service.client.post(
        path(inbox, "app-passwords"), json={"name": "x"}, headers={"Idempotency-Key": "app"}
    )
    await choose(service, api_key=key["api_key"])
    canaries = [rotated.json()["password"], app.json()["password"], key["api_key"]]
    canaries += [inbox["credentials"]["password"], service.key]
    async with service.db.reading() as tx:
        tables = await (
            await tx.execute("select tablename from pg_tables where schemaname = 'public'")
        ).fetchall()
        for table in (each["tablename"] for each in tables):
            query = sql.SQL("select t::text from {} t").format(sql.Identifier(table))
            content = await (await tx.execute(query)).fetchall()
            text = "\n".join(str(row) for row in content)
            assert not [each for each in canaries if each in text], table


async def test_the_table_has_the_columns_of_seed_004_and_no_password(service: Service) -> None:
    made = [(await service.inbox(f"agent{number}"))["email"] for number in range(3)]
    for where in ("/v0", "/api/v1"):
        answer = await service.client.get(f"{where}/inboxes/credentials/export")
        assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.text.splitlines()[0].split(",") == COLUMNS
        assert [row["email"] for row in rows(answer)] == made[::-1]
        assert {row["password"] for row in rows(answer)} == {""}
        assert {row["smtp_port"] for row in rows(answer)} == {"587"}


async def test_a_table_with_new_passwords_is_told_again_to_the_same_request(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download that broke off would leave inboxes with passwords nobody knows."""
    monkeypatch.setattr(credentials.export, "PAGE", 2)
    inboxes = [await service.inbox(f"agent{number}") for number in range(5)]
    await choose(service, f"/inboxes/{inboxes[0]['inbox_id']}")
    where, body = "/v0/inboxes/credentials/export", {"rotate": True}
    first = await service.client.post(where, json=body, headers=KEY)
    told = {row["email"]: row["password"] for row in rows(first)}
    assert told.pop(inboxes[0]["email"]) == "", "its password is an API key"
    assert all(told.values())
    assert len(set(told.values())) == 4
    again = await service.client.post(where, json=body, headers=KEY)
    assert again.text == first.text
    assert again.headers["Idempotent-Replayed"] == "true"
    await service.client.post(path(inboxes[1], "credentials", "rotate"))
    later = rows(await service.client.post(where, json=body, headers=KEY))
    assert {row["email"] for row in later if row["password"]} == told.keys() - {inboxes[1]["email"]}


async def test_a_rotation_of_all_that_stops_half_way_is_finished_by_its_repetition(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials.export, "PAGE", 2)
    inboxes = [await service.inbox(f"agent{number}") for number in range(4)]
    before = [await password_of(service, each) for each in inboxes]
    calls = 0

    async def fail_second() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise MailServerUnavailable("down")

    sandbox_of(service).before["set_passwords"] = fail_second
    where, body = "/v0/inboxes/credentials/export", {"rotate": True}
    answer = await service.client.post(where, json=body, headers=KEY)
    assert answer.status_code == 503, answer.text
    half = [await password_of(service, each) for each in inboxes]
    assert sum(new != old for new, old in zip(half, before, strict=True)) == 2
    answer = await service.client.post(where, json=body, headers=KEY)
    assert all(row["password"] for row in rows(answer))
    after = [await password_of(service, each) for each in inboxes]
    assert sum(new == old for new, old in zip(after, half, strict=True)) == 2, "set once"
    assert all(new != old for new, old in zip(after, before, strict=True))


async def test_asking_for_passwords_without_rotating_them_is_refused(service: Service) -> None:
    answer = await service.client.post("/v0/inboxes/credentials/export", json={})
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (400, ["rotate"])


async def test_a_pods_table_has_its_own_inboxes_only(service: Service) -> None:
    pod = (await service.client.post("/v0/pods", json={"name": "p"})).json()
    await service.inbox("outside")
    inside = await service.inbox("inside", pod_id=pod["pod_id"])
    where = f"/v0/pods/{pod['pod_id']}/inboxes/credentials/export"
    assert [row["email"] for row in rows(await service.client.get(where))] == [inside["email"]]


async def test_a_pod_chooses_for_its_inboxes(service: Service) -> None:
    pod = (await service.client.post("/v0/pods", json={"name": "p"})).json()
    inside = await service.inbox("inside", pod_id=pod["pod_id"])
    outside = await service.inbox("outside")
    before = await password_of(service, outside)
    shown = await choose(service, f"/pods/{pod['pod_id']}")
    assert (shown["scope"], shown["pod_id"]) == ("pod", pod["pod_id"])
    assert await password_of(service, outside) == before
    got = (await service.client.get(path(inside, "credentials"))).json()
    assert got["password_kind"] == "api_key"
    pod_key = (await service.client.post(f"/v0/pods/{pod['pod_id']}/api-keys")).json()["api_key"]
    headers = {"Authorization": f"Bearer {pod_key}"}
    hidden = await service.client.get(path(inside, "mail-password"), headers=headers)
    assert "api_key_id" not in hidden.json(), "the organisation's key is not the pod's to know"


async def test_the_profile_for_apple_mail_has_no_password(service: Service) -> None:
    inbox = await service.inbox("ada")
    answer = await service.client.get(path(inbox, "credentials", "profile.mobileconfig"))
    assert answer.headers["Content-Type"].startswith("application/x-apple-aspen-config")
    assert inbox["email"] in answer.text
    assert "com.apple.mail.managed" in answer.text
    assert inbox["credentials"]["password"] not in answer.text


async def test_what_a_process_that_died_was_writing_is_written_by_another(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key revoked in the moment of a crash would keep every mailbox."""
    monkeypatch.setattr(credentials.logins, "LEASE", timedelta(seconds=0.3))
    inbox = await service.inbox("ada")
    key = await key_for(service)
    await choose(service, api_key=key["api_key"])
    sandbox = sandbox_of(service)
    reached = asyncio.Event()

    async def hang() -> None:
        reached.set()
        await asyncio.Event().wait()

    sandbox.before["set_passwords"] = hang
    revoking = asyncio.create_task(_deleted(service, key))
    await reached.wait()
    revoking.cancel()
    del sandbox.before["set_passwords"]
    await until(lambda: password_of(service, inbox), lambda seen: seen is None)


async def test_a_rotation_and_a_choice_at_once_leave_what_was_chosen(service: Service) -> None:
    """The password just told would be one that nobody has, or the choice one that nobody notices."""
    inbox = await service.inbox("ada")
    sandbox = sandbox_of(service)
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        reached.set()
        await go_on.wait()

    sandbox.before["set_passwords"] = hold
    rotating = asyncio.create_task(service.client.post(path(inbox, "credentials", "rotate")))
    await reached.wait()
    del sandbox.before["set_passwords"]
    choosing = asyncio.create_task(choose(service))
    other = await service.inbox("bob")

    async def chosen() -> bool:
        answer = await service.client.get(path(other, "credentials"))
        return answer.json()["password_kind"] == "api_key"

    await until(chosen, lambda seen: seen)
    go_on.set()
    answer = await rotating
    await choosing
    assert answer.status_code == 409, "the password it would tell does not work"

    async def hashes() -> set[str | None]:
        return {await password_of(service, each) for each in (inbox, other)}

    await until(hashes, lambda seen: len(seen) == 1 and None not in seen)
    shown = (await service.client.get(path(inbox, "credentials"))).json()
    assert shown["password_kind"] == "api_key"
