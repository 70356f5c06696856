"""Search through the API: what is found, in which order, what never is, and what hostile words do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from agentmail_cp import access
from agentmail_cp.sandbox import MailSandbox
from agentmail_cp.sandbox.faults import Faults
from tests.api.faults import fault, mistake
from tests.fix_app import Json, Service, a_mail, until

Found = Callable[[Json], bool]


async def search(service: Service, path: str, q: str, **query: object) -> Json:
    """One page of a search."""
    params = {"q": q, **{name: str(value) for name, value in query.items()}}
    answer = await service.client.get(f"/v0/{path}/search", params=params)
    assert answer.status_code == 200, f"{q!r}: {answer.text}"
    page: Json = answer.json()
    (items,) = (page[each] for each in ("messages", "threads", "inboxes") if each in page)
    assert page["count"] == len(items)
    return page


async def subjects(service: Service, inbox: Json, q: str, **query: object) -> list[str]:
    """The subjects of the messages found; those of the threads found must be the same."""
    at = f"inboxes/{inbox['inbox_id']}"
    found, threads = await asyncio.gather(
        search(service, f"{at}/messages", q, **query), search(service, f"{at}/threads", q, **query)
    )
    shown = [each["subject"] for each in found["messages"]]
    # Stalwart keeps times by the second, and threads of the same second go by their ids.
    assert sorted(each["subject"] for each in threads["threads"]) == sorted(shown)
    return shown


async def arrive(service: Service, inbox: Json, *subjects: str, **fields: Any) -> None:
    """Deliver mails one after the other, until each is listed."""
    for subject in subjects:
        await service.deliver(a_mail(inbox["email"], subject, **fields))

        async def listed(subject: str = subject) -> bool:
            there = await service.messages(inbox, limit=100)
            return any(each["subject"] == subject for each in there)

        await until(listed, bool, seconds=10)


async def indexed(service: Service, inbox: Json, word: str) -> None:
    """Wait until the mail server has read the bodies: a few moments after the mail arrived."""

    async def found() -> Json:
        return await search(service, f"inboxes/{inbox['inbox_id']}/messages", word)

    await until(found, lambda page: bool(page["count"]), seconds=10)


async def test_a_mail_is_found_by_all_it_says_and_shown_why(anywhere: Service) -> None:
    """An agent looks for the invoice Grace sent, by whatever it remembers of it."""
    inbox = await anywhere.inbox("desk")
    await arrive(
        anywhere,
        inbox,
        "Quarterly Invoice 4711",
        text="Dear desk, the zeppelin lands at noon.",
        From="Grace Hopper <grace@navy.test>",
    )
    await arrive(anywhere, inbox, "Something else", text="Nothing to see.")
    await indexed(anywhere, inbox, "zeppelin")
    at = f"inboxes/{inbox['inbox_id']}"
    for q, highlights in {
        "INVOICE": {"subject": ["Quarterly **Invoice** 4711"]},
        "terly": {"subject": ["Quar**terly** Invoice 4711"]},
        "grace hop": {"from": ["**Grace** **Hop**per <**grace**@navy.test>"]},
        inbox["email"].upper(): {"recipients": [f"**{inbox['email']}**"]},
        "zeppelin": {"text": ["Dear desk, the **zeppelin** lands at noon."]},
        "4711 navy": {
            "from": ["Grace Hopper <grace@**navy**.test>"],
            "subject": ["Quarterly Invoice **4711**"],
        },
        "invoice zeppelin": {
            "subject": ["Quarterly **Invoice** 4711"],
            "text": ["Dear desk, the **zeppelin** lands at noon."],
        },
        "terly zeppelin": {
            "subject": ["Quar**terly** Invoice 4711"],
            "text": ["Dear desk, the **zeppelin** lands at noon."],
        },
    }.items():
        messages = await search(anywhere, f"{at}/messages", q)
        threads = await search(anywhere, f"{at}/threads", q)
        (found,) = [each for each in messages["messages"] if "4711" in each["subject"]]
        (thread,) = [each for each in threads["threads"] if "4711" in each["subject"]]
        assert found["highlights"] == thread["highlights"] == highlights, q
        assert messages["complete"] is threads["complete"] is True
        assert found["inbox_id"] == thread["inbox_id"] == inbox["email"]
        assert found["thread_id"] == thread["thread_id"]
        assert found["message_id"] == thread["last_message_id"]
    for q in ("epplin", "zeppel", "invoice nowhere", "4712"):
        assert await subjects(anywhere, inbox, q) == [], q


async def test_the_best_hit_comes_first_and_of_equals_the_newest(anywhere: Service) -> None:
    """Whoever reads the first page only must not miss the mail that is about the word."""
    inbox = await anywhere.inbox("desk")
    await arrive(anywhere, inbox, "Body 1", text="The falcon flies.")
    await arrive(anywhere, inbox, "People 1", From="Falcon Ltd <ada@elsewhere.test>")
    await arrive(anywhere, inbox, "A falcon 1", "A falcon 2")
    await arrive(anywhere, inbox, "People 2", From="bob@falconry.test")
    await arrive(anywhere, inbox, "Body 2", text="Two falcon nests.")
    expected = ["A falcon 2", "A falcon 1", "People 2", "People 1", "Body 2", "Body 1"]

    async def found() -> list[str]:
        return await subjects(anywhere, inbox, "falcon")

    await until(found, lambda seen: seen == expected, seconds=10)
    at = f"inboxes/{inbox['inbox_id']}"
    for kind in ("messages", "threads"):
        whole = (await search(anywhere, f"{at}/{kind}", "falcon"))[kind]
        order = [each["subject"] for each in whole]
        assert [set(order[at : at + 2]) for at in (0, 2, 4)] == [
            {"A falcon 1", "A falcon 2"},
            {"People 1", "People 2"},
            {"Body 1", "Body 2"},
        ]
        for limit in (1, 2, 4, 5):
            assert await paged(anywhere, f"{at}/{kind}", kind, limit) == whole


async def paged(service: Service, path: str, kind: str, limit: int) -> list[Json]:
    """Everything found, page by page; every page but the last is full."""
    shown: list[Json] = []
    token: dict[str, str] = {}
    while True:
        page = await search(service, path, "falcon", limit=limit, **token)
        shown += page[kind]
        if "next_page_token" not in page:
            return shown
        assert page["count"] == limit
        assert len(shown) < 50, "the pages go round"
        token = {"page_token": page["next_page_token"]}


async def test_what_is_hidden_or_gone_is_never_found(anywhere: Service) -> None:
    """Spam a list leaves out would come back by search, and deleted mail would look alive."""
    inbox = await anywhere.inbox("desk")
    await arrive(
        anywhere, inbox, "Merlin kept", "Merlin trashed", "Merlin deleted", text="Excalibur"
    )
    await indexed(anywhere, inbox, "excalibur")
    at = f"/v0/inboxes/{inbox['inbox_id']}/messages"
    by_subject = {each["subject"]: each for each in await anywhere.messages(inbox)}
    answer = await anywhere.client.patch(
        f"{at}/{by_subject['Merlin trashed']['message_id']}", json={"add_labels": ["trash"]}
    )
    assert answer.status_code == 200
    answer = await anywhere.client.delete(f"{at}/{by_subject['Merlin deleted']['message_id']}")
    assert answer.status_code in {200, 204}, answer.text
    for q in ("merlin", "excalibur", "merlin excalibur", "erlin excalibur", "trashed", "deleted"):
        assert await subjects(anywhere, inbox, q) == (["Merlin kept"] if "ed" not in q else []), q
    everywhere = await search(anywhere, "threads", "excalibur")
    assert [each["subject"] for each in everywhere["threads"]] == ["Merlin kept"]


async def test_a_thread_is_found_once_by_any_of_its_visible_messages(anywhere: Service) -> None:
    """A long conversation would fill the page, or be found by the spam that was sent into it."""
    inbox = await anywhere.inbox("desk")
    await arrive(anywhere, inbox, "Osprey plans", text="First", Message_ID=f"<{uuid4()}@a.test>")
    (first,) = await anywhere.messages(inbox)
    await arrive(
        anywhere,
        inbox,
        "Re: Osprey plans",
        text="The kestrel is late",
        In_Reply_To=first["message_id"],
    )
    await indexed(anywhere, inbox, "kestrel")
    at = f"inboxes/{inbox['inbox_id']}/threads"
    (both,) = (await search(anywhere, at, "osprey"))["threads"]
    assert both["message_count"] == 2
    assert both["highlights"]["subject"] == ["Re: **Osprey** plans", "**Osprey** plans"]
    (one,) = (await search(anywhere, at, "kestrel"))["threads"]
    assert one["thread_id"] == both["thread_id"]
    assert one["highlights"] == {"text": ["The **kestrel** is late"]}
    assert (await search(anywhere, at, "plans first kestrel"))["threads"] == []
    (second,) = [m for m in await anywhere.messages(inbox) if m["subject"].startswith("Re:")]
    await anywhere.client.patch(
        f"/v0/inboxes/{inbox['inbox_id']}/messages/{second['message_id']}",
        json={"add_labels": ["trash"]},
    )
    assert (await search(anywhere, at, "kestrel"))["threads"] == []
    (left,) = (await search(anywhere, at, "osprey"))["threads"]
    assert left["highlights"]["subject"] == ["**Osprey** plans"], "nothing hidden is shown"


async def test_the_whole_organization_and_a_pod_are_searched(anywhere: Service) -> None:
    """One question must do for an agent that does not know which inbox holds the mail; nobody else's
    inbox may answer it.
    """
    one, two = await anywhere.inbox("one"), await anywhere.inbox("two")
    await arrive(anywhere, one, "Condor in one", text="Condor")
    await arrive(anywhere, two, "Body in two", text="A condor circles.")
    await indexed(anywhere, two, "condor")
    for path in ("threads", f"pods/{one['pod_id']}/threads"):
        page = await search(anywhere, path, "condor")
        assert [each["subject"] for each in page["threads"]] == ["Condor in one", "Body in two"]
        assert [each["inbox_id"] for each in page["threads"]] == [one["email"], two["email"]]
        assert page["threads"][1]["highlights"] == {"text": ["A **condor** circles."]}
        first = await search(anywhere, path, "condor", limit=1)
        last = await search(anywhere, path, "condor", limit=1, page_token=first["next_page_token"])
        assert first["threads"] + last["threads"] == page["threads"]
        assert "next_page_token" not in last
    fault(await anywhere.client.get(f"/v0/pods/{uuid4()}/threads/search?q=condor"), 404)
    async with anywhere.db.transaction() as tx:
        stranger = await access.create_organization(tx, "Stranger")
        key = await access.create_key(
            tx, access.Reach(stranger.organization_id), prefix="inai_", name="x"
        )
    headers = {"Authorization": f"Bearer {key.secret}"}
    answer = await anywhere.client.get("/v0/threads/search?q=condor", headers=headers)
    assert answer.json()["threads"] == []
    path = f"/v0/inboxes/{one['inbox_id']}/messages/search?q=condor"
    fault(await anywhere.client.get(path, headers=headers), 404, "not_found")
    answer = await anywhere.client.delete(f"/v0/inboxes/{one['inbox_id']}")
    assert answer.status_code < 300
    (left,) = (await search(anywhere, "threads", "condor"))["threads"]
    assert left["subject"] == "Body in two", "a deleted inbox is not searched"


async def test_times_narrow_a_search(anywhere: Service) -> None:
    """An agent that asks for this week's mail must not get last year's."""
    inbox = await anywhere.inbox("desk")
    await arrive(anywhere, inbox, "Heron early", text="Reeds")
    await asyncio.sleep(1.0)  # A mail server keeps times by the second.
    await arrive(anywhere, inbox, "Heron late", text="Reeds")
    await indexed(anywhere, inbox, "reeds")
    late, early = [each["timestamp"] for each in await anywhere.messages(inbox)]

    async def both() -> list[str]:
        return await subjects(anywhere, inbox, "reeds")

    await until(both, lambda seen: len(seen) == 2, seconds=10)
    for q in ("heron", "reeds"):
        assert await subjects(anywhere, inbox, q, before=late) == ["Heron early"]
        assert await subjects(anywhere, inbox, q, after=early) == ["Heron late"]
        assert await subjects(anywhere, inbox, q, after=late) == []


HOSTILE = {
    "%": ["100% a_b"],
    "100%": ["100% a_b"],
    "_": ["100% a_b"],
    "a_b": ["100% a_b"],
    "0%a": [],
    "1_0": [],
    "\\": ["back\\slash 'quoted' \"twice\""],
    "k\\s": ["back\\slash 'quoted' \"twice\""],
    "'quoted'": ["back\\slash 'quoted' \"twice\""],
    '"twice"': ["back\\slash 'quoted' \"twice\""],
    "';drop table": [],
    "slash:twice": ["back\\slash 'quoted' \"twice\""],
    "🦄": ["🦄 Größe ΑΣ"],
    "GRÖSSE": ["🦄 Größe ΑΣ"],
    "ας": ["🦄 Größe ΑΣ"],
    "AND": [],
    "OR": [],
    "NOT - quoted": [],
    "from:ada": [],
    "en:back": [],
    "*": [],
    "{}": [],
    "$$": [],
    "{'operator':'NOT'}": [],
    "x" * 1000: [],
    "\u202e\ufeff": [],
    "null": [],
    "%s %(word_0)s": [],
}


async def test_hostile_words_are_words(anywhere: Service) -> None:
    """A per cent sign must not find everything, nor a quote break the query."""
    inbox = await anywhere.inbox("desk")
    await arrive(
        anywhere,
        inbox,
        "100% a_b",
        "back\\slash 'quoted' \"twice\"",
        "🦄 Größe ΑΣ",
        From="ada@elsewhere.test",
        text="Plain.",
    )
    for q, expected in HOSTILE.items():
        assert await subjects(anywhere, inbox, q) == expected, q


async def test_a_mistake_in_a_search_is_said(service: Service) -> None:
    inbox = await service.inbox("desk")
    for path in (f"inboxes/{inbox['inbox_id']}/messages", "threads"):
        at = f"/v0/{path}/search"

        async def ask(query: str, at: str = at) -> Any:
            return await service.client.get(f"{at}?{query}")

        mistake(await ask(""), "q", "REQUIRED")
        mistake(await ask("q=%20%09"), "q", "REQUIRED")
        mistake(await ask("q=a%00b"), "q", "INVALID_VALUE")
        mistake(await ask("q=" + "x" * 1001), "q", "TOO_LONG")
        mistake(await ask("q=" + "+".join(f"w{n}" for n in range(17))), "q", "TOO_MANY")
        mistake(await ask("q=x&limit=0"), "limit", "INVALID_LIMIT")
        mistake(await ask("q=x&before=soon"), "before", "INVALID_TIME")
        mistake(await ask("q=x&page_token=abc"), "page_token", "INVALID_PAGE_TOKEN")
    fault(await service.client.get("/v0/inboxes/nobody@agents.test/messages/search?q=x"), 404)


async def test_a_page_token_belongs_to_its_query(service: Service) -> None:
    """Continuing another query's list would skip hits without a word."""
    inbox = await service.inbox("desk")
    await arrive(service, inbox, "Swan one", "Swan two")
    at = f"inboxes/{inbox['inbox_id']}/messages"
    token = (await search(service, at, "swan", limit=1))["next_page_token"]
    for other in ({"q": "one"}, {"q": "swan", "before": "2090-01-01"}):
        answer = await service.client.get(f"/v0/{at}/search", params={**other, "page_token": token})
        mistake(answer, "page_token", "INVALID_PAGE_TOKEN")


async def test_without_the_mail_server_the_own_index_answers_and_says_so(
    service: Service, sandbox_server: tuple[MailSandbox, int]
) -> None:
    """An outage of the mail server must not hide what is known, nor pass for the whole truth."""
    sandbox, _ = sandbox_server
    inbox = await service.inbox("desk")
    await arrive(service, inbox, "Ibis", text="Ibis")
    await arrive(service, inbox, "Other", text="An ibis and a stork.")
    for faults in (Faults(down=True), Faults(lost_answer=True)):
        sandbox.faults = faults
        for path in (f"inboxes/{inbox['inbox_id']}/messages", "threads"):
            page = await search(service, path, "ibis")
            (hit,) = page.get("messages") or page["threads"]
            assert hit["highlights"] == {"subject": ["**Ibis**"]}
            assert page["complete"] is False
            assert (await search(service, path, "stork"))["complete"] is False
            # A page our own index fills needs nobody else.
            assert (await search(service, path, "ibis stork"))["count"] == 0
    sandbox.faults = Faults()
    page = await search(service, "threads", "ibis")
    assert page["count"] == 2
    assert page["complete"] is True


async def test_a_key_without_the_permission_searches_nothing(service: Service) -> None:
    async with service.db.transaction() as tx:
        key = await access.create_key(
            tx,
            access.Reach(service.organization_id),
            prefix="inai_",
            name="x",
            permissions={"inbox_read": False, "message_read": False},
        )
    inbox = await service.inbox("desk")
    headers = {"Authorization": f"Bearer {key.secret}"}
    for path in (
        f"inboxes/{inbox['inbox_id']}/messages",
        f"inboxes/{inbox['inbox_id']}/threads",
        "threads",
        f"pods/{inbox['pod_id']}/threads",
        "inboxes",
        f"pods/{inbox['pod_id']}/inboxes",
    ):
        answer = await service.client.get(f"/v0/{path}/search?q=desk", headers=headers)
        fault(answer, 403, "missing_permission")
