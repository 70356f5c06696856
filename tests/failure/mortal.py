"""The service in a process that kills itself at the step of a request that a file names, and is there again
a moment later.

`live` is the program. The parent wires the service once and forks a child for each life; a child that was
killed is followed by the next one, and a child that ends is the end. Whoever finds its step in the file takes
the file away and dies of SIGKILL on the spot, so nothing of the product's cleaning up is done.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any

from agentmail_cp import app, cli, idempotency, inboxes, sending, settings
from agentmail_cp.inboxes import creation
from agentmail_cp.sending import attempt
from agentmail_cp.stalwart import StalwartMailServer
from agentmail_cp.webhooks import Delivering, claims

Step = tuple[object, str, str]
"""Something a request does, and when it dies of it: before, during or after."""

SEND: dict[str, Step] = {
    "send: before its row": (attempt, "_begin", "before"),
    "send: after its row": (attempt, "_begin", "after"),
    "send: during the mail server's call": (StalwartMailServer, "submit", "during"),
    "send: after the mail server's answer": (StalwartMailServer, "submit", "after"),
    "send: before the record is committed": (attempt, "finish", "after"),
    "send: after the record": (sending, "send", "after"),
}
INBOX: dict[str, Step] = {
    "inbox: before the claim": (idempotency, "begin", "before"),
    "inbox: before the claim is committed": (idempotency, "begin", "after"),
    "inbox: after the claim": (inboxes, "create", "before"),
    "inbox: after the reservation": (creation, "_make_account", "before"),
    "inbox: during the mail server's call": (StalwartMailServer, "create_account", "during"),
    "inbox: after the mail server's answer": (StalwartMailServer, "create_account", "after"),
    "inbox: before the record is committed": (idempotency, "complete", "after"),
    "inbox: after the record": (inboxes, "create", "after"),
}
ADOPTION: dict[str, Step] = {
    "adoption: before the password": (StalwartMailServer, "set_password", "before"),
    "adoption: during the password": (StalwartMailServer, "set_password", "during"),
    "adoption: after the password": (StalwartMailServer, "set_password", "after"),
}
DELIVERY: dict[str, Step] = {
    "delivery: before the claim is committed": (claims, "events_of", "after"),
    "delivery: after the claim": (Delivering, "_deliver", "before"),
    "delivery: before the request": (Delivering, "_ask", "before"),
    "delivery: during the request": (Delivering, "_ask", "during"),
    "delivery: after the answer": (Delivering, "_ask", "after"),
    "delivery: before the record is committed": (claims, "_judge", "after"),
}
STEPS = SEND | INBOX | ADOPTION | DELIVERY

Doing = Callable[..., Awaitable[Any]]


class Fate:
    """A file with a step, and after how many seconds whoever dies during a call does so."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def set(self, step: str, delay: float) -> None:
        written = self._path.with_suffix(".new")
        written.write_text(f"{delay} {step}", encoding="utf-8")
        written.rename(self._path)

    @property
    def open(self) -> bool:
        """Whether nobody has died of it yet."""
        return self._path.exists()

    def clear(self) -> None:
        self._path.unlink(missing_ok=True)

    def meet(self, step: str) -> float | None:
        """The delay for who is to die at this step, now."""
        try:
            delay, _, named = self._path.read_text(encoding="utf-8").partition(" ")
        except FileNotFoundError:
            return None
        if named != step:
            return None
        self.clear()
        return float(delay)


def arm(fate: Fate) -> None:
    """Let every step look at its fate."""
    for name, (owner, function, when) in STEPS.items():
        armed = _armed(getattr(owner, function), functools.partial(fate.meet, name), when)
        setattr(owner, function, armed)


def _armed(do: Doing, meet: Callable[[], float | None], when: str) -> Doing:
    @functools.wraps(do)
    async def doing(*arguments: Any, **options: Any) -> Any:
        if when == "before" and meet() is not None:
            _die()
        if when == "during" and (delay := meet()) is not None:
            # The call goes on in the event loop while another thread waits to end it all.
            threading.Timer(delay, _die).start()
            await do(*arguments, **options)
            await asyncio.Event().wait()
        done = await do(*arguments, **options)
        if when == "after" and meet() is not None:
            _die()
        return done

    return doing


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def live(fate: str) -> None:
    """One life after another, until one ends by itself or SIGTERM ends it."""
    arm(Fate(Path(fate)))
    wired = app.create_app(settings.load(), worker="--no-worker" not in sys.argv)

    def create_app(*_arguments: object, **_options: object) -> app.AgentMail:
        return wired

    app.create_app = create_app
    lifeline, held = os.pipe()
    told_to_end: list[int] = []
    while not told_to_end:
        child = os.fork()
        if child == 0:
            os.close(held)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
            cli.main()

        def end(number: int, _frame: FrameType | None, child: int = child) -> None:
            told_to_end.append(number)
            os.kill(child, number)

        signal.signal(signal.SIGTERM, end)
        _, status = os.waitpid(child, 0)
        ended = os.waitstatus_to_exitcode(status)
        if ended != -signal.SIGKILL:
            sys.exit(0 if ended == -signal.SIGTERM else ended)


def _end_with_parent(lifeline: int) -> None:
    os.read(lifeline, 1)
    os._exit(1)


def program(fate: Path) -> str:
    """What Python is to run."""
    return f"from tests.failure import mortal; mortal.live({str(fate)!r})"
