"""Applications that share one wiring.

`create_app` has Litestar look at every handler and its types, a quarter of a second of work for one and the
same result; most tests need a fresh application and none of that. `application` makes everything else
anew, so that nothing but the wiring outlives a test: what `create_app` hands to handlers, middleware and
their state is looked up by the application a request was made to.

One event loop at a time makes applications: the tests' own, or that of a thread they wait for. Those that
start processes call `create_app` itself.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import AsyncGenerator, Callable
from contextvars import ContextVar
from typing import Any
from unittest.mock import patch

from litestar.datastructures import State
from litestar.di import Provide
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, Scope, Send

from agentmail_cp import app as product
from agentmail_cp.app import AgentMail, create_app
from agentmail_cp.mailserver import MailServer
from agentmail_cp.settings import Settings

MOST = 8
"""Wirings that are kept: one for each set of settings, as routes may hang on those."""

_asked: ContextVar[Application] = ContextVar("asked")
"""The application the present request was made to."""

_wirings: dict[tuple[object, ...], _Wiring] = {}


class _Wiring(AgentMail):
    """Handlers, ready to be asked, without anything to answer from."""

    @property
    def state(self) -> State:
        return _asked.get().state

    @state.setter
    def state(self, _: State) -> None:
        """Each application has its own."""


class Application:
    """What `create_app` makes, but that its wiring is shared."""

    def __init__(self, wiring: Callable[[dict[str, Any]], _Wiring], parts: dict[str, Any]) -> None:
        self.state: State = parts["state"]
        self.dependencies: dict[str, Provide] = parts["dependencies"]
        self.middleware: list[ASGIMiddleware] = parts["middleware"]
        self._lifespan: list[Callable[[Application], Any]] = parts["lifespan"]
        self._wiring = wiring(parts)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        before = _asked.set(self)
        try:
            await self._wiring(scope, receive, send)
        finally:
            _asked.reset(before)

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Everything the application needs, opened and closed."""
        async with contextlib.AsyncExitStack() as stack:
            for each in self._lifespan:
                await stack.enter_async_context(each(self))
            yield


def application(
    settings: Settings, *, server: MailServer, worker: bool = True, **options: Any
) -> Application:
    """A fresh application, as `create_app` makes it."""
    key = (settings, *sorted(options.items()))

    def wired(parts: dict[str, Any]) -> _Wiring:
        if key not in _wirings:
            _keep(key, _Wiring(**_looked_up(parts)))
        # Those that were used last are kept.
        _wirings[key] = _wirings.pop(key)
        return _wirings[key]

    def made(**parts: Any) -> Application:
        return Application(wired, parts)

    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(product, "AgentMail", made))
        if key in _wirings:
            stack.enter_context(patch.object(product, "_routes", _none_needed))
        app: Any = create_app(settings, server=server, worker=worker, **options)
    return app


def _none_needed(_: Settings) -> list[Any]:
    return []


def _keep(key: tuple[object, ...], wiring: _Wiring) -> None:
    if len(_wirings) == MOST:
        del _wirings[next(iter(_wirings))]
    _wirings[key] = wiring
    gc.freeze()


def _looked_up(parts: dict[str, Any]) -> dict[str, Any]:
    """The same parts, those of one application replaced by a look at the application that was asked."""
    dependencies: dict[str, Provide] = parts["dependencies"]
    middleware: list[ASGIMiddleware] = parts["middleware"]
    return {
        **parts,
        "dependencies": {name: _provided(name, each) for name, each in dependencies.items()},
        "middleware": [_Asked(place, each) for place, each in enumerate(middleware)],
        "lifespan": [],
    }


def _provided(name: str, provide: Provide) -> Provide:
    function: Any = provide.dependency
    if function.__closure__ is None:
        return provide
    assert function.__code__.co_argcount == 0, f"{name} holds parts of one application"
    return Provide(lambda: _of_asked(name), sync_to_thread=False)


def _of_asked(name: str) -> object:
    function: Any = _asked.get().dependencies[name].dependency
    return function()


class _Asked(ASGIMiddleware):
    """The middleware at the same place of the application that was asked."""

    def __init__(self, place: int, like: ASGIMiddleware) -> None:
        self._place = place
        self.scopes = like.scopes
        self.exclude_opt_key = like.exclude_opt_key
        self.exclude_path_pattern = like.exclude_path_pattern
        self.should_bypass_for_scope = like.should_bypass_for_scope

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        await _asked.get().middleware[self._place].handle(scope, receive, send, next_app)
