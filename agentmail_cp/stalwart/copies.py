"""A mail of ours on its way into Drafts: what Stalwart is asked to store, and why it may refuse. Pure.

Sending and drafts both begin with such a copy. A refusal stores nothing; one that names a folder that
is no longer there is `Stale`: its caller forgets what it remembered and asks once more.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import msgspec

from agentmail_cp.mailserver import (
    MailServerConfused,
    MailServerError,
    MailServerRejected,
    MailServerUnavailable,
    Refusal,
)
from agentmail_cp.stalwart.calls import Call, SetError
from agentmail_cp.stalwart.mime import email_properties

if TYPE_CHECKING:
    from collections.abc import Generator

    from agentmail_cp.mailserver import AccountId, OutgoingEmail
    from agentmail_cp.stalwart.calls import Answer

REFUSALS: Final = {
    "overQuota": Refusal.OVER_QUOTA,
    "tooLarge": Refusal.TOO_LARGE,
    "blobNotFound": Refusal.NO_BLOB,
    "tooManyRecipients": Refusal.TOO_MANY_RECIPIENTS,
    "forbiddenFrom": Refusal.SENDER_NOT_ALLOWED,
    "forbiddenMailFrom": Refusal.SENDER_NOT_ALLOWED,
    "forbiddenToSend": Refusal.FORBIDDEN,
    "forbidden": Refusal.FORBIDDEN,
}
"""SetErrors of Email/set and EmailSubmission/set (RFC 8621 section 7.5) in the port's words; every
other one is about the mail itself."""


class MadeEmail(msgspec.Struct):
    """A stored mail; `size` in bytes."""

    id: str
    size: int


class EmailSet(msgspec.Struct, rename="camel"):
    """What an Email/set tells of mails it made, changed or destroyed."""

    created: dict[str, MadeEmail] | None = None
    not_created: dict[str, SetError] | None = None
    not_updated: dict[str, SetError] | None = None


class Stale(Exception):
    """A remembered folder or identity is gone; nothing was stored."""


def store(account_id: AccountId, email: OutgoingEmail, drafts: str) -> Call:
    """Make the mail in the mailbox `drafts`, tagged `store`."""
    keywords = {*map(str.lower, email.keywords), "$seen", "$draft"}
    create = {
        "mailboxIds": {drafts: True},
        "keywords": dict.fromkeys(keywords, True),
        **email_properties(email),
    }
    return Call("Email/set", {"accountId": account_id, "create": {"email": create}}, "store")


def stored(answer: Answer) -> MadeEmail:
    """The mail that `store` made. Raises Stale, Rejected with nothing stored, or Confused."""
    result = answer.into(EmailSet)
    if (made := (result.created or {}).get("email")) is not None:
        return made
    refused = (result.not_created or {}).get("email")
    if refused is None:
        raise MailServerConfused("Email/set neither made nor refused the mail.")
    raise refused_copy(refused)


def refused_copy(refused: SetError) -> MailServerRejected | Stale:
    """The error for a mail that Email/set or Email/import did not store."""
    if "mailboxIds" in refused.properties:
        return Stale(refused.sentence)
    code = REFUSALS.get(refused.type, Refusal.INVALID_MAIL)
    if "maximum size" in refused.description:
        code = Refusal.TOO_LARGE
    if any(name.endswith("blobId") for name in refused.properties):
        code = Refusal.NO_BLOB
    return MailServerRejected(code, refused.sentence)


@contextmanager
def afterwards(failure: str) -> Generator[None]:
    """Something is stored or sent already: what fails now must be looked up, not done again."""
    try:
        yield
    except MailServerError as error:
        raise MailServerUnavailable(f"{failure}: {error}", reached=True) from error
