"""Pods in the database: made once, counted exactly, deleted only when nothing lives in them."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from agentmail_cp import access, inboxes, lists, pods
from agentmail_cp.access import Reach
from agentmail_cp.db import Database, Tx
from agentmail_cp.errors import CannotDelete, Forbidden, Invalid, LimitExceeded, NotFound
from agentmail_cp.inboxes import MailDomain, NewInbox
from agentmail_cp.inboxes.quota import obstacle
from agentmail_cp.limits import Limits, defaults
from agentmail_cp.lists import NamedList
from agentmail_cp.pods import Made, NewPod, Pod, PodPatch
from agentmail_cp.sandbox import MailSandbox
from tests import tenants
from tests.fix_app import DOMAIN, settings_for

UNLIMITED = defaults(settings_for("postgresql://nowhere"))


def limited(**most: int) -> Limits:
    return msgspec.structs.replace(UNLIMITED, **most)


async def make(db: Database, reach: Reach, limits: Limits = UNLIMITED, **fields: Any) -> Made:
    async with db.transaction() as tx:
        return await pods.create(tx, reach, NewPod(**fields), limits=limits)


async def an_organization(db: Database) -> Reach:
    return Reach(await tenants.organization(db))


async def an_inbox(db: Database, reach: Reach, state: str = "active") -> None:
    """A row as `inboxes` leaves it in this state."""
    async with db.transaction() as tx:
        await tx.execute(
            "insert into inbox (inbox_id, organization_id, pod_id, address, username, domain, state)"
            " values (%(id)s, %(organization_id)s, %(pod_id)s, %(name)s, %(name)s, 'x', %(state)s)",
            {
                "id": uuid4(),
                "organization_id": reach.organization_id,
                "pod_id": reach.pod_id,
                "name": uuid4().hex,
                "state": state,
            },
        )


async def all_of(db: Database, reach: Reach, *, ascending: bool = False) -> list[Pod]:
    """Every pod, page by page of two."""
    seen: list[Pod] = []
    token: str | None = None
    async with db.reading() as tx:
        while True:
            page, token = await pods.list_page(
                tx, reach, limit=2, page_token=token, ascending=ascending
            )
            seen += page
            if token is None:
                return seen


async def delete(db: Database, reach: Reach, pod: object) -> None:
    async with db.transaction() as tx:
        await pods.delete(tx, reach, str(pod))


# --- making


async def test_many_requests_with_one_client_id_make_one_pod(database: Database) -> None:
    """A customer onboarded by two workers at once would be in two places."""
    reach = await an_organization(database)
    made = await asyncio.gather(*(make(database, reach, client_id="acme") for _ in range(20)))
    assert len({each.pod.pod_id for each in made}) == 1
    assert sum(each.new for each in made) == 1
    assert len(await all_of(database, reach)) == 2


async def test_the_same_client_id_is_another_pod_elsewhere(database: Database) -> None:
    """One customer would be given the pod of another."""
    mine, theirs = await an_organization(database), await an_organization(database)
    first = await make(database, mine, client_id="acme")
    second = await make(database, theirs, client_id="acme")
    assert second.new
    assert first.pod.pod_id != second.pod.pod_id


async def test_no_number_of_requests_makes_one_pod_too_many(database: Database) -> None:
    reach = await an_organization(database)
    limits = limited(pods_per_organization=5)
    results = await asyncio.gather(
        *(make(database, reach, limits) for _ in range(30)), return_exceptions=True
    )
    assert sum(isinstance(each, Made) for each in results) == 4, "the default pod counts"
    refused = [each for each in results if isinstance(each, BaseException)]
    assert {type(each) for each in refused} == {LimitExceeded}
    other = await an_organization(database)
    assert (await make(database, other, limits)).new, "each organisation counts for itself"


async def test_a_known_client_id_is_answered_at_the_limit(database: Database) -> None:
    """A program that starts up again would be told that it may have no pod."""
    reach = await an_organization(database)
    limits = limited(pods_per_organization=2)
    made = await asyncio.gather(*(make(database, reach, limits, client_id="a") for _ in range(9)))
    assert sum(each.new for each in made) == 1
    with pytest.raises(LimitExceeded) as refused:
        await make(database, reach, limits, client_id="b")
    assert refused.value.fix


async def test_what_is_no_pod_is_refused(database: Database) -> None:
    reach = await an_organization(database)
    for field, new in (
        *(("name", NewPod(name=wrong)) for wrong in ("", "x" * 257, "a\nb", "\x00")),
        *(("client_id", NewPod(client_id=wrong)) for wrong in ("", "a b", "x" * 257)),
    ):
        async with database.transaction() as tx:
            with pytest.raises(Invalid) as refused:
                await pods.create(tx, reach, new, limits=UNLIMITED)
        assert refused.value.field == field


async def test_only_the_organization_makes_and_deletes_pods(database: Database) -> None:
    """A key for one customer could reach beyond that customer."""
    reach = await an_organization(database)
    pod = (await make(database, reach)).pod
    own = Reach(reach.organization_id, pod.pod_id)
    with pytest.raises(Forbidden):
        await make(database, own)
    with pytest.raises(Forbidden):
        await delete(database, own, pod.pod_id)
    assert len(await all_of(database, reach)) == 2


# --- finding


@pytest.mark.parametrize("ascending", [False, True])
async def test_pages_miss_and_repeat_nothing(database: Database, ascending: bool) -> None:
    """Pods made in one transaction have the same time."""
    reach = await an_organization(database)
    async with database.transaction() as tx:
        for _ in range(5):
            await pods.create(tx, reach, NewPod(), limits=UNLIMITED)
    seen = [
        (each.created_at, each.pod_id)
        for each in await all_of(database, reach, ascending=ascending)
    ]
    assert len(seen) == 6
    assert seen == sorted(seen, reverse=not ascending)


async def test_a_pod_is_all_that_its_key_sees(database: Database) -> None:
    reach, stranger = await an_organization(database), await an_organization(database)
    mine = (await make(database, reach, client_id="mine")).pod
    other = (await make(database, reach, client_id="other")).pod
    own = Reach(reach.organization_id, mine.pod_id)
    assert [each.pod_id for each in await all_of(database, own)] == [mine.pod_id]
    async with database.transaction() as tx:
        for name in (str(mine.pod_id), "mine"):
            assert await pods.get(tx, own, name) == mine
        for whose, name in (
            *((own, each) for each in (str(other.pod_id), "other", "none", "\x00")),
            *((stranger, each) for each in (str(mine.pod_id), "mine")),
        ):
            with pytest.raises(NotFound):
                await pods.get(tx, whose, name)
            with pytest.raises(NotFound):
                await pods.update(tx, whose, name, PodPatch(name="mine now"))
            with pytest.raises(NotFound):
                await pods.delete(tx, whose, name)
        one = Reach(reach.organization_id, mine.pod_id, uuid4())
        with pytest.raises(Forbidden):
            await pods.list_page(tx, one, limit=2, page_token=None)
        with pytest.raises(Forbidden):
            await pods.get(tx, one, "mine")


async def test_a_client_id_that_looks_like_another_pods_id_hides_nothing(
    database: Database,
) -> None:
    reach = await an_organization(database)
    real = (await make(database, reach)).pod
    for _ in range(3):
        await make(database, reach, client_id=str(real.pod_id))
        async with database.reading() as tx:
            assert (await pods.get(tx, reach, str(real.pod_id))).pod_id == real.pod_id


# --- changing


async def test_a_pod_cannot_lift_its_own_limit(database: Database) -> None:
    """What an organisation gives a customer would be worth nothing."""
    reach = await an_organization(database)
    pod = (await make(database, reach, name="Acme")).pod
    own = Reach(reach.organization_id, pod.pod_id)
    async with database.transaction() as tx:
        changed = await pods.update(tx, reach, str(pod.pod_id), PodPatch(inbox_limit=3))
        assert (changed.name, changed.inbox_limit) == ("Acme", 3)
        for wanted in (4, None):
            with pytest.raises(Forbidden):
                await pods.update(tx, own, str(pod.pod_id), PodPatch(inbox_limit=wanted))
        renamed = await pods.update(tx, own, str(pod.pod_id), PodPatch(name="Acme Ltd"))
        assert (renamed.name, renamed.inbox_limit) == ("Acme Ltd", 3)
        free = await pods.update(tx, reach, str(pod.pod_id), PodPatch(inbox_limit=None))
        assert (free.name, free.inbox_limit) == ("Acme Ltd", None)
        for field, patch in (
            ("name", PodPatch()),
            ("name", PodPatch(name="")),
            ("inbox_limit", PodPatch(inbox_limit=0)),
            ("inbox_limit", PodPatch(inbox_limit=-1)),
            ("inbox_limit", PodPatch(inbox_limit=2**63)),
        ):
            with pytest.raises(Invalid) as refused:
                await pods.update(tx, reach, str(pod.pod_id), patch)
            assert refused.value.field == field


# --- deleting


async def test_the_default_pod_stays(database: Database) -> None:
    """What names no pod would have nowhere to go."""
    reach = await an_organization(database)
    default = await tenants.default_pod(database, reach.organization_id)
    with pytest.raises(CannotDelete):
        await delete(database, reach, default)
    assert [each.pod_id for each in await all_of(database, reach)] == [default]


@pytest.mark.parametrize("state", ["creating", "active", "deleting"])
async def test_a_pod_stays_while_an_inbox_lives_in_it(database: Database, state: str) -> None:
    """An inbox would go on taking mail that no key reaches."""
    reach = await an_organization(database)
    pod = (await make(database, reach)).pod
    await an_inbox(database, Reach(reach.organization_id, pod.pod_id), state)
    with pytest.raises(CannotDelete, match="1 inbox") as refused:
        await delete(database, reach, pod.pod_id)
    assert refused.value.fix


@pytest.mark.parametrize("state", ["deleted", "erased"])
async def test_what_deleted_inboxes_left_keeps_no_pod(database: Database, state: str) -> None:
    """A customer who left could not be removed for as long as their mail is kept."""
    reach = await an_organization(database)
    pod = (await make(database, reach)).pod
    await an_inbox(database, Reach(reach.organization_id, pod.pod_id), state)
    await delete(database, reach, pod.pod_id)
    assert pod.pod_id not in {each.pod_id for each in await all_of(database, reach)}


async def test_a_deleted_pod_takes_its_keys_and_lists_along_and_no_others(
    database: Database,
) -> None:
    """Its keys would live on, and what is made under its client_id next would inherit its lists."""
    reach = await an_organization(database)
    gone = (await make(database, reach, client_id="acme")).pod
    kept = (await make(database, reach)).pod
    for pod_id in (gone.pod_id, kept.pod_id, None):
        await tenants.key(database, reach.organization_id, pod_id=pod_id)
        async with database.transaction() as tx:
            whose = Reach(reach.organization_id, pod_id)
            await lists.create(tx, NamedList(whose, "send", "block"), "x@y.test", None, most=0)
    await delete(database, reach, "acme")
    async with database.reading() as tx:
        rows = await tx.execute(
            "select pod_id from api_key union all select pod_id from list_entry"
        )
        left = [row["pod_id"] for row in await rows.fetchall()]
    assert Counter(left) == {kept.pod_id: 2, None: 2}
    assert (await make(database, reach, client_id="acme")).new


async def reserve(tx: Tx, reach: Reach) -> None:
    """What the first transaction of making an inbox does."""
    assert reach.pod_id is not None
    assert await obstacle(tx, reach.organization_id, reach.pod_id, UNLIMITED) is None
    await tx.execute(
        "insert into inbox (inbox_id, organization_id, pod_id, address, username, domain, state)"
        " values (%(id)s, %(organization_id)s, %(pod_id)s, 'a@x', 'a', 'x', 'creating')",
        {"id": uuid4(), "organization_id": reach.organization_id, "pod_id": reach.pod_id},
    )


async def test_an_inbox_in_the_making_keeps_its_pod(database: Database) -> None:
    """The inbox would be active in a pod that is gone."""
    reach = await an_organization(database)
    pod = (await make(database, reach)).pod
    async with database.transaction() as tx:
        await reserve(tx, Reach(reach.organization_id, pod.pod_id))
        deletion = asyncio.create_task(delete(database, reach, pod.pod_id))
        await asyncio.sleep(0.2)
        assert not deletion.done()
    with pytest.raises(CannotDelete):
        await deletion


async def test_in_a_pod_being_deleted_no_inbox_is_made(database: Database) -> None:
    reach = await an_organization(database)
    pod = (await make(database, reach)).pod

    async def create() -> object:
        return await inboxes.create(
            database,
            MailSandbox(DOMAIN),
            reach=Reach(reach.organization_id, pod.pod_id),
            domain=MailDomain(DOMAIN, shared=False),
            new=NewInbox(),
            limits=UNLIMITED,
        )

    async with database.transaction() as tx:
        await pods.delete(tx, reach, str(pod.pod_id))
        creation = asyncio.create_task(create())
        await asyncio.sleep(0.2)
        assert not creation.done()
    with pytest.raises(NotFound):
        await creation
    async with database.reading() as tx:
        assert await inboxes.count(tx, reach.organization_id) == 0


async def test_an_organization_that_is_not_there(database: Database) -> None:
    async with database.reading() as tx:
        with pytest.raises(NotFound):
            await access.get_organization(tx, uuid4())
