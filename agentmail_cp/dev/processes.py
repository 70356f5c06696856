"""Whether a process that a former run noted down is still that process."""

from __future__ import annotations

import subprocess
from pathlib import Path


def works_in(pid: int, folder: Path) -> bool:
    """Whether process `pid` runs with `folder` as its working directory; a zombie does not.

    Numbers are used again: one from a file may by now belong to anybody. Where there is no /proc,
    the folder must be in its command line.
    """
    if Path("/proc/self").exists():
        try:
            return Path(f"/proc/{pid}/cwd").samefile(folder)
        except OSError:
            return False
    asked = subprocess.run(
        ["ps", "-o", "stat=,args=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return str(folder) in asked.stdout and not asked.stdout.startswith("Z")
