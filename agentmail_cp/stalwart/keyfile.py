"""The file that holds the service's API key of Stalwart: read, and written so that nobody else can read it.

It is there whole or not at all. Knows nothing of how a key is made, and never shows one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator
from pathlib import Path

from agentmail_cp.stalwart.errors import SetupError


def read_key(path: Path) -> str | None:
    """The key in a file, None when there is no such file. Raises SetupError when it cannot be read."""
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SetupError(f"The API key in {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise SetupError(f"{path} holds no API key; name another file.") from None


@contextlib.contextmanager
def new_key_file(path: Path) -> Generator[Callable[[str], None]]:
    """What writes a key so that nobody else can read it at any moment. That there can be such a file is
    seen before the block begins; raises SetupError when it cannot be written.
    """
    temporary = path.with_name(f"{path.name}.new")

    def write(key: str) -> None:
        with temporary.open("w", encoding="ascii") as file:
            file.write(f"{key}\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    try:
        temporary.unlink(missing_ok=True)
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        yield write
    except OSError as error:
        raise SetupError(
            f"The API key cannot be written to {path}: {error.strerror}. No key was made; name a file that "
            "can be written."
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
