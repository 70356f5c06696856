"""Erasing mail that is an explicit FAIL of authentication, for organisations that want none of it (`drop`).

Erased before anything of the answer it came in is written: a crash in between leaves a mail erased that
nobody was told of, and nothing to finish. Only mail that is new is ever erased, from Inbox and Junk only: not
what the index knows, whatever is wanted by now, and nothing when an inbox is read from scratch, where new
mail cannot be told from old; what of that is a FAIL is labelled (`policy.received`). Tells no more of what it
erased than how many mails there were.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import structlog
from prometheus_client import Counter

from agentmail_cp import authentication, messages, outcomes, policy
from agentmail_cp.db import Database
from agentmail_cp.labels import SENT_KEYWORD
from agentmail_cp.mailserver import (
    AccountId,
    Changes,
    DocumentId,
    Folder,
    Mail,
    MailServer,
    MailServerError,
    MailServerUnavailable,
)
from agentmail_cp.messages import Place
from agentmail_cp.settings import Unauthenticated

log = structlog.stdlib.get_logger(__name__)

ERASED = Counter("agentmail_intake_erased_mails", "Mails erased because they were forged.")

Answers = Mapping[AccountId, Changes | MailServerError]


async def without_unwanted(
    db: Database,
    server: MailServer,
    places: Mapping[AccountId, Place],
    answers: Answers,
    default: Unauthenticated,
) -> Answers:
    """The answers without the mail that is unwanted, which is erased. An account whose mail cannot be has
    that error for its answer. Raises `MailServerUnavailable`.
    """
    left = dict(answers)
    for account_id, answer in answers.items():
        failed = _failed(answer)
        if failed and isinstance(answer, Changes):
            unwanted = failed & await _unwanted(db, places[account_id], failed, default)
            if unwanted:
                left[account_id] = await _erase(server, places[account_id], answer, unwanted)
    return left


def _failed(answer: Changes | MailServerError) -> set[DocumentId]:
    present = answer.present if isinstance(answer, Changes) else ()
    return {each.document_id for each in present if _came_in(each) and _is_fail(each)}


def _came_in(mail: Mail) -> bool:
    return (
        not mail.folders.isdisjoint({Folder.INBOX, Folder.JUNK})
        and SENT_KEYWORD not in mail.keywords
    )


def _is_fail(mail: Mail) -> bool:
    return authentication.is_fail(authentication.read(mail.authentication_results))


async def _unwanted(
    db: Database, place: Place, failed: set[DocumentId], default: Unauthenticated
) -> set[DocumentId]:
    async with db.reading() as tx:
        if await policy.on_unauthenticated(tx, place, default) != "drop":
            return set()
        known = await messages.documents(tx, place, among=failed)
        return failed - known - await outcomes.documents(tx, place)


async def _erase(
    server: MailServer, place: Place, answer: Changes, unwanted: set[DocumentId]
) -> Changes | MailServerError:
    try:
        await server.destroy_mail(answer.account_id, sorted(unwanted))
    except MailServerUnavailable:
        raise
    except MailServerError as error:
        return error
    ERASED.inc(len(unwanted))
    log.info("intake.erased", inbox_id=str(place.inbox_id), mails=len(unwanted))
    left = tuple(each for each in answer.present if each.document_id not in unwanted)
    return msgspec.structs.replace(answer, present=left)
