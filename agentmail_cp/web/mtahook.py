"""The route at which Stalwart asks about mail on its way: its MTA hook.

Stalwart holds its client up until we answer, and any answer but 2xx makes the client try again later.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

import structlog
from litestar import Response, post

from agentmail_cp import submissions
from agentmail_cp.db import Database
from agentmail_cp.errors import Invalid, NotFound, Unauthorized
from agentmail_cp.mailserver import MailServer
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
    secret = settings.stalwart_webhook_secret
    if secret is None:
        raise NotFound(
            "This server answers no questions: AGENTMAIL_CP_STALWART_WEBHOOK_SECRET is not set."
        )
    if not mtahook.is_ours(request.headers.get("Authorization"), secret):
        raise Unauthorized("The token of this question is wrong.", code="unauthorized")
    question = await _read(request)
    answer = await _answer(db, server, settings, question)
    return Response(answer, media_type="application/json")


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
    if question.stage != "data" or question.login is None:
        return mtahook.accept()
    if not question.exact:
        log.warning("submission.inexact", queue_id=question.queue_id)
    mail = HandedIn(
        login=question.login,
        recipients=question.recipients,
        headers=question.headers,
        body=question.body,
    )
    delay = timedelta(seconds=settings.submission_copy_delay)
    given = await submissions.take(db, server, mail, delay=delay)
    if given is None:
        return mtahook.accept()
    return mtahook.accept(given.message_id, replaces=given.replaces)
