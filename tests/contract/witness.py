"""Sees what a case really does, so that what it declares with `covers` is true.

Every client of a world is watched: which methods are called, with which errors and refusals they
answer, which faults of the sandbox are set. `seen` is emptied before each case.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from agentmail_cp.mailserver import MailServer, MailServerError, MailServerRejected, Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

Case = TypeVar("Case")
Topic = str | Refusal | type[MailServerError]

covered: set[Topic] = set()
seen: set[Topic] = set()
_topics: dict[str, frozenset[Topic]] = {}


def covers(*topics: Topic) -> Callable[[Case], Case]:
    """Say which methods, refusals, errors and sandbox faults (`fault:down`) a case is about."""

    def declare(case: Case) -> Case:
        covered.update(topics)
        _topics[_name(case)] = frozenset(topics)
        return case

    return declare


def unproved(case: object, *, faults: bool) -> frozenset[Topic]:
    """What a case declared and did not do; `faults` says whether its world has any."""
    declared = _topics.get(_name(case), frozenset())
    checked = {t for t in declared if faults or not str(t).startswith("fault:")}
    return frozenset(checked - seen)


def watched(server: MailServer) -> MailServer:
    """The same server, watched."""
    return cast("MailServer", _Watched(server))


class _Watched:
    def __init__(self, server: MailServer) -> None:
        self._server = server

    def download(self, *arguments: Any, **options: Any) -> AsyncIterator[bytes]:
        seen.add("download")
        return _stream(self._server.download(*arguments, **options))

    def __getattr__(self, name: str) -> Callable[..., Awaitable[object]]:
        method = getattr(self._server, name)

        async def call(*arguments: Any, **options: Any) -> object:
            seen.add(name)
            try:
                answer = await method(*arguments, **options)
            except MailServerError as error:
                _note(error)
                raise
            if name == "changes":
                for error in cast("dict[str, object]", answer).values():
                    _note(error)
            return answer

        return call


async def _stream(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for chunk in chunks:
            yield chunk
    except MailServerError as error:
        _note(error)
        raise


def _note(error: object) -> None:
    seen.update(kind for kind in type(error).__mro__ if issubclass(kind, MailServerError))
    if isinstance(error, MailServerRejected):
        seen.add(error.code)


def _name(case: object) -> str:
    return f"{getattr(case, '__module__', '')}.{getattr(case, '__qualname__', '')}"
