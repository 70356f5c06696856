"""The doctor's own rules: what is skipped and why, what numbers mean, what people and machines are shown."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agentmail_cp import cli, doctor
from agentmail_cp.doctor import Check, Finding, Space, Status, checking, consulting, report
from agentmail_cp.doctor.checking import failed, ok, skipped, warning
from agentmail_cp.doctor.doors import judge_certificates
from agentmail_cp.doctor.installation import GIB, judge_clock, judge_space
from agentmail_cp.doctor.names import Trouble, judge_domains
from agentmail_cp.doctor.probes import Door, Sight
from agentmail_cp.doctor.service import Waits, judge_queues
from agentmail_cp.settings import Settings
from tests.certificates import Authority, Pair

Look = Callable[[list[str]], Awaitable[Finding]]


def check(
    name: str, finding: Finding, *, needs: tuple[str, ...] = (), blames: tuple[str, ...] = ()
) -> Check[list[str]]:
    """A check that finds this, and notes that it was made."""

    async def look(made: list[str]) -> Finding:
        made.append(name)
        return finding

    look.__name__ = name
    return Check(look, needs=needs, blames=blames)


async def examined(*checks: Check[list[str]]) -> tuple[dict[str, Finding], list[str]]:
    made: list[str] = []
    return await doctor.examine(made, checks), made


BAD = failed("it is broken", "Mend it.")


async def test_what_needs_a_check_that_failed_is_skipped_and_names_the_first_cause() -> None:
    """PostgreSQL down must not end in a wall of errors."""
    found, made = await examined(
        check("a", BAD),
        check("b", ok("fine"), needs=("a",)),
        check("c", ok("fine"), needs=("b",)),
        check("d", ok("fine")),
    )
    assert made == ["a", "d"]
    assert found["c"] == Finding(Status.SKIPPED, "skipped because a failed", because="a")
    assert found["d"].status is Status.OK


async def test_a_check_with_nothing_to_look_at_holds_nobody_up() -> None:
    found, _ = await examined(check("a", skipped("not here")), check("b", ok("x"), needs=("a",)))
    assert found["b"] == ok("x")


async def test_a_failure_another_may_have_caused_is_not_named_as_a_second_cause() -> None:
    found, _ = await examined(check("a", BAD), check("b", BAD, blames=("a",)))
    assert (found["b"].status, found["b"].because) == (Status.SKIPPED, "a")
    assert found["b"].seen.endswith("it is broken")
    found, _ = await examined(check("a", BAD), check("b", ok("fine"), blames=("a",)))
    assert found["b"] == ok("fine")
    found, _ = await examined(check("a", ok("fine")), check("b", BAD, blames=("a",)))
    assert found["b"] == BAD


async def test_a_check_has_its_own_time_and_ends_no_other() -> None:
    async def hangs(_: list[str]) -> Finding:
        await asyncio.Event().wait()
        return ok("never")

    async def breaks(_: list[str]) -> Finding:
        raise LookupError("oh")

    found, _ = await examined(Check(hangs, seconds=0.01), Check(breaks), check("fine", ok("fine")))
    assert "no answer within 0.01 s" in found["hangs"].seen
    assert "LookupError: oh" in found["breaks"].seen
    assert found["fine"] == ok("fine")


async def test_independent_checks_are_made_beside_each_other() -> None:
    met = asyncio.Barrier(2)

    async def one(_: list[str]) -> Finding:
        await met.wait()
        return ok("met")

    async def other(_: list[str]) -> Finding:
        await met.wait()
        return ok("met")

    found, _ = await examined(Check(one), Check(other))
    assert found == {"one": ok("met"), "other": ok("met")}


def test_a_chosen_check_brings_what_it_needs_and_what_has_to_follow() -> None:
    """An inbox that was made is removed again, whatever was asked for."""
    names = [each.name for each in doctor.chosen(doctor.CHECKS, ["hidden_inbox"])]
    assert names == [
        *("settings", "postgresql", "migrations", "stalwart", "permissions"),
        *("hidden_inbox", "removal"),
    ]
    assert doctor.chosen(doctor.CHECKS, []) == list(doctor.CHECKS)


def test_checks_come_behind_those_they_wait_for() -> None:
    """A name that stands further down, or nowhere, would be waited for in vain or not at all."""
    before: set[str] = set()
    for each in doctor.CHECKS:
        assert set(each.waits_for) <= before, each.name
        before.add(each.name)
        assert not set(each.then) & before


@pytest.mark.parametrize("name", [each.name for each in doctor.CHECKS])
def test_every_check_says_what_it_looks_at(name: str) -> None:
    shown = CliRunner().invoke(cli.main, ["doctor", "--explain", name])
    assert shown.exit_code == 0
    assert len(shown.output) > 100
    assert shown.output.startswith(name)


def test_a_check_that_does_not_exist_is_a_mistake_of_usage() -> None:
    shown = CliRunner().invoke(cli.main, ["doctor", "--only", "nonsense"])
    assert shown.exit_code == 2
    assert "certificates" in shown.output


def test_settings_that_cannot_be_read_are_told_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As JSON for a machine, and with the exit status of a failure."""
    monkeypatch.setenv("AGENTMAIL_CP_DATABASE_URL", "mysql://elsewhere")
    monkeypatch.setattr(consulting, "_be_quiet", lambda: None)
    shown = CliRunner().invoke(cli.main, ["doctor", "--json"])
    assert shown.exit_code == 1
    told = json.loads(shown.output)
    assert told["ok"] is False
    assert [each["name"] for each in told["checks"] if each["status"] == "failed"] == ["settings"]
    assert {each["because"] for each in told["checks"][1:]} == {"settings"}


def test_a_row_says_what_to_do_and_has_colours_on_a_terminal_only() -> None:
    row = report.line("drift", failed("1 difference\nImap x: 1 -> 2", "Apply."), width=80)
    assert click.unstyle(row).splitlines() == [
        "failed   drift         1 difference",
        "                       Imap x: 1 -> 2",
        "                       -> Apply.",
    ]
    assert row != click.unstyle(row)


def test_the_summary_counts() -> None:
    findings = {"a": ok("x"), "b": warning("x", "y"), "c": BAD, "d": ok("x")}
    assert report.summary(findings, 1.26) == "2 ok, 1 warning, 1 failed in 1.3 s"


NOW = datetime.now(UTC)
AUTHORITY = Authority()
DOOR = Door("imap", "mail.agents.test", 993, "imap", "implicit")


def judged(pair: Pair, *, trusted: bool = True, dev: bool = False) -> Finding:
    shown = x509.load_pem_x509_certificate(pair.chain.encode()).public_bytes(Encoding.DER)
    return judge_certificates({DOOR: Sight(certificate=shown, trusted=trusted)}, NOW, dev=dev)


@pytest.mark.parametrize(
    ("names", "days", "status", "word"),
    [
        (["mail.agents.test"], 90, "ok", "valid until"),
        (["*.agents.test"], 90, "ok", "valid until"),
        (["agents.test"], 90, "failed", "clients ask for mail.agents.test"),
        (["*.test"], 90, "failed", "clients ask for"),
        (["mail.agents.test"], 20, "warning", "expires on"),
        (["mail.agents.test"], -1, "failed", "expired on"),
    ],
)
def test_a_certificate_is_judged_by_its_end_and_its_names(
    names: list[str], days: int, status: str, word: str
) -> None:
    found = judged(AUTHORITY.sign(*names, left=timedelta(days=days)))
    assert (found.status, word in found.seen) == (status, True)


@pytest.mark.parametrize("trusted", [True, False])
def test_a_certificate_of_tomorrow_is_no_good_today(trusted: bool) -> None:
    """Every mail client refuses it, and the doctor would say that all is well."""
    pair = AUTHORITY.sign("mail.agents.test", age=timedelta(days=-30))
    found = judged(pair, trusted=trusted)
    assert found.status is Status.FAILED
    assert f"not valid before {NOW + timedelta(days=30):%Y-%m-%d}" in found.seen
    assert "clock" in (found.mend or "")


def test_a_certificate_nobody_signed_is_a_warning_outside_of_development() -> None:
    root = Pair(AUTHORITY.root, "")
    assert judged(root, trusted=False).status is Status.WARNING
    assert judged(root, trusted=False, dev=True).status is Status.OK
    strange = judged(AUTHORITY.sign("mail.agents.test"), trusted=False)
    assert (strange.status, "not trusted here" in strange.seen) == (Status.WARNING, True)


@pytest.mark.parametrize(
    ("offsets", "status", "word"),
    [
        ({"PostgreSQL": 0.1, "Stalwart": -0.4}, "ok", "within 5 s"),
        ({"PostgreSQL": 6.0, "Stalwart": 0.2}, "warning", "clocks differ"),
        ({"PostgreSQL": 31.0, "Stalwart": 0.2}, "failed", "clocks differ"),
        ({"PostgreSQL": -59.0, "Stalwart": -60.0}, "failed", "this machine's clock is off"),
        ({}, "skipped", "no other clock"),
    ],
)
def test_clocks_may_differ_by_seconds(offsets: dict[str, float], status: str, word: str) -> None:
    found = judge_clock(offsets)
    assert (found.status, word in found.seen) == (status, True)


@pytest.mark.parametrize(
    ("free", "status"), [(50 * GIB, "ok"), (GIB, "warning"), (GIB // 8, "failed")]
)
def test_a_disk_that_fills_up_is_told_before_it_is_full(free: int, status: str) -> None:
    assert judge_space({"this machine": Space(100 * GIB, free)}, "").status == status


@pytest.mark.parametrize(
    ("seconds", "status"), [(59.0, "ok"), (61.0, "warning"), (601.0, "failed")]
)
def test_what_waits_is_worth_a_word_and_then_a_failure(seconds: float, status: str) -> None:
    found = judge_queues([Waits("inboxes to be read", seconds, 60, 600, "Run a worker.")])
    assert found.status == status
    assert (found.mend == "Run a worker.") is (status != "ok")


def test_a_wrong_record_names_its_domain_and_silence_is_no_verdict() -> None:
    wrong = Trouble("acme.test", "MX acme.test: missing")
    silent = Trouble("other.test", "TXT other.test: no answer", known=False)
    found = judge_domains(2, 2, [wrong, silent])
    assert (found.status, "acme.test: MX" in found.seen) == (Status.FAILED, True)
    assert judge_domains(2, 2, [silent]).status is Status.WARNING
    assert judge_domains(2, 2, []).status is Status.OK
    assert judge_domains(0, 0, []).status is Status.SKIPPED


def doors_of(**given: Any) -> list[str]:
    settings = Settings(database_url="postgresql://db", **given)
    patient = doctor.Patient(lambda: settings)
    patient.settings = settings
    return [str(each) for each in patient.doors]


def test_ports_are_looked_at_where_clients_are_told_to_go() -> None:
    """The port for mail from the world at the host that MX records name."""
    assert doors_of(
        mail_host="mx.example.com", smtp_host="smtp.example.com", imap_host="imap.example.com"
    ) == [
        "smtp (mx.example.com:25)",
        "submission (smtp.example.com:587)",
        "submissions (smtp.example.com:465)",
        "imap (imap.example.com:993)",
    ]


def test_a_container_looks_for_stalwart_where_its_url_says() -> None:
    """Clients of a machine that runs containers are told `localhost`, which in one of them is itself."""
    told = {"smtp_host": "localhost", "imap_host": "localhost"}
    found = doors_of(stalwart_url="http://stalwart:8080", **told)
    assert found[0] == "smtp (stalwart:25)"
    assert found[-1] == "imap (stalwart:993)"
    assert doors_of(stalwart_url="http://127.0.0.1:8080", **told)[0] == "smtp (localhost:25)"


def test_a_port_with_two_names_is_looked_at_once() -> None:
    assert len(doors_of(smtp_host="localhost", smtp_port=465, smtp_tls="implicit")) == 3


def test_a_finding_that_ends_a_check_early_is_what_it_found() -> None:
    assert str(checking.Cause(BAD)) == "it is broken"
