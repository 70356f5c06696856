"""Inboxes without a database: ids, passwords, metadata."""

from __future__ import annotations

import base64
import hashlib
import secrets
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp import credentials, inboxes
from agentmail_cp.errors import Invalid

KEYS = st.sampled_from(["a", "b", "c", "ä b"])
VALUES = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20) | (
    st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()
)
METADATA = st.dictionaries(KEYS, VALUES)
PATCH = st.dictionaries(KEYS, VALUES | st.none())


@given(METADATA, PATCH)
def test_metadata_merges_key_by_key(
    current: inboxes.Metadata, patch: inboxes.MetadataPatch
) -> None:
    """Seed 002: what is given is set, null removes, what is not named stays."""
    before = dict(current)
    merged = inboxes.merge_metadata(current, patch)
    for key in current.keys() | patch.keys():
        if key not in patch:
            assert merged[key] == current[key]
        elif patch[key] is None:
            assert key not in merged
        else:
            assert merged[key] == patch[key]
    assert merged.keys() <= current.keys() | patch.keys()
    assert current == before
    assert inboxes.merge_metadata(merged, patch) == merged
    assert msgspec.json.decode(msgspec.json.encode(merged), type=inboxes.Metadata) == merged


@given(METADATA)
def test_null_clears_all_metadata(current: inboxes.Metadata) -> None:
    assert inboxes.merge_metadata(current, None) == {}


def test_metadata_has_a_limit_also_when_it_grows_by_merging() -> None:
    full: inboxes.Metadata = {f"k{number}": number for number in range(256)}
    inboxes.merge_metadata(full, {"k0": None, "new": 1})
    with pytest.raises(Invalid):
        inboxes.merge_metadata(full, {"new": 1})


@pytest.mark.parametrize(
    "bad", [{"": 1}, {"k" * 257: 1}, {"k": "v" * 257}, {"k\0": 1}, {"k": "\0"}]
)
def test_metadata_that_cannot_be_kept_is_refused(bad: inboxes.MetadataPatch) -> None:
    with pytest.raises(Invalid) as caught:
        inboxes.check_metadata(bad)
    assert (caught.value.field or "").startswith("metadata")


@given(st.text(st.characters(codec="utf-8")))
def test_a_password_verifies_against_its_hash_and_no_other_does(password: str) -> None:
    """`{SSHA512}`: base64 of SHA-512(password + salt) + salt, as Stalwart 0.16 reads it."""
    hashed = credentials.password_hash(password)
    scheme, _, encoded = hashed.partition("}")
    raw = base64.b64decode(encoded, validate=True)
    digest, salt = raw[:64], raw[64:]
    assert scheme == "{SSHA512"
    assert len(salt) == 16
    assert hashlib.sha512(password.encode() + salt).digest() == digest
    assert hashlib.sha512(password.encode() + b"x" + salt).digest() != digest
    assert credentials.password_hash(password) != hashed, "every hash has a salt of its own"


def test_passwords_are_long_and_never_the_same() -> None:
    made = {credentials.new_password(secrets.token_bytes(32)) for _ in range(100)}
    assert len(made) == 100
    assert all(len(password) >= 32 and password.isascii() for password in made)


def test_the_id_of_an_address_never_changes() -> None:
    """Written down: another value would orphan every inbox, event and webhook that names one."""
    assert UUID("2fc69cd7-191c-53ba-907a-c117f9a060e6") == inboxes.NAMESPACE
    assert inboxes.inbox_uuid("ada@agents.test") == UUID("025ff2fc-8c8c-58fd-b315-41078be6643f")


@given(st.uuids())
def test_a_public_id_leads_back_to_its_inbox(inbox_id: UUID) -> None:
    public = inboxes.public_id(inbox_id)
    assert public.startswith("inb_")
    assert inboxes.parse_id(public) == inbox_id


@given(st.emails())
def test_an_address_in_any_case_is_the_same_inbox(address: str) -> None:
    assert inboxes.parse_id(address.upper().lower()) == inboxes.parse_id(address.lower())
    assert inboxes.parse_id(address.lower()) == inboxes.inbox_uuid(address.lower())


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_no_id_whatever_it_holds_is_an_error(text: str) -> None:
    """What is not an id of ours is an inbox that does not exist: 404, never 500."""
    for each in (text, f"inb_{text}", f"inb_{text}@x"):
        assert isinstance(inboxes.parse_id(each), UUID)


@given(st.text(max_size=300))
def test_a_display_name_that_passes_fits_in_one_header_line(name: str) -> None:
    try:
        inboxes.check_display_name(name)
    except Invalid as error:
        assert error.field == "display_name"  # noqa: PT017 - both outcomes are looked at
        return
    assert len(name) <= 256
    assert name.splitlines() in ([name], [])
