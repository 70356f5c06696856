"""What stops `make dev`: always one sentence that says what is wrong and what to do about it."""

from __future__ import annotations


class DevError(Exception):
    """`make dev` cannot go on. The message is shown as it stands, without a traceback."""
