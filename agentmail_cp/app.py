"""The only wiring: settings in, a running service out.

`create_app` builds the ASGI application with database, mail server, doorbell and, unless told otherwise,
the worker, opened and closed in dependency order. `serve` runs it under uvicorn, `work` runs the worker
alone. Nothing here decides anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import AsyncGenerator, Generator
from typing import Any, Final
from uuid import uuid4

import psycopg
import structlog
import uvicorn
from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.types import ControllerRouterHandler, Message, Middleware, Scope, Send
from procrastinate.exceptions import ConnectorException

from agentmail_cp import jobs, sizes
from agentmail_cp.access import Keyring
from agentmail_cp.db import Database, not_migrated, pending
from agentmail_cp.errors import Unavailable
from agentmail_cp.events import Feed
from agentmail_cp.intake import Doorbell
from agentmail_cp.jobs import Resources
from agentmail_cp.mailserver import MailServer, MailServerError, MailServerUnavailable
from agentmail_cp.outbound import Outbound
from agentmail_cp.settings import PREFIX, Settings, SettingsError
from agentmail_cp.stalwart import StalwartMailServer
from agentmail_cp.stalwart.jmap import JmapClient, bearer
from agentmail_cp.throttle import WINDOW, Throttle
from agentmail_cp.web import (
    autoconfig,
    credentials,
    errors,
    events,
    metrics,
    mtahook,
    naming,
    openapi,
    search,
    upgrade,
    wire,
)
from agentmail_cp.web import doorbell as operations
from agentmail_cp.web.arrivals import wait_for_message
from agentmail_cp.web.attachments import Files
from agentmail_cp.web.auth import Authentication, hide_key, provide_caller
from agentmail_cp.web.deliveries import Deliveries, InboxDeliveries, PodDeliveries
from agentmail_cp.web.domains import Domains, PodDomains
from agentmail_cp.web.downloads import download
from agentmail_cp.web.drafts import Drafts, InboxDrafts, PodDrafts
from agentmail_cp.web.idempotency import provide_once
from agentmail_cp.web.inboxes import Inboxes, PodInboxes
from agentmail_cp.web.keys import ApiKeys, InboxApiKeys, PodApiKeys, auth_me
from agentmail_cp.web.links import provide_links, signing_key
from agentmail_cp.web.listing import provide_query
from agentmail_cp.web.lists import InboxLists, Lists, PodLists
from agentmail_cp.web.live import Sockets, live
from agentmail_cp.web.messages import Messages
from agentmail_cp.web.mtahook import LargeQuestions, largest_question
from agentmail_cp.web.organizations import get_organization
from agentmail_cp.web.outgoing import Uploads
from agentmail_cp.web.paths import SOCKET, normalise
from agentmail_cp.web.pods import Pods
from agentmail_cp.web.refusals import REFUSED
from agentmail_cp.web.rendered import Rendered
from agentmail_cp.web.requests import JsonRequest, LargeRequests
from agentmail_cp.web.sends import Sends
from agentmail_cp.web.threads import InboxThreads, PodThreads, Threads
from agentmail_cp.web.throttle import RequestLimit
from agentmail_cp.web.throttle import headers as throttle_headers
from agentmail_cp.web.webhooks import InboxWebhooks, PodWebhooks, Webhooks

log = structlog.stdlib.get_logger(__name__)

AGAIN: Final = 5.0
"""Seconds after which a mail server that cannot be used is asked once more who it is."""

ROUTES: Final = (
    get_organization,
    Pods,
    PodDomains,
    Domains,
    PodInboxes,
    Inboxes,
    wait_for_message,
    Messages,
    Sends,
    InboxDrafts,
    PodDrafts,
    Drafts,
    Files,
    download,
    InboxThreads,
    PodThreads,
    Threads,
    InboxLists,
    PodLists,
    Lists,
    live,
    InboxWebhooks,
    PodWebhooks,
    Webhooks,
    InboxDeliveries,
    PodDeliveries,
    Deliveries,
    InboxApiKeys,
    PodApiKeys,
    ApiKeys,
    auth_me,
    *credentials.ROUTES,
    *search.ROUTES,
    *events.ROUTES,
    *metrics.ROUTES,
    *REFUSED,
)
"""Everything under `/v0`."""


class AgentMail(Litestar):
    """The application. Paths are taken apart from their raw form, because an id in a path may hold any
    character; every request gets an id, which is in its answer, beside what is left of its key's limit, and
    in whatever is logged meanwhile.
    """

    def __init__(self, **options: Any) -> None:
        with _uncollected():
            super().__init__(**options)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] in ("http", "websocket"):
            scope["path"] = normalise(scope.get("raw_path") or scope["path"].encode())
            send = _identified(scope, send)
            with structlog.contextvars.bound_contextvars(request_id=scope["state"]["request_id"]):
                await self._answer(scope, receive, send)
            return
        await super().__call__(scope, receive, send)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            hide_key(scope)
            if scope["path"].rstrip("/") != SOCKET:
                await upgrade.refuse(scope, send, upgrade.nowhere())
                return
        await super().__call__(scope, receive, send)


@contextlib.contextmanager
def _uncollected() -> Generator[None]:
    """Without garbage collection: looking at every handler makes many objects and hardly any garbage, and a
    third of the time would go into the search for it.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _identified(scope: Scope, send: Send) -> Send:
    request_id = uuid4().hex
    state = {**scope.get("state", {}), "request_id": request_id}
    scope["state"] = state

    async def send_with_id(message: Message) -> None:
        if (
            message["type"] == "http.response.start"
            or message["type"] == "websocket.http.response.start"
        ):
            told = [(b"x-request-id", request_id.encode()), *throttle_headers(state, message)]
            message["headers"] = [*message["headers"], *told]
        await send(message)

    return send_with_id


def connect_mail_server(settings: Settings) -> MailServer:
    """The Stalwart the settings name; raises `SettingsError` when they name none."""
    for field in ("stalwart_url", "stalwart_key"):
        if getattr(settings, field) is None:
            raise SettingsError(
                f"{PREFIX}{field.upper()} is not set. `agentmail-cp stalwart apply` makes the key."
            )
    client = JmapClient(
        settings.stalwart_url or "",
        bearer(settings.stalwart_key or ""),
        connections=settings.stalwart_connections,
        connect_timeout=settings.stalwart_connect_timeout,
        timeout=settings.stalwart_timeout,
    )
    return StalwartMailServer(client)


def create_app(
    settings: Settings,
    *,
    server: MailServer | None = None,
    worker: bool = True,
    introduced: bool = False,
    request_window: float = WINDOW,
) -> AgentMail:
    """The application; `server` replaces the Stalwart the settings name. `introduced`: at the start the log
    is told of the mail server. `request_window` is how many seconds `requests_per_minute` counts for, so
    that tests need not wait for a minute.
    """
    db = Database(settings.database_url, size=settings.database_pool_size)
    mail_server = server or connect_mail_server(settings)
    doorbell = Doorbell(db, mail_server, throttle=settings.stalwart_webhook_throttle)
    resources = Resources(settings, db, mail_server)
    outbound = Outbound(settings.outbound_networks)
    feed = Feed(db)
    keyring = Keyring(db)
    sockets = Sockets(keyring, db, feed, Rendered(db, mail_server))

    @contextlib.asynccontextmanager
    async def running(_app: Litestar) -> AsyncGenerator[None]:
        async with (
            _opened(db, outbound, mail_server if server is None else None),
            _looping(doorbell, feed, sockets),
            _introducing(mail_server) if introduced else contextlib.nullcontext(),
            jobs.working(resources) if worker else contextlib.nullcontext(),
        ):
            yield

    return AgentMail(
        route_handlers=_routes(settings),
        dependencies=_dependencies(resources, doorbell, outbound, feed, sockets),
        middleware=entrance(settings, db, keyring, request_window=request_window),
        request_class=JsonRequest,
        exception_handlers=errors.HANDLERS,
        lifespan=[running],
        openapi_config=openapi.config(),
        plugins=[openapi.Descriptions()],
        logging_config=None,
        request_max_body_size=sizes.request_limit(settings.max_message_size),
        state=State(
            {
                "doorbell": doorbell,
                "resources": resources,
                "link_key": signing_key(settings),
                "feed": feed,
            }
        ),
    )


@contextlib.asynccontextmanager
async def _opened(db: Database, outbound: Outbound, own: MailServer | None) -> AsyncGenerator[None]:
    """What holds connections. `own` is the mail server that nobody else closes."""
    await db.open()
    try:
        yield
    finally:
        await outbound.close()
        await db.close()
        if own is not None:
            await own.close()


@contextlib.asynccontextmanager
async def _looping(doorbell: Doorbell, feed: Feed, sockets: Sockets) -> AsyncGenerator[None]:
    """What every process that serves does beside answering."""
    await feed.find_place()
    loops = {"doorbell": doorbell.run, "feed": feed.run, "sockets": sockets.watch}
    tasks = [asyncio.create_task(jobs.for_ever(*each)) for each in loops.items()]
    try:
        yield
    finally:
        feed.close()
        await jobs.end(tasks)


@contextlib.asynccontextmanager
async def _introducing(server: MailServer) -> AsyncGenerator[None]:
    task = asyncio.create_task(introduce(server))
    try:
        yield
    finally:
        await jobs.end([task])


async def introduce(server: MailServer, *, again: float = AGAIN) -> None:
    """Tell the log what the mail server is, and what our key may not do there; until it can be used, why
    not, each reason once.
    """
    told = ""
    while True:
        try:
            found = await server.status()
        except MailServerError as error:
            if str(error) != told:
                _complain(error)
            told = str(error)
            await asyncio.sleep(again)
        else:
            break
    log.info("mail_server.ready", product=found.product, version=found.version)
    if found.missing:
        log.error(
            "mail_server.permissions_missing",
            missing=", ".join(found.missing),
            fix="Run `agentmail-cp stalwart apply` as an administrator.",
        )


def _complain(error: MailServerError) -> None:
    if isinstance(error, MailServerUnavailable):
        log.warning("mail_server.waiting", reason=str(error))
    else:
        log.error("mail_server.unusable", reason=str(error), fix="Run `agentmail-cp doctor`.")


def _routes(settings: Settings) -> list[ControllerRouterHandler]:
    return [
        Router("/v0", route_handlers=ROUTES),
        operations.ring,
        Router(
            "/",
            route_handlers=[mtahook.learn],
            request_max_body_size=largest_question(settings),
        ),
        Router(
            "/",
            route_handlers=[mtahook.ask],
            middleware=[LargeQuestions(settings.large_requests)],
            request_max_body_size=largest_question(settings),
        ),
        *autoconfig.ROUTES,
        operations.live,
        operations.ready,
        operations.metrics,
    ]


def entrance(
    settings: Settings, db: Database, keyring: Keyring, *, request_window: float = WINDOW
) -> list[Middleware]:
    """What a request passes before its handler, in this order."""
    return [
        upgrade.Upgrade(),
        Authentication(keyring),
        RequestLimit(Throttle(db, settings, window=request_window)),
        LargeRequests(settings.large_requests),
    ]


def _dependencies(
    resources: Resources, doorbell: Doorbell, outbound: Outbound, feed: Feed, sockets: Sockets
) -> dict[str, Provide]:
    """What handlers are given by name; `web/inject.py` has their types."""
    names = naming.naming(resources.settings)
    uploads = Uploads(
        resources.server,
        outbound,
        largest=resources.settings.max_message_size,
        seconds=resources.settings.outbound_timeout,
    )
    return {
        "settings": Provide(lambda: resources.settings, sync_to_thread=False),
        "db": Provide(lambda: resources.db, sync_to_thread=False),
        "server": Provide(lambda: resources.server, sync_to_thread=False),
        "doorbell": Provide(lambda: doorbell, sync_to_thread=False),
        "feed": Provide(lambda: feed, sync_to_thread=False),
        "sockets": Provide(lambda: sockets, sync_to_thread=False),
        "caller": Provide(provide_caller),
        "asked": Provide(provide_query),
        "once": Provide(provide_once),
        "links": Provide(provide_links),
        "uploads": Provide(lambda: uploads, sync_to_thread=False),
        "naming": Provide(lambda: names, sync_to_thread=False),
    }


def configure_logging(settings: Settings) -> None:
    """Logs as JSON or text on standard error. Never bodies, headers or query strings."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    renderer = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[_Libraries()], force=True)
    # Its lines hold the URLs of WebSockets at INFO and their headers at DEBUG, and there are keys in both.
    logging.getLogger("uvicorn.error").setLevel(max(level, logging.WARNING))
    # It reports every attempt to connect; `database.unavailable` says as much once a request.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


class _Libraries(logging.Handler):
    """Puts what libraries log into our log. That PostgreSQL is away needs no traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        expected = isinstance(error, (psycopg.OperationalError, ConnectorException))
        structlog.stdlib.get_logger().log(
            record.levelno,
            " ".join(record.getMessage().split()),
            library=record.name,
            exc_info=None if expected else record.exc_info,
        )


async def serve(
    settings: Settings, *, server: MailServer | None = None, worker: bool = True
) -> None:
    """Run the API, and the worker unless told otherwise, until SIGTERM or SIGINT. Raises `Unavailable` where
    the schema of this release is missing.
    """
    await _demand_schema(settings)
    wire.allow_many()
    app = create_app(settings, server=server, worker=worker, introduced=True)
    await HttpServer(app, http_config(app, settings)).serve()


async def _demand_schema(settings: Settings) -> None:
    """Let nothing start that would fail at every step. A database that is away stops no start."""
    missing: list[str] = []
    db = Database(settings.database_url, size=1)
    await db.open()
    try:
        with contextlib.suppress(Unavailable):
            async with db.reading() as tx:
                missing = await pending(tx)
    finally:
        await db.close()
    if missing:
        raise not_migrated(missing)


class HttpServer(uvicorn.Server):
    """uvicorn, which tells an application to stop only when every request is answered: those that wait for
    events are answered as soon as it begins to wait for them.
    """

    def __init__(self, app: AgentMail, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._feed: Feed = app.state["feed"]

    async def shutdown(self, sockets: Any = None) -> None:
        self._feed.close()
        await super().shutdown(sockets)


def http_config(app: AgentMail, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves an application."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        # Nothing here depends on the caller's address; `public_url` tells the outer one of ours.
        proxy_headers=False,
        timeout_graceful_shutdown=5,
        lifespan="on",
        **wire.OPTIONS,
    )


async def work(settings: Settings) -> None:
    """Run the worker alone until SIGTERM or SIGINT. Raises `Unavailable` where the schema of this release is
    missing.
    """
    await _demand_schema(settings)
    db = Database(settings.database_url, size=settings.database_pool_size)
    server = connect_mail_server(settings)
    stop = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)
    await db.open()
    try:
        async with _introducing(server), jobs.working(Resources(settings, db, server)):
            await stop.wait()
    finally:
        await db.close()
        await server.close()
