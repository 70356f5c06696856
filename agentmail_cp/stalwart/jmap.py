"""The wire: JMAP (RFC 8620) over one bounded pool of HTTP/1.1 connections to one Stalwart server.

Owns requests, answers, the server's limits and the translation of everything that can go wrong on
the way into the port's three errors. A request is in one of three states when it fails: never sent
(`reached` False), sent without an answer (`reached` True), answered. Reads may be repeated here;
writes never are, because only their caller can find out whether they happened.
This module knows no data type of JMAP (mail, accounts …), follows no redirect and trusts no URL
that the server names: behind a proxy or without STALWART_PUBLIC_URL they point elsewhere.
"""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote, urlencode

import httpx
import msgspec

from agentmail_cp import sizes, tls
from agentmail_cp.mailserver import (
    MailServerConfused,
    MailServerError,
    MailServerRejected,
    MailServerUnavailable,
    Refusal,
)
from agentmail_cp.stalwart.calls import Answer, Call, decode

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Generator,
        Iterable,
        Iterator,
        Mapping,
        Sequence,
    )
    from ssl import SSLContext

T = TypeVar("T")

USING: Final = (
    "urn:ietf:params:jmap:core",
    "urn:ietf:params:jmap:mail",
    "urn:ietf:params:jmap:submission",
    "urn:stalwart:jmap",
)
"""Sent with every request: without a method's capability Stalwart answers `unknownMethod`."""
FEW: Final = {
    "Blob/": "urn:ietf:params:jmap:blob",
    "SieveScript/": "urn:ietf:params:jmap:sieve",
}
"""Sent with the few requests for methods that begin so (RFC 9404, RFC 9661)."""

DEFAULT_RETRY_AFTER: Final = 5.0
BACK_OFF: Final = (0.05, 0.2)
PATIENCE: Final = 1.0
"""Seconds after which a failed read is not tried again; people wait for the answer."""

SLICE: Final = 262_144
"""Bytes of an upload that are in flight at once."""

LARGE_WRITE: Final = 1.0
"""Seconds of slack from which a write waits its turn."""

BLOB_SLACK: Final = 10.0
"""Seconds longer than usual that anything may take which makes Stalwart read or store a whole blob."""

NEVER_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
TOO_MANY_AT_ONCE: Final = frozenset({"maxConcurrentRequests", "maxConcurrentUpload"})
TOO_BIG: Final = frozenset({"maxSizeRequest", "maxSizeUpload"})
UNREADABLE: Final = frozenset(
    {"urn:ietf:params:jmap:error:notJSON", "urn:ietf:params:jmap:error:notRequest"}
)
"""Method errors that say nothing about the request: Stalwart answers so when its store is away."""


class LoginRefused(MailServerConfused):
    """The server does not accept our credential (HTTP 401, 402 or 403)."""


class RequestRefused(MailServerConfused):
    """The server could not parse the request. One bad argument (a state, an id, a header name) is
    enough, whatever else is in the request; nothing of it was carried out.
    """


class Limits(msgspec.Struct, frozen=True, rename="camel"):
    """The server's limits on one request (RFC 8620 section 2)."""

    max_calls_in_request: int = 16
    max_objects_in_get: int = 500
    max_objects_in_set: int = 500
    max_size_request: int = 10_000_000
    max_size_upload: int = 50_000_000


class _Capabilities(msgspec.Struct):
    core: Limits = msgspec.field(name="urn:ietf:params:jmap:core")


class _Session(msgspec.Struct):
    capabilities: _Capabilities


class _Response(msgspec.Struct, rename="camel"):
    method_responses: list[tuple[str, msgspec.Raw, str]]


class _Problem(msgspec.Struct):
    type: str = "about:blank"
    title: str | None = None
    limit: str | None = None

    @property
    def sentence(self) -> str:
        """What happened. `detail` is left alone: Stalwart puts the whole request into it."""
        return self.limit or self.title or self.type.rpartition(":")[2]


class Blob(msgspec.Struct, frozen=True, rename="camel"):
    """An uploaded blob; `size` in bytes."""

    blob_id: str
    size: int


def bearer(key: str) -> str:
    """The Authorization header for an API key (`API_…`)."""
    return f"Bearer {key}"


def basic(user: str, password: str) -> str:
    """The Authorization header for an account's own login."""
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


class JmapClient:
    """A connection pool to one Stalwart under one credential. Safe to share and to cancel."""

    def __init__(
        self,
        base_url: str,
        authorization: str,
        *,
        connections: int = 16,
        connect_timeout: float = 1.5,
        timeout: float = 10.0,
    ) -> None:
        context = tls.context() if httpx.URL(base_url).scheme == "https" else tls.unused()
        self._transport = _transport(connections, context)
        # What takes as long as somebody's slow connection must not take what everybody needs: bytes
        # that are streamed in or out have connections of their own, each way.
        self._uploads = _transport(connections, context)
        self._downloads = _transport(connections, context)
        self._http = httpx.AsyncClient(
            base_url=base_url.rstrip("/"),
            headers={"Authorization": authorization, "User-Agent": "agentmail-cp"},
            timeout=httpx.Timeout(timeout, connect=connect_timeout, pool=connect_timeout),
            transport=self._transport,
            trust_env=False,
            follow_redirects=False,
        )
        # Half of the pool at most goes to one big read, so that it cannot starve everybody else.
        self._big_reads = asyncio.Semaphore(max(1, connections // 2))
        # Stalwart 0.16 scans and indexes a mail on a thread that also answers requests, of which it has
        # one per core: two large mails at once keep everybody waiting on a small machine.
        self._large_writes = asyncio.Semaphore(1)
        self._limits: Limits | None = None

    async def call(
        self, *calls: Call, repeat: bool = False, slack: float = 0.0
    ) -> dict[str, Answer]:
        """Send the calls as one request and return their answers by tag.

        `repeat` is for requests that change nothing: they are sent again when the server is away for
        a moment, for all calls or for one. `slack` is how many seconds longer than usual an answer may
        take; writes that may take that long go one after the other. Raises Unavailable, Rejected
        (TOO_LARGE) or Confused when the request as a whole fails; a call's own error waits in its
        `Answer`.
        """
        started = time.monotonic()
        for pause in BACK_OFF if repeat else ():
            answers = await self._ask(calls, repeat=repeat, slack=slack)
            if _all_there(answers) or time.monotonic() - started > PATIENCE:
                return answers
            await asyncio.sleep(pause)
        if repeat or slack < LARGE_WRITE:
            return await self._ask(calls, repeat=repeat, slack=slack)
        async with self._large_writes:
            return await self._ask(calls, repeat=False, slack=slack)

    async def call_many(self, groups: Iterable[Sequence[Call]]) -> dict[str, Answer]:
        """Send groups of reads in as few requests as the server's limits allow, some at a time.

        Calls of one group stay in one request, so they may refer to each other; tags must differ
        over all groups. Raises the first error that a request as a whole meets.
        """
        limit = (await self.limits()).max_calls_in_request
        requests = list(_packed(groups, limit))
        if len(requests) == 1:
            return await self.call(*requests[0], repeat=True)
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(self._big_read(calls)) for calls in requests]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return {tag: answer for task in running for tag, answer in task.result().items()}

    async def limits(self) -> Limits:
        """The server's limits; asked for once."""
        if self._limits is None:
            session = await self.get_json("/jmap/session", _Session)
            self._limits = session.capabilities.core
        return self._limits

    async def get_json(self, path: str, shape: type[T]) -> T:
        """Read a JSON document beside JMAP, for example `/api/account`."""
        return decode(await self._exchange("GET", path, repeat=True), shape, path)

    async def headers(self, path: str) -> Mapping[str, str]:
        """The headers of the answer to a GET of this path, whatever it is."""
        with _translated():
            return (await self._http.get(path)).headers

    async def redirection(self, path: str) -> str | None:
        """Where a GET of this path is sent on to, None when it is not."""
        return (await self.headers(path)).get("Location")

    async def upload(
        self, account_id: str, content: AsyncIterator[bytes] | bytes, content_type: str
    ) -> Blob:
        """Store bytes as a blob of the account (RFC 8620 section 6.1). Rejected: TOO_LARGE.

        The size is checked here too: Stalwart does not for a key with `unlimitedUploads`.
        """
        most = (await self.limits()).max_size_upload
        path = f"/jmap/upload/{quote(account_id, safe='')}/"
        headers = {"Content-Type": content_type}
        if isinstance(content, bytes):
            headers["Content-Length"] = str(len(_within(content, most)))
            request = self._http.build_request(
                "POST",
                path,
                content=_sliced(content),
                headers=headers,
                timeout=self._timeout(sizes.slack(len(content))),
            )
            return decode(await self._send(request, self._transport), Blob, path)
        body = _at_most(content, most)
        request = self._http.build_request(
            "POST", path, content=body, headers=headers, timeout=self._timeout(BLOB_SLACK)
        )
        return decode(await self._send(request, self._uploads), Blob, path)

    async def download(
        self, account_id: str, blob_id: str, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[bytes]:
        """Bytes `start` to `stop` (exclusive) of a blob, in chunks. Rejected: NO_BLOB.

        Stalwart 0.16 ignores Range headers, so the bytes before `start` are read and dropped.
        Closing the iterator gives the connection back.
        """
        place = f"{quote(account_id, safe='')}/{quote(blob_id, safe='')}"
        query = urlencode({"accept": "application/octet-stream"})
        request = self._http.build_request(
            "GET",
            f"/jmap/download/{place}/blob?{query}",
            timeout=self._timeout(BLOB_SLACK),
        )
        with _translated():
            response = await self._downloads.handle_async_request(request)
        try:
            if response.status_code != HTTPStatus.OK:
                await self._refuse_download(response)
            async for chunk in _window(response, start, stop):
                yield chunk
        finally:
            await response.aclose()

    async def close(self) -> None:
        """Close every connection."""
        await self._http.aclose()
        await self._uploads.aclose()
        await self._downloads.aclose()

    async def _ask(self, calls: Sequence[Call], *, repeat: bool, slack: float) -> dict[str, Answer]:
        body = msgspec.json.encode(
            {"using": _using(calls), "methodCalls": [(c.name, c.arguments, c.tag) for c in calls]}
        )
        headers = {"Content-Type": "application/json"}
        content = await self._exchange("POST", "/jmap/", body, headers, repeat=repeat, slack=slack)
        answers = _by_tag(calls, decode(content, _Response, "/jmap/").method_responses)
        missing = [call.name for call in calls if call.tag not in answers]
        if missing:
            raise MailServerConfused(f"The mail server left {', '.join(missing)} unanswered.")
        return answers

    async def _big_read(self, calls: Sequence[Call]) -> dict[str, Answer]:
        async with self._big_reads:
            return await self.call(*calls, repeat=True)

    async def _refuse_download(self, response: httpx.Response) -> None:
        with _translated():
            await response.aread()
        if response.status_code == HTTPStatus.NOT_FOUND:
            raise MailServerRejected(Refusal.NO_BLOB, "There is no such blob.")
        raise _refused(response)

    async def _exchange(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        repeat: bool = False,
        slack: float = 0.0,
    ) -> bytes:
        started = time.monotonic()
        for pause in BACK_OFF if repeat else ():
            try:
                return await self._exchange_once(method, path, content, headers, slack)
            except MailServerUnavailable as error:
                hopeless = error.retry_after > DEFAULT_RETRY_AFTER
                if hopeless or time.monotonic() - started > PATIENCE:
                    raise
            await asyncio.sleep(pause)
        return await self._exchange_once(method, path, content, headers, slack)

    async def _exchange_once(
        self,
        method: str,
        path: str,
        content: bytes | None,
        headers: dict[str, str] | None,
        slack: float,
    ) -> bytes:
        request = self._http.build_request(
            method, path, content=content, headers=headers, timeout=self._timeout(slack)
        )
        return await self._send(request, self._transport)

    def _timeout(self, slack: float) -> httpx.Timeout:
        usual = self._http.timeout
        if not slack:
            return usual
        return httpx.Timeout(
            connect=usual.connect,
            read=(usual.read or 0.0) + slack,
            write=usual.write,
            pool=(usual.pool or 0.0) + slack,
        )

    async def _send(self, request: httpx.Request, transport: httpx.AsyncHTTPTransport) -> bytes:
        with _translated():
            # Past the client: it has no cookies, redirects or logins to see to, and takes as long
            # as all the rest.
            response = await transport.handle_async_request(request)
            try:
                await response.aread()
            finally:
                await response.aclose()
        if response.status_code == HTTPStatus.OK:
            return response.content
        if _problem(response).limit == "maxCallsInRequest":
            self._limits = None
        raise _refused(response)


def _transport(connections: int, context: SSLContext) -> httpx.AsyncHTTPTransport:
    return httpx.AsyncHTTPTransport(
        verify=context,
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        trust_env=False,
    )


def _using(calls: Sequence[Call]) -> tuple[str, ...]:
    few = [urn for start, urn in FEW.items() if any(c.name.startswith(start) for c in calls)]
    return (*USING, *few)


def _by_tag(
    calls: Sequence[Call], responses: Iterable[tuple[str, msgspec.Raw, str]]
) -> dict[str, Answer]:
    names = {call.tag: call.name for call in calls}
    answers: dict[str, Answer] = {}
    for name, arguments, tag in responses:
        answer = Answer(names.get(tag, name), name, arguments)
        first = answers.get(tag)
        if first is not None:
            followers = (*first.followers, answer)
            answer = msgspec.structs.replace(first, followers=followers)
        answers[tag] = answer
    return answers


def _all_there(answers: Mapping[str, Answer]) -> bool:
    return not any(isinstance(each.error, MailServerUnavailable) for each in answers.values())


def _packed(groups: Iterable[Sequence[Call]], limit: int) -> Iterator[list[Call]]:
    request: list[Call] = []
    for group in groups:
        if request and len(request) + len(group) > limit:
            yield request
            request = []
        request.extend(group)
    if request:
        yield request


def _within(content: bytes, most: int) -> bytes:
    if len(content) > most:
        raise MailServerRejected(Refusal.TOO_LARGE, f"Uploads are limited to {most} bytes.")
    return content


async def _sliced(content: bytes) -> AsyncIterator[bytes]:
    """Some at a time: whole, it would be copied for each layer it passes."""
    for start in range(0, len(content), SLICE):
        yield content[start : start + SLICE]


async def _at_most(content: AsyncIterator[bytes], most: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in content:
        size += len(chunk)
        if size > most:
            raise MailServerRejected(Refusal.TOO_LARGE, f"Uploads are limited to {most} bytes.")
        yield chunk


async def _window(response: httpx.Response, start: int, stop: int | None) -> AsyncIterator[bytes]:
    position = 0
    chunks = response.aiter_bytes()
    while stop is None or position < stop:
        with _translated():
            chunk = await anext(chunks, None)
        if chunk is None:
            return
        first = max(0, start - position)
        last = len(chunk) if stop is None else stop - position
        position += len(chunk)
        if wanted := chunk[first:last]:
            yield wanted


@contextmanager
def _translated() -> Generator[None]:
    """Turn httpx's errors into the port's. Their texts name hosts at most, never a credential."""
    try:
        yield
    except NEVER_SENT as error:
        raise MailServerUnavailable(f"The mail server is away ({_name(error)}).") from None
    except httpx.LocalProtocolError as error:
        raise MailServerConfused(f"The request cannot be sent: {_name(error)}.") from None
    except httpx.TransportError as error:
        message = f"The mail server did not answer ({_name(error)})."
        raise MailServerUnavailable(message, reached=True) from None
    except httpx.HTTPError as error:
        raise MailServerConfused(f"The answer cannot be read: {_name(error)}.") from None


def _name(error: Exception) -> str:
    return type(error).__name__


def _refused(response: httpx.Response) -> MailServerError:
    """The error for an HTTP status other than 200."""
    status = response.status_code
    problem = _problem(response)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        # 500 too: it is what Stalwart answers while its own store is away.
        return _busy(response, f"HTTP {status}: {problem.sentence}", reached=True)
    if status == HTTPStatus.TOO_MANY_REQUESTS or problem.limit in TOO_MANY_AT_ONCE:
        return _busy(response, problem.sentence, reached=False)
    if problem.limit in TOO_BIG or status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return MailServerRejected(Refusal.TOO_LARGE, problem.sentence)
    return _confused(status, problem)


def _confused(status: int, problem: _Problem) -> MailServerConfused:
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.PAYMENT_REQUIRED}:
        return LoginRefused(_explain_login(status))
    if problem.type in UNREADABLE:
        return RequestRefused(f"The mail server cannot read our request ({problem.sentence}).")
    return MailServerConfused(f"The mail server answered HTTP {status}: {problem.sentence}")


def _busy(response: httpx.Response, sentence: str, *, reached: bool) -> MailServerUnavailable:
    return MailServerUnavailable(
        f"The mail server cannot answer now ({sentence})",
        retry_after=_retry_after(response.headers.get("Retry-After")),
        reached=reached,
    )


def _explain_login(status: int) -> str:
    return (
        f"The mail server does not accept our key (HTTP {status}). Check that "
        "AGENTMAIL_CP_STALWART_KEY is the key made by `agentmail-cp stalwart apply`, that it has "
        "neither expired nor been revoked, and that it may be used from this machine's address."
    )


def _problem(response: httpx.Response) -> _Problem:
    """The body as RFC 7807 problem details; empty when it is something else (a proxy's page)."""
    try:
        return msgspec.json.decode(response.content, type=_Problem)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _Problem()


def _retry_after(value: str | None) -> float:
    """Seconds of a Retry-After header: a number or a date (RFC 9110 section 10.2.3)."""
    if value is None:
        return DEFAULT_RETRY_AFTER
    if value.strip().isdecimal():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return DEFAULT_RETRY_AFTER
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
