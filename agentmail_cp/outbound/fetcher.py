"""One outbound request: name to judged addresses to connection to a bounded answer.

`Outbound` holds what requests share and is closed with the service. A connection serves one request:
kept for the next one, it would outlive the judgement of its address.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Sequence
from typing import Final, cast

import httpcore
import msgspec

from agentmail_cp import __version__, tls
from agentmail_cp.outbound.errors import OutboundError, Reason
from agentmail_cp.outbound.names import OWNER, PATIENCE, Names
from agentmail_cp.outbound.targets import Network, Target, permitted, target_of

USER_AGENT: Final = f"agentmail_cp/{__version__}"
CONNECT_TIMEOUT: Final = 5.0
"""Seconds for each address tried."""
IDLE_TIMEOUT: Final = 10.0
"""Seconds a peer may say or take nothing, unless a request says otherwise."""
CONNECTIONS: Final = 32
"""Requests under way at once in one process; more wait."""
RESOLVERS: Final = 8
"""Threads that resolve names: slow name servers of strangers must not hold up anybody's else work."""
MOST_ADDRESSES: Final = 4
"""Addresses of one name that are tried."""
FRAMING: Final = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "host",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that decide how a request is read: never the caller's."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Every address of a name, as text."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to ask. `most` is the largest answer in bytes, `seconds` the time for all of it, `idle` how many
    of them the peer may say or take nothing, `owner` whom it is for: names that nobody answers for are then
    in the way of that owner's other requests alone.
    """

    url: str
    most: int
    seconds: float
    idle: float = IDLE_TIMEOUT
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    content: bytes | None = None
    owner: str = ""


class Response:
    """An answer under way. Headers have lower-case names; of repeated ones the last counts."""

    def __init__(self, answer: httpcore.Response, most: int, deadline: float) -> None:
        self.status = answer.status
        self.headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in answer.headers
        }
        self._stream = answer.aiter_stream()
        self._most = most
        self._deadline = deadline

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300  # noqa: PLR2004

    async def chunks(self) -> AsyncGenerator[bytes]:
        """The body. Raises `OutboundError`, TOO_LARGE as soon as that is known."""
        announced = self.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self._most:
            raise _too_large(self._most)
        size = 0
        while chunk := await self._next():
            size += len(chunk)
            if size > self._most:
                raise _too_large(self._most)
            yield chunk

    async def beginning(self) -> bytes:
        """At most the first `most` bytes of the body; what follows is not read."""
        found = bytearray()
        while len(found) < self._most and (chunk := await self._next()):
            found += chunk
        return bytes(found[: self._most])

    async def _next(self) -> bytes:
        with _translated():
            async with asyncio.timeout_at(self._deadline):
                return await anext(self._stream, b"")


class Outbound:
    """Makes requests to tenants' URLs. `allowed` are networks the operator opened beyond the internet,
    `connections` the requests that may be under way at once, `resolvers` the names.

    `resolve` and `backend` are what names and connections come from; tests bring their own.
    """

    def __init__(
        self,
        allowed: Sequence[Network] = (),
        *,
        connections: int = CONNECTIONS,
        resolvers: int = RESOLVERS,
        resolve: Resolve | None = None,
        backend: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        self._names = Names(resolvers)
        self._connections = connections
        self._backend = _Judging(
            allowed, _timed(resolve) if resolve else self._names.resolve, backend or _real_backend()
        )
        self._pool: httpcore.AsyncConnectionPool | None = None

    @contextlib.asynccontextmanager
    async def open(self, request: Request) -> AsyncGenerator[Response]:
        """Send a request; its answer as soon as its headers are there, whatever its status.

        Raises `OutboundError`.
        """
        target = target_of(request.url)
        deadline = asyncio.get_running_loop().time() + request.seconds
        answer = await self._ask(request, target, deadline)
        try:
            yield Response(answer, request.most, deadline)
        finally:
            await answer.aclose()

    async def close(self) -> None:
        """End every request."""
        if self._pool is not None:
            await self._pool.aclose()
        self._names.close()

    async def _ask(self, request: Request, target: Target, deadline: float) -> httpcore.Response:
        asked = httpcore.Request(
            request.method,
            httpcore.URL(
                scheme=target.scheme,
                host=target.host,
                port=target.port,
                target=target.path,
            ),
            headers=_headers(request, target),
            content=request.content,
            extensions={
                "timeout": {
                    "connect": CONNECT_TIMEOUT,
                    "read": request.idle,
                    "write": request.idle,
                }
            },
        )
        OWNER.set(request.owner)
        with _translated():
            async with asyncio.timeout_at(deadline):
                return await self._opened().handle_async_request(asked)

    def _opened(self) -> httpcore.AsyncConnectionPool:
        """The pool, made for the first request: many a process never makes one."""
        if self._pool is None:
            self._pool = httpcore.AsyncConnectionPool(
                # Its own default would read all certificates for every connection.
                ssl_context=tls.context(),
                max_connections=self._connections,
                max_keepalive_connections=0,
                network_backend=self._backend,
            )
        return self._pool


class _Judging(httpcore.AsyncNetworkBackend):
    """Connects to names by way of judged addresses only: there is no second look-up to be fooled by."""

    def __init__(
        self, allowed: Sequence[Network], resolve: Resolve, inner: httpcore.AsyncNetworkBackend
    ) -> None:
        self._allowed = allowed
        self._resolve = resolve
        self._inner = inner

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  (httpcore's interface)
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        for address in (addresses := await self._judged(host, port))[:MOST_ADDRESSES]:
            try:
                return await self._inner.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if address == addresses[:MOST_ADDRESSES][-1]:
                    raise
        raise _not_allowed()

    async def _judged(self, host: str, port: int) -> Sequence[str]:
        """Every address of the name; raises when there is none, or one that must not be reached."""
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError):
            # TimeoutError is an OSError, as is what the resolver says of a name without an address.
            raise _not_allowed() from None
        if not all(permitted(address, self._allowed) for address in addresses):
            raise _not_allowed()
        return addresses


def _timed(resolve: Resolve) -> Resolve:
    async def timed(host: str, port: int) -> Sequence[str]:
        async with asyncio.timeout(PATIENCE):
            return await resolve(host, port)

    return timed


def _real_backend() -> httpcore.AsyncNetworkBackend:
    # httpcore does not say that its own backends are ones.
    return cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())


def _headers(request: Request, target: Target) -> list[tuple[bytes, bytes]]:
    own = [(name, value) for name, value in request.headers if name.lower() not in FRAMING]
    if not any(name.lower() == "user-agent" for name, _ in own):
        own.append(("User-Agent", USER_AGENT))
    framing = [("Host", target.authority), ("Accept-Encoding", "identity")]
    if request.content is not None:
        framing.append(("Content-Length", str(len(request.content))))
    return [(name.encode("ascii"), value.encode("latin-1")) for name, value in (*framing, *own)]


@contextlib.contextmanager
def _translated() -> Generator[None]:
    """Turn what httpcore raises into our own error, without a word about the network."""
    try:
        yield
    except (TimeoutError, httpcore.TimeoutException):
        raise OutboundError(Reason.TIMEOUT, "It did not answer in time.") from None
    except httpcore.ConnectError as error:
        if _is_about_tls(error):
            text = "Its TLS certificate is not valid for this name."
            raise OutboundError(Reason.TLS, text) from None
        raise OutboundError(Reason.UNREACHABLE, "It cannot be reached.") from None
    except (httpcore.NetworkError, httpcore.ProtocolError):
        text = "It broke off, or does not speak HTTP."
        raise OutboundError(Reason.BROKEN, text) from None


def _is_about_tls(error: BaseException | None) -> bool:
    """What the TLS layer said is wrapped by anyio and again by httpcore."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _not_allowed() -> OutboundError:
    text = "Its host has no address on the internet, or one that may not be fetched from here."
    return OutboundError(Reason.NOT_ALLOWED, text)


def _too_large(most: int) -> OutboundError:
    return OutboundError(Reason.TOO_LARGE, f"It is larger than {most} bytes.")
