"""Reading reports: what real servers write, and that nothing hostile gets anything done."""

from __future__ import annotations

import base64
from pathlib import Path
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.outcomes import reports
from agentmail_cp.outcomes.reports import Claim, Feedback, read

CORPUS = sorted((Path(__file__).parents[1] / "corpus").glob("*.eml"))
ID = "lost.1@agents.test"


def report(
    *groups: str,
    returned: str | None = f"Message-ID: <{ID}>\r\nSubject: Hello\r\n",
    returned_type: str = "message/rfc822",
    status_type: str = "message/delivery-status",
    about: str = "Reporting-MTA: dns; mx.elsewhere.test",
    headers: str = "",
    encoding: str = "",
) -> bytes:
    """A delivery status, put together as servers do."""
    last = (
        f"--b\r\nContent-Type: {returned_type}\r\n{encoding}\r\n{returned}\r\n" if returned else ""
    )
    status = "\r\n\r\n".join([about, *groups])
    return (
        f"From: MAILER-DAEMON@elsewhere.test\r\nTo: agent@agents.test\r\n{headers}"
        'Content-Type: multipart/report; boundary="b"; report-type=delivery-status\r\n\r\n'
        "--b\r\nContent-Type: text/plain\r\n\r\nSorry.\r\n"
        f"--b\r\nContent-Type: {status_type}\r\n\r\n{status}\r\n\r\n{last}--b--\r\n"
    ).encode()


FAILED = "Final-Recipient: rfc822; ada@elsewhere.test\r\nAction: failed\r\nStatus: 5.1.1"


def only(raw: bytes) -> Claim:
    found = read(raw)
    assert found is not None
    (claim,) = found.claims
    return claim


def test_a_bounce() -> None:
    """The form of Postfix, Exim, Exchange and Stalwart."""
    raw = report(
        f"{FAILED}\r\nDiagnostic-Code: smtp; 550 5.1.1 <ada@elsewhere.test>:\r\n    no such user"
    )
    assert read(raw) == Feedback(
        message_ids=(ID,),
        claims=(
            Claim(
                addresses=("ada@elsewhere.test",),
                outcome="failed",
                code="5.1.1",
                diagnostic="550 5.1.1 <ada@elsewhere.test>: no such user",
            ),
        ),
    )


@pytest.mark.parametrize(
    ("action", "status", "outcome"),
    [
        ("failed", "5.0.0", "failed"),
        ("Failed", "4.4.7", "failed"),
        ("delayed", "4.0.0", "delayed"),
        ("delivered", "2.0.0", "delivered"),
        ("relayed", "2.0.0", "delivered"),
        ("expanded (to list)", "2.1.5", "delivered"),
        ("", "5.2.2", "failed"),
        ("", "4.2.2", "delayed"),
    ],
)
def test_what_an_action_means(action: str, status: str, outcome: str) -> None:
    """A warning that mail is late would be told as a bounce."""
    group = f"Final-Recipient: rfc822;ada@x.test\r\nAction: {action}\r\nStatus: {status}"
    assert only(report(group)).outcome == outcome


def test_both_addresses_are_read() -> None:
    """Mail that was passed on bounces for an address nobody here wrote to."""
    group = f"Original-Recipient: rfc822;Ada@Elsewhere.test\r\n{FAILED.replace('ada@', 'x@')}"
    assert only(report(group)).addresses == ("ada@elsewhere.test", "x@elsewhere.test")


def test_a_vague_code_gives_way_to_what_the_other_server_said() -> None:
    """Stalwart says 5.0.0 where it has no better; an address that is none would be written to for ever."""
    vague = "Final-Recipient: rfc822; a@x.test\r\nAction: failed\r\nStatus: 5.0.0\r\n"
    assert only(report(f"{vague}Diagnostic-Code: smtp; 550 5.1.1 unknown")).code == "5.1.1"
    assert only(report(f"{vague}Diagnostic-Code: x-unix; gone")).code == "5.0.0"


@pytest.mark.parametrize(
    "raw",
    [
        report(FAILED, returned_type="text/rfc822-headers"),
        report(
            FAILED, returned_type="message/global", status_type="message/global-delivery-status"
        ),
        report(
            FAILED,
            returned=base64.encodebytes(f"Message-ID: <{ID}>\r\nSubject: x".encode()).decode(),
            encoding="Content-Transfer-Encoding: base64\r\n",
        ),
        report(
            FAILED,
            returned=f"Subject: =3D=\r\n x\r\nMessage-ID: <{ID.replace('.', '=2E')}>\r\n",
            encoding="Content-Transfer-Encoding: quoted-printable\r\n",
            returned_type="text/rfc822-headers",
        ),
        report(
            FAILED,
            returned=f"DKIM-Signature: d=3Dagen=\r\nts.test;\r\nMessage-ID: <{ID}>\r\nTo: a\r\n",
            encoding="Content-Transfer-Encoding: quoted-printable\r\n",
        ),
        report(FAILED, returned=None, headers=f"In-Reply-To: <{ID}>\r\n"),
        report(FAILED, returned=None, about=f"Original-Envelope-Id: {ID}"),
        report(FAILED, returned=None, headers=f"References: <old@x.test>\r\n\t<{ID}>\r\n"),
        report(FAILED)[:-25],
    ],
)
def test_where_the_message_is_named(raw: bytes) -> None:
    """Servers return the mail, its headers, or nothing at all but an id."""
    found = read(raw)
    assert found is not None
    assert found.message_ids[0] == ID


def test_several_recipients() -> None:
    found = read(report(FAILED, FAILED.replace("ada", "bob").replace("failed", "delayed")))
    assert found is not None
    assert [(each.addresses[0], each.outcome) for each in found.claims] == [
        ("ada@elsewhere.test", "failed"),
        ("bob@elsewhere.test", "delayed"),
    ]


def complaint(fields: str) -> bytes:
    return (
        'Content-Type: multipart/report; boundary="b"; report-type=feedback-report\r\n\r\n'
        "--b\r\nContent-Type: text/plain\r\n\r\nSpam!\r\n"
        f"--b\r\nContent-Type: message/feedback-report\r\n\r\n{fields}\r\n\r\n"
        f"--b\r\nContent-Type: message/rfc822\r\n\r\nMessage-ID: <{ID}>\r\n\r\nHi\r\n--b--\r\n"
    ).encode()


def test_a_complaint() -> None:
    found = read(complaint("Feedback-Type: abuse\r\nOriginal-Rcpt-To: <ada@x.test>\r\nVersion: 1"))
    assert found is not None
    assert found.message_ids == (ID,)
    assert found.claims == (Claim(addresses=("ada@x.test",), outcome="complained", code="abuse"),)


def test_a_complaint_that_hides_who_complains() -> None:
    """Most feedback loops do."""
    assert only(complaint("Feedback-Type: fraud")).addresses == ()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"Subject: Hello\r\n\r\nHi",
        report("Action: failed\r\nStatus: 5.1.1"),
        report("Final-Recipient: rfc822; ada@elsewhere.test\r\nAction: cooked"),
        report("Final-Recipient: rfc822; nobody"),
        report(FAILED, returned=None),
        report(FAILED, returned="Message-ID: <>\r\n"),
        report(FAILED, status_type="text/plain"),
        complaint("Feedback-Type: not-spam\r\nOriginal-Rcpt-To: <ada@x.test>"),
        complaint("Feedback-Type: auth-failure\r\nOriginal-Rcpt-To: <ada@x.test>"),
        report(FAILED).replace(b"multipart/report", b"multipart/mixed"),
        b"Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n\r\nLook:\r\n"
        b"--a\r\nContent-Type: message/rfc822\r\n\r\n" + report(FAILED) + b"\r\n--a--\r\n",
        b"Content-Type: multipart/report; boundary=b\r\n" * 60 + b"\r\n" + report(FAILED),
    ],
)
def test_what_reports_nothing(raw: bytes) -> None:
    """An ordinary mail would vanish from the inbox."""
    assert read(raw) is None


def test_everything_is_bounded() -> None:
    """One mail would fill the table, or a row."""
    long = FAILED + "\r\nDiagnostic-Code: smtp; 550 " + "x" * 5_000
    groups = [long.replace("ada", f"a{number}") for number in range(300)]
    found = read(report(*groups, headers=f"In-Reply-To: <{ID}>\r\n"))
    assert found is not None
    assert len(found.claims) <= reports.MOST_CLAIMS
    assert all(len(each.diagnostic or "") <= 500 for each in found.claims)


def test_no_control_character_gets_through() -> None:
    """What a stranger wrote would end up in a terminal, or not fit into a row at all."""
    group = FAILED + "\r\nDiagnostic-Code: smtp; 550 \x1b[31m\x00red\x85 \xff"
    said = only(report(group)).diagnostic
    assert said is not None
    assert said.isprintable()


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_real_mail_is_read_without_harm(path: Path) -> None:
    """Intake would stop at a mail that cannot be read."""
    found = read(path.read_bytes())
    assert (found is not None) == (path.stem in {"bounce", "complaint"})


words = st.sampled_from(
    [
        *(b"Content-Type: multipart/report; boundary=b\r\n", b"--b\r\n", b"--b--\r\n", b"\r\n"),
        *(b"Content-Type: message/delivery-status\r\n", b"Content-Type: message/rfc822\r\n"),
        *(b"Final-Recipient: rfc822; a@x\r\n", b"Action: failed\r\n", b"Status: 5.1.1\r\n"),
        *(b"Message-ID: <m@x>\r\n", b"Content-Transfer-Encoding: base64\r\n", b"\xff\x00\r\n"),
        *(b"Content-Type: message/feedback-report\r\n", b"Feedback-Type: abuse\r\n", b": x\r\n"),
        *(b"Content-Type: text/plain; charset*=x'\r\n", b" folded\r\n", b"=?utf-8?q?=ff?=\r\n"),
    ]
)


@given(st.lists(words, max_size=30).map(b"".join) | st.binary(max_size=300))
def test_nothing_raises(raw: bytes) -> None:
    """A hostile mail would be read again and again, and nothing after it."""
    found = read(raw)
    if found is not None:
        assert found.claims
        assert found.message_ids


@pytest.mark.parametrize(
    "raw",
    [
        report(FAILED, returned="@" * 400_000),
        report("Final-Recipient: rfc822;" + "a@" * 200_000, FAILED),
        report(*["x: y"] * 40_000, FAILED),
        report(FAILED, headers="References:" + " <a@b>" * 60_000 + "\r\n"),
        report(FAILED, headers="X: " + "(" * 300_000 + "\r\n"),
        b"Content-Type: multipart/mixed; b=1\r\n" + b"--" * 200_000,
        b"Content-Type: message/rfc822\r\n\r\n" * 10_000,
        "".join(
            f"Content-Type: multipart/mixed; boundary={n}\r\n\r\n--{n}\r\n" for n in range(40)
        ).encode()
        + b"--x\r\n" * 60_000,
        b'Content-Type: multipart/report; x="' + b";" * 400_000,
        b'x: y\rcontent-type: multipart/report; x="' + b"\r\n ;;;;;;;;" * 40_000,
        report(*["\r" * 400_000], FAILED),
    ],
    ids=[
        *("at", "address", "groups", "references", "comments", "dashes", "nested", "boundaries"),
        *("parameters", "folded", "lines"),
    ],
)
def test_hostile_mail_takes_no_long_time(raw: bytes) -> None:
    """Whoever sends a few of these would keep a worker busy."""
    began = monotonic()
    read(raw)
    assert monotonic() - began < 5
