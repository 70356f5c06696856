"""What is counted of a mail that leaves, given back of one that does not, and said by an operator."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result

from agentmail_cp import limits, policy
from agentmail_cp.cli import main
from agentmail_cp.db import Database
from agentmail_cp.errors import Invalid, LimitExceeded, RateLimited
from agentmail_cp.limits import Charge, Counted, Exhausted, Limits
from agentmail_cp.mailserver import Folder
from agentmail_cp.messages import Place
from agentmail_cp.policy import Leaving
from agentmail_cp.settings import Settings
from tests.db.mailbox import a_mail, an_inbox, record
from tests.limiting import counts, limit

UNLIMITED = Limits(**dict.fromkeys(limits.NAMES, 0))
WRITE = (
    "with begun as (insert into send (send_id, organization_id, inbox_id, account_id, fingerprint,"
    " message_id, labels, state, lease_until, recipients, counted_thread, counted_at)"
    " values (%(send_id)s, %(organization_id)s, %(inbox_id)s, '', '', '', '{}', 'submitting', now(),"
    " cardinality(%(recipients)s::text[]), %(thread_id)s, coalesce(%(at)s::timestamptz, now()))"
    f" returning *), {limits.COUNTING} select * from begun"
)


def leaving(place: Place, *recipients: str, **fields: Any) -> Leaving:
    return Leaving(place=place, recipients=recipients or ("ada@elsewhere.test",), **fields)


async def asked(db: Database, mail: Leaving) -> Charge:
    async with db.reading() as tx:
        return await policy.may_send(tx, mail, UNLIMITED)


async def write(
    db: Database, place: Place, charge: Charge, *, at: datetime | None = None
) -> Counted:
    """What `sending` does once policy has nothing against a mail."""
    with limits.counting():
        async with db.transaction() as tx:
            row = await (
                await tx.execute(
                    WRITE,
                    {
                        **charge.parameters,
                        "send_id": uuid4(),
                        "organization_id": place.organization_id,
                        "inbox_id": place.inbox_id,
                        "at": at,
                    },
                )
            ).fetchone()
    assert row is not None
    return Counted(
        organization_id=place.organization_id,
        inbox_id=place.inbox_id,
        send_id=row["send_id"],
        recipients=row["recipients"],
        thread_id=row["counted_thread"],
        counted_at=row["counted_at"],
    )


async def leave(db: Database, mail: Leaving) -> Counted:
    """Ask, and count."""
    return await write(db, mail.place, await asked(db, mail))


async def give_back(db: Database, counted: Counted) -> None:
    async with db.transaction() as tx:
        await limits.give_back(tx, counted)


async def known(db: Database, place: Place) -> set[str]:
    """To whom the inbox has written."""
    async with db.reading() as tx:
        rows = await (
            await tx.execute(
                "select address from known_recipient where inbox_id = %(id)s",
                {"id": place.inbox_id},
            )
        ).fetchall()
    return {row["address"] for row in rows}


# --- what is counted


async def test_a_mail_counts_for_each_of_its_recipients_in_every_window(database: Database) -> None:
    """A mail to fifty would count as one, or one address written twice as two."""
    place = await an_inbox(database)
    await leave(database, leaving(place, "ada@x.test", "Ada@X.test", "bob@x.test"))
    assert await counts(database, place.organization_id) == {
        "organization": 2,
        "inbox": 2,
        "new_recipients": 2,
    }
    await leave(database, leaving(place, "ada@x.test"))
    counted = await counts(database, place.organization_id)
    assert counted == {"organization": 3, "inbox": 3, "new_recipients": 2}


async def test_what_is_given_back_is_what_was_counted(database: Database) -> None:
    """A send that failed would cost a customer mail of today, or a trick make mail free."""
    place = await an_inbox(database)
    await record(database, place, a_mail(1))
    references = ("m1@elsewhere.test",)
    kept = await leave(database, leaving(place, "ada@x.test", references=references))
    before = await counts(database, place.organization_id)
    mail = leaving(place, "ada@x.test", "eve@x.test", references=references)
    counted = await leave(database, mail)
    assert (await counts(database, place.organization_id))["thread"] == 2
    await give_back(database, counted)
    assert await counts(database, place.organization_id) == before
    assert await known(database, place) == {"ada@x.test"}
    await give_back(database, kept)
    assert await counts(database, place.organization_id) == {}
    assert await known(database, place) == set()


async def test_what_comes_back_after_its_window_is_forgotten_changes_nothing(
    database: Database,
) -> None:
    """A send that is settled days later would break the job that settles all of them."""
    place = await an_inbox(database)
    old = await leave(database, leaving(place))
    async with database.transaction() as tx:
        await tx.execute("delete from send_count")
    await leave(database, leaving(place))
    await give_back(database, old)
    async with database.transaction() as tx:
        await tx.execute("update send_count set count = 0")
    await give_back(database, old)
    assert await counts(database, place.organization_id) == {}


async def test_a_mail_of_yesterday_is_given_back_to_yesterday(database: Database) -> None:
    """A send that fails at midnight would make tomorrow larger."""
    place = await an_inbox(database)
    charge = await asked(database, leaving(place))
    yesterday = await write(database, place, charge, at=datetime.now(UTC) - timedelta(days=1))
    await leave(database, leaving(place))
    await give_back(database, yesterday)
    assert (await counts(database, place.organization_id))["organization"] == 1
    async with database.reading() as tx:
        rows = await (
            await tx.execute(
                "select window_start, count from send_count where kind = 'organization'"
                " order by window_start"
            )
        ).fetchall()
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    assert [(row["window_start"], row["count"]) for row in rows] == [
        (today - timedelta(days=1), 0),
        (today, 1),
    ]


async def test_old_windows_are_removed_and_those_of_today_are_not(database: Database) -> None:
    """The table would grow by a row for every thread and hour, for ever."""
    place = await an_inbox(database)
    charge = await asked(database, leaving(place))
    await write(database, place, charge, at=datetime.now(UTC) - timedelta(days=4))
    await leave(database, leaving(place))
    async with database.transaction() as tx:
        assert await limits.forget_old(tx) == 3
    assert (await counts(database, place.organization_id))["organization"] == 1


async def test_an_erased_inbox_leaves_no_addresses_behind(database: Database) -> None:
    """What a customer wants erased is erased."""
    place, other = await an_inbox(database), await an_inbox(database)
    await leave(database, leaving(place))
    await leave(database, leaving(other))
    async with database.transaction() as tx:
        await limits.forget_inbox(
            tx, organization_id=place.organization_id, inbox_id=place.inbox_id
        )
    assert (await known(database, place), await known(database, other)) == (
        set(),
        {"ada@elsewhere.test"},
    )


# --- what is refused


async def test_nobody_gets_more_than_the_limit_however_many_ask_at_once(
    database: Database,
) -> None:
    """Two replicas would each find the last place free."""
    place = await an_inbox(database)
    await limit(database, place.organization_id, sends_per_day=40)
    mails = [leaving(place, *(f"{n}-{each}@x.test" for each in range(2))) for n in range(30)]

    async def one(mail: Leaving) -> bool:
        while True:
            try:
                await leave(database, mail)
            except Exhausted:
                continue
            except RateLimited:
                return False
            return True

    left = await asyncio.gather(*map(one, mails))
    assert sum(left) == 20
    assert (await counts(database, place.organization_id))["organization"] == 40


async def test_the_table_itself_refuses_what_policy_did_not_see(database: Database) -> None:
    """Whoever asked a moment before the last place was taken would get one more."""
    place = await an_inbox(database)
    await limit(database, place.organization_id, sends_per_day=3)
    charge = await asked(database, leaving(place, "a@x.test", "b@x.test"))
    await write(database, place, charge)
    with pytest.raises(Exhausted):
        await write(database, place, charge)
    assert (await counts(database, place.organization_id))["organization"] == 2
    async with database.reading() as tx:
        rows = await (await tx.execute("select count(*) as sends from send")).fetchone()
    assert rows is not None
    assert rows["sends"] == 1, "a mail that was not counted has a row all the same"


async def test_sends_and_their_ends_cross_without_waiting_for_each_other(
    database: Database,
) -> None:
    """Two sends that each wait for a count the other holds would both fail, or both wait for seconds."""
    places = [await an_inbox(database)]
    for _ in range(2):
        places.append(await _beside(database, places[0]))
    for place in places:
        await record(database, place, a_mail(1))
    choose = random.Random(5)

    async def one() -> int:
        place = choose.choice(places)
        to = choose.sample(["a@x.test", "b@x.test", "c@x.test", "d@x.test"], 2)
        counted = await leave(database, leaving(place, *to, references=("m1@elsewhere.test",)))
        if choose.random() < 0.5:
            await asyncio.sleep(choose.random() / 50)
            await give_back(database, counted)
            return 0
        return 2

    kept = sum(await asyncio.gather(*(one() for _ in range(150))))
    counted = await counts(database, places[0].organization_id)
    assert (counted["organization"], counted["inbox"], counted["thread"]) == (kept, kept, kept / 2)


async def _beside(db: Database, place: Place) -> Place:
    """Another inbox of the same organisation."""
    other = await an_inbox(db)
    async with db.transaction() as tx:
        for table in ("update inbox", "update inbox_sync"):
            await tx.execute(
                cast("Any", f"{table} set organization_id = %(o)s where inbox_id = %(i)s"),
                {"o": place.organization_id, "i": other.inbox_id},
            )
    return Place(other.inbox_id, place.organization_id, place.pod_id, place.domain)


async def test_a_limit_of_the_inbox_says_nothing_of_other_inboxes(database: Database) -> None:
    """One busy agent would silence the others."""
    place = await an_inbox(database)
    other = await _beside(database, place)
    await limit(database, place.organization_id, inbox_sends_per_day=1)
    await leave(database, leaving(place))
    with pytest.raises(RateLimited, match="This inbox may send to 1 recipient a day"):
        await asked(database, leaving(place))
    await leave(database, leaving(other))


async def test_a_limit_of_the_organization_says_nothing_of_others(database: Database) -> None:
    """One customer's use would count for another."""
    place, stranger = await an_inbox(database), await an_inbox(database)
    for each in (place, stranger):
        await limit(database, each.organization_id, sends_per_day=1)
    await leave(database, leaving(place))
    with pytest.raises(RateLimited):
        await asked(database, leaving(place))
    await leave(database, leaving(stranger))


async def test_more_recipients_than_will_ever_be_allowed_are_refused_for_good(
    database: Database,
) -> None:
    """A client that waits until tomorrow would be told tomorrow to wait again."""
    place = await an_inbox(database)
    await limit(database, place.organization_id, inbox_new_recipients_per_day=2)
    with pytest.raises(LimitExceeded, match="2 new recipients a day; this message has 3"):
        await asked(database, leaving(place, "a@x.test", "b@x.test", "c@x.test"))


async def test_a_new_recipient_is_one_who_neither_got_mail_nor_wrote_first(
    database: Database,
) -> None:
    """Answering one's customers is no campaign; writing to strangers is."""
    place = await an_inbox(database)
    await record(database, place, a_mail(1))
    await limit(database, place.organization_id, inbox_new_recipients_per_day=1)
    answer = leaving(place, "Ada@elsewhere.test", references=("m1@elsewhere.test",))
    await leave(database, answer)
    await leave(database, leaving(place, "stranger@x.test"))
    await leave(database, leaving(place, "stranger@x.test", "ada@elsewhere.test"))
    with pytest.raises(RateLimited, match="1 new recipient a day; 0 of them left"):
        await asked(database, leaving(place, "another@x.test"))


async def test_answers_into_one_thread_have_a_limit_of_their_own(database: Database) -> None:
    """A conversation that ran away would be noticed when the day's mail is gone."""
    place = await an_inbox(database)
    await record(database, place, a_mail(1), a_mail(2))
    await limit(database, place.organization_id, thread_sends_per_hour=2)
    mail = leaving(place, references=("m1@elsewhere.test",))
    await leave(database, mail)
    await leave(database, mail)
    with pytest.raises(RateLimited, match="2 messages an hour into one thread") as raised:
        await asked(database, mail)
    assert raised.value.retry_at - datetime.now(UTC) <= timedelta(hours=1)
    await leave(database, leaving(place, references=("m2@elsewhere.test",)))
    await leave(database, leaving(place, references=("unknown@elsewhere.test",)))


async def test_the_wait_told_is_the_longest(database: Database) -> None:
    """Whoever waited for the hour would be told to wait for the day."""
    place = await an_inbox(database)
    await record(database, place, a_mail(1))
    await limit(database, place.organization_id, thread_sends_per_hour=1, sends_per_day=1)
    mail = leaving(place, references=("m1@elsewhere.test",))
    await leave(database, mail)
    with pytest.raises(RateLimited) as raised:
        await asked(database, mail)
    midnight = (datetime.now(UTC) + timedelta(days=1)).replace(
        hour=0, minute=0, second=0, microsecond=0
    )
    assert raised.value.retry_at == midnight


# --- loops


async def a_thread(db: Database, place: Place, *seconds_ago: float) -> Sequence[str]:
    """A thread whose messages came and went so long ago, oldest first and the first one received."""
    now = datetime.now(UTC)
    for number, ago in enumerate(seconds_ago, 1):
        await record(
            db,
            place,
            a_mail(
                number,
                message_id=f"t{number}@elsewhere.test",
                references=() if number == 1 else (f"t{number - 1}@elsewhere.test",),
                folders=frozenset({Folder.INBOX if number % 2 else Folder.SENT}),
                received_at=now - timedelta(seconds=ago),
            ),
        )
    return [f"t{len(seconds_ago)}@elsewhere.test"]


async def loops(db: Database, mail: Leaving, **numbers: int) -> RateLimited | None:
    """What the rules about loops say of a mail."""
    most = Limits(**{**dict.fromkeys(limits.NAMES, 0), "loop_pace": 60, **numbers})
    async with db.reading() as tx:
        try:
            await policy.may_send(tx, mail, most)
        except RateLimited as error:
            return error
    return None


async def test_a_thread_that_goes_back_and_forth_without_a_pause_is_a_loop(
    database: Database,
) -> None:
    """Two agents that answer at once would send a thousand mails before anybody looks."""
    place = await an_inbox(database)
    references = await a_thread(database, place, 50, 40, 30, 20, 10)
    mail = leaving(place, references=tuple(references))
    refused = await loops(database, mail, loop_turns=5)
    assert refused is not None
    assert "back and forth 5 times" in refused.message
    wait = refused.retry_at - datetime.now(UTC)
    assert timedelta(seconds=40) < wait <= timedelta(seconds=50)
    assert await loops(database, mail, loop_turns=6) is None
    assert await loops(database, mail, loop_turns=5, loop_pace=8) is None
    assert await loops(database, mail, loop_turns=0) is None
    assert await loops(database, leaving(place), loop_turns=5) is None


async def test_answers_to_a_machine_that_says_so_run_out(database: Database) -> None:
    """An out-of-office reply, an answer to it, another one: for as long as the person is away."""
    place = await an_inbox(database)
    references = await a_thread(database, place, 3_500, 3_000, 2_500, 2_000, 1_500)
    mail = leaving(place, references=tuple(references), answers_machine=True)
    refused = await loops(database, mail, loop_automatic_replies=2)
    assert refused is not None
    assert "automatic" in refused.message
    wait = refused.retry_at - datetime.now(UTC)
    assert timedelta(seconds=590) < wait <= timedelta(seconds=600), (
        "its oldest of two is an hour old"
    )
    assert await loops(database, mail, loop_automatic_replies=3) is None
    assert await loops(database, mail, loop_automatic_replies=0) is None
    person = leaving(place, references=tuple(references))
    assert await loops(database, person, loop_automatic_replies=2) is None


async def test_the_parent_says_which_thread_a_mail_goes_into(database: Database) -> None:
    """References may name two threads that nobody has joined yet."""
    place = await an_inbox(database)
    await record(database, place, a_mail(1), a_mail(2))
    await limit(database, place.organization_id, thread_sends_per_hour=1)
    await leave(database, leaving(place, references=("m2@elsewhere.test", "m1@elsewhere.test")))
    await leave(database, leaving(place, references=("m1@elsewhere.test", "m2@elsewhere.test")))
    with pytest.raises(RateLimited):
        await asked(database, leaving(place, references=("m1@elsewhere.test",)))


# --- an organisation's own


async def test_an_organizations_own_limit_holds_instead_of_the_setting(database: Database) -> None:
    """An operator must be able to let one customer send more, and another less."""
    place, other = await an_inbox(database), await an_inbox(database)
    settings = Settings(database_url=database.url)
    await limit(database, place.organization_id, sends_per_day=5, inboxes_per_pod=2)
    await limit(database, place.organization_id, sends_per_day=0)
    async with database.transaction() as tx:
        own = await limits.of(tx, settings, place.organization_id)
        assert (own.sends_per_day, own.inboxes_per_pod) == (0, 2)
        assert await limits.of(tx, settings, other.organization_id) == limits.defaults(settings)
        assert await limits.clear_limit(tx, place.organization_id, "sends_per_day")
        assert not await limits.clear_limit(tx, place.organization_id, "sends_per_day")
        own = await limits.of(tx, settings, place.organization_id)
        assert own.sends_per_day == settings.sends_per_day


async def test_a_limit_set_below_what_was_used_refuses_at_once(database: Database) -> None:
    """The operator who stops a runaway agent must not wait until midnight."""
    place = await an_inbox(database)
    counted = await leave(database, leaving(place, "a@x.test", "b@x.test"))
    await limit(database, place.organization_id, sends_per_day=1)
    with pytest.raises(RateLimited, match="0 of them left"):
        await asked(database, leaving(place))
    await give_back(database, counted)
    await leave(database, leaving(place))


@pytest.mark.parametrize(
    ("name", "value"), [("sends_per_week", 1), ("sends_per_day", -1), ("loop_turns", 51)]
)
async def test_a_limit_that_no_setting_could_be_is_refused(
    database: Database, name: str, value: int
) -> None:
    """A slip of the operator would let everything through, or nothing."""
    place = await an_inbox(database)
    with pytest.raises(Invalid):
        await limit(database, place.organization_id, **{name: value})


async def command(db: Database, *arguments: str) -> Result:
    """What `agentmail-cp org limits …` does, in a thread with an event loop of its own."""
    env = {"AGENTMAIL_CP_DATABASE_URL": db.url, "AGENTMAIL_CP_SENDS_PER_DAY": "500"}
    return await asyncio.to_thread(CliRunner().invoke, main, ["org", "limits", *arguments], env=env)


async def shown(db: Database, name: str) -> list[str]:
    """The line of `show` about a limit, in words."""
    done = await command(db, "show")
    assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in done.output.splitlines()] == list(limits.NAMES)
    return next(line.split()[1:] for line in done.output.splitlines() if line.startswith(name))


async def test_an_operator_shows_sets_and_clears_limits(database: Database) -> None:
    """Whoever runs the service needs no SQL to let a customer send more."""
    await an_inbox(database)
    assert await shown(database, "sends_per_day") == ["500", "setting"]
    done = await command(database, "set", "sends_per_day", "20000")
    assert done.exit_code == 0, done.output
    assert await shown(database, "sends_per_day") == ["20000", "own"]
    done = await command(database, "clear", "sends_per_day")
    assert "500" in done.output
    assert await shown(database, "sends_per_day") == ["500", "setting"]


async def test_the_command_names_what_it_does_not_take(database: Database) -> None:
    """A slip of an operator ends in a sentence."""
    await an_inbox(database)
    wrong = await command(database, "set", "loop_turns", "51")
    assert wrong.exit_code == 1
    assert "loop_turns" in wrong.output
    assert (await command(database, "set", "sends_per_week", "1")).exit_code == 2
    await an_inbox(database)
    assert "--org" in (await command(database, "show")).output
