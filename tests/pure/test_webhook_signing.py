"""Webhook signatures: the libraries customers verify with accept ours, and nothing that was changed."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import pytest
import standardwebhooks
import svix.webhooks
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.webhooks import signing

SECRET = "whsec_" + base64.b64encode(bytes(range(24))).decode()
OTHER = "whsec_" + base64.b64encode(b"another key of 24 bytes.").decode()
MESSAGE_ID = "0196f1de-0000-7000-8000-000000000001"
BODY = '{"type":"event","text":"Grüße\\n"}'.encode()

Verify = Callable[[str, bytes, Mapping[str, str]], None]


def by_svix(secret: str, body: bytes, headers: Mapping[str, str]) -> None:
    svix.webhooks.Webhook(secret).verify(body, dict(headers))


def by_standard_webhooks(secret: str, body: bytes, headers: Mapping[str, str]) -> None:
    standardwebhooks.Webhook(secret).verify(body, dict(headers))


LIBRARIES: Mapping[str, Verify] = {"svix": by_svix, "webhook": by_standard_webhooks}
"""By the headers each reads."""


def signed(family: str, *secrets: str, at: float | None = None) -> dict[str, str]:
    headers = signing.headers(secrets, MESSAGE_ID, int(at or time.time()), BODY)
    return {name: value for name, value in headers.items() if name.startswith(family)}


@pytest.mark.parametrize("family", LIBRARIES)
def test_the_official_library_accepts_a_delivery(family: str) -> None:
    LIBRARIES[family](SECRET, BODY, signed(family, SECRET))


@pytest.mark.parametrize("family", LIBRARIES)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "0196f1de-0000-7000-8000-000000000002"),
        ("timestamp", str(int(time.time()) - 20)),
        ("signature", "v1," + base64.b64encode(bytes(32)).decode()),
    ],
    ids=["id", "timestamp", "signature"],
)
def test_the_official_library_refuses_a_changed_header(family: str, field: str, value: str) -> None:
    headers = signed(family, SECRET) | {f"{family}-{field}": value}
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        LIBRARIES[family](SECRET, BODY, headers)


@pytest.mark.parametrize("family", LIBRARIES)
@pytest.mark.parametrize(("secret", "body"), [(OTHER, BODY), (SECRET, BODY + b" ")])
def test_the_official_library_refuses_what_somebody_else_made(
    family: str, secret: str, body: bytes
) -> None:
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        LIBRARIES[family](secret, body, signed(family, SECRET))


@pytest.mark.parametrize("family", LIBRARIES)
def test_an_old_delivery_cannot_be_played_back(family: str) -> None:
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        LIBRARIES[family](SECRET, BODY, signed(family, SECRET, at=time.time() - 600))


@pytest.mark.parametrize("family", LIBRARIES)
@pytest.mark.parametrize("secret", [SECRET, OTHER])
def test_while_a_secret_is_rotated_receivers_with_either_go_on(family: str, secret: str) -> None:
    LIBRARIES[family](secret, BODY, signed(family, OTHER, SECRET))


def test_both_families_carry_one_signature() -> None:
    svix_headers, others = (signed(family, SECRET, at=1_700_000_000) for family in LIBRARIES)
    assert list(svix_headers.values()) == list(others.values())
    assert svix_headers["svix-id"] == MESSAGE_ID
    assert svix_headers["svix-timestamp"] == "1700000000"


@given(key=st.binary(min_size=1, max_size=64), body=st.text(max_size=200))
def test_a_signature_is_that_of_the_svix_library(key: bytes, body: str) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    theirs = svix.webhooks.Webhook(secret).sign(MESSAGE_ID, at, body)
    assert signing.sign(secret, MESSAGE_ID, int(at.timestamp()), body.encode()) == theirs


def test_a_secret_that_is_no_base64_is_an_error() -> None:
    """Not another key: the receiver's library would refuse every delivery."""
    with pytest.raises(ValueError, match="base64"):
        signing.key_of("whsec_not*base64")
