"""The wanted state: every file can be read, every setting has a reason, drift is told truly."""

from __future__ import annotations

from itertools import product
from typing import Any

import httpx
import pytest
import respx
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.settings import Settings
from agentmail_cp.stalwart import setup, wanted
from agentmail_cp.stalwart.certificates import TlsCertificate
from agentmail_cp.stalwart.wanted import Change, Doorbell, Entry, Hook, OwnServer, Wanted

OWN = OwnServer(
    "mail.x.test", ("127.0.0.1:25",), ("127.0.0.1:587",), ("a:465",), ("a:993",), ("a:80",)
)
BELL = Doorbell("http://127.0.0.1/x", "secret-of-the-bell", 20)
HOOK = Hook("http://127.0.0.1/y", "http://127.0.0.1/z", "token-of-the-hook")
CERTIFICATE = TlsCertificate("a chain", "its key", ("mail.x.test", "*.x.test"))
EVERY_KIND = [
    *(
        Wanted(domain="x.test", own=own, doorbell=bell, hook=hook, dev=dev)
        for own, bell, hook, dev in product((OWN, None), (BELL, None), (HOOK, None), (True, False))
    ),
    *(Wanted(domain="x.test", own=own, certificate=CERTIFICATE) for own in (OWN, None)),
]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=8,
)


def entry(**fields: Any) -> Entry:
    return Entry(type="Imap", reason="Because.", **fields)


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_every_kind_of_server_has_a_complete_wanted_state(kind: Wanted) -> None:
    """No variable without a value, no setting without a reason a person can read."""
    entries = [one for group in wanted.groups(kind) for one in group]
    filled = repr([(one.set, one.create, one.match, one.secret) for one in entries])
    assert "${" not in filled.replace("${id:", "")
    assert all(one.reason.endswith(".") and " " in one.reason for one in entries)


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_no_setting_is_wanted_twice(kind: Wanted) -> None:
    """Two entries that disagree would be drift for ever."""
    for group in wanted.groups(kind):
        names = [name for one in group for name in one.set]
        assert len(names) == len(set(names)), group[0].title


def test_a_server_that_serves_others_keeps_its_name_ports_and_doors() -> None:
    types = {group[0].type for group in wanted.groups(Wanted(domain="x.test", doorbell=BELL))}
    assert not types & {"NetworkListener", "SystemSettings", "Http", "OidcProvider", "Tracer"}


def test_a_certificate_is_found_by_its_names_and_told_by_a_digest() -> None:
    """Stalwart sets the names itself and refuses to be told them; a chain in the output is unreadable."""
    kind = Wanted(domain="x.test", certificate=CERTIFICATE)
    (entry,) = next(group for group in wanted.groups(kind) if group[0].type == "Certificate")
    assert entry.title == "Certificate *.x.test, mail.x.test"
    names = {"mail.x.test": True, "*.x.test": True}
    old = {"@type": "Text", "value": "-----BEGIN CERTIFICATE-----\nold"}
    found = {"subjectAlternativeNames": names, "certificate": old}
    assert wanted.matches(found, entry.marks)
    assert "subjectAlternativeNames" not in wanted.new_object([entry])
    (change,) = wanted.drift(entry, found)
    assert "BEGIN" not in change.text


def test_nothing_is_destroyed_but_three_listeners_of_an_own_server() -> None:
    gone = [
        group[0].title for kind in EVERY_KIND for group in wanted.groups(kind) if group[0].absent
    ]
    assert set(gone) == {f"NetworkListener {name}" for name in ("pop3s", "sieve", "https")}


def test_the_service_account_holds_what_mailboxes_get() -> None:
    """Stalwart lets nobody grant what he does not hold."""
    assert set(wanted.mailbox_permissions()) <= set(setup.needed())


def test_lists_take_the_form_stalwart_uses() -> None:
    assert wanted.wire(["a", "b"]) == {"a": True, "b": True}
    assert wanted.wire([{"if": "x", "then": "y"}]) == {"0": {"if": "x", "then": "y"}}
    assert wanted.wire({"else": "x"}) == {"match": {}, "else": "x"}


@given(json_values)
def test_what_is_as_wanted_is_no_drift(value: Any) -> None:
    assert wanted.drift(entry(set={"p": value}), {"id": "a", "p": wanted.wire(value)}) == []


@given(st.integers() | st.text(), st.integers() | st.text())
def test_another_value_is_drift(value: object, other: object) -> None:
    found = wanted.drift(entry(set={"a/b": value}), {"a": {"b": other}})
    assert [change.should for change in found] == ([] if value == other else [value])


def test_a_missing_value_is_drift_and_an_empty_one_is_not() -> None:
    assert len(wanted.drift(entry(set={"a": 1}), {})) == 1
    assert wanted.drift(entry(set={"a": None}), {}) == []
    assert wanted.drift(entry(set={"a": {"x": 1}}), {"a": {"x": 1, "aliases": {}}}) == []


def test_a_new_object_has_everything_at_its_place() -> None:
    made = wanted.new_object(
        [
            entry(match={"name": "n", "headers/X": "*"}, set={"headers/X": "v"}),
            entry(set={"folders/sent": {"name": "Sent"}}, secret={"key": "k"}),
        ]
    )
    assert made == {
        "name": "n",
        "headers": {"X": "v"},
        "folders": {"sent": {"name": "Sent"}},
        "key": "k",
    }


@pytest.mark.parametrize(
    ("is_", "should", "text"),
    [
        (16, 64, "Imap max: 16 -> 64"),
        (None, "x", "Imap max: nothing -> x"),
        ({"a": True, "b": True}, {"b": True, "c": True}, "Imap max: lacks c; also has a"),
    ],
)
def test_a_difference_is_told_in_one_line_with_its_reason(
    is_: object, should: object, text: str
) -> None:
    assert Change("Imap", "max", is_, should, "Because.").text == f"{text}\n    Because."


def test_the_secret_of_the_bell_is_in_no_setting_that_is_compared_or_shown() -> None:
    entries = [one for group in wanted.groups(EVERY_KIND[0]) for one in group]
    assert BELL.secret not in repr([(one.set, one.create, one.match) for one in entries])
    assert any(BELL.secret in repr(one.secret) for one in entries)


def test_a_doorbell_without_a_secret_is_refused() -> None:
    settings = Settings(database_url="postgres://x", stalwart_webhook_url="http://api:8000")
    with pytest.raises(setup.SetupError, match="AGENTMAIL_CP_STALWART_WEBHOOK_SECRET is not set"):
        setup.wanted_state(settings)


def test_the_variables_come_from_the_settings() -> None:
    settings = Settings(
        database_url="postgres://x",
        domain="x.test",
        max_message_size=200_000_000,
        stalwart_webhook_url="http://api:8000/",
        stalwart_webhook_secret="s",
    )
    made = setup.wanted_state(settings)
    assert 200_000_000 * 4 / 3 < made.message_size < 280_000_000
    assert made.doorbell == Doorbell("http://api:8000/stalwart/doorbell", "s", 20)
    assert (made.domain, made.own, made.dev) == ("x.test", None, False)


async def test_without_a_url_or_a_login_the_message_names_the_setting() -> None:
    nowhere = Settings(database_url="postgres://x")
    with pytest.raises(setup.SetupError, match="AGENTMAIL_CP_STALWART_URL is not set"):
        await setup.run_apply(nowhere, check=True)
    nobody = Settings(database_url="postgres://x", stalwart_url="http://127.0.0.1:9")
    with pytest.raises(setup.SetupError, match="Set AGENTMAIL_CP_STALWART_ADMIN"):
        await setup.run_status(nobody)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (httpx.Response(401), "does not accept the login"),
        (httpx.Response(404), "no Stalwart 0.16: older versions"),
        (httpx.Response(200, text="<html>"), "no Stalwart 0.16"),
        (httpx.Response(200, json={"data": {}}), "no Stalwart 0.16"),
        (httpx.Response(503), "http://mail.test:8080: .* cannot answer now"),
        (httpx.ConnectError("refused"), "http://mail.test:8080: The mail server is away"),
    ],
    ids=["wrong password", "older version", "web page", "something else", "busy", "away"],
)
async def test_what_answers_in_stalwarts_place_is_named(
    respx_mock: respx.MockRouter, answer: httpx.Response | Exception, says: str
) -> None:
    respx_mock.get("http://mail.test:8080/api/account").mock(side_effect=[answer] * 3)
    settings = Settings(
        database_url="postgres://x", stalwart_url="http://mail.test:8080", stalwart_key="API_x"
    )
    with pytest.raises(setup.SetupError, match=says):
        await setup.run_status(settings)
