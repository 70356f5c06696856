"""Why a Stalwart cannot be set up."""

from __future__ import annotations


class SetupError(Exception):
    """Stalwart cannot be set up. The message says what to do, in one or two sentences."""
