"""What mail clients find out by themselves, without a key: how to get in, and never who is there."""

from __future__ import annotations

import contextlib
import plistlib
from xml.etree import ElementTree as ET

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.credentials import presets
from agentmail_cp.credentials.presets import BadQuestion, Endpoint, Servers
from tests.fix_app import Service

CONFIG = "/mail/config-v1.1.xml"
DISCOVER = "/autodiscover/autodiscover.xml"
RESPONSE = "{http://schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a}"
SERVERS = Servers(
    Endpoint("imap.agents.test", 993, "implicit"),
    Endpoint("smtp.agents.test", 587, "starttls"),
    Endpoint("smtp.agents.test", 465, "implicit"),
)


def question(address: str) -> bytes:
    """What Outlook sends."""
    return f"""<?xml version="1.0" encoding="utf-8"?>
<Autodiscover xmlns="http://schemas.microsoft.com/exchange/autodiscover/outlook/requestschema/2006">
<Request><EMailAddress>{address}</EMailAddress>
<AcceptableResponseSchema>http://schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a
</AcceptableResponseSchema></Request></Autodiscover>""".encode()


async def anonymous(service: Service, method: str, url: str, body: bytes = b"") -> httpx.Response:
    request = service.client.build_request(method, url, content=body)
    del request.headers["Authorization"]
    return await service.client.send(request)


async def test_thunderbird_is_told_where_to_connect(service: Service) -> None:
    for url in (CONFIG, "/.well-known/autoconfig/mail/config-v1.1.xml"):
        answer = await anonymous(service, "GET", f"{url}?emailaddress=ada%40agents.test")
        assert answer.headers["Content-Type"].startswith("application/xml")
        found = ET.fromstring(answer.text)
        assert found.findtext(".//domain") == "agents.test"
        imap = found.find(".//incomingServer")
        assert imap is not None
        assert (imap.findtext("port"), imap.findtext("socketType")) == ("993", "SSL")
        assert imap.findtext("username") == "%EMAILADDRESS%"
        outgoing = [each.findtext("port") for each in found.findall(".//outgoingServer")]
        assert outgoing == ["465", "587"], "the safer one first"


async def test_a_host_that_is_none_is_the_callers_mistake(service: Service) -> None:
    """Anybody could fill the log with errors and have us looked after at night."""
    for host in ("a:b", "a:-1", "a:99999999", "[::1]:x"):
        for url in (CONFIG, "/v0/inboxes/credentials/export"):
            answer = await service.client.get(url, headers={"Host": host})
            assert answer.status_code == 400, answer.text
            assert answer.json()["errors"][0]["path"] == ["host"]


async def test_outlook_is_told_where_to_connect(service: Service) -> None:
    for url in (DISCOVER, "/Autodiscover/Autodiscover.xml"):
        answer = await anonymous(service, "POST", url, question("ada@agents.test"))
        assert answer.status_code == 200, answer.text
        found = ET.fromstring(answer.text)
        ports = [each.findtext(f"{RESPONSE}Port") for each in found.iter(f"{RESPONSE}Protocol")]
        assert ports == ["993", "465"]
        assert {each.text for each in found.iter(f"{RESPONSE}LoginName")} == {"ada@agents.test"}


async def test_nobody_learns_which_addresses_exist(service: Service) -> None:
    """Spammers would ask for one name after the other."""
    inbox = await service.inbox("ada")
    told: list[str] = []
    for address in (inbox["email"], "nobody@agents.test"):
        first = await anonymous(service, "GET", f"{CONFIG}?emailaddress={address}")
        second = await anonymous(service, "POST", DISCOVER, question(address))
        told.append((first.text + second.text).replace(address, "…"))
    assert told[0] == told[1]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"<a><EMailAddress>ada@agents.test</EMailAddress>",
        b"<a><EMailAddress>nobody</EMailAddress></a>",
        b"<a>" * 5000,
        b'<!DOCTYPE a [<!ENTITY e "x">]><a><EMailAddress>a@b.test&e;</EMailAddress></a>',
        b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>',
        b'<?xml version="1.0" encoding="nonsense"?><a/>',
        b"\xff\xfe\x00",
    ],
)
async def test_a_malicious_question_is_refused(service: Service, body: bytes) -> None:
    """Entities grow without end, and read files."""
    answer = await anonymous(service, "POST", DISCOVER, body)
    assert answer.status_code == 400, answer.text
    assert "passwd" not in answer.text


async def test_a_question_larger_than_any_clients_is_refused(service: Service) -> None:
    answer = await anonymous(service, "POST", DISCOVER, b"<a>" + b" " * 70_000)
    assert answer.status_code in {400, 413}


async def test_what_is_no_address_gets_no_configuration(service: Service) -> None:
    answer = await anonymous(service, "GET", f"{CONFIG}?emailaddress=%3Cscript%3E")
    assert answer.status_code == 400
    assert "script" not in answer.text


async def test_senders_find_the_policy_of_our_mail_exchangers(service: Service) -> None:
    """RFC 8461 section 3.2."""
    answer = await anonymous(service, "GET", "/.well-known/mta-sts.txt")
    assert answer.headers["Content-Type"].startswith("text/plain")
    lines = answer.text.split("\r\n")
    assert lines[:2] == ["version: STSv1", "mode: enforce"]
    assert [each for each in lines if each.startswith("mx: ")]


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_question_is_answered_or_refused(body: bytes) -> None:
    with contextlib.suppress(BadQuestion):
        assert "@" in presets.asked_address(body)


@given(st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=20))
def test_whatever_an_address_is_called_the_answers_stay_well_formed(local: str) -> None:
    """An address is put into XML that a stranger's program reads."""
    address = f"{local}@agents.test"
    if presets.domain_of(address) is None:
        return
    found = ET.fromstring(presets.autodiscover(SERVERS, address))
    assert {each.text for each in found.iter(f"{RESPONSE}LoginName")} == {address}
    ET.fromstring(presets.autoconfig(SERVERS, "agents.test"))
    profile = plistlib.loads(presets.profile(SERVERS, address, local))
    (account,) = profile["PayloadContent"]
    assert account["EmailAddress"] == address
    assert not [name for name in account if "Password" in name and "Same" not in name]
