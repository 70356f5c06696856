"""Which keywords of a mail show, and taking away those that do not.

An account can show 99 different keywords besides the 29 that Stalwart 0.16 knows by name, over all its
mail and for as long as the server keeps the account in memory (`email/src/cache/email.rs`). One more is
stored in silence and seen by nobody, in IMAP or JMAP. When the account is read into memory again, in the
order of document ids, such a keyword may take the place of one that showed. So whatever sets keywords
looks, in the same request, which of them show, and takes the others away again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import structlog

from agentmail_cp.labels import SENT_KEYWORD
from agentmail_cp.mailserver import MailServerError
from agentmail_cp.stalwart.calls import Call, GetAnswer
from agentmail_cp.stalwart.emails import Keywords
from agentmail_cp.stalwart.ids import document_of, email_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from agentmail_cp.mailserver import AccountId, OutgoingEmail
    from agentmail_cp.stalwart.calls import Answer
    from agentmail_cp.stalwart.jmap import JmapClient

log = structlog.stdlib.get_logger(__name__)

Patches = dict[str, dict[str, Any]]
"""Changes of an Email/set by Email id."""

ALWAYS_LOWER: Final = frozenset({"$answered", "$draft", "$flagged", "$forwarded", "$seen"})
"""Keywords Stalwart has in one spelling, whatever a client wrote, and always shows; the usual ones, to
save a look."""

PROPERTIES: Final = ("id", "keywords")


def uncertain(keywords: Iterable[str]) -> frozenset[str]:
    """Those that may turn out not to show, lower case."""
    return frozenset(keyword.lower() for keyword in keywords) - ALWAYS_LOWER


def look(account_id: AccountId, ids: Sequence[str]) -> Call:
    """Ask what shows of these mails, tagged `shown`."""
    wanted = {"accountId": account_id, "ids": ids, "properties": PROPERTIES}
    return Call("Email/get", wanted, "shown")


def shown(answer: Answer) -> dict[str, frozenset[str]]:
    """By Email id what `look` asked for, lower case; mails that are gone are left out."""
    return {
        email_id(document_of(mail.id)): frozenset(keyword.lower() for keyword in mail.keywords)
        for mail in answer.into(GetAnswer[Keywords]).found
    }


def look_at_new(account_id: AccountId, email: OutgoingEmail) -> tuple[Call, ...]:
    """What to ask behind `copies.store`: nothing for a mail without labels, as nearly all are."""
    return (look(account_id, ["#email"]),) if _labels(email) else ()


async def no_room(
    jmap: JmapClient, account_id: AccountId, email: OutgoingEmail, answers: Mapping[str, Answer]
) -> frozenset[str]:
    """The keywords of a mail just stored that do not show; they are taken away."""
    if "shown" not in answers:
        return frozenset()
    hidden = {key: _labels(email) - seen for key, seen in shown(answers["shown"]).items()}
    await take_away(jmap, account_id, hidden)
    return frozenset[str]().union(*hidden.values())


def _labels(email: OutgoingEmail) -> frozenset[str]:
    # Every mail that is sent has the mark; a look at each for its sake would be dear.
    return uncertain(email.keywords) - {SENT_KEYWORD}


async def take_away(
    jmap: JmapClient, account_id: AccountId, hidden: Mapping[str, frozenset[str]]
) -> None:
    """Clear keywords that nobody sees, by Email id. If that fails they stay, and nobody sees them."""
    patches = {key: {step(each): None for each in some} for key, some in hidden.items() if some}
    if not patches:
        return
    try:
        await jmap.call(update(account_id, patches))
    except MailServerError as error:
        log.warning("stalwart.hidden_keywords_left", account_id=account_id, reason=str(error))


def update(account_id: AccountId, patches: Patches) -> Call:
    """An Email/set that changes mails, tagged `set`."""
    return Call("Email/set", {"accountId": account_id, "update": patches}, "set")


def step(keyword: str) -> str:
    """The path of a keyword in a patch (RFC 8620 section 5.3, RFC 6901 section 3)."""
    return "keywords/" + keyword.replace("~", "~0").replace("/", "~1")
