"""The compose file: what can be proved about it where no Docker engine is at hand."""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
import yaml

from agentmail_cp import limits
from agentmail_cp.dev.postgres import create_database
from agentmail_cp.dev.stalwart import LocalStalwart
from agentmail_cp.settings import PREFIX, SECRETS, Settings
from tests.fix_stalwart import needs_stalwart

FOLDER = Path(__file__).parents[2] / "deploy" / "compose"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = sorted(name for name, service in SERVICES.items() if "build" in service)
SETTINGS = set(Settings.__struct_fields__)
GUIDES = Path(__file__).parents[2] / "docs" / "guide"
OURS_TO_SET = {"stalwart_webhook_url", "public_url"}
"""What has a value of its own here."""

FOR_APPLY = {"stalwart_certificate_file", "stalwart_certificate_key_file"}
"""What only the job needs that sets Stalwart up."""
BIN = Path(sys.executable).parent


def variables() -> Iterator[str]:
    """Every variable of ours, set or interpolated anywhere in the file."""
    text = (FOLDER / "compose.yaml").read_text(encoding="utf-8")
    yield from re.findall(r"\$\{([A-Z_]+)", text)
    for name in OURS:
        yield from SERVICES[name]["environment"]


def field(variable: str) -> str:
    return variable.removeprefix(PREFIX).lower().removesuffix("_file")


def test_it_is_a_compose_file() -> None:
    schema = files("check_jsonschema.builtin_schemas.vendor") / "compose-spec.json"
    jsonschema.validate(COMPOSE, json.loads(schema.read_text(encoding="utf-8")))


def test_every_variable_is_a_setting() -> None:
    found = set(variables())
    assert {name for name in found if field(name) not in SETTINGS} == set()
    assert f"{PREFIX}DATABASE_URL_FILE" in found


def told() -> set[str]:
    """What the guides tell an operator to set, and every limit."""
    text = "".join(each.read_text(encoding="utf-8") for each in GUIDES.glob("*.md"))
    named = {each.lower() for each in re.findall(rf"{PREFIX}([A-Z_]+[A-Z])\b", text)}
    return {*limits.NAMES, *named - SECRETS - OURS_TO_SET - FOR_APPLY}


@pytest.mark.parametrize("name", sorted(each.upper() for each in told()))
def test_what_the_guides_name_can_be_set(name: str) -> None:
    """A container is given only what stands here."""
    for service in ("api", "worker"):
        assert SERVICES[service]["environment"][PREFIX + name] == f"${{{PREFIX}{name}:-}}"


def test_stalwart_can_be_given_a_certificate_that_is_never_committed() -> None:
    job = SERVICES["stalwart-apply"]
    for each in FOR_APPLY:
        name = PREFIX + each.upper()
        assert job["environment"][name] == f"${{{name}:-}}"
    assert any(each.startswith("./certificates:") for each in job["volumes"])
    assert (FOLDER / "certificates" / ".gitignore").read_text(encoding="ascii").startswith("*\n")


def test_stalwart_takes_mail_as_large_as_the_api_does() -> None:
    """What is accepted at one door would be refused at the next."""
    name = f"{PREFIX}MAX_MESSAGE_SIZE"
    given = {SERVICES[each]["environment"][name] for each in ("api", "worker", "stalwart-apply")}
    assert len(given) == 1


def test_secrets_come_from_files_only() -> None:
    for service in SERVICES.values():
        for variable in service["environment"]:
            if field(variable) in SECRETS or re.search("PASSWORD|SECRET|KEY", variable):
                assert variable.endswith("_FILE"), variable


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_images_are_pinned_to_one_release(name: str) -> None:
    tag = SERVICES[name]["image"].rpartition(":")[2]
    assert re.fullmatch(r"v?\d+\.\d+(\.\d+)?(-[a-z]+)?", tag), SERVICES[name]["image"]


def test_the_images_it_builds_from_are_pinned() -> None:
    bases = re.findall(r"^FROM (\S+)", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)
    assert bases
    for base in bases:
        assert re.search(r":\d+\.\d+\.\d+-", base), base


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_no_service_can_gain_rights_or_write_outside_its_volumes(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not service.get("privileged")


def test_only_mail_is_open_to_the_world() -> None:
    published = {port for service in SERVICES.values() for port in service.get("ports", [])}
    to_all = {port for port in published if not port.startswith("127.0.0.1:")}
    assert {port.partition(":")[0] for port in to_all} == {"25", "465", "587", "993"}


@pytest.mark.parametrize("name", ["api", "worker", "migrate", "stalwart-apply"])
def test_a_service_waits_for_what_it_needs(name: str) -> None:
    conditions = {each["condition"] for each in SERVICES[name]["depends_on"].values()}
    assert conditions <= {"service_healthy", "service_completed_successfully"}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_what_runs_on_has_a_health_check_or_ends(name: str) -> None:
    service = SERVICES[name]
    if name != "worker" and service["restart"] == "unless-stopped":
        assert service["healthcheck"]["test"][0] == "CMD"


def test_scripts_are_what_the_services_call_and_can_be_run() -> None:
    for name in ("secrets.sh", "stalwart-apply.sh", "stalwart.sh"):
        script = FOLDER / name
        subprocess.run(["sh", "-n", script], check=True)
        assert script.stat().st_mode & stat.S_IXUSR
    copied = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    for name in OURS:
        command = SERVICES[name]["command"][0]
        if command.startswith("/app/"):
            assert f"deploy/compose/{Path(command).name}" in copied


NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@NEEDS_ROOT
def test_secrets_are_made_once_and_for_one_reader_each(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    first = {path.name: path.read_text() for path in tmp_path.iterdir()}
    owners = {path.name: path.stat().st_uid for path in tmp_path.iterdir()}
    assert all(path.stat().st_mode & 0o777 == 0o400 for path in tmp_path.iterdir())
    assert len(first["webhook_secret"].strip()) == 64
    assert first["postgres_password"].strip() in first["database_url"]
    assert first["stalwart_admin"].strip() == f"recovery:{first['stalwart_password'].strip()}"
    assert owners["postgres_password"] == int(SERVICES["postgres"]["user"].partition(":")[0])
    assert owners["database_url"] == 10001
    make_secrets(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == first


def make_secrets(folder: Path) -> None:
    subprocess.run(["sh", FOLDER / "secrets.sh", folder], check=True)


class Place:
    """The compose file's world on this machine: its names and paths, and what stands for them here."""

    def __init__(self, folder: Path, replaced: Mapping[str, str]) -> None:
        self.folder = folder
        self._replaced = {"/run/agentmail": str(folder), "/app/": f"{FOLDER}/", **replaced}

    def command(self, name: str) -> list[str]:
        """The service's command, as a plain process here."""
        program, *arguments = self.translated(SERVICES[name]["command"])
        if program.endswith(".sh"):
            return ["sh", program, *arguments, str(self.folder)]
        return [str(BIN / program), *arguments]

    def environment(self, name: str) -> dict[str, str]:
        """The service's environment and nothing of ours but PATH."""
        own = {key: self._here(str(value)) for key, value in SERVICES[name]["environment"].items()}
        return {"PATH": f"{BIN}:{os.environ['PATH']}", **own}

    def run(self, name: str) -> subprocess.CompletedProcess[str]:
        """Run a service that ends."""
        return subprocess.run(
            self.command(name),
            env=self.environment(name),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )

    @asynccontextmanager
    async def running(self, name: str) -> AsyncGenerator[asyncio.subprocess.Process]:
        """Run a service that stays."""
        process = await asyncio.create_subprocess_exec(
            *self.command(name), env=self.environment(name), cwd=self.folder
        )
        try:
            yield process
        finally:
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 15) in (0, -15), name

    def translated(self, words: list[str]) -> list[str]:
        """Words of the file with its names and paths replaced by ours."""
        return [self._here(word) for word in words]

    def _here(self, text: str) -> str:
        text = re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", text)
        for there, here in self._replaced.items():
            text = text.replace(there, here)
        return text


@pytest.fixture
def place(
    tmp_path: Path, own_stalwart: LocalStalwart, postgres_url: str, unused_tcp_port: int
) -> Place:
    """A database and a started Stalwart as `postgres` and `stalwart` would be, and the secrets."""
    create_database(postgres_url, "compose", afresh=True)
    known = {
        "database_url": urlsplit(postgres_url)._replace(path="/compose").geturl(),
        "stalwart_admin": own_stalwart.admin,
        "webhook_secret": "bell" * 16,
        "prepared": "",
    }
    for name, value in known.items():
        (tmp_path / name).write_text(value)
    port = str(unused_tcp_port)
    return Place(
        tmp_path,
        {
            "http://stalwart:8080": own_stalwart.url,
            "http://api:8000": f"http://127.0.0.1:{port}",
            "0.0.0.0": "127.0.0.1",
            "8000": port,
        },
    )


@pytest.mark.stalwart
async def test_every_service_of_ours_starts_with_its_command_and_environment(place: Place) -> None:
    for job in ("migrate", "stalwart-apply"):
        done = await asyncio.to_thread(place.run, job)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (place.folder / "stalwart_key").stat().st_mode & 0o777 == 0o600
    async with place.running("api") as api, place.running("worker") as worker:
        await until_healthy(place)
        assert api.returncode is None
        assert worker.returncode is None
    assert {"secrets", "migrate", "stalwart-apply", "api", "worker"} == set(OURS)


async def until_healthy(place: Place) -> None:
    """Ask as Docker does."""
    _, program, *arguments = place.translated(SERVICES["api"]["healthcheck"]["test"])
    for _ in range(40):
        asking = await asyncio.create_subprocess_exec(
            BIN / program, *arguments, stderr=asyncio.subprocess.DEVNULL
        )
        if await asking.wait() == 0:
            return
        await asyncio.sleep(0.25)
    pytest.fail("the health check of `api` never succeeded")


@pytest.mark.stalwart
@NEEDS_ROOT
def test_the_first_start_prepares_stalwart_before_it_takes_mail(tmp_path: Path) -> None:
    """In a network of its own, as a container has: the ports are the real ones."""
    needs_stalwart()
    may = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    if may.returncode != 0:
        pytest.skip("this machine allows no network namespaces")
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-m", "tests.deploy.first_boot", tmp_path],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["recovering"] == [8080]
    assert seen["started"] == [25, 465, 587, 993, 8080]
    assert seen["restarted"] == [25, 465, 587, 993, 8080]
    assert seen["key_kept"] is True
