"""A certificate that Stalwart would drop in silence is refused when it is given, with the reason."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from agentmail_cp.settings import Settings
from agentmail_cp.stalwart import certificates, setup
from agentmail_cp.stalwart.certificates import BadCertificate
from tests.certificates import Authority, Pair

AUTHORITY = Authority()
GOOD = AUTHORITY.sign("mail.agents.test", "*.agents.test")


def test_a_certificate_is_read_with_its_names() -> None:
    found = certificates.read(GOOD.chain + AUTHORITY.root, GOOD.key)
    assert found.names == ("mail.agents.test", "*.agents.test")
    assert found.chain == GOOD.chain + AUTHORITY.root


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        pytest.param(AUTHORITY.sign("a.test", left=timedelta(days=-1)), "expired on", id="expired"),
        pytest.param(Pair("no", GOOD.key), "no PEM certificate", id="no certificate"),
        pytest.param(Pair(GOOD.chain, "no"), "no PEM private key", id="no key"),
        pytest.param(Pair(GOOD.chain, AUTHORITY.sign("a.test").key), "another", id="wrong key"),
        pytest.param(AUTHORITY.sign(), "names no host", id="no names"),
    ],
)
def test_what_would_not_do_is_refused_with_the_reason(pair: Pair, reason: str) -> None:
    with pytest.raises(BadCertificate, match=reason):
        certificates.read(pair.chain, pair.key)


def test_a_certificate_of_the_future_is_refused() -> None:
    with pytest.raises(BadCertificate, match="begins on"):
        certificates.read(GOOD.chain, GOOD.key, datetime.now(UTC) - timedelta(days=200))


def test_a_certificate_prints_no_key() -> None:
    assert repr(certificates.read(GOOD.chain, GOOD.key)) == (
        "TlsCertificate(mail.agents.test, *.agents.test)"
    )


SETTINGS = Settings(database_url="postgresql://db")


def test_without_the_settings_certificates_are_left_to_stalwart() -> None:
    assert setup.wanted_state(SETTINGS).certificate is None


@pytest.mark.parametrize("given", ["stalwart_certificate", "stalwart_certificate_key"])
def test_a_certificate_needs_its_key_and_a_key_its_certificate(given: str) -> None:
    settings = msgspec.structs.replace(SETTINGS, **{given: GOOD.chain})
    with pytest.raises(setup.SetupError, match="go together"):
        setup.wanted_state(settings)


def test_an_expired_certificate_keeps_nothing_else_from_being_set_up() -> None:
    """The renewal failed: the API must start all the same, and the doctor tells."""
    old = AUTHORITY.sign("mail.agents.test", left=timedelta(days=-1))
    settings = msgspec.structs.replace(
        SETTINGS, stalwart_certificate=old.chain, stalwart_certificate_key=old.key
    )
    assert setup.wanted_state(settings).certificate is None
    report = setup.Report(changes=(), checked_only=False, expired="the certificate expired")
    assert "The certificate was not looked at: the certificate expired. Renew it." in report.text


def test_a_bad_certificate_names_its_setting() -> None:
    settings = msgspec.structs.replace(
        SETTINGS, stalwart_certificate=GOOD.chain, stalwart_certificate_key="no"
    )
    with pytest.raises(setup.SetupError, match=r"AGENTMAIL_CP_STALWART_CERTIFICATE will not do"):
        setup.wanted_state(settings)
