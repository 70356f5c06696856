"""The very first start of the compose file's Stalwart, in a network namespace with the real ports.

Run as `unshare --net python -m tests.deploy.first_boot FOLDER`; prints as JSON which ports were open.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

COMPOSE = Path(__file__).parents[2] / "deploy" / "compose"
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
PORTS = (25, 110, 143, 443, 465, 587, 993, 995, 4190, 8080)


def raise_loopback() -> None:
    """A new network namespace has a loopback interface, but it is down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def open_ports() -> list[int]:
    found: list[int] = []
    for port in PORTS:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                found.append(port)
    return found


def wait_for(port: int) -> None:
    for _ in range(200):
        if port in open_ports():
            return
        time.sleep(0.05)
    sys.exit(f"port {port} never opened")


def start(folder: Path) -> subprocess.Popen[bytes]:
    config = folder / "config.json"
    config.write_text(json.dumps({"@type": "RocksDb", "path": str(folder / "data")}))
    return subprocess.Popen(
        ["sh", COMPOSE / "stalwart.sh", folder, config], stdout=subprocess.DEVNULL
    )


def apply(folder: Path) -> None:
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "AGENTMAIL_CP_DATABASE_URL": "postgresql://unused",
        "AGENTMAIL_CP_STALWART_URL": "http://127.0.0.1:8080",
        "AGENTMAIL_CP_STALWART_ADMIN_FILE": str(folder / "stalwart_admin"),
        "AGENTMAIL_CP_DOMAIN": "agents.test",
    }
    subprocess.run(
        ["sh", COMPOSE / "stalwart-apply.sh", folder], env=environment, check=True, timeout=40
    )


def main() -> None:
    folder = Path(sys.argv[1])
    raise_loopback()
    subprocess.run(["sh", COMPOSE / "secrets.sh", folder], check=True)
    server = start(folder)
    wait_for(8080)
    recovering = open_ports()
    apply(folder)
    wait_for(587)
    started = open_ports()
    key = (folder / "stalwart_key").read_text()
    server.terminate()
    server.wait(20)
    server = start(folder)
    wait_for(587)
    apply(folder)
    restarted = open_ports()
    server.terminate()
    server.wait(20)
    key_kept = key == (folder / "stalwart_key").read_text()
    seen = {"recovering": recovering, "started": started, "restarted": restarted}
    json.dump({**seen, "key_kept": key_kept}, sys.stdout)


main()
