"""The adapter against what a real Stalwart 0.16 answered: tapes of `tests/recorded`.

A tape also fails a test when the adapter asks anything else than what was recorded, so what these
tests believe is what the real server was asked. Answers no healthy server gives are edited in.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

import httpx
import msgspec
import pytest
import pytest_asyncio
import respx

from agentmail_cp.mailserver import (
    AccountId,
    Changes,
    Cursor,
    DocumentId,
    Folder,
    FoundMail,
    MailServerConfused,
    MailServerError,
    MailServerRejected,
    MailServerUnavailable,
    MailState,
    NewAccount,
    QueueStatus,
    Refusal,
    Relabel,
    Stored,
    Submitted,
)
from agentmail_cp.stalwart import StalwartMailServer, drafts, relabel
from agentmail_cp.stalwart.jmap import JmapClient, bearer
from agentmail_cp.stalwart.previews import BODY
from tests.recorded.scenarios import NOBODY, SCENARIOS, WHEN, letter
from tests.recorded.tape import BASE, FOLDER, load, playing

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from agentmail_cp.mailserver import MailServer

SECRET = re.compile(r"API_[A-Za-z0-9_-]{8,}|app_[a-z0-9]{8,}|Authorization|Bearer", re.IGNORECASE)


class Asked(msgspec.Struct, rename="camel"):
    """A JMAP request."""

    method_calls: list[tuple[str, dict[str, Any], str]] = []


REQUEST = msgspec.json.Decoder(Asked)


class Silence:
    """The stage of a tape: what happened, happened."""

    async def deliver(self, raw: bytes, to: str) -> None:
        pass

    async def settle(self) -> None:
        pass


async def played(name: str) -> dict[str, Any]:
    with playing(name) as client:
        try:
            return await SCENARIOS[name](client, Silence())
        finally:
            await client.close()


def code(error: MailServerError) -> Refusal:
    assert isinstance(error, MailServerRejected)
    assert error.text
    return error.code


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_a_tape_holds_no_secret(path: Any) -> None:
    assert not SECRET.search(path.read_text())


def test_there_is_a_tape_for_every_scenario_and_none_besides() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == SCENARIOS.keys()


async def test_accounts_live_and_die() -> None:
    found = await played("accounts")
    ada, bare = found["made"], found["bare"]
    assert (found["status"].product, found["status"].missing) == ("Stalwart", ())
    assert ada.address == "ada@agents.test"
    assert found["found"] == ada
    assert found["stranger"].ours is False
    assert found["unknown"] is found["retired"] is None
    assert code(found["taken"]) == code(found["kept"]) == Refusal.ADDRESS_TAKEN
    assert code(found["no domain"]) == Refusal.UNKNOWN_DOMAIN
    assert code(found["bad name"]) == Refusal.FORBIDDEN
    assert code(found["no account"]) == Refusal.NO_ACCOUNT
    assert len({ada.account_id, bare.account_id, found["again"].account_id}) == 3


async def test_remembered_ids_heal_themselves() -> None:
    """An administrator who makes a domain or the role anew must not have to restart us."""
    found = await played("stale_ids")
    assert found["role"].address == "one@second.test"
    assert found["found"] == found["domain"]
    assert found["domain"].address == "two@second.test"


def test_an_account_costs_one_request_once_its_domain_is_known() -> None:
    """Creation must stay fast and flat: look-ups are for the first account of a domain only."""
    asked = [str(each.request) for each in load("accounts").exchanges]
    again = max(number for number, request in enumerate(asked) if "'name': 'ada'" in request)
    assert "x:Account/set" in asked[again]
    assert asked[again - 1].count("'destroy'") == 1


async def test_a_mail_is_sent_in_one_request_and_found_again() -> None:
    found = await played("sending")
    mixed = found["mixed"]
    assert [(each.address, each.accepted) for each in mixed.verdicts] == [
        ("bob@agents.test", True),
        ("nobody@agents.test", False),
    ]
    assert mixed.verdicts[1].reply == "550 5.1.2 Mailbox does not exist."
    for name in ("own", "own from scratch", "own from a lost state"):
        assert found[name] == FoundMail(mixed.document_id, mixed)
    assert found["not own"] is None
    (stored,) = found["stored"]
    assert stored.folders == {Folder.SENT}
    assert stored.keywords == {"$seen", "blue"}
    assert (stored.size, stored.sender.name) == (mixed.size, "Ada Ä")
    assert stored.references == ("r0@remote.test", "r1@remote.test")


async def test_a_mail_with_labels_is_sent_in_one_request_as_well() -> None:
    """What it is asked about costs a second one only where the account is full."""
    found = await played("sending")
    assert (found["mixed"].no_room, found["late"].no_room) == (frozenset(), {"late"})
    # One keyword is there already: of 99 more the last finds no room.
    assert [len(some) for some in found["full"].values()] == [1]
    asked = [str(each.request) for each in load("sending").exchanges]
    handed_in = [number for number, each in enumerate(asked) if "EmailSubmission/set" in each]
    assert "Email/get" in asked[handed_in[0]]
    assert "keywords/late" in asked[handed_in[1] + 1]
    assert "Email/get" not in asked[handed_in[2]]


async def test_a_refused_mail_says_why_and_leaves_nothing() -> None:
    found = await played("sending")
    assert found["none"].refused_by_all
    assert code(found["sender"]) == Refusal.SENDER_NOT_ALLOWED
    assert code(found["recipient"]) == Refusal.INVALID_MAIL
    assert code(found["blob"]) == Refusal.NO_BLOB
    assert code(found["nobody"]) == Refusal.NO_ACCOUNT
    kept = [found[name].document_id for name in ("mixed", "late", "none")]
    assert list(found["left"].document_ids) == kept
    assert found["stale identity"].verdicts[0].accepted


async def test_deleted_folders_do_not_stop_a_send() -> None:
    """A person may delete Sent and Drafts; the mail is sent once and filed in a new Sent."""
    found = await played("sending")
    assert found["no sent"].verdicts[0].accepted
    assert found["no drafts"].verdicts[0].accepted
    assert [mail.folders for mail in found["filed"]] == [{Folder.SENT}, {Folder.SENT}]


def present(changes: Changes) -> list[int]:
    return [mail.document_id for mail in changes.present]


async def test_a_thread_merge_destroys_nothing() -> None:
    """Stalwart gives merged mails new ids and reports the old ones as destroyed."""
    found = await played("receiving")
    assert present(found["first"]) == [1, 2]
    for name in ("merged", "page 1", "page 2"):
        assert found[name].destroyed == ()
    assert present(found["merged"]) == [2, 3]
    assert found["page 1"].more
    assert found["listing"].document_ids == (1, 2, 3)
    assert found["destroyed"].destroyed == (DocumentId(1),)


async def test_one_accounts_trouble_is_not_the_others() -> None:
    found = await played("receiving")
    for name, wanted in (("many", Refusal.NO_ACCOUNT), ("garbage", Refusal.STATE_LOST)):
        answer = dict(found[name])
        assert present(answer.pop(found["first"].account_id)) == [2, 3]
        assert code(answer.pop(NOBODY)) == wanted
        (rest,) = answer.values()
        assert code(rest) == Refusal.STATE_LOST
    assert code(found["lost"]) == Refusal.STATE_LOST


async def test_a_mail_is_read_filed_and_erased() -> None:
    found = await played("receiving")
    ((document_id, content),) = found["content"].items()
    assert document_id == 1
    assert (content.text, content.html) == ("Hi there\n", None)
    assert dict(content.headers)["In-Reply-To"] == "<root1@x>"
    assert found["raw"][5:20] == found["part"]
    (relabelled,) = found["relabelled"]
    assert (relabelled.keywords, relabelled.folders) == ({"$seen"}, {Folder.TRASH})
    assert code(found["gone"]) == Refusal.NO_MAIL
    assert code(found["no mail"]) == Refusal.INVALID_MAIL
    assert found["appended"] == 4


async def test_only_html_costs_a_request_for_its_preview() -> None:
    """Most mail has a text, whose preview Stalwart makes well."""
    found = await played("receiving")
    (shown,) = found["html"].present
    assert shown.preview == "Hi there, Ada"
    asked = [str(each.request) for each in load("receiving").exchanges]
    assert len([request for request in asked if f"'maxBodyValueBytes': {BODY}" in request]) == 1


async def test_a_version_of_a_draft_replaces_one_that_is_there() -> None:
    found = await played("drafts")
    second = found["second"]
    (left,) = found["left"]
    assert (left.document_id, left.size) == (second.document_id, second.size)
    assert (left.folders, left.keywords) == ({Folder.DRAFTS}, {"$draft", "$seen", "blue"})
    assert (left.preview, found["none"]) == ("Better", ())
    assert code(found["late"]) == Refusal.NO_MAIL
    assert code(found["broken"]) == Refusal.NO_BLOB
    assert code(found["nobody"]) == Refusal.NO_ACCOUNT
    ((_, attached),) = found["attachments"].items()
    assert [each.filename for each in attached[second.document_id]] == ["Plan.pdf"]


def test_a_refused_version_of_a_draft_costs_nothing_of_the_old_one() -> None:
    """Stalwart carries out the destroys of an Email/set whose create it refused."""
    for exchange in load("drafts").exchanges:
        for name, arguments, _ in msgspec.convert(exchange.request or {}, Asked).method_calls:
            assert name != "Email/set" or not {"create", "destroy"} <= arguments.keys()


async def test_a_deleted_folder_does_not_stop_a_draft_or_a_copy() -> None:
    found = await played("drafts")
    (appended,) = found["appended"]
    assert appended.folders == {Folder.DRAFTS}
    assert appended.received_at == WHEN
    assert found["no drafts"].size
    assert code(found["no blob"]) == Refusal.NO_BLOB


async def test_many_accounts_are_searched_in_one_request() -> None:
    found = await played("searching")
    ada, bob = found["all"]
    assert found["all"] == {ada: (3, 2, 1), bob: ()}
    assert found["one"] == {ada: (2,), bob: ()}
    assert found["colon"] == {ada: (), bob: ()}
    assert found["excerpts"] == {
        1: "Hi there, **zebra** crossing",
        2: "Hi there, **zebra** crossing",
    }
    assert code(found["nobody"]) == Refusal.NO_ACCOUNT
    asked = [str(each.request) for each in load("searching").exchanges]
    assert len([request for request in asked if "Email/query" in request]) == 3


async def test_the_wire_refuses_as_the_real_server_does() -> None:
    found = await played("wire")
    assert found["limits"].max_calls_in_request == 256
    assert isinstance(found["too many calls"], MailServerConfused)
    assert isinstance(found["unreadable"], MailServerConfused)
    assert code(found["account"]) == Refusal.NO_ACCOUNT
    assert code(found["no blob"]) == Refusal.NO_BLOB
    assert isinstance(found["not found"], MailServerConfused)
    assert len(found["split"]) == 300


@pytest_asyncio.fixture
async def server() -> AsyncGenerator[MailServer]:
    made: MailServer = StalwartMailServer(JmapClient(BASE, bearer("API_x")))
    yield made
    await made.close()


Answers = dict[str, Any]
GOOD: Answers = {
    "x:Account/get": {"list": [{"id": "b"}], "notFound": []},
    "Mailbox/get": {"list": [{"id": "d", "role": "drafts"}, {"id": "e", "role": "sent"}]},
    "Identity/get": {"list": [{"id": "b", "email": "ada@agents.test"}]},
    "Email/set": {"created": {"email": {"id": "b", "size": 9}}},
    "EmailSubmission/set": {"created": {"submission": {"id": "b"}}},
    "EmailSubmission/get": {
        "list": [
            {
                "id": "b",
                "emailId": "b",
                "undoStatus": "pending",
                "deliveryStatus": {"bob@agents.test": {"delivered": "queued", "smtpReply": ""}},
            }
        ]
    },
    "moved": {"updated": {"b": None}},
}
"""The shape of a healthy submission's answers, to be spoiled one at a time."""


def replying(answers: Answers) -> Callable[[httpx.Request], httpx.Response]:
    """Answer every call by its name; `{"error": type}` is a method error."""

    def reply(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"capabilities": {"urn:ietf:params:jmap:core": {}}})
        responses: list[list[Any]] = []
        for name, arguments, tag in msgspec.json.decode(request.content)["methodCalls"]:
            answer = answers[name]
            if name == "Email/set" and "destroy" in arguments:
                answer = answers.get("destroy", {"destroyed": arguments["destroy"]})
            if name == "Email/set" and "update" in arguments:
                answer = answers.get("update", {"updated": {}})
            bad = "error" in answer
            responses.append(
                ["error" if bad else name, {"type": answer["error"]} if bad else answer, tag]
            )
            if name == "EmailSubmission/set" and answers.get("moved") and answer.get("created"):
                responses.append(["Email/set", answers["moved"], tag])
        return httpx.Response(200, json={"methodResponses": responses})

    return reply


MAIL = letter("ada@agents.test", "bob@agents.test")


async def submitted(server: MailServer, **spoiled: Any) -> tuple[Submitted | MailServerError, str]:
    """What becomes of a submission with these answers, and everything that was asked."""
    with respx.mock(base_url=BASE) as router:
        changed = {key.replace("_", "/"): value for key, value in spoiled.items()}
        router.route().mock(side_effect=replying(GOOD | changed))
        try:
            outcome: Submitted | MailServerError = await server.submit(AccountId("b"), MAIL)
        except MailServerError as error:
            outcome = error
        return outcome, everything_asked(router)


def everything_asked(router: respx.Router) -> str:
    calls = cast("list[respx.models.Call]", list(router.calls))
    return "\n".join(call.request.content.decode() for call in calls)


async def test_a_healthy_submission(server: MailServer) -> None:
    outcome, _ = await submitted(server)
    assert isinstance(outcome, Submitted)
    assert outcome.verdicts[0].accepted


def refusing(kind: str, description: str = "", *properties: str) -> Answers:
    refused = {"type": kind, "description": description, "properties": list(properties)}
    return {"notCreated": {"email": refused, "submission": refused}}


@pytest.mark.parametrize(
    ("kind", "description", "wanted"),
    [
        ("overQuota", "", Refusal.OVER_QUOTA),
        ("tooLarge", "", Refusal.TOO_LARGE),
        ("invalidProperties", "Message exceeds maximum size of 9 bytes.", Refusal.TOO_LARGE),
        ("blobNotFound", "", Refusal.NO_BLOB),
        ("invalidEmail", "", Refusal.INVALID_MAIL),
        ("something new", "", Refusal.INVALID_MAIL),
    ],
)
async def test_a_mail_that_cannot_be_stored_is_rejected(
    server: MailServer, kind: str, description: str, wanted: Refusal
) -> None:
    outcome, _ = await submitted(server, Email_set=refusing(kind, description))
    assert isinstance(outcome, MailServerRejected)
    assert outcome.code == wanted


@pytest.mark.parametrize(
    ("kind", "description", "wanted"),
    [
        ("forbiddenFrom", "", Refusal.SENDER_NOT_ALLOWED),
        (
            "forbiddenMailFrom",
            "Server rejected MAIL-FROM: 550 5.7.1 no",
            Refusal.SENDER_NOT_ALLOWED,
        ),
        ("forbiddenToSend", "Server rejected DATA: 550 5.7.1 no", Refusal.FORBIDDEN),
        ("forbiddenToSend", "Server rejected DATA: 552 5.3.4 big", Refusal.TOO_LARGE),
        ("tooManyRecipients", "", Refusal.TOO_MANY_RECIPIENTS),
        ("noRecipients", "", Refusal.INVALID_MAIL),
    ],
)
async def test_a_mail_that_cannot_be_handed_in_leaves_no_copy(
    server: MailServer, kind: str, description: str, wanted: Refusal
) -> None:
    outcome, asked = await submitted(server, EmailSubmission_set=refusing(kind, description))
    assert isinstance(outcome, MailServerRejected)
    assert outcome.code == wanted
    assert '"destroy":["b"]' in asked


async def test_a_temporary_refusal_is_unavailable_and_may_be_repeated(server: MailServer) -> None:
    """A 4xx reply at MAIL or DATA means later, not never."""
    reply = "Server rejected DATA: 451 4.3.0 Try again"
    outcome, asked = await submitted(server, EmailSubmission_set=refusing("forbiddenToSend", reply))
    assert isinstance(outcome, MailServerUnavailable)
    assert not outcome.reached
    assert '"destroy":["b"]' in asked


@pytest.mark.parametrize("broken", ["EmailSubmission_set", "EmailSubmission_get"])
async def test_a_submission_without_a_clear_answer_must_be_looked_up(
    server: MailServer, broken: str
) -> None:
    outcome, asked = await submitted(server, **{broken: {"error": "serverUnavailable"}})
    assert isinstance(outcome, MailServerUnavailable)
    assert outcome.reached
    assert "destroy" not in asked


async def test_a_copy_that_was_not_filed_is_filed_again(server: MailServer) -> None:
    stuck = {"notUpdated": {"b": {"type": "notFound"}}}
    outcome, asked = await submitted(server, moved=stuck)
    assert isinstance(outcome, Submitted)
    assert '"update":{"b":{"mailboxIds":{"e":true}' in asked
    outcome, _ = await submitted(server, moved=stuck, update=stuck)
    assert isinstance(outcome, MailServerUnavailable)
    assert outcome.reached


@pytest.mark.parametrize(
    ("spoiled", "last"),
    [
        ({"moved": {"notUpdated": {"b": {"type": "notFound"}}}}, '"update"'),
        (
            {"EmailSubmission_set": {"notCreated": {"submission": {"type": "overQuota"}}}},
            '"destroy"',
        ),
    ],
)
async def test_a_server_that_goes_away_after_the_mail_was_stored_must_be_asked_again(
    server: MailServer, spoiled: Answers, last: str
) -> None:
    """The last request was never sent, but the mail is there, or even on its way."""
    changed = {key.replace("_", "/"): value for key, value in spoiled.items()}
    reply = replying(GOOD | changed)

    def going_away(request: httpx.Request) -> httpx.Response:
        if last in request.content.decode():
            raise httpx.ConnectError("")
        return reply(request)

    with respx.mock(base_url=BASE) as router:
        router.route().mock(side_effect=going_away)
        with pytest.raises(MailServerUnavailable) as caught:
            await server.submit(AccountId("b"), MAIL)
    assert caught.value.reached


async def test_a_state_nobody_ever_had_does_not_hide_a_sent_mail() -> None:
    found = await played("sending")
    assert found["own from no state"] == found["own"]


async def test_a_failure_after_queueing_is_not_a_refusal(server: MailServer) -> None:
    """Its bounce reports it; calling it refused would have the copy destroyed after it was sent."""
    late = {"delivered": "no", "smtpReply": "Code: 550, Enhanced code: 5.1.1, Message: no"}
    answer = {
        "list": [
            dict(GOOD["EmailSubmission/get"]["list"][0], deliveryStatus={"bob@agents.test": late})
        ]
    }
    outcome, _ = await submitted(server, EmailSubmission_get=answer)
    assert isinstance(outcome, Submitted)
    assert outcome.verdicts[0].accepted


@pytest.mark.parametrize(
    "spoiled",
    [
        {"Email_set": {}},
        {"EmailSubmission_set": {}},
        {"EmailSubmission_get": {"list": []}},
        {"Email_set": {"created": {"email": {"id": "b"}}}},
    ],
)
async def test_an_answer_that_says_nothing_is_confusing(
    server: MailServer, spoiled: Answers
) -> None:
    outcome, _ = await submitted(server, **spoiled)
    assert isinstance(outcome, MailServerConfused)


async def test_a_deleted_sent_folder_is_made_again(server: MailServer) -> None:
    """People delete folders; sending must not stop for that."""
    mailboxes = {"list": [{"id": "d", "role": "drafts"}]}
    made = {"created": {"folder": {"id": "g"}}}
    outcome, asked = await submitted(server, Mailbox_get=mailboxes, Mailbox_set=made)
    assert isinstance(outcome, Submitted)
    assert '"create":{"folder":{"name":"Sent","role":"sent"}}' in asked
    assert '"mailboxIds":{"g":true}' in asked


async def test_folders_that_never_stay_do_not_loop(server: MailServer) -> None:
    gone = refusing("invalidProperties", "mailboxId d does not exist.", "mailboxIds")
    outcome, asked = await submitted(server, Email_set=gone)
    assert isinstance(outcome, MailServerConfused)
    assert asked.count("Identity/get") == 2


async def test_a_server_that_was_not_set_up_says_what_to_run(server: MailServer) -> None:
    answers: Answers = {
        "x:Domain/query": {"ids": ["b"]},
        "x:Domain/get": {"list": [{"id": "b", "name": "agents.test"}]},
        "x:Role/query": {"ids": []},
        "x:Role/get": {"list": []},
    }
    with respx.mock(base_url=BASE) as router:
        router.route().mock(side_effect=replying(answers))
        with pytest.raises(MailServerConfused, match="agentmail-cp stalwart apply"):
            await server.create_account(NewAccount("a@agents.test"))


async def test_a_bell_that_is_answered_otherwise_is_confusing(server: MailServer) -> None:
    with respx.mock(base_url=BASE) as router:
        router.route().mock(side_effect=replying({"Bell/ring": {}}))
        with pytest.raises(MailServerConfused):
            await server.ring()


async def test_a_listing_that_changes_between_pages_is_taken_again(server: MailServer) -> None:
    """A mail erased meanwhile shifts the pages, and one that nobody changed would be left out."""
    answers: list[Answers] = [
        {"queryState": "s1", "ids": ["b", "c"], "total": 3},
        {"queryState": "s2", "ids": [], "total": 2},
        {"queryState": "s2", "ids": ["c", "d"], "total": 2},
    ]
    pages = iter(answers)

    def reply(request: httpx.Request) -> httpx.Response:
        return replying(GOOD | {"Email/query": next(pages)})(request)

    with respx.mock(base_url=BASE) as router:
        router.route().mock(side_effect=reply)
        listing = await server.listing(AccountId("b"))
    assert (listing.state, listing.document_ids) == ("s2", (2, 3))


async def test_a_server_that_is_away_fails_changes_as_a_whole(server: MailServer) -> None:
    with respx.mock(base_url=BASE) as router:
        router.route().mock(side_effect=httpx.ConnectError(""))
        with pytest.raises(MailServerUnavailable):
            await server.changes([Cursor(AccountId("b"), MailState("n"))])


BUSY = {
    "notUpdated": {
        "b": {
            "type": "forbidden",
            "description": "Another process modified this message, please try again.",
        }
    }
}
BLUE = Relabel(DocumentId(1), add=frozenset({"blue"}))
SHOWN = {"list": [{"id": "b", "keywords": {"Blue": True}}]}


async def relabelled(server: MailServer, *answers: Answers) -> tuple[Any, int]:
    """What comes of a relabel when Email/set answers so in turn, and how often it was asked."""
    turns = iter(answers)
    asked = 0

    def reply(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        said = GOOD | {"Email/get": SHOWN}
        if b"Email/set" in request.content:
            asked += 1
            said |= next(turns)
        return replying(said)(request)

    with respx.mock(base_url=BASE) as router:
        router.route().mock(side_effect=reply)
        try:
            return await server.relabel(AccountId("b"), [BLUE]), asked
        except MailServerError as error:
            return error, asked


DONE: Answers = {"update": {"updated": {"b": None}}}
MET: Answers = {"update": BUSY}
HIDDEN: Answers = DONE | {"Email/get": {"list": [{"id": "b", "keywords": {}}]}}


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for nothing between two tries."""
    monkeypatch.setattr(relabel, "PAUSES", tuple(0.0 for _ in relabel.PAUSES))
    monkeypatch.setattr(drafts, "PAUSES", tuple(0.0 for _ in drafts.PAUSES))


@pytest.mark.usefixtures("_at_once")
async def test_a_change_that_met_another_is_asked_for_again(server: MailServer) -> None:
    assert await relabelled(server, MET, MET, DONE) == ({}, 3)


@pytest.mark.usefixtures("_at_once")
async def test_a_change_that_always_meets_others_fails_in_the_end(server: MailServer) -> None:
    tries = len(relabel.PAUSES) + 1
    outcome, asked = await relabelled(server, *[MET] * tries)
    assert isinstance(outcome, MailServerUnavailable)
    assert outcome.reached
    assert asked == tries


@pytest.mark.usefixtures("_at_once")
async def test_a_keyword_others_take_away_at_once_is_no_hidden_one(server: MailServer) -> None:
    assert await relabelled(server, HIDDEN, MET, DONE) == ({}, 3)


@pytest.mark.usefixtures("_at_once")
async def test_a_hidden_keyword_is_taken_away_and_named(server: MailServer) -> None:
    outcome, asked = await relabelled(server, HIDDEN, HIDDEN, DONE)
    assert outcome == {DocumentId(1): frozenset({"blue"})}
    assert asked == relabel.LOOKS + 1


@pytest.mark.usefixtures("_at_once")
async def test_a_hidden_keyword_that_cannot_be_taken_away_is_named_all_the_same(
    server: MailServer,
) -> None:
    """The change is carried out: its caller must not be told that it failed."""
    away: Answers = {"update": {"error": "serverUnavailable"}}
    outcome, _ = await relabelled(server, HIDDEN, HIDDEN, away)
    assert outcome == {DocumentId(1): frozenset({"blue"})}


async def replaced(server: MailServer, *answers: Answers) -> tuple[Any, list[list[str]]]:
    """What comes of replacing draft 7 when its destroys answer so in turn, and what was destroyed."""
    turns = iter(answers)
    destroyed: list[list[str]] = []

    def reply(request: httpx.Request) -> httpx.Response:
        said = GOOD
        if b'"destroy"' in request.content:
            ((_, arguments, _),) = REQUEST.decode(request.content).method_calls[-1:]
            destroyed.append(arguments["destroy"])
            said = GOOD | (next(turns) if arguments["destroy"] == ["h"] else {})
        return replying(said)(request)

    with respx.mock(base_url=BASE) as router:
        router.route().mock(side_effect=reply)
        try:
            made = await server.store_draft(AccountId("b"), MAIL, replaces=DocumentId(7))
        except MailServerError as error:
            return error, destroyed
    return made, destroyed


AWAY: Answers = {"destroy": {"error": "serverUnavailable"}}
GONE: Answers = {"destroy": {"notDestroyed": {"h": {"type": "notFound"}}}}


@pytest.mark.usefixtures("_at_once")
async def test_an_old_version_somebody_else_destroyed_costs_the_new_one(
    server: MailServer,
) -> None:
    """Both under way at once, the loser hears `serverUnavailable` first."""
    for answers in ([GONE], [AWAY, AWAY, GONE]):
        outcome, destroyed = await replaced(server, *answers)
        assert code(outcome) == Refusal.NO_MAIL
        assert destroyed == [["h"]] * len(answers) + [["b"]]


@pytest.mark.usefixtures("_at_once")
async def test_an_old_version_that_was_only_touched_is_destroyed_all_the_same(
    server: MailServer,
) -> None:
    outcome, destroyed = await replaced(server, AWAY, {})
    assert outcome == Stored(DocumentId(1), 9)
    assert destroyed == [["h"], ["h"]]


@pytest.mark.usefixtures("_at_once")
async def test_an_old_version_that_may_be_there_keeps_the_new_one(server: MailServer) -> None:
    """Taken back on a mere guess, both would be lost."""
    tries = len(drafts.PAUSES) + 1
    outcome, destroyed = await replaced(server, *[AWAY] * tries)
    assert isinstance(outcome, MailServerUnavailable)
    assert outcome.reached
    assert destroyed == [["h"]] * tries


async def test_mail_that_waits_is_read_from_the_queue() -> None:
    """Found by its envelope id alone when nobody heard which mail the queue id belongs to."""
    found = await played("queueing")
    first, second = found["queued"]
    assert found["asked"] == {first.queue_id: first, second.queue_id: second}
    assert found["nothing"] == {}
    assert found["of part"] == ()
    assert (first.sender, first.message_id) == ("ada@agents.test", "a+b=c@agents.test")
    assert second.message_id is None
    waiting, there = first.recipients["full@agents.test"], first.recipients["bob@agents.test"]
    assert (waiting.status, there.status) == (QueueStatus.DELAYED, QueueStatus.DELIVERED)
    assert waiting.code == "4.3.0"
    assert waiting.expires is not None


async def test_complaints_are_read_and_forgotten() -> None:
    found = await played("queueing")
    (complaint,) = found["complaints"]
    assert (complaint.kind, complaint.sender) == ("abuse", "a@x")
    assert (complaint.message_id, complaint.recipients) == (None, ("b@y",))
    assert found["left"] == ()
