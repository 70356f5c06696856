"""The routes at which Stalwart asks about mail on its way: its MTA hooks, the doors beside the API.

Stalwart holds its client up until we answer; any answer but 2xx makes it refuse for now. What `policy` says
against a mail is told in the API's words. A send of our own was judged before it was handed in and is not
judged again: what says that it is ours is its row, not the way it came.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

import structlog
from litestar import Response, post

from agentmail_cp import inboxes, limits, outcomes, policy, sending, submissions
from agentmail_cp.db import Database
from agentmail_cp.errors import (
    AgentMailError,
    Invalid,
    MessageRejected,
    NotFound,
    RateLimited,
    Unauthorized,
)
from agentmail_cp.mailserver import Enqueued, MailServer
from agentmail_cp.settings import Settings
from agentmail_cp.sizes import OVERHEAD, mail_limit
from agentmail_cp.stalwart import mtahook
from agentmail_cp.stalwart.mtahook import Question
from agentmail_cp.submissions import HandedIn
from agentmail_cp.web.auth import OPEN
from agentmail_cp.web.inject import Config, Db, Server
from agentmail_cp.web.requests import JsonRequest, LargeRequests

log = structlog.stdlib.get_logger(__name__)

LARGE = 256_000
"""Bytes from which a question is read in a thread, not to hold up everybody else."""


def largest_question(settings: Settings) -> int:
    """Bytes of a question about the largest mail Stalwart takes over SMTP."""
    return mail_limit(settings.max_message_size) * mtahook.ESCAPING + OVERHEAD


class LargeQuestions(LargeRequests):
    """Places of their own for large questions: a request that sends a large mail may be waiting for the
    answer to one.
    """

    exclude_opt_key = None


@post(mtahook.HOOK_PATH, opt=OPEN, status_code=200, include_in_schema=False)
async def ask(request: JsonRequest, db: Db, server: Server, settings: Config) -> Response[bytes]:
    """Judge a recipient, or a mail, of a mail client. Nothing of a body is read before its token was seen."""
    _check(request, settings)
    question = await _read(request)
    try:
        answer = await _answer(db, server, settings, question)
    except policy.REFUSALS as error:
        answer = _refusal(error)
    return Response(answer, media_type="application/json")


@post(mtahook.QUEUED_PATH, opt=OPEN, status_code=200, include_in_schema=False)
async def learn(request: JsonRequest, db: Db, settings: Config) -> Response[bytes]:
    """Recognise a send of our own, which was judged before, and learn its queue id. Of the mail only its
    headers are read. Nothing else is handed in by JMAP, so whatever is not under way is refused.
    """
    _check(request, settings)
    try:
        question = await mtahook.read_head(request.chunks())
    except mtahook.BadQuestion as error:
        raise Invalid("body", str(error)) from None
    mail = _handed_in(question)
    if mail is not None and not await _recognise(db, question, mail):
        return Response(_refusal(_stray()), media_type="application/json")
    return Response(mtahook.accept(), media_type="application/json")


async def _recognise(db: Database, question: Question, mail: HandedIn) -> bool:
    message_id = submissions.message_id_of(mail)
    if message_id is None:
        return False
    inbox_id = inboxes.inbox_uuid(mail.login.lower())
    async with db.reading() as tx:
        if not await sending.is_under_way(tx, inbox_id, message_id, mail.recipients):
            return False
    await _remember(db, question, message_id)
    return True


def _stray() -> MessageRejected:
    log.warning("submission.stray")
    return MessageRejected("Message rejected: no send of this mail is under way here.")


def _refusal(error: AgentMailError) -> bytes:
    """What an SMTP client is told where the API would answer with this error."""
    if isinstance(error, RateLimited):
        return mtahook.reject(452, "4.7.1", error.message, error.reason)
    return mtahook.reject(550, "5.7.1", error.message, error.reason)


def _check(request: JsonRequest, settings: Settings) -> None:
    secret = settings.stalwart_webhook_secret
    if secret is None:
        raise NotFound(
            "This server answers no questions: AGENTMAIL_CP_STALWART_WEBHOOK_SECRET is not set."
        )
    if not mtahook.is_ours(request.headers.get("Authorization"), secret):
        raise Unauthorized("The token of this question is wrong.", code="unauthorized")


async def _read(request: JsonRequest) -> Question:
    body = await request.take_body()
    try:
        if len(body) < LARGE:
            return mtahook.decode(body)
        return await asyncio.to_thread(mtahook.decode, body)
    except mtahook.BadQuestion as error:
        raise Invalid("body", str(error)) from None


async def _answer(
    db: Database, server: MailServer, settings: Settings, question: Question
) -> bytes:
    if question.stage == "rcpt" and question.login is not None and question.recipients:
        # Those before were asked about when they were named.
        await submissions.check_recipient(db, question.login, question.recipients[-1])
    mail = _handed_in(question)
    if mail is None:
        return mtahook.accept()
    if not question.exact:
        log.warning("submission.inexact", queue_id=question.queue_id)
    given = await submissions.take(
        db,
        server,
        mail,
        delay=timedelta(seconds=settings.submission_copy_delay),
        defaults=limits.defaults(settings),
    )
    await _remember(db, question, given.message_id if given else submissions.message_id_of(mail))
    if given is None:
        return mtahook.accept()
    return mtahook.accept(given.message_id, replaces=given.replaces)


def _handed_in(question: Question) -> HandedIn | None:
    if question.stage != "data" or question.login is None:
        return None
    return HandedIn(
        login=question.login,
        recipients=question.recipients,
        headers=question.headers,
        body=question.body,
    )


async def _remember(db: Database, question: Question, message_id: str | None) -> None:
    """Whose the queue id is; written down before Stalwart hears from us, as reports follow at once."""
    if question.queue_id is None or not question.sender or message_id is None:
        return
    async with db.reading() as tx:
        await outcomes.queued(tx, Enqueued(question.queue_id, question.sender, message_id))
