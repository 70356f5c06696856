"""What it costs that the mail server asks about every mail: a send, and each answer."""

from __future__ import annotations

from typing import Any

import psycopg

from agentmail_cp.stalwart import mtahook
from bench.jmap import UNASKED
from bench.measuring import Figure, Target, compare, new_inbox, number
from bench.world import HOOK_SECRET

Question = dict[str, Any]


async def doors(target: Target) -> list[Figure]:
    """A send that is asked about beside one that is not; then each kind of answer beside a request that does
    nothing.
    """
    receiver = await new_inbox(target)
    unasked = await _named(target, f"{UNASKED}{next(number)}")
    asked = await _named(target, f"bench-{next(number)}")

    async def send(sender: str) -> None:
        body = {"to": receiver, "subject": "Bench", "text": "Some words of text.\n" * 20}
        answer = await target.api.post(f"/v0/inboxes/{sender}/messages/send", json=body)
        answer.raise_for_status()

    figures = await compare(
        "send, asked about", raw=lambda: send(unasked), ours=lambda: send(asked), runs=400
    )
    return figures + await _answers(target, asked, receiver)


async def _answers(target: Target, sender: str, receiver: str) -> list[Figure]:
    """How long Stalwart waits: for each send of ours, and for each recipient and mail of a mail client."""

    async def nothing() -> None:
        (await target.api.get("/health")).raise_for_status()

    async def answer(path: str, question: Question) -> None:
        headers = {"Authorization": f"Bearer {mtahook.token(HOOK_SECRET)}"}
        said = await target.api.post(path, json=question, headers=headers)
        assert said.json()["action"] == "accept", said.text

    async def own() -> None:
        mail = _mail(sender, "under-way@agents.test")
        await answer(mtahook.QUEUED_PATH, _question("data", sender, receiver, mail))

    async def recipient() -> None:
        await answer(mtahook.HOOK_PATH, _question("rcpt", sender, receiver, None))

    async def mail() -> None:
        mail = _mail(sender, f"{next(number)}@client.test")
        await answer(mtahook.HOOK_PATH, _question("data", sender, receiver, mail))

    _put_under_way(target, sender, "under-way@agents.test", receiver)
    figures: list[Figure] = []
    for name, ours in (("our send", own), ("a recipient", recipient), ("a mail", mail)):
        figures += await compare(
            f"answer about {name}", raw=nothing, ours=ours, runs=400, at_once=(1,)
        )
    return figures


async def _named(target: Target, username: str) -> str:
    answer = await target.api.post("/v0/inboxes", json={"username": username})
    return answer.json()["inbox_id"]


def _mail(sender: str, message_id: str) -> Question:
    headers = [["From", f" {sender}\r\n"], ["Message-ID", f" <{message_id}>\r\n"]]
    text = "Some words of text.\r\n" * 20
    return {"headers": headers, "contents": text, "size": len(text)}


def _question(stage: str, sender: str, receiver: str, mail: Question | None) -> Question:
    queue = {"queue": {"id": f"{next(number):x}"}} if mail else {}
    return {
        "context": {"stage": stage, "sasl": {"login": sender}, **queue},
        "envelope": {"from": {"address": sender}, "to": [{"address": receiver}]},
        "message": mail,
    }


def _put_under_way(target: Target, sender: str, message_id: str, receiver: str) -> None:
    """The row of a send whose answer is waited for all along."""
    with psycopg.connect(target.database_url, autocommit=True) as connection:
        connection.execute(
            "insert into send (send_id, organization_id, inbox_id, account_id, fingerprint, message_id,"
            " state, lease_until, addresses) select gen_random_uuid(), organization_id, inbox_id,"
            " account_id, '', %(message_id)s, 'submitting', now() + interval '1 hour',"
            " array[%(receiver)s] from inbox where address = %(sender)s",
            {"message_id": message_id, "receiver": receiver, "sender": sender},
        )
