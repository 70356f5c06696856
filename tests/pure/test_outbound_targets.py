"""Which URLs are read at all, and which addresses a tenant's URL may lead to."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.outbound import OutboundError, Reason, Target, permitted, target_of
from agentmail_cp.settings import networks

CLOSED = """
    0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.100.100.200 127.0.0.1 127.255.255.254 168.63.129.16
    169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.192 192.0.2.1 192.88.99.1 192.168.1.1
    198.18.0.1 198.51.100.7 203.0.113.9 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
    :: ::1 ::7f00:1 ::ffff:127.0.0.1 ::ffff:10.1.2.3 ::ffff:169.254.169.254 ::ffff:0:7f00:1
    ::10.0.0.1 64:ff9b::7f00:1 64:ff9b::10.0.0.1 64:ff9b::169.254.169.254 64:ff9b:1::7f00:1
    64:ff9b:1::808:808 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:2::1 2001:db8::1
    2002:7f00:1::1 2002:0a00:0001::1 2002:808:808::1 3fff::1 fc00::1 fd00:ec2::254 fe80::1 fec0::1
    ff02::1 100::1 5f00::1 4000::1 localhost example.com fe80::1%eth0
""".split()

OPEN = """
    1.1.1.1 8.8.8.8 93.184.216.34 100.63.255.255 100.128.0.1 172.15.0.1 172.32.0.1 198.17.255.255
    223.255.255.255 2606:4700:4700::1111 2a00:1450:4001::1 2001:4860:4860::8888 ::ffff:8.8.8.8
    64:ff9b::8.8.8.8
""".split()


@pytest.mark.parametrize("address", CLOSED)
def test_no_tenant_reaches_inside(address: str) -> None:
    assert not permitted(address, ())


@pytest.mark.parametrize("address", OPEN)
def test_the_internet_is_reached(address: str) -> None:
    assert permitted(address, ())


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_the_same_in_every_ipv6_dress(address: IPv4Address) -> None:
    plain = permitted(str(address), ())
    number = int(address)
    mapped = IPv6Address((0xFFFF << 32) | number)
    translated = IPv6Address((0x64FF9B << 96) | number)
    assert permitted(str(mapped), ()) == permitted(str(translated), ()) == plain
    six_to_four = IPv6Address((0x2002 << 112) | (number << 80))
    assert not permitted(str(six_to_four), ())


@given(st.ip_addresses())
def test_nothing_is_open_that_python_calls_private(address: IPv4Address | IPv6Address) -> None:
    """A second opinion on the table; it may be stricter than Python's, never laxer."""
    # NAT64 is private to Python, and how a host with IPv6 alone reaches the internet.
    if permitted(str(address), ()) and not str(address).startswith("64:ff9b::"):
        assert address.is_global
        assert not address.is_multicast


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("127.0.0.1", True),
        ("::ffff:127.0.0.1", True),
        ("::1", True),
        ("10.1.2.3", True),
        ("10.2.0.1", False),
        ("169.254.169.254", False),
    ],
)
def test_an_operator_opens_exactly_what_they_name(address: str, *, allowed: bool) -> None:
    opened = networks("127.0.0.0/8, ::1/128 10.1.0.0/16")
    assert permitted(address, opened) == allowed


@pytest.mark.parametrize("text", ["10.0.0.1/8", "everything", "10.0.0.0/33"])
def test_a_network_that_is_none_is_said(text: str) -> None:
    with pytest.raises(ValueError, match=text.partition("/")[0]):
        networks(text)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://example.com", Target("http", "example.com", 80, "/")),
        ("HTTPS://Example.COM./a?b=c#d", Target("https", "example.com", 443, "/a?b=c")),
        ("https://example.com:8443/%41", Target("https", "example.com", 8443, "/%41")),
        ("https://bücher.example/ü", Target("https", "xn--bcher-kva.example", 443, "/%C3%BC")),
        ("http://[::1]:8080/", Target("http", "::1", 8080, "/")),
        ("http://127.0.0.1./x", Target("http", "127.0.0.1", 80, "/x")),
        # Full-width digits are digits to whoever resolves names.
        ("http://\uff11\uff12\uff17.0.0.1/", Target("http", "127.0.0.1", 80, "/")),
        ("http://[0:0:0:0:0:FFFF:7F00:1]/", Target("http", "::ffff:7f00:1", 80, "/")),
        ("http://my_host.example/", Target("http", "my_host.example", 80, "/")),
    ],
)
def test_a_url_is_taken_apart(url: str, target: Target) -> None:
    assert target_of(url) == target


BAD = [
    "",
    "example.com",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://example.com:70/",
    "http://",
    "http:///etc",
    "http://user@example.com/",
    "http://user:pass@127.0.0.1/",
    "http://example.com@127.0.0.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.1/",
    "http://0177.0.0.1/",
    "http://127.1/",
    "http://127.0.0.1.2/",
    "http://1.2.3.0x4/",
    "http://127.0.0.1../",
    "http://example.com../",
    "http://.example.com/",
    "http://[fe80::1%25eth0]/",
    "http://[::1/",
    "http://[not]/",
    "http://example.com:0/",
    "http://example.com:25/",
    "http://example.com:22/",
    "http://example.com:65536/",
    "http://example.com:x/",
    "http://exa mple.com/",
    "http://example.com\\@127.0.0.1/",
    "http://example.com/\r\nHost: other",
    "http://example.com/\tx",
    "http://" + "a" * 64 + ".com/",
    "http://" + "a." * 200 + "com/",
    "http://example.com/" + "a" * 9000,
    "http://ex%61mple.com/",
    "http://\u2100.com/",
]


@pytest.mark.parametrize("url", BAD)
def test_what_programs_read_differently_is_not_read_at_all(url: str) -> None:
    with pytest.raises(OutboundError) as caught:
        target_of(url)
    assert caught.value.reason is Reason.INVALID_URL


@given(st.text(max_size=100))
def test_any_text_is_a_target_or_refused(text: str) -> None:
    try:
        target = target_of(f"http://{text}")
    except OutboundError:
        return
    assert target.host.isascii()
    assert target.path.isascii()
    assert target.path.isprintable()
    assert not set(target.host + target.path) & set(" \r\n@" if "@" not in target.path else " \r\n")


def test_the_host_header_is_the_name_and_an_unusual_port() -> None:
    assert target_of("https://example.com:443/").authority == "example.com"
    assert target_of("https://example.com:8443/").authority == "example.com:8443"
    assert target_of("http://[::1]:8080/").authority == "[::1]:8080"
