"""Everything that can go wrong between us and Stalwart, and which of the three errors it becomes."""

from __future__ import annotations

import asyncio
import gc
import re
import time
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, cast

import httpx
import msgspec
import pytest
import pytest_asyncio
import respx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentmail_cp.mailserver import (
    MailServerConfused,
    MailServerError,
    MailServerRejected,
    MailServerUnavailable,
    Refusal,
)
from agentmail_cp.stalwart.calls import Call, MethodError
from agentmail_cp.stalwart.jmap import (
    DEFAULT_RETRY_AFTER,
    JmapClient,
    Limits,
    LoginRefused,
    RequestRefused,
    basic,
    bearer,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

BASE = "http://stalwart.test"
KEY = "API_very-secret"
ECHO = Call("Core/echo", {"to": "ada@agents.test"}, "0")
ECHOED = {"methodResponses": [["Core/echo", {"to": "ada@agents.test"}, "0"]]}
SESSION = {
    "capabilities": {
        "urn:ietf:params:jmap:core": {
            "maxCallsInRequest": 4,
            "maxObjectsInGet": 10,
            "maxObjectsInSet": 10,
            "maxSizeRequest": 1000,
            "maxSizeUpload": 20,
        }
    }
}


@pytest_asyncio.fixture
async def client() -> AsyncGenerator[JmapClient]:
    made = JmapClient(BASE + "/", bearer(KEY))
    yield made
    await made.close()


async def failure(doing: Awaitable[object]) -> MailServerError:
    with pytest.raises(MailServerError) as caught:
        await doing
    assert KEY not in str(caught.value)
    assert "ada@agents.test" not in str(caught.value)
    return caught.value


@respx.mock
async def test_one_request_carries_the_calls_and_the_key(client: JmapClient) -> None:
    route = respx.post(f"{BASE}/jmap/").respond(json=ECHOED)
    answers = await client.call(ECHO)
    assert answers["0"].into(dict[str, str]) == {"to": "ada@agents.test"}
    request = route.calls.last.request
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    sent = msgspec.json.decode(request.content)
    assert sent["methodCalls"] == [["Core/echo", {"to": "ada@agents.test"}, "0"]]
    assert "urn:ietf:params:jmap:submission" in sent["using"]


def test_a_login_is_sent_as_basic() -> None:
    assert basic("root", "ü:x") == "Basic cm9vdDrDvDp4"


@respx.mock
@pytest.mark.parametrize(
    ("problem", "reached"),
    [
        (httpx.ConnectError, False),
        (httpx.ConnectTimeout, False),
        (httpx.PoolTimeout, False),
        (httpx.WriteTimeout, True),
        (httpx.WriteError, True),
        (httpx.ReadTimeout, True),
        (httpx.ReadError, True),
        (httpx.RemoteProtocolError, True),
    ],
)
async def test_a_write_may_have_happened_once_a_byte_was_sent(
    client: JmapClient, problem: type[httpx.TransportError], *, reached: bool
) -> None:
    """A send that was never sent may be repeated; one that may have been must be looked up."""
    route = respx.post(f"{BASE}/jmap/").mock(side_effect=problem(f"at {KEY}"))
    error = await failure(client.call(ECHO))
    assert isinstance(error, MailServerUnavailable)
    assert error.reached is reached
    assert route.call_count == 1


@respx.mock
@pytest.mark.parametrize(
    ("status", "headers", "retry_after", "reached"),
    [
        (429, {"Retry-After": "7"}, 7.0, False),
        (500, {}, DEFAULT_RETRY_AFTER, True),
        (502, {}, DEFAULT_RETRY_AFTER, True),
        (503, {"Retry-After": "nonsense"}, DEFAULT_RETRY_AFTER, True),
        (504, {"Retry-After": "0"}, 0.0, True),
    ],
)
async def test_a_busy_server_is_unavailable(
    client: JmapClient, status: int, headers: dict[str, str], retry_after: float, *, reached: bool
) -> None:
    respx.post(f"{BASE}/jmap/").respond(status, headers=headers, text="<html>")
    error = await failure(client.call(ECHO))
    assert isinstance(error, MailServerUnavailable)
    assert (error.retry_after, error.reached) == (retry_after, reached)


@respx.mock
async def test_a_date_says_when_to_come_back(client: JmapClient) -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    respx.post(f"{BASE}/jmap/").respond(503, headers={"Retry-After": when})
    error = await failure(client.call(ECHO))
    assert isinstance(error, MailServerUnavailable)
    assert 50 < error.retry_after <= 60


def limit(name: str) -> dict[str, Any]:
    """As Stalwart 0.16.18 answers, seen at a limit of each kind."""
    return {
        "type": "urn:ietf:params:jmap:error:limit",
        "status": 400,
        "detail": "The request exceeds the maximum number of concurrent requests.",
        "limit": name,
    }


@respx.mock
@pytest.mark.parametrize("name", ["maxConcurrentRequests", "maxConcurrentUpload"])
async def test_too_many_at_once_is_unavailable_and_nothing_happened(
    client: JmapClient, name: str
) -> None:
    respx.post(f"{BASE}/jmap/").respond(400, json=limit(name))
    error = await failure(client.call(ECHO))
    assert isinstance(error, MailServerUnavailable)
    assert not error.reached


@respx.mock
@pytest.mark.parametrize(
    ("status", "body"), [(400, limit("maxSizeRequest")), (400, limit("maxSizeUpload")), (413, {})]
)
async def test_too_big_is_rejected(client: JmapClient, status: int, body: object) -> None:
    respx.post(f"{BASE}/jmap/").respond(status, json=body)
    error = await failure(client.call(ECHO))
    assert isinstance(error, MailServerRejected)
    assert error.code == Refusal.TOO_LARGE


@respx.mock
@pytest.mark.parametrize("status", [401, 402, 403])
async def test_a_refused_key_says_what_to_check(client: JmapClient, status: int) -> None:
    respx.post(f"{BASE}/jmap/").respond(status, json={"type": "about:blank", "status": status})
    error = await failure(client.call(ECHO, repeat=True))
    assert isinstance(error, LoginRefused)
    assert "AGENTMAIL_CP_STALWART_KEY" in str(error)


@respx.mock
async def test_a_request_that_stalwart_echoes_is_not_in_the_error(client: JmapClient) -> None:
    """Stalwart puts the whole request, with the mail in it, into `detail`; errors are logged."""
    body = {
        "type": "urn:ietf:params:jmap:error:notRequest",
        "status": 400,
        "detail": '{"to": "ada@agents.test"}',
    }
    respx.post(f"{BASE}/jmap/").respond(400, json=body)
    assert isinstance(await failure(client.call(ECHO)), RequestRefused)


@respx.mock
@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={}),
        httpx.Response(200, json={"methodResponses": [["Core/echo", {}]]}),
        httpx.Response(200, json={"methodResponses": []}),
        httpx.Response(200, json={"methodResponses": [["Core/echo", {}, "another"]]}),
        httpx.Response(200, content=b'{"methodResponses": [["\xff", {}, "0"]]}'),
        httpx.Response(302, headers={"Location": "http://elsewhere.test/"}),
        httpx.Response(404, text="not here"),
        httpx.Response(204),
    ],
)
async def test_an_answer_that_makes_no_sense_is_confusing(
    client: JmapClient, answer: httpx.Response
) -> None:
    respx.post(f"{BASE}/jmap/").mock(return_value=answer)
    assert type(await failure(client.call(ECHO))) is MailServerConfused


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(status=st.integers(200, 599), body=st.binary(max_size=60))
async def test_no_answer_ends_in_any_other_error(
    client: JmapClient, status: int, body: bytes
) -> None:
    with respx.mock:
        respx.post(f"{BASE}/jmap/").respond(status, content=body)
        with pytest.raises(MailServerError):
            await client.call(ECHO)


def method_error(kind: str) -> dict[str, Any]:
    return {"methodResponses": [["error", {"type": kind, "description": "because"}, "0"]]}


@respx.mock
@pytest.mark.parametrize("kind", ["serverUnavailable", "serverFail", "serverPartialFail"])
async def test_a_method_that_fails_for_now_may_have_been_carried_out(
    client: JmapClient, kind: str
) -> None:
    respx.post(f"{BASE}/jmap/").respond(json=method_error(kind))
    error = (await client.call(ECHO))["0"].error
    assert isinstance(error, MailServerUnavailable)
    assert error.reached


@respx.mock
async def test_a_missing_account_is_a_refusal(client: JmapClient) -> None:
    respx.post(f"{BASE}/jmap/").respond(json=method_error("accountNotFound"))
    error = (await client.call(ECHO))["0"].error
    assert isinstance(error, MailServerRejected)
    assert error.code == Refusal.NO_ACCOUNT


@respx.mock
async def test_a_missing_permission_says_what_to_run(client: JmapClient) -> None:
    respx.post(f"{BASE}/jmap/").respond(json=method_error("forbidden"))
    error = (await client.call(ECHO))["0"].error
    assert isinstance(error, MailServerConfused)
    assert "agentmail-cp stalwart apply" in str(error)


@respx.mock
async def test_any_other_method_error_carries_its_type(client: JmapClient) -> None:
    respx.post(f"{BASE}/jmap/").respond(json=method_error("cannotCalculateChanges"))
    answer = (await client.call(ECHO))["0"]
    with pytest.raises(
        MethodError, match="Core/echo answered cannotCalculateChanges: because"
    ) as e:
        answer.into(dict[str, Any])
    assert e.value.type == "cannotCalculateChanges"


@respx.mock
async def test_an_answer_of_another_shape_is_confusing(client: JmapClient) -> None:
    respx.post(f"{BASE}/jmap/").respond(json=ECHOED)
    answer = (await client.call(ECHO))["0"]
    with pytest.raises(MailServerConfused, match="Core/echo answered something unknown"):
        answer.into(dict[str, int])


@respx.mock
async def test_a_second_answer_under_one_tag_follows_the_first(client: JmapClient) -> None:
    """RFC 8621 section 7.5: the move to Sent answers under the submission's tag."""
    both: list[Any] = [["EmailSubmission/set", {}, "0"], ["Email/set", {"updated": {}}, "0"]]
    respx.post(f"{BASE}/jmap/").respond(json={"methodResponses": both})
    answer = (await client.call(ECHO))["0"]
    assert answer.name == "EmailSubmission/set"
    assert [follower.name for follower in answer.followers] == ["Email/set"]


@respx.mock
async def test_a_read_is_repeated_until_the_server_is_back(client: JmapClient) -> None:
    gone = httpx.ConnectError("")
    route = respx.post(f"{BASE}/jmap/").mock(
        side_effect=[gone, httpx.Response(503), httpx.Response(200, json=ECHOED)]
    )
    assert (await client.call(ECHO, repeat=True))["0"].name == "Core/echo"
    assert route.call_count == 3


@respx.mock
@pytest.mark.parametrize("kind", ["serverUnavailable", "serverFail", "serverPartialFail"])
async def test_a_read_is_repeated_when_one_of_its_calls_fails_for_now(
    client: JmapClient, kind: str
) -> None:
    """Stalwart answers so, with HTTP 200, while its store is away for a moment."""
    route = respx.post(f"{BASE}/jmap/").mock(
        side_effect=[
            httpx.Response(200, json=method_error(kind)),
            httpx.Response(503),
            httpx.Response(200, json=ECHOED),
        ]
    )
    assert (await client.call(ECHO, repeat=True))["0"].error is None
    assert route.call_count == 3


@respx.mock
async def test_a_call_that_keeps_failing_leaves_the_others_their_answers(
    client: JmapClient,
) -> None:
    """One account's trouble must not become everybody's."""
    (failed,) = method_error("serverUnavailable")["methodResponses"]
    both: list[Any] = [failed, ["Core/echo", {}, "1"]]
    route = respx.post(f"{BASE}/jmap/").respond(json={"methodResponses": both})
    answers = await client.call(ECHO, Call("Core/echo", {}, "1"), repeat=True)
    assert isinstance(answers["0"].error, MailServerUnavailable)
    assert answers["1"].error is None
    assert route.call_count == 3


@respx.mock
@pytest.mark.parametrize(
    ("kind", "repeat"), [("serverUnavailable", False), ("invalidArguments", True)]
)
async def test_writes_and_lasting_refusals_are_asked_once(
    client: JmapClient, kind: str, *, repeat: bool
) -> None:
    route = respx.post(f"{BASE}/jmap/").respond(json=method_error(kind))
    assert (await client.call(ECHO, repeat=repeat))["0"].error is not None
    assert route.call_count == 1


@respx.mock
async def test_a_read_gives_up_soon(client: JmapClient) -> None:
    route = respx.post(f"{BASE}/jmap/").respond(503)
    assert isinstance(await failure(client.call(ECHO, repeat=True)), MailServerUnavailable)
    assert route.call_count == 3


@respx.mock
@pytest.mark.parametrize("status", [400, 401, 404])
async def test_what_will_not_get_better_is_not_repeated(client: JmapClient, status: int) -> None:
    route = respx.post(f"{BASE}/jmap/").respond(status)
    await failure(client.call(ECHO, repeat=True))
    assert route.call_count == 1


@respx.mock
async def test_a_server_that_asks_for_a_long_pause_is_left_alone(client: JmapClient) -> None:
    route = respx.post(f"{BASE}/jmap/").respond(429, headers={"Retry-After": "60"})
    await failure(client.call(ECHO, repeat=True))
    assert route.call_count == 1


def echo_all(request: httpx.Request) -> httpx.Response:
    calls = msgspec.json.decode(request.content)["methodCalls"]
    return httpx.Response(200, json={"methodResponses": calls})


@respx.mock
async def test_reads_are_split_within_the_servers_limit_and_groups_stay_whole(
    client: JmapClient,
) -> None:
    respx.get(f"{BASE}/jmap/session").respond(json=SESSION)
    route = respx.post(f"{BASE}/jmap/").mock(side_effect=echo_all)
    groups = [[Call("Core/echo", {}, f"{n}{part}") for part in "abc"] for n in range(5)]
    answers = await client.call_many(groups)
    assert set(answers) == {call.tag for group in groups for call in group}
    calls = cast("list[respx.models.Call]", list(route.calls))
    requests = [msgspec.json.decode(call.request.content) for call in calls]
    assert [len(request["methodCalls"]) for request in requests] == [3, 3, 3, 3, 3]
    assert all(len({c[2][0] for c in request["methodCalls"]}) == 1 for request in requests)


@respx.mock
async def test_nothing_asked_is_nothing_sent(client: JmapClient) -> None:
    respx.get(f"{BASE}/jmap/session").respond(json=SESSION)
    assert await client.call_many([]) == {}


@respx.mock
async def test_one_failed_part_fails_the_whole_read(client: JmapClient) -> None:
    respx.get(f"{BASE}/jmap/session").respond(json=SESSION)
    respx.post(f"{BASE}/jmap/").respond(401)
    groups = [[Call("Core/echo", {}, str(number))] for number in range(9)]
    assert isinstance(await failure(client.call_many(groups)), LoginRefused)


@respx.mock
async def test_limits_are_asked_for_once_and_again_when_they_shrank(client: JmapClient) -> None:
    session = respx.get(f"{BASE}/jmap/session").respond(json=SESSION)
    respx.post(f"{BASE}/jmap/").respond(400, json=limit("maxCallsInRequest"))
    assert (await client.limits()).max_calls_in_request == 4
    await client.limits()
    assert session.call_count == 1
    assert isinstance(await failure(client.call(ECHO)), MailServerConfused)
    await client.limits()
    assert session.call_count == 2


async def chunks(*sizes: int) -> AsyncGenerator[bytes]:
    for size in sizes:
        yield b"x" * size


@respx.mock
@pytest.mark.parametrize("make", [lambda: b"x" * 21, lambda: chunks(10, 10, 1)])
async def test_too_large_an_upload_is_refused_before_it_is_whole(
    client: JmapClient, make: Callable[[], Any]
) -> None:
    respx.get(f"{BASE}/jmap/session").respond(json=SESSION)
    respx.post(f"{BASE}/jmap/upload/b/").respond(json={"blobId": "c", "size": 21})
    error = await failure(client.upload("b", make(), "text/plain"))
    assert isinstance(error, MailServerRejected)
    assert error.code == Refusal.TOO_LARGE


@respx.mock
async def test_an_upload_of_just_the_limit_is_fine(client: JmapClient) -> None:
    respx.get(f"{BASE}/jmap/session").respond(json=SESSION)
    route = respx.post(f"{BASE}/jmap/upload/b/").respond(json={"blobId": "c", "size": 20})
    assert (await client.upload("b", chunks(10, 10), "text/plain")).blob_id == "c"
    assert route.calls.last.request.headers["Content-Type"] == "text/plain"


@respx.mock
@pytest.mark.parametrize(
    ("start", "stop", "wanted"),
    [(0, None, b"0123456789"), (2, 7, b"23456"), (0, 0, b""), (9, 99, b"9"), (10, None, b"")],
)
async def test_a_download_gives_just_the_window(
    client: JmapClient, start: int, stop: int | None, wanted: bytes
) -> None:
    respx.get(url__startswith=f"{BASE}/jmap/download/b/c/blob").respond(content=b"0123456789")
    assert b"".join([chunk async for chunk in client.download("b", "c", start, stop)]) == wanted


@respx.mock
@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, MailServerRejected), (401, LoginRefused), (503, MailServerUnavailable)],
)
async def test_a_download_fails_with_the_ports_errors(
    client: JmapClient, status: int, kind: type[MailServerError]
) -> None:
    respx.get(url__startswith=f"{BASE}/jmap/download/b/c/blob").respond(status)
    assert type(await failure(anext(client.download("b", "c")))) is kind


@respx.mock
async def test_a_blob_id_cannot_leave_its_place_in_the_url(client: JmapClient) -> None:
    route = respx.get(url__startswith=f"{BASE}/jmap/download/").respond(404)
    await failure(anext(client.download("b", "../../api/account?")))
    path = route.calls.last.request.url.raw_path.decode()
    assert path.startswith("/jmap/download/b/..%2F..%2Fapi%2Faccount%3F/blob?")


@asynccontextmanager
async def listening(talk: Talk) -> AsyncGenerator[str]:
    """A server on loopback that treats each connection so."""
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await talk(reader, writer)
        except (asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def silence(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer every call after a moment; stream without end to whoever downloads."""
    while head := await reader.readuntil(b"\r\n\r\n"):
        if head.startswith(b"GET"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
        length = next(
            line for line in head.split(b"\r\n") if line.lower().startswith(b"content-len")
        )
        await reader.readexactly(int(length.partition(b":")[2]))
        await asyncio.sleep(0.02)
        body = msgspec.json.encode(ECHOED)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def impatient(url: str) -> JmapClient:
    return JmapClient(url, bearer(KEY), connections=1, connect_timeout=0.2, timeout=1.0)


async def test_a_full_pool_is_unavailable_and_nothing_was_sent() -> None:
    async with listening(silence) as url:
        client = impatient(url)
        first = asyncio.create_task(client.call(ECHO))
        await asyncio.sleep(0.05)
        error = await failure(client.call(ECHO))
        assert isinstance(error, MailServerUnavailable)
        assert not error.reached
        late = await failure(first)
        assert isinstance(late, MailServerUnavailable)
        assert late.reached
        await client.close()


async def test_a_silent_server_is_given_up_in_time() -> None:
    async with listening(silence) as url:
        client = impatient(url)
        started = time.monotonic()
        await failure(client.call(ECHO, repeat=True))
        assert time.monotonic() - started < 2
        await client.close()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
async def test_cancelled_calls_give_their_connections_back() -> None:
    # asyncio (3.11) forgets a connection whose opening is cancelled as it completes; the collector closes it.
    async with listening(answering) as url:
        client = impatient(url)
        for pause in (0.0, 0.001, 0.005, 0.01, 0.015, 0.02, 0.03):
            task = asyncio.create_task(client.call(ECHO))
            await asyncio.sleep(pause)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert (await client.call(ECHO))["0"].name == "Core/echo"
        await client.close()
    gc.collect()


async def test_a_download_that_is_left_early_gives_its_connection_back() -> None:
    async with listening(answering) as url:
        client = impatient(url)
        for _ in range(3):
            async with aclosing(client.download("b", "c")) as download:
                assert await anext(download)
        await client.close()


async def test_streams_that_go_on_for_long_leave_the_connections_of_calls_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A slow reader and a slow source each hold one, for as long as strangers please."""

    async def slow() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(60)

    async with listening(answering) as url:
        client = impatient(url)
        monkeypatch.setattr(client, "_limits", Limits())
        async with aclosing(client.download("b", "c")) as download:
            assert await anext(download)
            upload = asyncio.create_task(client.upload("b", slow(), "text/plain"))
            await asyncio.sleep(0.05)
            assert (await client.call(ECHO))["0"].name == "Core/echo"
            upload.cancel()
            await asyncio.gather(upload, return_exceptions=True)
        await client.close()


async def test_large_writes_go_one_after_the_other_and_hold_up_no_small_ones() -> None:
    """Two mails of 25 MB at once would leave a small Stalwart without a thread to answer with."""
    under_way = most = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal under_way, most
        while head := await reader.readuntil(b"\r\n\r\n"):
            found = re.search(rb"content-length: (\d+)", head.lower())
            await reader.readexactly(int(found[1]) if found else 0)
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.05)
            under_way -= 1
            body = msgspec.json.encode(ECHOED)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    async with listening(count) as url:
        client = JmapClient(url, bearer(KEY), connect_timeout=2.0, timeout=2.0)
        await asyncio.gather(*(client.call(ECHO, slack=5.0) for _ in range(3)))
        assert most == 1
        await asyncio.gather(client.call(ECHO, slack=5.0), client.call(ECHO), client.call(ECHO))
        assert most == 3
        await client.close()


async def test_slack_lets_a_late_answer_in() -> None:
    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        await asyncio.sleep(0.4)
        body = msgspec.json.encode(ECHOED)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    async with listening(late) as url:
        client = JmapClient(url, bearer(KEY), timeout=0.1)
        assert isinstance(await failure(client.call(ECHO)), MailServerUnavailable)
        assert (await client.call(ECHO, slack=2.0))["0"].name == "Core/echo"
        await client.close()
