"""The id an answer carries leads to what the log has of its request, and to nothing anybody wrote."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import pytest
import structlog
from structlog.testing import capture_logs

from agentmail_cp import inboxes
from agentmail_cp.sandbox import MailSandbox
from agentmail_cp.sandbox.faults import Faults
from tests.api.faults import fault
from tests.fix_app import Service

MERGED = [structlog.contextvars.merge_contextvars]
ROUTE = "/v0/inboxes/{inbox_id}"


def unheard_of(*_: object, **__: object) -> Any:
    raise RuntimeError("unheard of")


async def test_a_failed_request_is_found_in_the_log_by_the_id_its_caller_quotes(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller is told to quote the id, and the operator would find neither it nor what was asked for."""
    inbox = await service.inbox("ada")
    monkeypatch.setattr(inboxes, "get", unheard_of)
    path = f"/v0/inboxes/{inbox['inbox_id']}"
    with capture_logs(MERGED) as lines:
        both = await asyncio.gather(
            service.client.get(path, params={"q": "canary"}), service.client.get(path)
        )
    logged = [each for each in lines if each["event"] == "request.failed"]
    told = {fault(each, 500)["request_id"] for each in both}
    assert len(told) == 2
    assert {each["request_id"] for each in logged} == told
    assert {(each["method"], each["route"]) for each in logged} == {("GET", ROUTE)}
    assert "ada" not in repr([{**each, "exc_info": None} for each in logged])
    assert "canary" not in repr(logged)


async def test_an_answer_of_the_mail_server_that_makes_no_sense_is_found_by_it(
    service: Service,
) -> None:
    inbox = await service.inbox("ada")
    sent = await service.send(inbox, to="a@b.test", text="x")
    id_ = quote(sent["message_id"], safe="")
    assert isinstance(service.server, MailSandbox)
    service.server.faults = Faults(confused=True)
    with capture_logs(MERGED) as lines:
        answer = await service.client.get(f"/v0/inboxes/{inbox['inbox_id']}/messages/{id_}")
    told = fault(answer, 503)["request_id"]
    logged = [each for each in lines if each["event"] == "mail_server.confused"]
    assert [(each["request_id"], each["method"], each["route"]) for each in logged] == [
        (told, "GET", f"{ROUTE}/messages/{{message_id}}")
    ]
