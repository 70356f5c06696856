"""The routes at which Stalwart asks about mail on its way: its MTA hooks.

Stalwart holds its client up until we answer. About mail of a mail client, any answer but 2xx makes it try
again later; mail that this service handed in goes on whatever we answer.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

import structlog
from litestar import Response, post

from agentmail_cp import outcomes, submissions
from agentmail_cp.db import Database
from agentmail_cp.errors import Invalid, NotFound, Unauthorized
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
    """Answer one question of Stalwart's. Nothing of a body is read before its token was seen."""
    _check(request, settings)
    question = await _read(request)
    answer = await _answer(db, server, settings, question)
    return Response(answer, media_type="application/json")


@post(mtahook.QUEUED_PATH, opt=OPEN, status_code=200, include_in_schema=False)
async def learn(request: JsonRequest, db: Db, settings: Config) -> Response[bytes]:
    """Learn which queue id a mail of this service got. Of the mail only its headers are read."""
    _check(request, settings)
    try:
        question = await mtahook.read_head(request.chunks())
    except mtahook.BadQuestion as error:
        raise Invalid("body", str(error)) from None
    mail = _handed_in(question)
    if mail is not None:
        await _remember(db, question, submissions.message_id_of(mail))
    return Response(mtahook.accept(), media_type="application/json")


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
    mail = _handed_in(question)
    if mail is None:
        return mtahook.accept()
    if not question.exact:
        log.warning("submission.inexact", queue_id=question.queue_id)
    delay = timedelta(seconds=settings.submission_copy_delay)
    given = await submissions.take(db, server, mail, delay=delay)
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
