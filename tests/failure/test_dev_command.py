"""`make dev` as a person meets it: a process in a folder, a key, Ctrl-C, and what can go wrong."""

from __future__ import annotations

import imaplib
import json
import os
import re
import shlex
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest

from agentmail_cp.dev.postgres import create_database
from agentmail_cp.dev.stalwart import HOST, LocalStalwart
from agentmail_cp.sizes import mail_limit
from tests.fix_stalwart import needs_stalwart, unverified

BIN = Path(sys.executable).parent
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root has folders of this kind")

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="processes are looked up in /proc"),
]


class Run:
    """One run of `agentmail-cp dev`. `output` is all it says, also while it runs."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.folder = folder
        self._output = folder / "output"
        self.begun = time.monotonic()
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [BIN / "agentmail-cp", "dev"],
                cwd=folder,
                env={"PATH": str(BIN), "HOME": str(folder), **environ},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._output.read_text(encoding="utf-8")

    @property
    def port(self) -> int:
        return int(self.about["base_url"].rpartition(":")[2])

    @property
    def about(self) -> dict[str, Any]:
        """The content of dev.json."""
        return json.loads((self.folder / ".agentmail" / "dev.json").read_text(encoding="utf-8"))

    def until_up(self) -> float:
        """Wait for the printed key; the seconds it took."""
        while "Ctrl-C stops" not in self.output:
            assert self.process.poll() is None, self.output
            assert time.monotonic() - self.begun < 60, self.output
            time.sleep(0.01)
        return time.monotonic() - self.begun

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.about['api_key']}"}
        return httpx.request(
            method, self.about["base_url"] + path, headers=headers, timeout=20, **arguments
        )

    def stop(self, by: int = signal.SIGINT) -> float:
        """Stop it as a person does; the seconds it took."""
        begun = time.monotonic()
        self.process.send_signal(by)
        self.process.wait(20)
        return time.monotonic() - begun

    def ended(self) -> str:
        """Wait for a run that cannot work; what it said."""
        assert self.process.wait(30) == 1, self.output
        return self.output


Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path, unused_tcp_port: int) -> Generator[Start]:
    """Starts runs in a folder (the test's own by default), with the sandbox unless PATH says other."""
    runs: list[Run] = []

    def begin(folder: Path = tmp_path, **environ: str) -> Run:
        runs.append(Run(folder, {"PORT": str(unused_tcp_port), **environ}))
        return runs[-1]

    yield begin
    for run in runs:
        if run.process.poll() is None:
            run.process.send_signal(signal.SIGTERM)
            run.process.wait(20)
    left = processes_in(tmp_path)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, "a run left processes behind"


def processes_in(folder: Path) -> list[int]:
    """Processes that work in this folder or below, whoever started them."""
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            place = (entry / "cwd").readlink()
            arguments = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if place.is_relative_to(folder) or os.fsencode(folder) in arguments:
            found.append(int(entry.name))
    return found


def with_stalwart() -> str:
    """A PATH on which `stalwart` is found."""
    needs_stalwart()
    return f"{BIN}:{os.environ['PATH']}"


@contextmanager
def listener(port: int) -> Generator[None]:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        yield


def create_ada(run: Run) -> None:
    made = run.request("POST", "/v0/inboxes", json={"username": "ada"})
    assert made.is_success, made.text


@contextmanager
def unfinished_request(port: int) -> Generator[None]:
    """A client that has begun a request and will never end it."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"POST /v0/inboxes HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
        yield


def one_sentence(text: str) -> str:
    """What was said, if it is one line without a traceback."""
    assert "Traceback" not in text
    assert len(text.strip().splitlines()) == 1, text
    return text.strip()


def test_dev_json_says_all_another_program_needs(start: Start) -> None:
    run = start()
    run.until_up()
    about = run.about
    smtp = about.pop("smtp")
    key = about.pop("api_key")
    assert about == {
        "base_url": f"http://127.0.0.1:{run.port}",
        "websocket_url": f"ws://127.0.0.1:{run.port}",
        "mail_server": "sandbox",
        "domain": "agents.test",
        "submission": None,
        "imap": None,
    }
    assert re.fullmatch("inai_[0-9a-f]{64}", key)
    assert (smtp["host"], smtp["tls"]) == ("127.0.0.1", "none")
    with socket.create_connection((smtp["host"], smtp["port"])) as mx:
        assert mx.recv(4) == b"220 "
    for name in ("dev.json", "api_key", "webhook_secret"):
        assert (run.folder / ".agentmail" / name).stat().st_mode & 0o777 == 0o600
    lacking = [line for line in run.output.splitlines() if "IMAP" in line]
    assert len(lacking) == 1
    assert "persistence" in lacking[0]


def test_the_printed_request_works_as_it_is_printed(start: Start) -> None:
    run = start()
    run.until_up()
    printed = run.output[run.output.index("curl ") :].partition("\n\n")[0]
    words = shlex.split(printed)
    headers = dict(word.split(": ") for word in words if ": " in word and not word.startswith("{"))
    made = httpx.request(words[2], words[3], headers=headers, content=words[-1], timeout=20)
    assert made.is_success, made.text
    assert made.json()["inbox_id"] == "ada@agents.test"


def test_the_readme_program_works_as_it_is_printed(start: Start, tmp_path: Path) -> None:
    run = start()
    run.until_up()
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    program = readme.partition("```python\n")[2].partition("```")[0]
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=30)
    found = run.request("GET", "/v0/inboxes/ada@agents.test/messages").json()["messages"]
    assert {message["subject"] for message in found} == {"Hello"}


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything_it_started(start: Start, tmp_path: Path, by: int) -> None:
    run = start()
    run.until_up()
    port = run.port
    assert len(processes_in(tmp_path)) > 1
    with unfinished_request(port):
        assert run.stop(by) < 5
    assert run.process.returncode == 0
    assert "Traceback" not in run.output
    assert processes_in(tmp_path) == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_signal_during_the_start_stops_it_quietly(start: Start, tmp_path: Path) -> None:
    run = start()
    while not (tmp_path / ".agentmail" / "lock").exists():
        time.sleep(0.005)
    run.stop()
    assert run.process.returncode == 0
    assert "Traceback" not in run.output


def test_the_sandbox_forgets_everything_but_the_key(start: Start) -> None:
    run = start()
    run.until_up()
    key = run.about["api_key"]
    create_ada(run)
    run.stop()
    again = start()
    again.until_up()
    assert again.about["api_key"] == key
    assert again.request("GET", "/v0/inboxes/ada@agents.test").status_code == 404
    create_ada(again)


def test_an_attachment_on_this_machine_may_be_named_by_its_url(start: Start) -> None:
    """To tenants loopback is closed; here a developer has nothing else to try things out with."""
    run = start()
    run.until_up()
    create_ada(run)
    sent = run.request(
        "POST",
        "/v0/inboxes/ada@agents.test/messages/send",
        json={
            "to": "ada@agents.test",
            "attachments": [{"url": f"{run.about['base_url']}/openapi.json"}],
        },
    )
    assert sent.is_success, sent.text


@pytest.mark.alone
@pytest.mark.stalwart
def test_with_stalwart_a_second_start_is_quick_and_keeps_everything(start: Start) -> None:
    run = start(PATH=with_stalwart())
    run.until_up()
    first = run.about
    assert first["mail_server"] == "stalwart"
    assert (first["submission"]["tls"], first["imap"]["tls"]) == ("starttls", "implicit")
    create_ada(run)
    sent = {"to": "ada@agents.test", "subject": "kept", "text": "hello"}
    answer = run.request("POST", "/v0/inboxes/ada@agents.test/messages/send", json=sent)
    assert answer.is_success, answer.text
    assert run.stop() < 5
    assert run.process.returncode == 0
    again = start(PATH=with_stalwart())
    assert again.until_up() <= 3
    assert again.about == first
    found = again.request("GET", "/v0/inboxes/ada@agents.test/messages").json()["messages"]
    assert {message["subject"] for message in found} == {"kept"}


@pytest.mark.stalwart
def test_with_stalwart_what_a_client_hands_in_shows_up_as_sent(start: Start) -> None:
    """Who tries it out would see one half of the conversation."""
    run = start(PATH=with_stalwart(), AGENTMAIL_CP_SUBMISSION_COPY_DELAY="0.2")
    run.until_up()
    made = run.request("POST", "/v0/inboxes", json={"username": "ada"}).json()
    door = run.about["submission"]
    with smtplib.SMTP(door["host"], door["port"], local_hostname="client.test") as client:
        client.starttls(context=unverified())
        client.login(made["email"], made["credentials"]["password"])
        note = f"From: {made['email']}\r\nSubject: Note\r\n\r\nHi\r\n"
        client.sendmail(made["email"], [made["email"]], note)
    shown: list[str] = []
    deadline = time.monotonic() + 10
    while "sent" not in shown and time.monotonic() < deadline:
        time.sleep(0.05)
        answer = run.request("GET", "/v0/inboxes/ada@agents.test/messages").json()
        labels = [label for message in answer["messages"] for label in message["labels"]]
        shown = sorted({"received", "sent"} & set(labels))
    assert shown == ["received", "sent"]


@pytest.mark.stalwart
def test_with_stalwart_the_limits_are_those_of_the_settings(start: Start) -> None:
    """Who tries a limit out before production would see another, as a send that the API takes and the mail
    server refuses.
    """
    size = 40_000_000
    run = start(
        PATH=with_stalwart(),
        AGENTMAIL_CP_MAX_MESSAGE_SIZE=str(size),
        AGENTMAIL_CP_IMAP_CONNECTIONS_PER_INBOX="2",
    )
    run.until_up()
    made = run.request("POST", "/v0/inboxes", json={"username": "ada"}).json()
    with smtplib.SMTP(HOST, run.about["smtp"]["port"], local_hostname="out.test") as client:
        client.ehlo()
        assert client.esmtp_features["size"] == str(mail_limit(size))
    with ExitStack() as clients:
        for _ in range(2):
            imap = imaplib.IMAP4_SSL(HOST, run.about["imap"]["port"], ssl_context=unverified())
            clients.enter_context(imap).login(made["email"], made["credentials"]["password"])
        third = imaplib.IMAP4_SSL(HOST, run.about["imap"]["port"], ssl_context=unverified())
        clients.callback(third.shutdown)
        with pytest.raises(imaplib.IMAP4.error):
            third.login(made["email"], made["credentials"]["password"])


@pytest.mark.stalwart
def test_deleting_stalwart_s_folder_starts_afresh(start: Start, tmp_path: Path) -> None:
    run = start(PATH=with_stalwart())
    run.until_up()
    create_ada(run)
    run.stop()
    shutil.rmtree(tmp_path / ".agentmail" / "stalwart")
    again = start(PATH=with_stalwart())
    again.until_up()
    assert again.request("GET", "/v0/inboxes/ada@agents.test").status_code == 404
    create_ada(again)


@pytest.mark.stalwart
def test_after_kill_9_the_next_start_takes_over(start: Start, tmp_path: Path) -> None:
    run = start(PATH=with_stalwart())
    run.until_up()
    create_ada(run)
    run.stop(signal.SIGKILL)
    orphans = processes_in(tmp_path)
    assert orphans
    again = start(PATH=with_stalwart())
    again.until_up()
    assert again.request("GET", "/v0/inboxes/ada@agents.test").status_code == 200
    assert not set(orphans) & set(processes_in(tmp_path))


def test_a_taken_port_is_told_in_one_sentence(start: Start, unused_tcp_port: int) -> None:
    with listener(unused_tcp_port):
        said = one_sentence(start().ended())
    assert f"Port {unused_tcp_port}" in said
    assert "make dev PORT=" in said


def test_a_port_that_is_none_is_told_in_one_sentence(start: Start) -> None:
    assert "PORT is 'http'" in one_sentence(start(PORT="http").ended())


def test_a_dead_postgresql_is_told_in_one_sentence(start: Start, unused_tcp_port: int) -> None:
    dead = f"postgresql://me:hidden@127.0.0.1:{unused_tcp_port}/mail"
    said = one_sentence(start(AGENTMAIL_CP_DATABASE_URL=dead).ended())
    assert "AGENTMAIL_CP_DATABASE_URL" in said
    assert "hidden" not in said


def test_a_password_that_a_url_cannot_hold_is_told_in_one_sentence(start: Start) -> None:
    """PostgreSQL's own words would put the password on the screen."""
    said = one_sentence(
        start(AGENTMAIL_CP_DATABASE_URL="postgresql://me:hid%den@db.test/m").ended()
    )
    assert "AGENTMAIL_CP_DATABASE_URL is no PostgreSQL URL" in said
    assert "den" not in said


def test_a_second_run_in_the_same_folder_is_told_in_one_sentence(
    start: Start, tmp_path: Path
) -> None:
    first = start()
    first.until_up()
    second_folder = tmp_path / "second"
    second_folder.mkdir()
    (second_folder / ".agentmail").symlink_to(tmp_path / ".agentmail")
    said = one_sentence(start(second_folder).ended())
    assert "Another `make dev` is running" in said
    assert first.request("GET", "/health").status_code == 200
    assert first.about


def test_a_state_folder_that_is_none_is_told_in_one_sentence(start: Start, tmp_path: Path) -> None:
    (tmp_path / ".agentmail").write_text("a file")
    assert "cannot be used as the state folder" in one_sentence(start().ended())


def test_a_stale_database_is_told_in_one_sentence(start: Start, tmp_path: Path) -> None:
    data = tmp_path / ".agentmail" / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("12")
    said = one_sentence(start().ended())
    assert "made by PostgreSQL 12" in said
    assert f"delete {tmp_path}/.agentmail to start afresh" in said


def test_a_wrong_setting_is_told_in_one_sentence(start: Start) -> None:
    said = one_sentence(start(AGENTMAIL_CP_SWEEP_INTERVAL="often").ended())
    assert "AGENTMAIL_CP_SWEEP_INTERVAL" in said


def test_a_given_database_is_never_emptied_by_the_sandbox(
    start: Start, tmp_path: Path, postgres_url: str
) -> None:
    create_database(postgres_url, "precious", afresh=True)
    given = urlsplit(postgres_url)._replace(path="/precious").geturl()
    with psycopg.connect(given) as connection:
        connection.execute("create table inbox as select 42 as answer")
    for _ in range(2):
        run = start(AGENTMAIL_CP_DATABASE_URL=given)
        run.until_up()
        run.stop()
    assert not (tmp_path / ".agentmail" / "postgres").exists()
    with psycopg.connect(given) as connection:
        assert connection.execute("select answer from inbox").fetchone() == (42,)


def test_stalwart_without_its_key_is_told_in_one_sentence(start: Start) -> None:
    run = start(AGENTMAIL_CP_STALWART_URL="http://127.0.0.1:9")
    assert "AGENTMAIL_CP_STALWART_KEY is not" in one_sentence(run.ended())


@pytest.mark.stalwart
async def test_a_given_stalwart_is_looked_at_and_never_changed(
    start: Start, own_stalwart: LocalStalwart
) -> None:
    run = start(
        AGENTMAIL_CP_STALWART_URL=own_stalwart.url,
        AGENTMAIL_CP_STALWART_KEY=own_stalwart.key,
        AGENTMAIL_CP_MAX_MESSAGE_SIZE="90000000",
    )
    run.until_up()
    assert run.about["mail_server"] == "external"
    assert "differences. Run `agentmail-cp stalwart apply`." in run.output
    run.stop()
    again = start(
        AGENTMAIL_CP_STALWART_URL=own_stalwart.url,
        AGENTMAIL_CP_STALWART_KEY=own_stalwart.key,
        AGENTMAIL_CP_MAX_MESSAGE_SIZE="90000000",
    )
    again.until_up()
    differences = re.compile(r"\d+ differences")
    assert differences.findall(again.output) == differences.findall(run.output)
    assert own_stalwart.pid in processes_in(Path("/"))


@NEEDS_ROOT
@pytest.mark.stalwart
def test_root_can_run_it_where_only_root_can_enter(start: Start, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for _ in range(2):
        run = start(closed, PATH=with_stalwart())
        run.until_up()
        run.stop()
        assert run.process.returncode == 0
    assert closed.stat().st_mode & 0o777 == 0o700


def test_it_ends_when_the_make_that_started_it_is_killed(
    start: Start, tmp_path: Path, unused_tcp_port: int
) -> None:
    (tmp_path / "Makefile").write_text(f"dev:\n\t@exec {BIN}/agentmail-cp dev\n")
    make = subprocess.Popen(
        [shutil.which("make") or "make", "dev"],
        cwd=tmp_path,
        env={"PATH": f"{BIN}:{os.environ['PATH']}", "PORT": str(unused_tcp_port)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (tmp_path / ".agentmail" / "dev.json").exists():
        assert make.poll() is None
        time.sleep(0.02)
    make.kill()
    make.wait()
    again = start()
    again.until_up()


FAKE_DOCKER = """#!/bin/sh
# A Docker engine as far as `make dev` uses one: containers are processes of this machine.
case "$1 $2" in
"info "*) exit 0 ;;
"image inspect") exit 0 ;;
"rm --force") exit 0 ;;
"run "*) echo "$@" >"$HOME/docker-run" ;;
*) exit 1 ;;
esac
while [ "$1" != --entrypoint ]; do shift; done
program=$2
shift 3
exec "$STALWART_FOLDER/$program" "$@"
"""


@pytest.mark.stalwart
def test_where_docker_answers_stalwart_runs_in_a_container(start: Start, tmp_path: Path) -> None:
    needs_stalwart()
    folder = Path(shutil.which("stalwart") or "").parent
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(FAKE_DOCKER.replace("$STALWART_FOLDER", str(folder)))
    docker.chmod(0o755)
    path = f"{BIN}:{docker.parent}:/usr/bin:/bin"
    if shutil.which("stalwart", path=path):
        pytest.skip("`stalwart` lies beside the programs every process needs")
    run = start(PATH=path)
    run.until_up()
    assert run.about["mail_server"] == "stalwart"
    create_ada(run)
    said = (tmp_path / "docker-run").read_text()
    assert "--network host" in said
    assert re.search(r"stalwartlabs/stalwart:v0\.16\.\d+ --config", said)
    assert not re.search("STALWART_RECOVERY_ADMIN=", said)
