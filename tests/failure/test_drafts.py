"""Every failure in the table of `drafts`, one test a row: a draft is as its author wrote it or not there,
and what a mail client does wins.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from email.message import EmailMessage

import httpx
import pytest

from agentmail_cp import drafts, inboxes
from agentmail_cp.drafts import settlement
from agentmail_cp.mailserver import DocumentId, Folder, Refusal, Relabel
from agentmail_cp.sandbox import Faults
from tests.api.drafting import ahead, change, listed, look, make, path, send, status
from tests.failure.world import OUTSIDE, World, new_sandbox, quiet
from tests.fix_app import Json
from tests.fix_proxy import Proxy, port_of, through


@pytest.fixture(autouse=True)
def hasty_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Second looks without the pause, which only a frozen server needs."""
    monkeypatch.setattr(settlement, "SECOND_LOOK", 0.001)


async def let_leases_end(world: World) -> None:
    await world.let_leases_end()
    await world.rows(
        "update draft set lease_until = now() - interval '1 s' where lease_until is not null"
        " returning 1"
    )


async def settle(world: World) -> None:
    """Let the leases of everything unfinished end, then settle it."""
    await let_leases_end(world)
    await world.settle()
    await let_leases_end(world)
    await drafts.settle(world.db, world.server)


async def read_all(world: World) -> None:
    """Let intake read every inbox, rung for or not."""
    await world.rows("update inbox_sync set due_at = now() returning 1")
    await world.read()


async def stored(world: World, inbox: Json) -> list[DocumentId]:
    return await world.stored(inbox, Folder.DRAFTS)


async def states(world: World) -> list[str]:
    return [row["state"] for row in await world.rows("select state from draft order by created_at")]


async def assert_one(world: World, inbox: Json, draft: Json) -> None:
    """One draft is there, in the API and in the mail server, and says what it said, whoever reads."""
    await settle(world)
    await read_all(world)
    assert await look(world, inbox, draft) == draft
    assert [each["draft_id"] for each in await listed(world, inbox)] == [draft["draft_id"]]
    assert len(await stored(world, inbox)) == 1
    assert await world.messages(inbox) == []


async def assert_none(world: World, inbox: Json) -> None:
    """No draft is there, whoever reads."""
    await settle(world)
    await read_all(world)
    assert await listed(world, inbox) == []
    assert await stored(world, inbox) == []
    assert await states(world) == []
    assert await world.messages(inbox) == []


def assert_try_again(answer: httpx.Response, status_code: int = 503) -> None:
    assert answer.status_code == status_code, answer.text
    assert int(answer.headers["Retry-After"]) >= 1


async def save_in_client(
    world: World,
    inbox: Json,
    headers: Mapping[str, str] | None = None,
    *,
    instead_of: DocumentId | None = None,
) -> DocumentId:
    """What a mail client does when a person saves a draft: append the new one, then remove the old."""
    mail = EmailMessage()
    for name, value in {"Subject": "By hand", "To": OUTSIDE, **(headers or {})}.items():
        mail[name] = value
    mail.set_content("Written by hand")
    account = await world.account(inbox)
    document_id = await world.sandbox.append(
        account, mail.as_bytes(), folder=Folder.DRAFTS, keywords=frozenset({"$draft", "$seen"})
    )
    if instead_of is not None:
        await world.sandbox.destroy_mail(account, [instead_of])
    return document_id


async def message_id_of(world: World, inbox: Json, document_id: DocumentId) -> str:
    (mail,) = world.sandbox.mailbox(await world.account(inbox)).fetch([document_id])
    return f"<{mail.message_id}>"


# --- the table, row by row


async def test_bad_input_parent_missing(world: World) -> None:
    """A request that makes no sense would leave half a draft behind."""
    inbox = await world.inbox("author")
    for body in ({"to": "nobody"}, {"in_reply_to": "<none@x.test>"}, {"reply_all": True}):
        answer = await world.client.post(path(inbox), json={"client_id": "c", **body})
        assert answer.status_code in {400, 404}
    await assert_none(world, inbox)


async def test_client_id_used_before(world: World) -> None:
    """Eight workers that run the same step would write eight drafts."""
    inbox = await world.inbox("author")
    body = {"client_id": "c", "subject": "S"}
    answers = await asyncio.gather(*(world.client.post(path(inbox), json=body) for _ in range(8)))
    assert {each.status_code for each in answers} <= {200, 201, 409}
    assert [each.status_code for each in answers].count(201) == 1
    (made,) = [each.json() for each in answers if each.status_code == 201]
    again = await world.client.post(path(inbox), json=body)
    assert (again.status_code, again.json()) == (200, made)
    await assert_one(world, inbox, made)


async def test_client_id_of_a_draft_that_was_sent(world: World) -> None:
    """A workflow that is run again, a moment or a week later, would send the mail a second time."""
    inbox = await world.inbox("author")
    body = {"client_id": "c", "to": OUTSIDE, "subject": "Welcome", "send_at": ahead(0)}
    made = await world.client.post(path(inbox), json=body)
    assert await fire(world) == 1
    for send_at in (ahead(0), ahead(-3600), ahead(3600), None):
        late = await world.client.post(path(inbox), json={**body, "send_at": send_at})
        assert late.status_code == 200, late.text
        told = late.json()
        assert (told["draft_id"], told["client_id"]) == (made.json()["draft_id"], "c")
        assert (told["labels"], told.get("send_status")) == (["sent"], None)
        await settle(world)
        await read_all(world)
    assert len(world.sandbox.outbox) == 1
    assert await listed(world, inbox) == []
    (kept,) = await world.rows("select * from draft")
    assert "Welcome" not in str(kept)
    assert OUTSIDE not in str(kept)


async def test_a_repetition_is_told_of_a_draft_that_was_sent_by_either_name(world: World) -> None:
    """Under its key and its client_id a creation would be answered 404, and 200 without the key."""
    inbox = await world.inbox("author")
    body = {"client_id": "c", "to": OUTSIDE, "send_at": ahead(0)}

    async def create() -> httpx.Response:
        return await world.client.post(path(inbox), json=body, headers={"Idempotency-Key": "k"})

    made = await create()
    assert await fire(world) == 1
    again = await create()
    assert again.status_code == 201, again.text
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json()["draft_id"] == made.json()["draft_id"]
    assert again.json()["labels"] == ["sent"]


async def fire(world: World) -> int:
    return await world.fire()


async def test_idempotency_key_used_before(world: World) -> None:
    """A client that lost the answer would write the draft twice."""
    inbox = await world.inbox("author")
    keyed = {"Idempotency-Key": "k"}
    first, again = [
        await world.client.post(path(inbox), json={"subject": "S"}, headers=keyed) for _ in "12"
    ]
    assert (again.status_code, again.json()) == (201, first.json())
    await assert_one(world, inbox, first.json())


async def test_client_id_still_being_stored(world: World) -> None:
    """A client that repeats a slow request would make a second draft."""
    inbox = await world.inbox("author")
    begun, go = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        begun.set()
        await go.wait()

    world.sandbox.before["store_draft"] = wait
    body = {"client_id": "c", "subject": "S"}
    first = asyncio.create_task(world.client.post(path(inbox), json=body))
    await begun.wait()
    assert_try_again(await world.client.post(path(inbox), json=body), 409)
    go.set()
    await assert_one(world, inbox, (await first).json())


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (Refusal.TOO_LARGE, 400),
        (Refusal.INVALID_MAIL, 400),
        (Refusal.OVER_QUOTA, 403),
        (Refusal.FORBIDDEN, 403),
        (Refusal.NO_BLOB, 503),
    ],
)
async def test_refused_by_the_mail_server(world: World, refusal: Refusal, code: int) -> None:
    """A draft that is not there would be listed, or a refused change would spoil the old version."""
    inbox = await world.inbox("author")
    made = await make(world, inbox, subject="Kept")
    world.sandbox.faults = Faults(reject=refusal)
    answer = await world.client.post(path(inbox), json={"subject": "New"})
    assert answer.status_code == code, answer.text
    answer = await world.client.patch(path(inbox, made), json={"subject": "Changed"})
    assert answer.status_code == code, answer.text
    world.sandbox.faults = Faults()
    await assert_one(world, inbox, made)


async def test_mail_server_away_before_the_request(world: World) -> None:
    """A caller could not tell what was done from what was not."""
    inbox = await world.inbox("author")
    made = await make(world, inbox, subject="Kept", send_at=ahead(3600))
    world.sandbox.faults = Faults(down=True)
    for answer in (
        await world.client.post(path(inbox), json={"subject": "New"}),
        await world.client.patch(path(inbox, made), json={"subject": "x"}),
        await world.client.patch(path(inbox, made), json={"add_labels": ["x"]}),
        await world.client.delete(path(inbox, made)),
        await send(world, inbox, made),
        await world.client.get(path(inbox, made)),
    ):
        assert_try_again(answer)
    world.sandbox.faults = Faults()
    await assert_one(world, inbox, made)


@pytest.mark.parametrize("fault", ["lost_answer", "confused", "slow"])
async def test_no_answer_while_creating(world: World, fault: str) -> None:
    """The repetition every SDK makes after a 503 would be a second draft, and be sent as well."""
    inbox = await world.inbox("author")
    faults = {
        "lost_answer": Faults(lost_answer=True, methods=frozenset({"store_draft"})),
        "confused": Faults(confused=True, methods=frozenset({"store_draft"})),
        "slow": Faults(slow=20, methods=frozenset({"store_draft"})),
    }
    world.sandbox.faults = faults[fault]
    body = {"to": OUTSIDE, "subject": "S", "send_at": ahead(3600), "client_id": "c"}
    assert_try_again(await world.client.post(path(inbox), json=body))
    assert await listed(world, inbox) == []
    world.sandbox.faults = Faults()
    await read_all(world)
    assert await listed(world, inbox) == []
    again = await world.client.post(path(inbox), json=body)
    assert again.status_code == 201, again.text
    await assert_one(world, inbox, again.json())


async def test_no_answer_while_updating(world: World) -> None:
    """A repeated change would be made twice, or half of it be lost."""
    inbox = await world.inbox("author")
    made = await make(world, inbox, subject="One", text="T")
    world.sandbox.faults = Faults(lost_answer=True, methods=frozenset({"store_draft"}))
    body = {
        "add_attachments": [{"content": "QQ==", "filename": "a.bin"}],
        "send_at": ahead(3600),
        "add_labels": ["x"],
    }
    assert_try_again(await world.client.patch(path(inbox, made), json=body))
    world.sandbox.faults = Faults()
    again = await world.client.patch(path(inbox, made), json=body)
    assert again.status_code == 200, again.text
    changed = again.json()
    assert len(changed["attachments"]) == 1
    assert changed["labels"] == ["draft", "scheduled", "x"]
    assert changed["subject"] == "One"
    await assert_one(world, inbox, changed)
    third = await change(world, inbox, made, **body)
    assert len(third["attachments"]) == 2


async def test_no_answer_while_updating_is_settled_by_the_job(world: World) -> None:
    """A draft whose author did not come back would stay locked."""
    inbox = await world.inbox("author")
    made = await make(world, inbox, subject="One", send_at=ahead(3600))
    world.sandbox.faults = Faults(lost_answer=True, methods=frozenset({"store_draft"}))
    assert_try_again(await world.client.patch(path(inbox, made), json={"subject": "Two"}))
    world.sandbox.faults = Faults()
    await settle(world)
    after = await look(world, inbox, made)
    assert (after["subject"], after["send_status"]) == ("Two", "scheduled")
    await assert_one(world, inbox, after)


async def test_no_answer_while_deleting(world: World) -> None:
    """A draft that was deleted would be sent when its time comes."""
    inbox = await world.inbox("author")
    made = await make(world, inbox, to=OUTSIDE, send_at=ahead(0))
    world.sandbox.faults = Faults(lost_answer=True, methods=frozenset({"destroy_mail"}))
    assert (await world.client.delete(path(inbox, made))).status_code == 204
    world.sandbox.faults = Faults()
    assert await status(world, inbox, made) == 404
    assert await fire(world) == 0
    await assert_none(world, inbox)
    assert world.sandbox.outbox == []


async def test_two_changes_at_once(world: World) -> None:
    """One author's words would silently replace the other's."""
    inbox = await world.inbox("author")
    made = await make(world, inbox, subject="0", text="T")
    answers = await asyncio.gather(
        *(
            world.client.patch(path(inbox, made), json={"subject": str(number)})
            for number in range(1, 9)
        )
    )
    told = [each.json()["subject"] for each in answers if each.status_code == 200]
    assert told
    for each in answers:
        if each.status_code != 200:
            assert_try_again(each, 409)
    last = await look(world, inbox, made)
    assert last["subject"] in told
    assert last["text"] == "T"
    await assert_one(world, inbox, last)


@pytest.mark.parametrize("keeps_id", [True, False])
@pytest.mark.parametrize("moment", ["before", "during"])
async def test_edited_in_a_mail_client_meanwhile(world: World, keeps_id: bool, moment: str) -> None:
    """What a person wrote in their mail client would be overwritten, or be sent unread."""
    inbox = await world.inbox("author")
    made = await make(world, inbox, to=OUTSIDE, subject="Mine", send_at=ahead(3600))
    (old,) = await stored(world, inbox)
    own = {"Message-ID": await message_id_of(world, inbox, old)} if keeps_id else {}

    async def edit() -> None:
        world.sandbox.before.clear()
        await save_in_client(world, inbox, own, instead_of=old)

    if moment == "before":
        await edit()
    else:
        world.sandbox.before["store_draft"] = edit
    answer = await world.client.patch(path(inbox, made), json={"subject": "Changed"})
    assert answer.status_code == 409, answer.text
    await read_all(world)
    await settle(world)
    (now,) = await listed(world, inbox)
    assert (now["draft_id"] == made["draft_id"]) is keeps_id
    assert now["subject"] == "By hand"
    assert now["labels"] == ["draft"]
    assert "send_at" not in now
    assert len(await stored(world, inbox)) == 1
    await assert_one(world, inbox, await look(world, inbox, now))


async def test_a_copy_saved_in_a_client_and_read_while_we_write_wins(world: World) -> None:
    """Two versions would be in force, and either could be sent."""
    inbox = await world.inbox("author")
    made = await make(world, inbox, subject="Mine", send_at=ahead(3600))
    (old,) = await stored(world, inbox)
    message_id = await message_id_of(world, inbox, old)

    async def edit() -> None:
        world.sandbox.before.clear()
        await save_in_client(world, inbox, {"Message-ID": message_id})
        await read_all(world)

    world.sandbox.before["store_draft"] = edit
    answer = await world.client.patch(path(inbox, made), json={"subject": "Changed"})
    assert answer.status_code == 409, answer.text
    now = await look(world, inbox, made)
    assert now["subject"] == "By hand"
    assert now["labels"] == ["draft"]
    await assert_one(world, inbox, now)


async def test_deleted_in_a_mail_client_meanwhile(world: World) -> None:
    """A draft somebody threw away would come back changed."""
    inbox = await world.inbox("author")
    made = await make(world, inbox, subject="Mine", send_at=ahead(0), to=OUTSIDE)
    await world.sandbox.destroy_mail(await world.account(inbox), await stored(world, inbox))
    answer = await world.client.patch(path(inbox, made), json={"subject": "Changed"})
    assert answer.status_code == 409, answer.text
    assert await status(world, inbox, made) == 404
    await read_all(world)
    await settle(world)
    assert await listed(world, inbox) == []
    assert await fire(world) == 0
    await assert_none(world, inbox)


async def test_change_while_it_is_being_sent(world: World) -> None:
    """Half of a change would go out, or a change would be told done and not be sent."""
    inbox = await world.inbox("author")
    made = await make(world, inbox, to=OUTSIDE, subject="As it was")
    begun, go = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        begun.set()
        await go.wait()

    world.sandbox.before["submit"] = wait
    sending = asyncio.create_task(send(world, inbox, made))
    await begun.wait()
    assert (await look(world, inbox, made))["send_status"] == "sending"
    assert_try_again(await world.client.patch(path(inbox, made), json={"subject": "x"}), 409)
    assert_try_again(await world.client.patch(path(inbox, made), json={"send_at": None}), 409)
    assert_try_again(await world.client.delete(path(inbox, made)), 409)
    assert_try_again(await send(world, inbox, made), 409)
    go.set()
    assert (await sending).status_code == 200
    (sent,) = world.sandbox.outbox
    assert b"Subject: As it was" in sent.raw
    await read_all(world)
    assert await listed(world, inbox) == []


@pytest.mark.parametrize("where", ["before", "after"])
async def test_crash_while_creating(world: World, where: str) -> None:
    """A draft nobody was told of would be sent."""
    inbox = await world.inbox("author")
    hooks = world.sandbox.before if where == "before" else world.sandbox.after
    body = {"to": OUTSIDE, "send_at": ahead(0), "client_id": "c"}
    await world.crash(hooks, "store_draft", world.client.post(path(inbox), json=body))
    await read_all(world)
    assert await listed(world, inbox) == []
    assert await fire(world) == 0
    assert_try_again(await world.client.post(path(inbox), json=body), 409)
    await let_leases_end(world)
    again = await world.client.post(path(inbox), json=body)
    assert again.status_code == 201, again.text
    await assert_one(world, inbox, again.json())


@pytest.mark.parametrize("where", ["before", "after"])
async def test_crash_while_creating_with_a_key(world: World, where: str) -> None:
    """A copy that a frozen mail server stores late would be a second draft beside the repeated one."""
    inbox = await world.inbox("author")
    hooks = world.sandbox.before if where == "before" else world.sandbox.after

    async def ask() -> httpx.Response:
        keyed = {"Idempotency-Key": "k"}
        return await world.client.post(path(inbox), json={"subject": "S"}, headers=keyed)

    await world.crash(hooks, "store_draft", ask())
    (row,) = await world.rows("select draft_id from draft")
    assert_try_again(await ask(), 409)
    await settle(world)
    await world.rows("update idempotency_key set lease_until = now() returning 1")
    again = await ask()
    assert again.json()["draft_id"] == str(row["draft_id"])
    await assert_one(world, inbox, again.json())


async def test_crash_while_creating_is_taken_back_by_the_job(world: World) -> None:
    """What nobody was told of would lie among the drafts of a mail client for ever."""
    inbox = await world.inbox("author")
    await world.crash(
        world.sandbox.after, "store_draft", world.client.post(path(inbox), json={"subject": "S"})
    )
    assert len(await stored(world, inbox)) == 1
    await assert_none(world, inbox)


@pytest.mark.parametrize("where", ["before", "after"])
async def test_crash_while_updating(world: World, where: str) -> None:
    """A scheduled draft would be sent as a mixture of two versions."""
    inbox = await world.inbox("author")
    made = await make(world, inbox, to=OUTSIDE, subject="One", text="1", send_at=ahead(3600))
    hooks = world.sandbox.before if where == "before" else world.sandbox.after
    body = {"subject": "Two", "text": "2", "send_at": None, "add_labels": ["x"]}
    await world.crash(hooks, "store_draft", world.client.patch(path(inbox, made), json=body))
    await read_all(world)
    await settle(world)
    now = await look(world, inbox, made)
    if where == "before":
        assert now == made | {"updated_at": now["updated_at"]}
    else:
        assert (now["subject"], now["text"], now["labels"]) == ("Two", "2", ["draft", "x"])
        assert "send_at" not in now
    await assert_one(world, inbox, now)


@pytest.mark.parametrize("where", ["before", "after"])
async def test_crash_while_deleting(world: World, where: str) -> None:
    """A draft that is half deleted would be listed again, or be sent."""
    inbox = await world.inbox("author")
    made = await make(world, inbox, to=OUTSIDE, send_at=ahead(0))
    hooks = world.sandbox.before if where == "before" else world.sandbox.after
    await world.crash(hooks, "destroy_mail", world.client.delete(path(inbox, made)))
    await read_all(world)
    assert await status(world, inbox, made) == 404
    assert await fire(world) == 0
    await assert_none(world, inbox)
    assert world.sandbox.outbox == []


@pytest.mark.parametrize("where", ["before", "after"])
async def test_crash_after_sending(world: World, where: str) -> None:
    """A draft that was sent would stay in the mail client, and be sent again by hand."""
    inbox = await world.inbox("author")
    made = await make(world, inbox, to=OUTSIDE, subject="Once")
    hooks = world.sandbox.before if where == "before" else world.sandbox.after
    await world.crash(hooks, "destroy_mail", send(world, inbox, made, key="k"))
    await read_all(world)
    assert await status(world, inbox, made) == 404
    again = await send(world, inbox, made, key="k")
    assert again.status_code == 200
    await settle(world)
    await read_all(world)
    assert await stored(world, inbox) == []
    assert await states(world) == []
    assert len(world.sandbox.outbox) == len(await world.messages(inbox)) == 1


def test_every_failure_in_the_table_has_its_test() -> None:
    """A row could promise what nobody has tried."""
    table = (drafts.__doc__ or "").split("=\nfailure ")[1].split("\n=")[1]
    rows = [line[:37].strip() for line in table.splitlines()[1:] if line[:37].strip()]
    assert len(rows) > 10
    names = ["test_" + re.sub(r"[^a-z0-9]+", "_", row.lower()).strip("_") for row in rows]
    assert [name for name in names if name not in globals()] == []


# --- beyond the table


async def test_postgresql_away_after_the_request(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A draft the caller was told does not exist would be sent."""
    async with (
        Proxy(port_of(database_url)) as proxy,
        quiet(through(database_url, proxy), new_sandbox()) as world,
    ):
        inbox = await world.inbox("author")

        async def cut() -> None:
            world.sandbox.after.clear()
            proxy.refuse()

        world.sandbox.after["store_draft"] = cut
        body = {"to": OUTSIDE, "send_at": ahead(0)}
        assert_try_again(await world.client.post(path(inbox), json=body))
        await proxy.heal()
        assert await fire(world) == 0
        await assert_none(world, inbox)


async def test_a_change_carried_out_late_is_never_sent_unseen(world: World) -> None:
    """A mail server that was frozen, and carries out an old request when it wakes, would put words into
    a scheduled mail that its author was told had not been taken.
    """
    inbox = await world.inbox("author")
    made = await make(world, inbox, to=OUTSIDE, subject="One", send_at=ahead(3600))
    await world.crash(
        world.sandbox.before,
        "store_draft",
        world.client.patch(path(inbox, made), json={"subject": "Two"}),
    )
    await settle(world)
    (old,) = await stored(world, inbox)
    late = (await message_id_of(world, inbox, old)).replace(".1@", ".2@")
    await save_in_client(world, inbox, {"Message-ID": late, "Subject": "Two"}, instead_of=old)
    await read_all(world)
    now = await look(world, inbox, made)
    assert now["subject"] == "Two"
    assert "send_at" not in now


async def test_a_mail_server_that_died_between_storing_and_destroying_leaves_one(
    world: World,
) -> None:
    """The old version would stay in mail clients, and come back when the new one is sent."""
    inbox = await world.inbox("author")
    made = await make(world, inbox, to=OUTSIDE, subject="One", send_at=ahead(3600))
    await world.crash(
        world.sandbox.before,
        "store_draft",
        world.client.patch(path(inbox, made), json={"subject": "Two"}),
    )
    (old,) = await stored(world, inbox)
    new = (await message_id_of(world, inbox, old)).replace(".1@", ".2@")
    await save_in_client(world, inbox, {"Message-ID": new, "Subject": "Two"})
    await read_all(world)
    assert len(await stored(world, inbox)) == 2
    await settle(world)
    now = await look(world, inbox, made)
    assert (now["subject"], now["send_status"]) == ("Two", "scheduled")
    await assert_one(world, inbox, now)


async def test_a_sent_draft_that_a_client_saves_once_more_is_a_draft_again(world: World) -> None:
    """What a person saved a moment after their agent sent it would be destroyed unread."""
    inbox = await world.inbox("author")
    made = await make(world, inbox, to=OUTSIDE, subject="Mine", client_id="c")
    (old,) = await stored(world, inbox)
    message_id = await message_id_of(world, inbox, old)
    await world.crash(world.sandbox.before, "destroy_mail", send(world, inbox, made))
    await save_in_client(world, inbox, {"Message-ID": message_id})
    await read_all(world)
    again = await world.client.post(path(inbox), json={"to": OUTSIDE, "client_id": "c"})
    assert (again.status_code, again.json()["draft_id"]) == (200, made["draft_id"])
    assert (await send(world, inbox, made, key="other")).status_code == 200
    assert len(world.sandbox.outbox) == 2
    assert b"By hand" in world.sandbox.outbox[1].raw


async def test_a_client_s_save_while_the_draft_is_being_sent_stays_a_draft(world: World) -> None:
    """What a person wrote while their agent was sending would be destroyed with the old version."""
    inbox = await world.inbox("author")
    made = await make(world, inbox, to=OUTSIDE, subject="Mine", send_at=ahead(3600))
    (old,) = await stored(world, inbox)
    message_id = await message_id_of(world, inbox, old)

    async def save() -> None:
        world.sandbox.before.clear()
        await save_in_client(world, inbox, {"Message-ID": message_id})
        await read_all(world)

    world.sandbox.before["submit"] = save
    assert (await send(world, inbox, made)).status_code == 200
    await read_all(world)
    now = await look(world, inbox, made)
    assert now["subject"] == "By hand"
    assert now["labels"] == ["draft"]
    assert len(await stored(world, inbox)) == 1
    (sent,) = world.sandbox.outbox
    assert b"Subject: Mine" in sent.raw


async def test_a_send_under_way_is_no_draft(world: World) -> None:
    """Every mail that is sent would flash up among the drafts, and could be sent again."""
    inbox = await world.inbox("author")
    await world.crash(world.sandbox.before, "submit", world.post(inbox))
    (row,) = await world.rows("select message_id from send")
    await save_in_client(world, inbox, {"Message-ID": f"<{row['message_id']}>"})
    await read_all(world)
    assert await listed(world, inbox) == []
    await settle(world)
    await read_all(world)
    assert await listed(world, inbox) == []
    assert await stored(world, inbox) == []


async def test_reading_everything_again_changes_no_draft(world: World) -> None:
    """After an outage of the mail server's history drafts would lose their schedule, or their name."""
    inbox = await world.inbox("author")
    made = await make(world, inbox, subject="Mine", send_at=ahead(3600), labels=["x"])
    await change(world, inbox, made, text="T")
    by_hand = await save_in_client(world, inbox, {"Message-ID": "<mine@client.test>"})
    nameless = await save_in_client(world, inbox)
    await read_all(world)
    before = await listed(world, inbox)
    assert len(before) == 3
    await world.rows("update inbox_sync set state = null, due_at = now() returning 1")
    await world.read()
    assert await listed(world, inbox) == before
    await world.rows("delete from draft returning 1")
    await world.rows("update inbox_sync set state = null, due_at = now() returning 1")
    await world.read()
    after = await listed(world, inbox)
    assert {each["draft_id"] for each in after} == {each["draft_id"] for each in before}
    await world.sandbox.destroy_mail(await world.account(inbox), [by_hand, nameless])
    await world.rows("update inbox_sync set state = null, due_at = now() returning 1")
    await world.read()
    assert [each["draft_id"] for each in await listed(world, inbox)] == [made["draft_id"]]


async def test_what_intake_read_before_a_deletion_does_not_bring_the_draft_back(
    world: World,
) -> None:
    """A deleted draft would flash up again, and answer 404 to whoever opens it."""
    inbox = await world.inbox("author")
    made = await make(world, inbox, subject="Mine")
    taken, go = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        world.sandbox.after.clear()
        taken.set()
        await go.wait()

    await world.rows("update inbox_sync set due_at = now() returning 1")
    world.sandbox.after["changes"] = wait
    reading = asyncio.create_task(world.intake.read_batch())
    await taken.wait()
    assert (await world.client.delete(path(inbox, made))).status_code == 204
    go.set()
    await reading
    assert await listed(world, inbox) == []
    await assert_none(world, inbox)


async def test_a_draft_thrown_away_in_a_client_is_no_message(world: World) -> None:
    """Moving a draft to Trash would look like mail that came in, and agents would answer it."""
    inbox = await world.inbox("author")
    made = await make(world, inbox, subject="Mine")
    mailbox = world.sandbox.mailbox(await world.account(inbox))
    (document_id,) = await stored(world, inbox)
    mailbox.relabel(Relabel(document_id, move_to=Folder.TRASH))
    await read_all(world)
    assert await status(world, inbox, made) == 404
    assert await world.messages(inbox, include_trash="true") == []
    assert await world.events_of(inbox) == []
    mailbox.relabel(Relabel(document_id, move_to=Folder.DRAFTS))
    await read_all(world)
    assert (await look(world, inbox, made))["subject"] == "Mine"


async def test_a_draft_marked_deleted_is_gone(world: World) -> None:
    """IMAP clients that never expunge would leave their drafts to be sent."""
    inbox = await world.inbox("author")
    made = await make(world, inbox, to=OUTSIDE, send_at=ahead(3600))
    mailbox = world.sandbox.mailbox(await world.account(inbox))
    (document_id,) = await stored(world, inbox)
    mailbox.relabel(Relabel(document_id, add=frozenset({"$deleted"})))
    await read_all(world)
    assert await status(world, inbox, made) == 404


@pytest.mark.parametrize("name", ["Message-ID", "X-No-Message-ID"])
async def test_a_client_s_draft_is_changed_and_keeps_its_name(world: World, name: str) -> None:
    """An agent asked to improve its owner's draft would leave two."""
    inbox = await world.inbox("author")
    own = {name: "<mine@client.test>", "X-Mozilla-Draft-Info": "x", "X-Own": "kept"}
    for _ in range(2):
        await save_in_client(world, inbox, own)
        await read_all(world)
        (draft,) = await listed(world, inbox)
        changed = await change(world, inbox, draft, subject="Better")
        assert changed["text"] == "Written by hand\n"
        await assert_one(world, inbox, changed)
        answer = await send(world, inbox, draft)
        assert answer.status_code == 200, answer.text
        raw = world.sandbox.outbox[-1].raw
        assert b"X-Own: kept" in raw
        assert b"X-Mozilla" not in raw
        await world.client.delete(
            f"/v0/inboxes/{inbox['inbox_id']}/messages/{answer.json()['message_id']}"
        )
        await read_all(world)
        assert await listed(world, inbox) == []


async def test_an_erased_inbox_leaves_no_draft(world: World) -> None:
    """What a customer had erased would stay in our database."""
    inbox = await world.inbox("author")
    await make(world, inbox, subject="Mine", send_at=ahead(3600))
    await world.client.delete(f"/v0/inboxes/{inbox['inbox_id']}")
    await inboxes.erase(
        world.db, world.server, organization_id=world.organization_id, address=inbox["email"]
    )
    assert await states(world) == []
