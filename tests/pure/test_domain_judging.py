"""What is made of DNS: every mistake people make with these records is told apart from having done it right.

Each case is a table of DNS; the reason has to say what was found, what to do, or who is in the way.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.domains.answers import Answer, Known, Question
from agentmail_cp.domains.judging import Finding, carried, judge
from agentmail_cp.domains.providers import provider_of
from tests.dns_answers import (
    MAIL,
    NAME,
    RSA,
    SITE,
    Everything,
    finding,
    findings,
    published,
    record,
    records,
)

TOKEN = f"_agentmail.{NAME}"
DKIM = f"am-1-rsa._domainkey.{NAME}"
DMARC = f"_dmarc.{NAME}"
GOOD_KEY = f"v=DKIM1; k=rsa; p={RSA.public_key}"
GOOGLE = "v=spf1 include:_spf.google.com ~all"


def test_whoever_publishes_what_is_asked_for_is_done() -> None:
    assert {key: each.status for key, each in findings(published()).items()} == {
        each.key: "VALID" for each in records()
    }


def test_nothing_published_is_missing_and_never_wrong() -> None:
    found = findings({})
    assert {each.status for each in found.values()} == {"MISSING"}


VALID: dict[str, tuple[str, dict[str, Sequence[str]]]] = {
    "the token beside others": (
        "token",
        {TOKEN: ["agentmail-verification=c0ffee", "agentmail-verification=2"]},
    ),
    "mx of another priority": ("mx", {f"{NAME}/MX": [f"0 {MAIL}"]}),
    "mx spelled otherwise": ("mx", {f"{NAME}/MX": ["10 Mail.Agents.TEST."]}),
    "our host by its name": ("spf", {NAME: [f"v=spf1 mx a:{MAIL} -all"]}),
    "our host by mx": ("spf", {NAME: ["v=spf1 mx ~all"], f"{NAME}/MX": [f"10 {MAIL}"]}),
    "our host by an include": (
        "spf",
        {NAME: ["v=spf1 include:spf.x.test ~all"], "spf.x.test": [f"v=spf1 a:{MAIL} -all"]},
    ),
    "our host by a redirect": (
        "spf",
        {NAME: ["v=spf1 redirect=spf.x.test"], "spf.x.test": [f"v=spf1 a:{MAIL} -all"]},
    ),
    "spf beside other txt": (
        "spf",
        {NAME: [f"v=spf1 a:{MAIL} ~all", "google-site-verification=x"]},
    ),
    "a key with spaces": ("dkim:am-1-rsa", {DKIM: [GOOD_KEY.replace("Qk3vQk3v", "Qk3v Qk3v ")]}),
    "a key with other tags": (
        "dkim:am-1-rsa",
        {DKIM: [f"p={RSA.public_key}; t=s; h=sha1:sha256; k=rsa;"]},
    ),
    "a key without spaces": ("dkim:am-1-rsa", {DKIM: [GOOD_KEY.replace(" ", "")]}),
    "a policy of one's own": ("dmarc", {DMARC: ["v=DMARC1;p=none;rua=mailto:x@acme.test"]}),
    "a policy beside other txt": ("dmarc", {DMARC: ["v=DMARC1; p=quarantine", "x"]}),
}


@pytest.mark.parametrize("case", sorted(VALID))
def test_what_has_the_effect_is_valid(case: str) -> None:
    """People would change records that are right, because ours look different."""
    key, table = VALID[case]
    assert finding(key, table).status == "VALID"


INVALID: dict[str, tuple[str, dict[str, Sequence[str]], tuple[str, ...]]] = {
    "another's token": (
        "token",
        {TOKEN: ["agentmail-verification=other"]},
        ("agentmail-verification=other", "another account", "agentmail-verification=c0ffee"),
    ),
    "a token in quotes": ("token", {TOKEN: ['"agentmail-verification=c0ffee"']}, ("quotes",)),
    "no token": ("token", {TOKEN: ["hello"]}, ('"hello"', "Expected")),
    "google's mx": (
        "mx",
        {f"{NAME}/MX": ["1 aspmx.l.google.com", "5 alt1.aspmx.l.google.com"]},
        ("Google Workspace", f"10 {MAIL}"),
    ),
    "microsoft's mx": (
        "mx",
        {f"{NAME}/MX": ["0 acme-test.mail.protection.outlook.com"]},
        ("Microsoft 365",),
    ),
    "nobody's mx": ("mx", {f"{NAME}/MX": ["0 ."]}, ("takes no mail",)),
    "the domain appended to our host": (
        "mx",
        {f"{NAME}/MX": [f"10 {MAIL}.{NAME}"]},
        ("dot at the end",),
    ),
    "spf of another": (
        "spf",
        {NAME: [GOOGLE], "_spf.google.com": ["v=spf1 ip4:192.0.2.0/24 ~all"]},
        ("Google Workspace", f"v=spf1 a:{MAIL} include:_spf.google.com ~all"),
    ),
    "spf that is none": (
        "spf",
        {NAME: ["v=spf1 a:x.test includes:y.test ~all"]},
        ("includes:y.test",),
    ),
    "spf that asks too much": (
        "spf",
        {
            NAME: [
                "v=spf1 "
                + " ".join(f"exists:{each}.x.test" for each in range(11))
                + f" a:{MAIL} ~all"
            ]
        },
        ("more than 10 look-ups",),
    ),
    "spf without an end": (
        "spf",
        {NAME: ["v=spf1 " + "ip4:192.0.2.1 " * 500]},
        ("too long", f"one record with a:{MAIL} in it"),
    ),
    "spf that leads to itself": ("spf", {NAME: [f"v=spf1 include:{NAME} ~all"]}, ("look-ups",)),
    "spf in quotes": ("spf", {NAME: [f'"v=spf1 a:{MAIL} ~all"']}, ("quotes",)),
    "a key cut off": (
        "dkim:am-1-rsa",
        {DKIM: [GOOD_KEY[:255]]},
        ("cut off after 237 characters", "strings of at most 255"),
    ),
    "another key": ("dkim:am-1-rsa", {DKIM: ["v=DKIM1; k=rsa; p=AAAA"]}, ("another key",)),
    "a revoked key": ("dkim:am-1-rsa", {DKIM: ["v=DKIM1; k=rsa; p="]}, ("revoked",)),
    "marked semicolons": (
        "dkim:am-1-rsa",
        {DKIM: [GOOD_KEY.replace(";", "\\;")]},
        ("backslashes",),
    ),
    "no key": ("dkim:am-1-rsa", {DKIM: ["hello"]}, ("no DKIM record",)),
    "the right key for other hashes": (
        "dkim:am-1-rsa",
        {DKIM: [GOOD_KEY + "; h=sha1"]},
        ("beside it",),
    ),
    "a policy without one": (
        "dmarc",
        {DMARC: ["v=DMARC1; rua=mailto:x@x.test"]},
        ("p= has to be",),
    ),
    "a key with endless spaces": (
        "dkim:am-1-rsa",
        {DKIM: ["v=DKIM1; p=" + " " * 65_000 + "x"]},
        ("another",),
    ),
    "a policy of another version": ("dmarc", {DMARC: ["p=none; v=DMARC1"]}, ("begin with",)),
}


@pytest.mark.parametrize("case", sorted(INVALID))
def test_what_is_wrong_is_told_with_what_was_found_and_what_to_do(case: str) -> None:
    key, table, told = INVALID[case]
    found = finding(key, table)
    assert (found.status, found.kind) == ("INVALID", "value_mismatch")
    assert [each for each in told if each not in (found.reason or "")] == [], found.reason
    assert found.found


@pytest.mark.parametrize("ours", [[], [f"0 {MAIL}"]], ids=["instead-of-ours", "beside-ours"])
def test_a_reason_is_short_however_many_records_there_are(ours: list[str]) -> None:
    """It is stored, shown with every answer and sent with events; strangers choose how many there are."""
    table = {f"{NAME}/MX": [*ours, *(f"10 m{number}.elsewhere.test" for number in range(2_000))]}
    found = finding("mx", table)
    assert "m1.elsewhere.test" in (found.reason or "")
    assert "and 1995 more" in (found.reason or "")
    assert len(found.reason or "") < 1_000


SEVERAL: dict[str, tuple[str, dict[str, Sequence[str]], str]] = {
    "two spf records": (
        "spf",
        {NAME: [GOOGLE, f"v=spf1 a:{MAIL} ~all"], "_spf.google.com": ["v=spf1 ~all"]},
        f"v=spf1 a:{MAIL} include:_spf.google.com ~all",
    ),
    "other mx beside ours": (
        "mx",
        {f"{NAME}/MX": [f"10 {MAIL}", "1 aspmx.l.google.com"]},
        "mail goes elsewhere: 1 Google Workspace (aspmx.l.google.com)",
    ),
    "two keys": ("dkim:am-1-rsa", {DKIM: [GOOD_KEY, "v=DKIM1; p=AAAA"]}, "There are 2"),
    "two policies": ("dmarc", {DMARC: ["v=DMARC1; p=none", "v=DMARC1; p=reject"]}, "There are 2"),
}


@pytest.mark.parametrize("case", sorted(SEVERAL))
def test_more_than_one_is_told_as_such(case: str) -> None:
    """Receivers use none of two SPF records, and mail goes to two places with two MX records."""
    key, table, told = SEVERAL[case]
    found = finding(key, table)
    assert (found.status, found.kind) == ("INVALID", "duplicate_records")
    assert told in (found.reason or "")


ELSEWHERE: dict[str, tuple[str, dict[str, Sequence[str]], str]] = {
    "the domain appended to the name": (
        "token",
        {f"{TOKEN}.{NAME}": ["agentmail-verification=c0ffee"]},
        'enter the name as "_agentmail"',
    ),
    "the domain appended to a key's name": (
        "dkim:am-1-rsa",
        {f"{DKIM}.{NAME}": [GOOD_KEY]},
        "by itself",
    ),
    "the domain appended to itself": ("mx", {f"{NAME}.{NAME}/MX": [f"10 {MAIL}"]}, 'as "@"'),
    "the token at the top": (
        "token",
        {NAME: ["agentmail-verification=c0ffee"]},
        f"stands at {NAME}",
    ),
    "the policy at the top": ("dmarc", {NAME: ["v=DMARC1; p=none"]}, f"stands at {NAME}"),
}


@pytest.mark.parametrize("case", sorted(ELSEWHERE))
def test_what_stands_elsewhere_is_found_there(case: str) -> None:
    key, table, told = ELSEWHERE[case]
    found = finding(key, table)
    assert found.status == "MISSING"
    assert told in (found.reason or ""), found.reason


def test_an_alias_in_the_way_is_named() -> None:
    """Beside a CNAME there is no room for MX or SPF (RFC 1034, 3.6.2)."""
    alias = Answer(server="ns1", alias="shops.example")
    for key, kind in (("mx", "MX"), ("spf", "TXT")):
        found = finding(key, {f"{NAME}/{kind}": alias})
        assert found.status == "INVALID"
        assert "alias (CNAME) of shops.example" in (found.reason or "")


def test_a_key_may_be_an_alias_and_the_token_may_not() -> None:
    """A wildcard CNAME to a hosting service would let that prove the domains of all its customers."""
    key = Answer(server="ns1", alias="k.x.test", values=(GOOD_KEY,))
    token = Answer(server="ns1", alias="k.x.test", values=("agentmail-verification=c0ffee",))
    assert finding("dkim:am-1-rsa", {f"{DKIM}/TXT": key}).status == "VALID"
    assert finding("token", {f"{TOKEN}/TXT": token}).status == "INVALID"


def test_a_wildcard_with_spf_is_nobodys_key_and_nobodys_token() -> None:
    """Our own record for sub-domains would otherwise read as a wrong value of everything."""
    wild = {name: [f"v=spf1 a:{MAIL} ~all"] for name in (TOKEN, DKIM, DMARC)}
    found = findings(wild)
    assert {found[key].status for key in ("token", "dkim:am-1-rsa", "dmarc")} == {"MISSING"}


def test_a_sub_domain_has_the_policy_of_the_domain_above() -> None:
    """RFC 9989; asking for a second record would be asking for nothing."""
    site = type(SITE)(f"agents.{NAME}", SITE.hosts)
    table = {f"_dmarc.{NAME}": ["v=DMARC1; p=none"]}
    found, _ = judge([_renamed("dmarc", f"_dmarc.agents.{NAME}")], site, Everything(table))
    assert found["dmarc"].status == "VALID"
    of_all = {f"_dmarc.{NAME}": ["v=DMARC1; p=none; psd=y"]}
    found, _ = judge([_renamed("dmarc", f"_dmarc.agents.{NAME}")], site, Everything(of_all))
    assert found["dmarc"].status == "MISSING"


def _renamed(key: str, name: str):  # noqa: ANN202
    each = record(key)
    return type(each)(
        key=each.key, type=each.type, name=name, value=each.value, required=True, about=each.about
    )


def asked(*answers: Answer) -> Finding:
    """What is found of the token when these are the answers."""
    wanted = record("token")
    question = Question(wanted.name, "TXT")
    nothing = {Question(name, "TXT"): [Answer()] for name in (NAME, f"{wanted.name}.{NAME}")}
    found, missing = judge([wanted], SITE, Known({question: answers, **nothing}))
    assert not missing
    return found["token"]


RIGHT = ("agentmail-verification=c0ffee",)


def test_a_record_that_one_name_server_lacks_is_not_there_yet() -> None:
    """Half of the world would not see it; the reason says which server to wait for."""
    found = asked(Answer(server="ns1", values=RIGHT), Answer(server="ns2"))
    assert found.status == "MISSING"
    assert "Not all name servers of the domain have it yet: ns2" in (found.reason or "")


def test_a_name_server_that_does_not_answer_does_not_count() -> None:
    silent = Answer(server="ns2", problem="ns2 does not answer.")
    assert asked(Answer(server="ns1", values=RIGHT), silent).status == "VALID"


def test_no_answer_is_no_finding() -> None:
    """A domain must not fail because its name servers were slow for a moment."""
    found = asked(Answer(problem="ns1 does not answer."), Answer(problem="ns2 answers SERVFAIL."))
    assert found.status is None
    assert found.reason == "ns1 does not answer. ns2 answers SERVFAIL."
    before = Finding(status="VALID")
    assert carried(before, found) is before
    assert carried(None, found).status == "MISSING"


def test_questions_come_in_rounds_until_all_is_known() -> None:
    """A check that never ends, or asks the same again, would be seen by name servers as an attack."""
    answers: dict[Question, list[Answer]] = {}
    table = Everything(published())
    for _ in range(10):
        _, questions = judge(records(), SITE, Known(answers))
        assert not questions & answers.keys()
        if not questions:
            break
        answers |= {each: table.each(each) for each in questions}
    found, questions = judge(records(), SITE, Known(answers))
    assert not questions
    assert {each.status for each in found.values()} == {"VALID"}


@pytest.mark.parametrize(
    ("host", "provider"),
    [
        ("ASPMX.L.GOOGLE.COM.", "Google Workspace"),
        ("acme.mail.protection.outlook.com", "Microsoft 365"),
        ("in1-smtp.messagingengine.com", "Fastmail"),
        ("mail.protonmail.ch", "Proton Mail"),
        ("mx01.mail.icloud.com", "iCloud Mail"),
        ("mx.yandex.net", "Yandex 360"),
        ("mx.zoho.eu", "Zoho Mail"),
        ("inbound-smtp.us-east-1.amazonaws.com", "Amazon SES"),
        ("mxa.mailgun.org", "Mailgun"),
        ("mx.sendgrid.net", "SendGrid"),
        ("notgoogle.com", None),
        ("mail.acme.test", None),
    ],
)
def test_providers_are_known_by_their_hosts(host: str, provider: str | None) -> None:
    assert provider_of(host) == provider


NAMES = sorted(
    {*(each.name for each in records()), f"{TOKEN}.{NAME}", "x.test", "", "a..b", "%{i}.test"}
)
WORDS = [
    *f"v=spf1 a mx ptr -all ?all include:x.test include:{NAME} a/0//0 redirect=x.test a: mx/33".split(),
    *"ip4:1.2.3.4/8 ip6:::1 ip4:x exists:%{i}.x include:%{i}".split(),
]
VALUES = st.one_of(
    st.text(max_size=80),
    st.sampled_from([each.value for each in records()]),
    st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join),
)
PRIORITIES = st.builds("{} {}".format, st.integers(0, 65535), st.sampled_from([*NAMES, MAIL, "."]))
ADDRESSES = st.sampled_from(["192.0.2.1", "10.0.0.1"])
ANSWERS = st.builds(
    Answer, values=st.lists(VALUES, max_size=3).map(tuple), alias=st.none() | st.sampled_from(NAMES)
)
TABLES = st.fixed_dictionaries(
    {},
    optional={f"{name}/TXT": ANSWERS for name in NAMES}
    | {f"{NAME}/MX": st.builds(Answer, values=st.lists(PRIORITIES, max_size=3).map(tuple))}
    | {f"{MAIL}/A": st.builds(Answer, values=st.lists(ADDRESSES, max_size=2).map(tuple))}
    | {f"{MAIL}/AAAA": st.just(Answer(values=("2001:db8::1",)))},
)


@given(TABLES)
def test_whatever_dns_says_there_is_a_finding_and_a_reason(table: dict[str, Answer]) -> None:
    """Strangers choose these values; none may end a check."""
    found = findings(table)
    assert found.keys() == {each.key for each in records()}
    for each in found.values():
        assert each.status in {"MISSING", "INVALID", "VALID"}
        assert (each.status == "VALID") is (each.reason is None)
        assert all(
            text.isascii() and text.isprintable() for text in (each.reason or "", *each.found)
        )
