"""The folder `.agentmail`: what `make dev` keeps between runs, and what it tells other programs.

Owns the lock (one `make dev` per folder), the secrets (made once, mode 0600) and `dev.json`, which is
there only after everything answered. `postgres/` and `stalwart/` in it belong to their modules. The
folder is made for its owner alone.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import msgspec

from agentmail_cp.dev.errors import DevError

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

LOCK_PATIENCE = 3.0
"""Seconds to wait for a run that is just ending, as after Ctrl-C and arrow up."""


class Endpoint(msgspec.Struct, frozen=True):
    """Where a mail program connects. `tls` is how TLS begins."""

    host: str
    port: int
    tls: Literal["implicit", "starttls", "none"]


class DevFile(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `dev.json`: all another program needs to use this run."""

    base_url: str
    websocket_url: str
    api_key: str
    mail_server: Literal["stalwart", "sandbox", "external"]
    domain: str
    smtp: Endpoint
    submission: Endpoint | None
    imap: Endpoint | None


class StateFolder:
    """`.agentmail` in the folder where `make dev` runs. Raises `DevError` when it cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        try:
            self.path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from None

    @contextmanager
    def locked(self) -> Generator[None]:
        """Hold the folder for this run; the lock ends with the process, however it ends."""
        try:
            lock = (self.path / "lock").open("a")
        except OSError as error:
            raise self._unusable(error) from None
        with lock:
            self._acquire(lock.fileno())
            self._dev_file.unlink(missing_ok=True)
            yield

    def secret(self, name: str, *, prefix: str = "") -> str:
        """A random text that stays the same from run to run: 256 bits behind `prefix`."""
        path = self.path / name
        try:
            if not path.exists():
                _write_private(path, prefix + secrets.token_hex(32))
            known = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            known = ""
        if not known:
            raise DevError(f"{path} is not readable or empty; delete it, and a new one is made.")
        return known

    def announce(self, dev_file: DevFile) -> None:
        """Write `dev.json`. It holds the API key, so it is private, and never half written."""
        text = msgspec.json.format(msgspec.json.encode(dev_file), indent=2).decode()
        _write_private(self._dev_file, text + "\n")

    @property
    def _dev_file(self) -> Path:
        return self.path / "dev.json"

    def _acquire(self, descriptor: int) -> None:
        deadline = time.monotonic() + LOCK_PATIENCE
        while True:
            try:
                return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise DevError(
                        f"Another `make dev` is running in {self.path.parent}; stop it first."
                    ) from None
                time.sleep(0.05)

    def _unusable(self, error: OSError) -> DevError:
        reason = os.strerror(error.errno) if error.errno else str(error)
        return DevError(f"{self.path} cannot be used as the state folder: {reason}.")


def _write_private(path: Path, text: str) -> None:
    """Write a file so that nobody else can read it at any moment, and nobody sees a part of it."""
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    unfinished.replace(path)
