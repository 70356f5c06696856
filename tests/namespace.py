"""A network namespace of the tests' own: loopback and one address more, and no way out of it.

Stalwart delivers to no loopback address, so a remote mail server needs another; only inside a namespace
is that nobody's business. A process inside holds the namespace, which ends with it, and it ends with us.
It opens sockets there and hands them out, so that whoever asked is in both networks at once, and answers
at the address of this machine's resolver that no name exists: programs would wait for an answer.
Works as root, and as anybody where users may make namespaces (Linux).
"""

from __future__ import annotations

import fcntl
import shutil
import socket
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final, Literal, Self

import msgspec

ADDRESS: Final = "10.231.0.1"
"""The address inside that is no loopback address."""

PATIENCE: Final = 10.0
SIOCSIFFLAGS, SIOCSIFADDR, IFF_UP = 0x8914, 0x8916, 1
DNS, HEADER, NO_SUCH_NAME = 53, 12, b"\x81\x83"


class NoNamespace(Exception):
    """None can be made on this machine. The message says why."""


class _Wish(msgspec.Struct):
    """A socket that somebody outside wants."""

    how: Literal["listen", "connect"]
    host: str
    port: int


class Namespace:
    """A running namespace; `with` makes and ends it. Raises NoNamespace."""

    def __init__(self) -> None:
        self._holder: subprocess.Popen[bytes] | None = None
        self._talk: socket.socket | None = None
        self._user = False

    def __enter__(self) -> Self:
        if shutil.which("unshare") is None or shutil.which("nsenter") is None:
            raise NoNamespace("there is no `unshare` or no `nsenter` on PATH")
        reasons: list[str] = []
        for user in (False, True):
            reason = self._open(user=user)
            if reason is None:
                return self
            reasons.append(reason)
        raise NoNamespace("; ".join(reasons))

    def __exit__(self, *_: object) -> None:
        self._close()

    def inside(self, *command: object) -> list[str]:
        """The command line that runs a command in the namespace."""
        assert self._holder is not None
        spaces = f"/proc/{self._holder.pid}/ns"
        user = [f"--user={spaces}/user", "--preserve-credentials"] if self._user else []
        return ["nsenter", f"--net={spaces}/net", *user, "--", *map(str, command)]

    def listen(self, host: str = "127.0.0.1", port: int = 0) -> socket.socket:
        """A socket that listens inside. Raises OSError."""
        return self._socket(_Wish("listen", host, port))

    def connect(self, port: int, host: str = "127.0.0.1") -> socket.socket:
        """A connection to a port inside. Raises OSError."""
        return self._socket(_Wish("connect", host, port))

    def _socket(self, wish: _Wish) -> socket.socket:
        assert self._talk is not None
        self._talk.sendall(msgspec.json.encode(wish))
        answer, descriptors, _, _ = socket.recv_fds(self._talk, 4096, 1)
        if not descriptors:
            raise OSError(answer.decode() or "the namespace is gone")
        return socket.socket(fileno=descriptors[0])

    def _open(self, *, user: bool) -> str | None:
        """Make it; returns why that was not possible."""
        self._user = user
        self._talk, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._talk.settimeout(PATIENCE)
        options = ["--map-root-user"] if user else []
        with theirs:
            self._holder = subprocess.Popen(
                [
                    "unshare",
                    "--net",
                    *options,
                    sys.executable,
                    "-m",
                    __name__,
                    str(theirs.fileno()),
                ],
                pass_fds=[theirs.fileno()],
                stderr=subprocess.PIPE,
            )
        if self._talk.recv(4096) == b"ready":
            return None
        assert self._holder.stderr is not None
        words = self._holder.stderr.read().decode("utf-8", "replace").strip().splitlines()
        self._close()
        return words[-1] if words else "the namespace ended by itself"

    def _close(self) -> None:
        if self._talk is not None:
            self._talk.close()
        if self._holder is not None:
            self._holder.wait(PATIENCE)
            assert self._holder.stderr is not None
            self._holder.stderr.close()


def _bring_up(addresses: list[IPv4Address]) -> None:
    """Loopback with these addresses more: without another device no privilege outside is needed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
        for number, address in enumerate(addresses):
            packed = struct.pack("HH4s8x", socket.AF_INET, 0, address.packed)
            name = f"lo:{number}".encode()
            fcntl.ioctl(control, SIOCSIFADDR, struct.pack("16s16s", name, packed))


def _resolvers() -> list[IPv4Address]:
    """Where programs on this machine ask for names."""
    found: list[IPv4Address] = []
    for line in Path("/etc/resolv.conf").read_text(encoding="utf-8").splitlines():
        with suppress(ValueError, IndexError):
            if line.startswith("nameserver"):
                found.append(IPv4Address(line.split()[1]))
    return found


def _answer_names(address: IPv4Address) -> None:
    """Answer each question that there is no such name (RFC 1035 section 4.1.1: RCODE 3)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.bind((str(address), DNS))
        while True:
            asked, whose = door.recvfrom(4096)
            end = asked.index(0, HEADER) + 5
            counts = struct.pack("!4H", 1, 0, 0, 0)
            door.sendto(asked[:2] + NO_SUCH_NAME + counts + asked[HEADER:end], whose)


def _opened(wish: _Wish) -> socket.socket:
    if wish.how == "connect":
        return socket.create_connection((wish.host, wish.port), PATIENCE)
    return socket.create_server((wish.host, wish.port), reuse_port=False)


def _serve(talk: socket.socket) -> None:
    """Open what is wished for until nobody is left who wishes."""
    resolvers = _resolvers()
    _bring_up([IPv4Address(ADDRESS), *(each for each in resolvers if not each.is_loopback)])
    for each in resolvers:
        threading.Thread(target=_answer_names, args=(each,), daemon=True).start()
    talk.sendall(b"ready")
    while asked := talk.recv(4096):
        try:
            with _opened(msgspec.json.decode(asked, type=_Wish)) as made:
                socket.send_fds(talk, [b"here"], [made.fileno()])
        except OSError as error:
            talk.sendall(str(error).encode())


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as _talk:
        _serve(_talk)
