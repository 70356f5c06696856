"""Asking DNS itself, over loopback: whom, what if they differ, and what if nobody answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_network

import pytest

from agentmail_cp.domains import resolving
from agentmail_cp.domains.answers import Answer, Question
from agentmail_cp.domains.resolving import Resolver
from tests.fix_dns import HOST, SECOND, DnsServer

NAME = "acme.test"
LONG = " ".join(f'"{letter * 250}"' for letter in "abcdefgh")


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for no answer as long as strangers deserve."""
    monkeypatch.setattr(resolving, "TIMEOUT", 0.3)


async def ask(
    server: DnsServer, *questions: Question, name: str = NAME, resolver: Resolver | None = None
) -> Mapping[Question, Sequence[Answer]]:
    resolver = resolver or Resolver([server.endpoint])
    answers: dict[Question, Sequence[Answer]] = {}
    await resolver.ask(await resolver.zone_of(name), questions, answers)
    return answers


async def one(server: DnsServer, name: str) -> Answer:
    """The first answer for a TXT record."""
    question = Question(name, "TXT")
    return (await ask(server, question))[question][0]


async def test_the_zone_of_a_sub_domain_is_found_above_it(dns_server: DnsServer) -> None:
    """Most sub-domains are no zone of their own."""
    dns_server.publish(NAME, '_agentmail.a.b IN TXT "here"')
    zone = await Resolver([dns_server.endpoint]).zone_of(f"a.b.{NAME}")
    assert [server.name for server in zone.servers] == [f"ns1.{NAME}"]
    found = await one(dns_server, f"_agentmail.a.b.{NAME}")
    assert (found.server, found.values) == (f"ns1.{NAME}", ("here",))


async def test_a_value_comes_as_one_however_it_is_cut(dns_server: DnsServer) -> None:
    """It does not fit into a datagram either: the answer comes by TCP."""
    dns_server.publish(NAME, f"long IN TXT {LONG}")
    assert (await one(dns_server, f"long.{NAME}")).values == (
        "".join(letter * 250 for letter in "abcdefgh"),
    )


async def test_what_is_no_text_is_no_harm(dns_server: DnsServer) -> None:
    """PostgreSQL takes no NUL, and a name may hold any bytes."""
    dns_server.publish(NAME, 'odd IN TXT "\\000\\255\\"x"')
    assert (await one(dns_server, f"odd.{NAME}")).values == ('\ufffd\ufffd"x',)


async def test_aliases_lead_to_their_values_here_and_elsewhere(dns_server: DnsServer) -> None:
    dns_server.publish(NAME, 'near IN CNAME value\nvalue IN TXT "v"\nfar IN CNAME x.other.test.')
    dns_server.publish("other.test", 'x IN TXT "o"')
    near, far = await one(dns_server, f"near.{NAME}"), await one(dns_server, f"far.{NAME}")
    assert (near.alias, near.values) == (f"value.{NAME}", ("v",))
    assert (far.alias, far.values) == ("x.other.test", ("o",))


async def test_aliases_in_a_circle_end(dns_server: DnsServer) -> None:
    dns_server.publish(NAME, "a IN CNAME b\nb IN CNAME a")
    assert (await one(dns_server, f"a.{NAME}")).values == ()


@pytest.mark.parametrize("trouble", ["silence", "SERVFAIL", "REFUSED"])
async def test_no_answer_is_told_from_an_answer_of_nothing(
    dns_server: DnsServer, trouble: str
) -> None:
    dns_server.publish(NAME)
    dns_server.trouble[f"x.{NAME}"] = trouble
    assert "ns1" in ((await one(dns_server, f"x.{NAME}")).problem or "")
    nothing = await one(dns_server, f"y.{NAME}")
    assert (nothing.problem, nothing.values) == (None, ())


async def test_each_name_server_is_asked(
    dns_server: DnsServer, second_dns_server: DnsServer
) -> None:
    """A record that only one of them has is not there yet."""
    dns_server.publish(NAME, 'x IN TXT "new"', servers=(HOST, SECOND))
    second_dns_server.publish(NAME, 'x IN TXT "old"', servers=(HOST, SECOND))
    resolver = Resolver([dns_server.endpoint, second_dns_server.endpoint])
    question = Question(f"x.{NAME}", "TXT")
    answers = (await ask(dns_server, question, resolver=resolver))[question]
    assert {each.server: each.values for each in answers} == {
        f"ns1.{NAME}": ("new",),
        f"ns2.{NAME}": ("old",),
    }


async def test_name_servers_at_private_addresses_are_not_asked(dns_server: DnsServer) -> None:
    """Whoever owns a domain could have us knock at our neighbours' doors; the resolver is asked instead."""
    dns_server.publish(NAME, 'x IN TXT "v"', servers=("10.0.0.1", "169.254.169.254"))
    resolver = Resolver([dns_server.endpoint])
    zone = await resolver.zone_of(NAME)
    assert [server.endpoint for server in zone.servers] == [None, None]
    question = Question(f"x.{NAME}", "TXT")
    answers = (await ask(dns_server, question))[question]
    assert [each.values for each in answers if each.problem is None] == [("v",)]


async def test_name_servers_in_networks_that_the_operator_opened_are(
    dns_server: DnsServer,
) -> None:
    dns_server.publish(NAME, servers=("10.0.0.1",))
    resolver = Resolver([dns_server.endpoint], [ip_network("10.0.0.0/8")])
    (server,) = (await resolver.zone_of(NAME)).servers
    assert server.endpoint == ("10.0.0.1", 53)


async def test_what_is_no_name_is_not_asked(dns_server: DnsServer) -> None:
    """Names come out of strangers' SPF records."""
    for name in ("a..b", "x" * 64 + ".test", "a." * 200, "\udcff.test", "\\999.test", ""):
        found = await Resolver([dns_server.endpoint]).resolve(Question(name, "A"))
        assert found.problem or not found.values
    assert len(dns_server.asked) <= 1


async def test_the_resolvers_are_tried_one_after_the_other(dns_server: DnsServer) -> None:
    dns_server.publish(NAME, 'x IN TXT "v"')
    found = await Resolver([(SECOND, 9), dns_server.endpoint]).resolve(Question(f"x.{NAME}", "TXT"))
    assert found.values == ("v",)
