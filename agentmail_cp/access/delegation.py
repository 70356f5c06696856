"""PURE: what one API key may do to another.

No key makes or changes one so that it could do more, reach further or live longer than itself; and it
does not touch one that may do more already. Every refusal is `Forbidden` with the contract's code. That a
key beyond the caller's reach is not found is seen to where keys are looked up.
"""

from __future__ import annotations

from datetime import datetime

from agentmail_cp.access.reach import Principal, Reach
from agentmail_cp.errors import Forbidden, NotFound

Granted = frozenset[str] | None
"""What a key may do; None is everything in its reach."""


def check_new(
    caller: Principal, reach: Reach, granted: Granted, expires_at: datetime | None
) -> None:
    """Raise unless the caller may make such a key: `NotFound` when it would reach further."""
    if not caller.reach.covers(reach):
        raise NotFound("There is nothing of the kind for this API key.")
    _check_grant(caller, granted)
    _check_life(caller, expires_at)


def check_touch(caller: Principal, key: Principal) -> None:
    """Raise unless the caller may change or delete this key of its reach."""
    if caller.permissions is None:
        return
    if key.permissions is None:
        raise Forbidden(
            "Only a key without a permission list can change this one.",
            fix="Use a key without a permission list.",
            code="unrestricted_key_required",
        )
    if not key.permissions <= caller.permissions:
        raise Forbidden(
            "An API key cannot change one that may do more than itself.",
            fix="Use a key that has all permissions of the other.",
            code="permission_escalation",
        )


def check_change(caller: Principal, key: Principal, granted: Granted) -> None:
    """Raise unless the caller, who may touch the key, may let it do this from now on."""
    _check_grant(caller, granted)
    if not _within(granted, key.permissions):
        _check_life(caller, key.expires_at)


def _within(granted: Granted, own: Granted) -> bool:
    return own is None or (granted is not None and granted <= own)


def _check_grant(caller: Principal, granted: Granted) -> None:
    if not _within(granted, caller.permissions):
        raise Forbidden(
            "An API key cannot let another do more than itself.",
            fix="Give permissions, and only those your key has.",
            code="permission_escalation",
        )


def _check_life(caller: Principal, expires_at: datetime | None) -> None:
    if caller.expires_at is None:
        return
    if expires_at is None or expires_at > caller.expires_at:
        raise Forbidden(
            "An API key cannot empower one that lives longer than itself.",
            fix=f"Set expires_at of a new key to {caller.expires_at.isoformat()} or earlier.",
            code="permission_escalation",
        )
