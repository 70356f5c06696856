"""Private DKIM keys on their way to the mail server: sealed, and of no use anywhere else."""

from __future__ import annotations

from base64 import b64decode
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.domains import dkim
from agentmail_cp.settings import SECRETS, Settings

ROW, OTHER = UUID(int=1), UUID(int=2)
KEY = dkim.sealing_key(Settings(database_url="postgresql://x/y", dkim_secret="one"))


@given(st.text(max_size=200))
def test_a_sealed_key_opens_in_its_row(text: str) -> None:
    assert dkim.unseal(dkim.seal(text, KEY, ROW), KEY, ROW) == text


@given(st.binary(max_size=80))
def test_anything_else_does_not_open(sealed: bytes) -> None:
    """A key put into the row of another domain would sign for it."""
    with pytest.raises(dkim.Unreadable):
        dkim.unseal(sealed, KEY, ROW)


def test_a_key_opens_in_no_other_row_and_under_no_other_secret() -> None:
    sealed = dkim.seal("secret", KEY, ROW)
    other = dkim.sealing_key(Settings(database_url="postgresql://x/y", dkim_secret="two"))
    for key, row in ((KEY, OTHER), (other, ROW)):
        with pytest.raises(dkim.Unreadable):
            dkim.unseal(sealed, key, row)
    assert b"secret" not in sealed
    assert dkim.seal("secret", KEY, ROW) != sealed


def test_the_secret_is_the_settings_or_stalwarts_key() -> None:
    """Processes that derive another key would make every domain's keys anew."""
    url = "postgresql://x/y"
    by_key = dkim.sealing_key(Settings(database_url=url, stalwart_key="k"))
    assert by_key == dkim.sealing_key(Settings(database_url=url + "/z", stalwart_key="k"))
    assert by_key != dkim.sealing_key(Settings(database_url=url, stalwart_key="k", dkim_secret="s"))
    assert dkim.sealing_key(Settings(database_url=url)) != by_key
    assert "dkim_secret" in SECRETS


async def test_the_published_half_belongs_to_the_private_one() -> None:
    for pair in await dkim.new_pairs():
        private = load_pem_private_key(pair.private_key.encode(), None)
        published = b64decode(pair.public_key)
        if pair.algorithm == "rsa":
            assert load_der_public_key(published) == private.public_key()
        else:
            # RFC 8463: the bare key.
            raw = private.public_key().public_bytes_raw()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]
            assert published == raw
