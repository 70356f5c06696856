"""What the doctor makes of the names of addresses, and of DNS that says nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from agentmail_cp.doctor import Patient, names
from agentmail_cp.doctor.checking import Finding
from agentmail_cp.domains.answers import Answer, Question
from agentmail_cp.domains.judging import Finding as Seen
from agentmail_cp.settings import Settings

HOST = "mail.example.com"
REVERSE = "8.8.8.8.in-addr.arpa/PTR"
Table = Mapping[str, Sequence[str]]


class Resolver:
    """Answers from a table by `name/TYPE`; what is not there does not exist."""

    def __init__(self, table: Table, problem: str | None = None) -> None:
        self._table = table
        self._problem = problem

    async def resolve(self, question: Question) -> Answer:
        if self._problem and question.type == "PTR":
            return Answer(problem=self._problem)
        return Answer(values=tuple(self._table.get(f"{question.name}/{question.type}", ())))


async def looked_up(
    monkeypatch: pytest.MonkeyPatch,
    table: Table,
    *,
    problem: str | None = None,
    host: str = HOST,
) -> Finding:
    """What `reverse_dns` finds where DNS says this."""

    def resolver(_: object) -> Any:
        return Resolver(table, problem)

    monkeypatch.setattr(names, "_resolver", resolver)
    settings = Settings(database_url="postgresql://db", sending_host=host, mail_host=host)
    patient = Patient(lambda: settings)
    patient.settings = settings
    return await names.reverse_dns(patient)


@pytest.mark.parametrize(
    ("table", "status", "word"),
    [
        ({f"{HOST}/A": ["8.8.8.8"], REVERSE: [HOST]}, "ok", "every address"),
        ({f"{HOST}/A": ["8.8.8.8"]}, "warning", "8.8.8.8 of mail.example.com has no name"),
        (
            {f"{HOST}/A": ["8.8.8.8"], REVERSE: ["dns.google"]},
            "warning",
            "called dns.google, which does not lead back",
        ),
        (
            {f"{HOST}/A": ["8.8.8.8"], REVERSE: ["dns.google"], "dns.google/A": ["8.8.8.8"]},
            "warning",
            "called dns.google, and not mail.example.com",
        ),
        ({}, "warning", "mail.example.com has no address in DNS"),
        ({f"{HOST}/A": ["10.0.0.1"]}, "skipped", "no address that the internet can reach"),
    ],
)
async def test_an_address_has_a_name_that_leads_back_to_it(
    monkeypatch: pytest.MonkeyPatch, table: Table, status: str, word: str
) -> None:
    found = await looked_up(monkeypatch, table)
    assert (found.status, word in found.seen) == (status, True), found


async def test_dns_that_does_not_answer_is_no_verdict_on_a_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = await looked_up(monkeypatch, {f"{HOST}/A": ["8.8.8.8"]}, problem="no answer")
    assert (found.status, found.seen) == ("warning", "8.8.8.8: no answer")


async def test_a_name_of_no_dns_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    found = await looked_up(monkeypatch, {}, host="mail.agents.test")
    assert found.status == "skipped"


async def test_nobody_is_knocked_at_to_try_port_25() -> None:
    settings = Settings(database_url="postgresql://db", mail_host=HOST)
    patient = Patient(lambda: settings)
    patient.settings = settings
    found = await names.port_25(patient)
    assert (found.status, "nc -vz" in found.seen) == ("skipped", True)


def test_the_services_own_domain_needs_no_proof() -> None:
    """Its MX, SPF and DMARC are the operator's to publish."""
    settings = Settings(database_url="postgresql://db", domain="agents.example.com")
    required = [each for each in names.own_records(settings) if each.required]
    assert {each.key.partition("-")[0] for each in required} == {"mx", "spf", "dmarc"}


def test_only_what_a_domain_must_have_is_trouble() -> None:
    settings = Settings(database_url="postgresql://db", domain="agents.example.com")
    records = names.own_records(settings)
    seen = {each.key: Seen(status="MISSING", reason="not there") for each in records}
    found = names.troubles_of("agents.example.com", records, seen)
    assert len(found) == sum(each.required for each in records) < len(records)
    assert all(each.known and "not there" in each.reason for each in found)
