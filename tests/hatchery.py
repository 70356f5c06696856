"""Processes that start at once: forks of one that has imported everything the service is made of.

To import it takes longer than all else most services under test do before they are killed, and tests start
hundreds. `Hatchery` is the tests' side, one for each process that runs tests; `hatch` is the program of the
one that forks. It has no thread and has answered no request when it forks, so a child is what a fresh
process is once its imports are done.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

PROGRAM = "import sys; from tests.hatchery import hatch; hatch(int(sys.argv[1]))"
IMPORTED = (
    "agentmail_cp.app",
    "agentmail_cp.cli",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.auto",
)
PATIENCE = 30.0
"""Seconds the first start may take, with all its imports."""


class Order(msgspec.Struct, frozen=True):
    """What Python is to run with which arguments and environment, and where its output goes."""

    program: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    log: str


class News(msgspec.Struct, frozen=True):
    """A process has begun, or has ended with this exit code (as of `subprocess`)."""

    pid: int
    ended: int | None = None


class Hatched:
    """A running process, as `subprocess.Popen` would show it."""

    def __init__(self, pid: int, hatchery: Hatchery) -> None:
        self.pid = pid
        self._hatchery = hatchery

    def poll(self) -> int | None:
        return self._hatchery.ended(self.pid, 0)

    def wait(self, timeout: float = PATIENCE) -> int:
        code = self._hatchery.ended(self.pid, timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Hatchery:
    """Has processes made, and hears how they end."""

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair()
        self._program = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(theirs.fileno())],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        self._born: list[int] = []
        self._ended: dict[int, int] = {}
        self._heard = threading.Condition()
        self._one_at_a_time = threading.Lock()
        threading.Thread(target=self._listen, name="hatchery", daemon=True).start()
        atexit.register(self.close)

    def start(self, order: Order) -> Hatched:
        """Have a process made."""
        with self._one_at_a_time, self._heard:
            self._line.sendall(msgspec.json.encode(order) + b"\n")
            assert self._heard.wait_for(lambda: self._born, PATIENCE), "no process was made"
            return Hatched(self._born.pop(), self)

    def ended(self, pid: int, timeout: float) -> int | None:
        """The exit code of a process that ends in so many seconds."""
        with self._heard:
            self._heard.wait_for(lambda: pid in self._ended, timeout)
            return self._ended.get(pid)

    def close(self) -> None:
        """End the program; its children go on."""
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)
        self._line.close()
        self._program.wait(PATIENCE)

    def _listen(self) -> None:
        with contextlib.suppress(OSError, ValueError), self._line.makefile("rb") as lines:
            for line in lines:
                self._hear(msgspec.json.decode(line, type=News))

    def _hear(self, news: News) -> None:
        with self._heard:
            if news.ended is None:
                self._born.append(news.pid)
                # Numbers are used again.
                self._ended.pop(news.pid, None)
            else:
                self._ended[news.pid] = news.ended
            self._heard.notify_all()


@functools.cache
def hatchery() -> Hatchery:
    """The one of this process."""
    return Hatchery()


def hatch(descriptor: int) -> None:
    """Fork a child for each order, until nobody can give any more."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    line = socket.socket(fileno=descriptor)
    waking, woken = socket.socketpair()
    for each in (waking, woken):
        each.setblocking(False)
    signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _wake_up)
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(line, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if woken in ready:
                woken.recv(4096)
                _tell_of_ends(line)
            if line in ready:
                if not (read := line.recv(65_536)):
                    return
                *orders, rest = (rest + read).split(b"\n")
                for order in orders:
                    _begin(line, msgspec.json.decode(order, type=Order), waking, woken, selector)


def _wake_up(_number: int, _frame: FrameType | None) -> None:
    """What is to be done is done by who is woken."""


def _begin(line: socket.socket, order: Order, *ours: Any) -> None:
    pid = os.fork()
    if pid:
        _tell(line, News(pid))
        return
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for each in (line, *ours):
        each.close()
    _become(order)


def _become(order: Order) -> None:
    """Be the process that was ordered."""
    os.setsid()
    log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    os.environ.clear()
    os.environ.update(order.environment)
    sys.argv = ["-c", *order.arguments]
    exec(compile(order.program, "<service>", "exec"), {"__name__": "__main__"})
    # Past what the forking process would do at its end: the interpreter's own end is all there is.
    sys.exit(0)


def _tell_of_ends(line: socket.socket) -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            _tell(line, News(ended[0], os.waitstatus_to_exitcode(ended[1])))


def _tell(line: socket.socket, news: News) -> None:
    # Whoever asked may be gone.
    with contextlib.suppress(OSError):
        line.sendall(msgspec.json.encode(news) + b"\n")
