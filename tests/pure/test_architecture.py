"""The rules the design rests on, held by reading the code: who writes what, and how large it may grow."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.tenant_sql import STATEMENT, Statement, strings

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "agentmail_cp"
MODULES = {
    path.relative_to(PACKAGE).with_suffix("").as_posix(): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

LONGEST_MODULE = 600
LONGEST_FUNCTION = 50

TABLES = {
    "organization": {"access"},
    # The default pod is made with its organisation.
    "pod": {"access", "pods"},
    "api_key": {"access"},
    # Whoever finds that too much bounces stops an inbox from sending.
    "inbox": {"inboxes", "pauses"},
    # The row is made and removed with its inbox, moved on by intake, numbered by events and marked as
    # due by whoever changed labels.
    "inbox_sync": {"inboxes", "intake", "events", "messages"},
    # Joining threads moves their messages.
    "message": {"messages", "threads"},
    "thread": {"threads"},
    "thread_alias": {"threads"},
    "thread_reference": {"threads"},
    "envelope": {"envelopes"},
    "list_entry": {"lists"},
    "send": {"sending"},
    "idempotency_key": {"idempotency"},
    "mail_password": {"credentials"},
    "mail_login": {"credentials"},
    "app_password": {"credentials"},
    "draft": {"drafts"},
    "submission": {"submissions"},
    "recipient": {"recipients"},
    "queued_mail": {"outcomes"},
    "outcome_report": {"outcomes"},
    "feedback_mail": {"outcomes"},
    "event": {"events"},
    "event_horizon": {"events"},
    "webhook": {"webhooks"},
    "delivery": {"webhooks"},
    "delivery_attempt": {"webhooks"},
    "organization_limit": {"limits"},
    "send_count": {"limits"},
    "known_recipient": {"limits"},
    "request_window": {"throttle"},
    "domain": {"domains"},
    "dkim_key": {"domains"},
    "subdomain": {"domains"},
    "migration": {"db"},
}
"""Which modules may write each table."""


def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def joined(node: ast.JoinedStr) -> str:
    """An f-string without what is computed in it."""
    return "".join(str(each.value) for each in node.values if isinstance(each, ast.Constant))


WRITES = re.compile(r"\b(?:insert\s+into|delete\s+from|(?<!for )(?<!do )update)\s+(\w+)")


def queries() -> list[Statement]:
    return [
        Statement(module, place, text)
        for module in MODULES
        for place, text in strings(tree(module), joined)
        if STATEMENT.match(text) and not module.startswith(("dev/", "web/"))
    ]


def test_queries_are_found() -> None:
    """The scans below would pass on an empty list."""
    assert len(queries()) > 60
    assert {query.module.partition("/")[0] for query in queries()} >= set().union(*TABLES.values())


def test_only_its_owner_writes_a_table() -> None:
    wrong = [
        (query.name, table)
        for query in queries()
        for table in WRITES.findall(query.text)
        if query.module.partition("/")[0] not in TABLES.get(table, set())
    ]
    assert wrong == []


def test_only_compose_decides_in_reply_to_and_references() -> None:
    """Threads break everywhere when two places write these headers (RFC 5322, 3.6.4).

    `compose` fills the port's `OutgoingEmail`; `stalwart/mime` and the sandbox hand its fields on
    unchanged, which is why they may be read but never set anywhere else.
    """
    setters = {
        module.partition("/")[0]
        for module in MODULES
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith(("OutgoingEmail", "structs.replace"))
        and {"in_reply_to", "references"} & {each.arg for each in node.keywords}
    }
    makers = {
        module.partition("/")[0]
        for module in MODULES
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("OutgoingEmail")
    }
    assert setters <= {"compose"}
    assert makers == {"compose"}


HEADER_NAMES = {"In-Reply-To", "References", "in-reply-to", "inReplyTo"}
WIRES = {
    *("compose/message", "stalwart/mime", "stalwart/emails", "sandbox/mime"),
    *("outcomes/reports", "submissions/mail"),
}


def test_only_the_wires_spell_the_headers_of_threads() -> None:
    spelling = {
        module
        for module in MODULES
        for place, text in strings(tree(module), joined)
        if text in HEADER_NAMES and place and not module.startswith("web/")
    }
    assert spelling <= WIRES


@pytest.mark.parametrize("module", ["stalwart/mime", "sandbox/mime"])
def test_a_wire_takes_the_headers_of_threads_from_the_port(module: str) -> None:
    """Each place that spells one writes the port's field of the same name and nothing else."""
    written = [
        line.strip()
        for line in MODULES[module].read_text(encoding="utf-8").splitlines()
        if re.search(r"\"(In-Reply-To|References|inReplyTo)\",|\"(inReplyTo|references)\":", line)
    ]
    assert written
    assert all("email.in_reply_to" in line or "email.references" in line for line in written)


WAYS_OUT = {
    *("aiohttp", "anyio", "ftplib", "http.client", "httpcore", "httpx", "imaplib", "nntplib"),
    *("poplib", "requests", "smtplib", "socket", "ssl", "telnetlib", "urllib.request", "urllib3"),
    *(
        "websockets",
        "xmlrpc.client",
        "dns.asyncquery",
        "dns.asyncresolver",
        "dns.query",
        "dns.resolver",
    ),
}
"""Modules with which a connection to elsewhere can be opened."""

CONNECTS = {
    *("open_connection", "open_unix_connection", "create_connection", "connect_tcp"),
    *("sock_connect", "create_unix_connection", "create_datagram_endpoint"),
}

DOORS = {
    # To name servers at addresses that `outbound.permitted` lets through; the resolver's own are read only.
    "domains/resolving": {"dns.asyncquery", "dns.resolver"},
    # To the ports and URLs that the operator's settings name, as mail clients and Stalwart go there: what it
    # is to find out is whether they get in. No tenant has a say in where that is.
    "doctor/probes": {"http.client", "imaplib", "smtplib", "socket", "ssl"},
    "stalwart/jmap": {"httpx", "ssl", "ssl.SSLContext"},
    # Whom to believe, nothing that connects.
    "tls": {"ssl"},
    "outbound/fetcher": {"httpcore", "ssl", "connect_tcp"},
    # Looks names up, and connects to none.
    "outbound/names": {"socket"},
}
"""The only modules that may go out, and by which way."""


def ways_out(source: ast.Module) -> set[str]:
    """By which modules and calls a source could open an outbound connection."""
    found: set[str] = set()
    for node in ast.walk(source):
        match node:
            case ast.Import(names=names):
                found.update(each.name for each in names)
            case ast.ImportFrom(module=str(name), names=names):
                found.update({name, *(f"{name}.{each.name}" for each in names)})
            case ast.Attribute(attr=name) | ast.Name(id=name):
                found.update({name} & CONNECTS)
            case ast.Call(args=[ast.Constant(value=str(name)), *_], func=func) if ast.unparse(
                func
            ).endswith(("import_module", "__import__")):
                found.add(name)
            case _:
                pass
    return {
        each
        for each in found
        if each.rpartition(".")[2] in CONNECTS
        or any(f"{each}.".startswith(f"{way}.") for way in WAYS_OUT)
    }


@pytest.mark.parametrize("module", sorted(MODULES))
def test_nothing_but_the_two_doors_opens_outbound_connections(module: str) -> None:
    """Any other way out would carry tenants' URLs past the check of their addresses."""
    if not module.startswith("dev/"):
        assert ways_out(tree(module)) <= DOORS.get(module, set())


@pytest.mark.parametrize(
    "source",
    [
        "import httpx",
        "import urllib.request as u",
        "from urllib import request",
        "from http.client import HTTPSConnection",
        "import socket",
        "import asyncio\nasync def f(): await asyncio.open_connection('h', 1)",
        "from asyncio import open_connection",
        "def f(loop): return loop.create_connection",
        "import importlib\nimportlib.import_module('requests')",
        "__import__('aiohttp')",
    ],
)
def test_a_new_way_out_would_be_seen(source: str) -> None:
    assert ways_out(ast.parse(source))


@pytest.mark.parametrize(
    "source", ["from urllib.parse import urlsplit", "from http import HTTPStatus"]
)
def test_what_opens_nothing_is_no_way_out(source: str) -> None:
    assert not ways_out(ast.parse(source))


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_says_what_it_owns(module: str) -> None:
    assert len(ast.get_docstring(tree(module)) or "") > 10


def code_lines(node: ast.AST, source: list[str]) -> int:
    """Lines that are code: no docstring, comment or blank line."""
    start, stop = getattr(node, "lineno", 1), getattr(node, "end_lineno", len(source))
    prose = {
        line
        for each in ast.walk(node)
        if isinstance(each, ast.Expr) and isinstance(getattr(each.value, "value", None), str)
        for line in range(each.lineno, (each.end_lineno or each.lineno) + 1)
    }
    return sum(
        1
        for number in range(start, stop + 1)
        if number not in prose and not re.match(r"\s*(#|$)", source[number - 1])
    )


@pytest.mark.parametrize("module", sorted(MODULES))
def test_nothing_grows_too_large_to_read(module: str) -> None:
    source = MODULES[module].read_text(encoding="utf-8").splitlines()
    parsed = tree(module)
    assert code_lines(parsed, source) <= LONGEST_MODULE
    for node in ast.walk(parsed):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert code_lines(node, source) <= LONGEST_FUNCTION, node.name


@pytest.mark.parametrize("module", sorted(MODULES))
def test_only_commands_print_and_only_settings_read_the_environment(module: str) -> None:
    names = {ast.unparse(each) for each in ast.walk(tree(module)) if isinstance(each, ast.expr)}
    if not module.startswith("dev/") and module != "cli":
        assert "print" not in names
    if not module.startswith("dev/") and module != "settings":
        assert not names & {"os.environ", "os.getenv", "environ", "getenv"}


def test_imports_keep_to_their_layers() -> None:
    tool = Path(sysconfig.get_path("scripts")) / "lint-imports"
    done = subprocess.run(
        [tool, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "module",
    ["addresses", "codes", "compose", "extract", "highlights", "labels", "links", "mailserver"],
)
def test_a_pure_module_loads_without_database_web_or_network(module: str) -> None:
    """Also not through what it imports: import-linter looks at one step only."""
    heavy = ("psycopg", "litestar", "httpx", "procrastinate", "aiosmtpd", "uvicorn")
    program = (
        f"import sys, agentmail_cp.{module}\nprint(*sorted(set(sys.modules) & {set(heavy)!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=50
    )
    assert done.stdout.strip() == ""
