"""The server is away, slow, cut off or full of nonsense: which error it is, and what was done.

`reached` decides whether a send may be repeated: wrong one way sends twice, the other way never.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from agentmail_cp.mailserver import (
    Access,
    BlobId,
    Cursor,
    DkimAlgorithm,
    DkimKey,
    DocumentId,
    Folder,
    MailDomainSetup,
    MailServerConfused,
    MailServerUnavailable,
    NewAccount,
    NewAppPassword,
    Relabel,
)
from tests.contract.witness import covers
from tests.contract.world import World, a_raw_mail, an_email

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentmail_cp.mailserver import Account, MailServer

NO_DOCUMENT = [DocumentId(1)]
NO_LOGIN = UUID(int=1)


async def download(server: MailServer, account: Account) -> None:
    async for _ in server.download(account.account_id, BlobId("any")):
        pass


READS: dict[str, Callable[[MailServer, Account], Awaitable[object]]] = {
    "status": lambda server, _: server.status(),
    "find_account": lambda server, account: server.find_account(account.address),
    "find_domain": lambda server, _: server.find_domain("another.test"),
    "find": lambda server, account: server.find(account.account_id, "m@x.test", None),
    "find_own": lambda server, account: server.find_own(account.account_id, "m@x.test", None),
    "changes": lambda server, account: server.changes([Cursor(account.account_id, account.state)]),
    "listing": lambda server, account: server.listing(account.account_id),
    "fetch": lambda server, account: server.fetch(account.account_id, NO_DOCUMENT),
    "read": lambda server, account: server.read(account.account_id, NO_DOCUMENT),
    "attachments": lambda server, account: server.attachments({account.account_id: NO_DOCUMENT}),
    "search": lambda server, account: server.search([account.account_id], "word", limit=5),
    "excerpts": lambda server, account: server.excerpts(account.account_id, NO_DOCUMENT, "word"),
    "download": download,
    "blob_size": lambda server, account: server.blob_size(account.account_id, BlobId("any")),
    "raw_blob": lambda server, account: server.raw_blob(account.account_id, NO_DOCUMENT[0]),
    "queue": lambda server, _: server.queue([1]),
    "queued_by": lambda server, account: server.queued_by(account.address),
    "complaints": lambda server, _: server.complaints(),
    "app_passwords": lambda server, account: server.app_passwords(account.account_id),
}
WRITES: dict[str, Callable[[MailServer, Account], Awaitable[object]]] = {
    "ensure_domain": lambda server, _: server.ensure_domain("another.test"),
    "install_domain": lambda server, _: server.install_domain(
        MailDomainSetup(name="another.test", owner="somebody")
    ),
    "disable_domain": lambda server, _: server.disable_domain("another.test", "somebody"),
    "set_catch_all": lambda server, _: server.set_catch_all("another.test", None),
    "add_dkim_key": lambda server, _: server.add_dkim_key(
        "another.test", DkimKey(selector="s", algorithm=DkimAlgorithm.RSA)
    ),
    "retire_dkim_key": lambda server, _: server.retire_dkim_key("another.test", "s"),
    "pause_receiving": lambda server, account: server.pause_receiving(
        account.account_id, paused=True
    ),
    "create_account": lambda server, account: server.create_account(
        NewAccount(f"new-{account.address}")
    ),
    "set_password": lambda server, account: server.set_password(account.account_id, None),
    "set_passwords": lambda server, account: server.set_passwords({account.account_id: None}),
    "create_app_password": lambda server, account: server.create_app_password(
        account.account_id,
        NewAppPassword(app_password_id=NO_LOGIN, name="x", access=Access.READ),
    ),
    "destroy_app_passwords": lambda server, account: server.destroy_app_passwords(
        account.account_id, [NO_LOGIN]
    ),
    "retire_account": lambda server, account: server.retire_account(account.account_id),
    "destroy_account": lambda server, account: server.destroy_account(account.account_id),
    "submit": lambda server, account: server.submit(
        account.account_id, an_email(account, account.address)
    ),
    "store_draft": lambda server, account: server.store_draft(
        account.account_id, an_email(account)
    ),
    "destroy_mail": lambda server, account: server.destroy_mail(account.account_id, NO_DOCUMENT),
    "relabel": lambda server, account: server.relabel(
        account.account_id, [Relabel(NO_DOCUMENT[0], add=frozenset({"x"}))]
    ),
    "append": lambda server, account: server.append(
        account.account_id, a_raw_mail(), folder=Folder.INBOX
    ),
    "upload": lambda server, account: server.upload(account.account_id, b"x", "text/plain"),
    "forget_complaints": lambda server, _: server.forget_complaints(["b"]),
    "ring": lambda server, _: server.ring(),
}
CALLS = READS | WRITES


@covers("fault:down", MailServerUnavailable)
@pytest.mark.parametrize("method", sorted(CALLS))
async def test_a_server_that_is_away_was_not_reached(world: World, method: str) -> None:
    account = await world.account()
    async with world.backstage.down() as server:
        with pytest.raises(MailServerUnavailable) as caught:
            await CALLS[method](server, account)
    assert not caught.value.reached
    assert caught.value.retry_after > 0
    assert (await world.changed(account)).present == ()
    assert await world.server.find_account(account.address) is not None


@covers("fault:slow", MailServerUnavailable)
@pytest.mark.parametrize("method", sorted(CALLS))
async def test_a_server_that_does_not_answer_in_time_is_unavailable(
    world: World, method: str
) -> None:
    account = await world.account()
    async with world.backstage.slow() as server:
        with pytest.raises(MailServerUnavailable) as caught:
            await CALLS[method](server, account)
    assert caught.value.reached or method in READS


@covers("fault:lost_answer", "submit", "find_own", MailServerUnavailable)
async def test_a_send_whose_answer_was_lost_is_found_and_was_sent_once(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    email = an_email(alice, bob.address)
    async with world.backstage.lost_answer() as server:
        with pytest.raises(MailServerUnavailable) as caught:
            await server.submit(alice.account_id, email)
    assert caught.value.reached
    (mail,) = await world.arrived(bob)
    assert mail.message_id == email.message_id
    found = await world.server.find_own(alice.account_id, email.message_id, alice.state)
    assert found is not None
    assert found.submitted is not None
    assert [each.address for each in found.submitted.verdicts] == [bob.address]
    assert len((await world.changed(alice)).present) == 1


@covers("fault:lost_answer", "create_account", "find_account")
async def test_an_account_whose_creation_was_not_answered_is_found(world: World) -> None:
    address = world.address()
    async with world.backstage.lost_answer() as server:
        with pytest.raises(MailServerUnavailable) as caught:
            await server.create_account(NewAccount(address))
    assert caught.value.reached
    found = await world.server.find_account(address)
    assert found is not None
    assert found.ours


@covers("fault:confused", MailServerConfused)
@pytest.mark.parametrize("method", sorted(CALLS.keys() - {"download"}))  # any bytes make a blob
async def test_nonsense_is_confusion_and_not_a_reason_to_try_again(
    world: World, method: str
) -> None:
    account = await world.account()
    async with world.backstage.confused() as server:
        with pytest.raises(MailServerConfused):
            await CALLS[method](server, account)


@covers("close")
async def test_one_client_that_closes_leaves_the_others_alone(world: World) -> None:
    async with world.backstage.client() as server:
        await server.status()
        await server.close()
        await server.close()
    await world.server.status()
