"""What Stalwart tells of deliveries: every recipient's outcome, with the other server's own words."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.mailserver import Enqueued, Outcome, Report
from agentmail_cp.stalwart import hooks
from agentmail_cp.stalwart.replies import Reply, reply_in

AT = datetime(2026, 11, 21, 13, 58, 39, tzinfo=UTC)
MAIL = 341813797633130496

# The events of one mail to five recipients, recorded from Stalwart 0.16.18.
BATCH = b"""{"events":[
{"id":"1","createdAt":"2026-11-21T13:58:39Z","type":"message-ingest.ham","data":{"spanId":341813797639422464,
"accountId":3,"documentId":1,"mailboxId":[0],"blobId":"cfef","changeId":1,"messageId":"abc@agents.test",
"size":1233,"elapsed":0,"queueId":341813797633130496,"queueName":"local","from":"alice@agents.test",
"to":["bob@agents.test"],"total":7}},
{"id":"2","createdAt":"2026-11-21T13:58:39Z","type":"delivery.dsn-success","data":{"spanId":341813797639422464,
"to":"bob@agents.test","hostname":"localhost","code":250,"details":"OK","queueId":341813797633130496,
"queueName":"local","from":"alice@agents.test","size":376,"total":7}},
{"id":"3","createdAt":"2026-11-21T13:58:39Z","type":"delivery.dsn-perm-fail","data":{"spanId":341813797637324800,
"to":"No@remote.test","hostname":"10.231.0.1","details":"Unexpected response for
 RCPT TO:<no@remote.test>: Code: 550, Enhanced code: 5.1.1, Message: one\\ntwo","total":0,
"queueId":341813797633130496,"queueName":"remote","from":"alice@agents.test","size":376}},
{"id":"4","createdAt":"2026-11-21T13:58:39Z","type":"delivery.dsn-temp-fail","data":{
"spanId":341813800262961664,"to":"never@remote.test","hostname":"10.231.0.1",
"details":"Unexpected response for
 RCPT TO:<never@remote.test>: Code: 452, Enhanced code: 4.2.2, Message: full",
"nextRetry":"2026-11-21T13:58:41Z","expires":"2026-11-21T13:58:45Z","total":2,"queueId":341813797633130496,"queueName":"remote",
"from":"alice@agents.test","size":376}},
{"id":"5","createdAt":"2026-11-21T13:58:39Z","type":"delivery.dsn-success","data":{"spanId":341813797735891968,
"to":"alice@agents.test","hostname":"localhost","code":250,"details":"OK","queueId":341813797733794304,
"queueName":"local","from":"<>","size":4109,"total":1}},
{"id":"6","createdAt":"2026-11-21T13:58:39Z","type":"message-ingest.ham","data":{"accountId":2,"documentId":2,
"messageId":"18ea141d@mail.agents.test","queueId":341813797733794304,"from":"<>","to":["alice@agents.test"]}}
]}""".replace(b"for\n RCPT", b"for RCPT")


def event(kind: str, **data: Any) -> bytes:
    facts = {"queueId": 7, "from": "alice@agents.test", "to": "bob@x.test", **data}
    made = {"type": kind, "createdAt": "2026-11-21T13:58:39Z", "data": facts}
    return msgspec.json.encode({"events": [made]})


def test_a_recorded_batch_tells_every_recipients_outcome() -> None:
    delivered, failed, delayed, bounce = hooks.decode(BATCH).reports
    assert delivered == Report(
        queue_id=MAIL,
        sender="alice@agents.test",
        recipient="bob@agents.test",
        outcome=Outcome.DELIVERED,
        at=AT,
        code="250",
    )
    assert (failed.outcome, failed.code, failed.diagnostic) == ("failed", "5.1.1", "one two")
    assert failed.recipient == "no@remote.test"
    assert (delayed.outcome, delayed.code, delayed.diagnostic) == ("delayed", "4.2.2", "full")
    assert bounce.sender == ""


def test_a_mail_in_a_local_mailbox_names_its_queue_id() -> None:
    """How local deliveries are told apart when the hook was not heard; a bounce has no sender."""
    bell = hooks.decode(BATCH)
    assert bell.enqueued == (Enqueued(MAIL, "alice@agents.test", "abc@agents.test"),)
    assert bell.accounts == {"c", "d"}


@pytest.mark.parametrize(
    ("kind", "retries", "details", "code"),
    [
        ("perm-fail", 0, "Code: 554, Enhanced code: 0.0.0, Message: go away", "554"),
        ("perm-fail", 0, "Code: 550, Enhanced code: 5.1.10, Message: null MX", "5.1.10"),
        ("perm-fail", 6, "Code: 452, Enhanced code: 4.2.2, Message: full", "4.2.2"),
        ("perm-fail", 0, "DNS lookup failed: record not found", "5.4.4"),
        ("perm-fail", 9, "Connection failed: timed out", "4.4.1"),
        ("temp-fail", 1, "Connection failed: timed out", "4.4.1"),
        ("temp-fail", 1, "TLS error: handshake", "4.7.5"),
        ("perm-fail", 0, "Queue error: Delivery canceled.", None),
    ],
)
def test_a_failure_that_lasts_is_told_from_one_that_passes(
    kind: str, retries: int, details: str, code: str | None
) -> None:
    """Else a mailbox that was full for three days would be suppressed for ever."""
    body = event(f"delivery.dsn-{kind}", details=details, total=retries)
    (report,) = hooks.decode(body).reports
    assert report.code == code


def test_other_delivery_events_tell_no_outcome() -> None:
    for kind in ("delivery.rcpt-to-rejected", "delivery.completed", "delivery.delivered"):
        assert hooks.decode(event(kind)) == hooks.Bell()


anything = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers())


@given(
    st.sampled_from([*hooks.OUTCOMES, *hooks.INGESTED]),
    st.dictionaries(
        st.sampled_from(["queueId", "from", "to", "code", "details", "total", "messageId"]),
        anything,
    ),
    anything,
)
def test_facts_of_any_kind_spoil_no_batch(kind: str, facts: dict[str, Any], moment: Any) -> None:
    """A batch that is refused comes again and again, and everything after it waits."""
    strange = {"type": kind, "createdAt": moment, "data": facts}
    sound = msgspec.json.decode(BATCH)["events"]
    bell = hooks.decode(msgspec.json.encode({"events": [strange, *sound]}))
    assert bell.reports[-4:] == hooks.decode(BATCH).reports


@given(st.text(), st.booleans())
def test_what_is_no_reply_is_told_as_it_is(details: str, lasting: bool) -> None:
    assert reply_in(details, lasting=lasting) == Reply(None, details or None)


def test_a_reply_of_many_lines_is_one_sentence() -> None:
    told = reply_in("Code: 550, Enhanced code: 5.7.1, Message: a\r\n b\n", lasting=True)
    assert told == Reply("5.7.1", "a b")
