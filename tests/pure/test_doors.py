"""What a door beside the API must know: who a mail says it is from, whether it is ours, what to answer."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agentmail_cp.errors import MessageRejected
from agentmail_cp.sending.record import covers
from agentmail_cp.stalwart import mtahook
from agentmail_cp.submissions import HandedIn
from agentmail_cp.submissions.mail import answers_machine, ensure_own, references_of

OWN = "alice@agents.test"
EVIL = "eve@elsewhere.test"


def mail(*headers: tuple[str, str]) -> HandedIn:
    return HandedIn(login=OWN, recipients=(), headers=headers, body=b"")


def is_own(*headers: tuple[str, str], address: str = OWN) -> bool:
    try:
        ensure_own(mail(*headers), address)
    except MessageRejected:
        return False
    return True


@pytest.mark.parametrize(
    "value",
    [
        f" {OWN}\r\n",
        " ALICE@Agents.TEST",
        f"Alice <{OWN}>",
        f"{OWN} <{OWN}>",
        f"Alice Smith, Jr. <{OWN}>",
        f'"{EVIL}" <{OWN}>',
        f"=?utf-8?q?Gr=C3=BC=C3=9Fe?= <{OWN}>",
        f"Grüße <{OWN}>",
        f"{OWN} (Alice (of agents.test))",
        f"Alice\r\n <{OWN}>\r\n",
        f"{OWN}, {OWN}",
    ],
)
def test_from_may_be_spelt_as_clients_spell_it(value: str) -> None:
    assert is_own(("From", value))


@pytest.mark.parametrize(
    "value",
    [
        "",
        " \r\n",
        "Alice",
        "undisclosed:;",
        EVIL,
        "alice@agents.test.elsewhere.test",
        "xalice@agents.test",
        "alice+shop@agents.test",
        f"{OWN}, {EVIL}",
        f"{EVIL} <{OWN}>",
        f"<{EVIL}> <{OWN}>",
        f"{OWN} {EVIL}",
        f"Group: {OWN}, {EVIL};",
        f"({OWN}) {EVIL}",
        f'"{OWN}" <{EVIL}>',
        f"<{OWN}" + " " * 2_000,
        f'"eve"@elsewhere.test, {OWN}',
        f"eve(x)@elsewhere.test, {OWN}",
        f"eve @elsewhere.test, {OWN}",
        f"eve@[192.0.2.1], {OWN}",
        f'(") {EVIL}, (") {OWN}',
        rf"(\() {EVIL}, ()) {OWN}",
        f'"{EVIL}, {OWN}',
        f"<@elsewhere.test:{OWN}>",
    ],
)
def test_from_that_anybody_could_read_as_another_is_refused(value: str) -> None:
    """What people see and DMARC vouches for is the header: any agent could write as any other."""
    assert not is_own(("From", value))


def test_there_is_one_from_and_sender_is_nobody_else() -> None:
    """Clients show one of two From headers, or who sent it on behalf of whom."""
    own = ("From", OWN)
    assert not is_own()
    assert not is_own(own, ("from", OWN))
    assert is_own(own, ("Sender", OWN))
    assert not is_own(own, ("SENDER", EVIL))


@pytest.mark.parametrize(
    "hidden",
    [
        ("From ", EVIL),
        ("From\t", EVIL),
        ("From\0", EVIL),
        ("X-Mailer", f" y\rFrom: {EVIL}\r\n"),
        ("Subject", " a\0b\r\n"),
    ],
)
def test_no_header_hides_another_from(hidden: tuple[str, str]) -> None:
    """Stalwart takes `From : x` for a From, and other readers a bare CR for the end of a line."""
    assert not is_own(("From", OWN), hidden)
    assert not is_own(hidden, ("From", OWN))


def test_an_address_with_an_idna_domain_is_known_in_either_spelling() -> None:
    assert is_own(("From", "a@bücher.test"), address="a@xn--bcher-kva.test")


def test_references_end_with_the_parent() -> None:
    """Policy looks at the thread of the parent."""
    asked = mail(
        ("References", " <1@x.test>\r\n <2@x.test>"),
        ("In-Reply-To", " <3@x.test>\r\n"),
        ("References", "<\x00@x.test> <1@x.test>"),
    )
    assert references_of(asked) == ("1@x.test", "2@x.test", "3@x.test")


@pytest.mark.parametrize(
    ("said", "answers", "machine"),
    [
        ("auto-replied", True, True),
        ("Auto-Generated (x)", True, True),
        ("no", True, False),
        ("auto-replied", False, False),
        (None, True, False),
    ],
)
def test_an_automatic_answer_says_so(said: str | None, answers: bool, machine: bool) -> None:
    headers = [("Auto-Submitted", said)] if said else []
    headers += [("In-Reply-To", "<1@x.test>")] if answers else []
    assert answers_machine(mail(*headers)) is machine


BOB, TAGGED, LIST = "bob@agents.test", "bob+x@agents.test", "all@agents.test"


@pytest.mark.parametrize(
    ("intended", "envelope", "ours"),
    [
        ([BOB, EVIL], [BOB, EVIL], True),
        ([BOB, EVIL], [EVIL.upper()], True),
        ([BOB, EVIL], [], True),
        ([TAGGED], [BOB], True),
        ([LIST], [BOB, EVIL], True),
        ([BOB], [BOB, EVIL], False),
        ([], [BOB], False),
    ],
)
def test_an_envelope_is_ours_with_nobody_added(
    intended: list[str], envelope: list[str], ours: bool
) -> None:
    """The mail server refuses some and finds the mailboxes of others; it never adds one of its own."""
    assert covers(intended, envelope) is ours


def replied(text: str) -> dict[str, Any]:
    return msgspec.json.decode(mtahook.reject(550, "5.7.1", text, "message_rejected"))["response"]


def test_a_reply_is_one_short_line_of_ascii() -> None:
    """More than that breaks the client's session, or puts words into the server's mouth."""
    said = replied("No: Grüße\r\n250 OK\n" + "x" * 2_000)
    assert (said["status"], said["enhanced_status"], said["disconnect"]) == (550, "5.7.1", False)
    assert said["message"].startswith("No: Gr??e 250 OK xxx")
    assert said["message"].endswith("x [message_rejected]")
    assert len(said["message"]) < 500
