"""PURE: the names of permissions, and how a list of them is read and written.

A list maps names to true or false; what is true is granted, what is false or missing is not. Names we do
not know are kept, because a newer client may know more, and grant nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from agentmail_cp.errors import Invalid


def _named(nouns: Mapping[str, str]) -> frozenset[str]:
    return frozenset(f"{noun}_{verb}" for noun, verbs in nouns.items() for verb in verbs.split())


PERMISSIONS = _named(
    {
        "inbox": "read create update delete",
        "message": "read reply send update delete",
        "label": "spam_read blocked_read unauthenticated_read trash_read",
        "draft": "read create update delete send",
        "webhook": "read create update delete",
        "domain": "read create update delete",
        "list_entry": "read create delete",
        "metrics": "read",
        "api_key": "read create update delete",
        "pod": "read create update delete",
    }
)
"""The contract's names that mean something here."""

MAIL_CLIENT = frozenset(
    name for name in PERMISSIONS if name.startswith(("message_", "draft_", "label_"))
)
"""What whoever has the password of a mailbox can do in it."""

MEANINGLESS = _named(
    {
        "app": "connect share_owner",
        "account": "update",
        "agent_armor": "release",
        "calendar": "read update",
        "calendar_event": "read create update delete",
        "file": "read create update delete",
    }
)
"""The contract's names for what only the hosted service has."""

SPELLINGS = {"messages:read": "message_read", "messages:write": "message_send"}
"""Other names for permissions (seed 004)."""

MOST = 256
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


def canonical(wanted: Mapping[str, bool] | None) -> dict[str, bool] | None:
    """A list under the contract's names; None stays None. Raises `Invalid`.

    A permission that is named twice is granted only when both say so.
    """
    if wanted is None:
        return None
    if len(wanted) > MOST:
        raise Invalid(
            "permissions",
            f"There are over {MOST} permissions.",
            fix="Name only those that exist.",
        )
    found: dict[str, bool] = {}
    for given, granted in wanted.items():
        if not _NAME.fullmatch(given):
            raise Invalid(
                "permissions",
                "This is not the name of a permission.",
                fix="Use names like message_read.",
            )
        name = SPELLINGS.get(given, given)
        found[name] = granted and found.get(name, True)
    return found


def granted_by(wanted: Mapping[str, bool] | None) -> frozenset[str] | None:
    """What a list grants; None is everything."""
    return None if wanted is None else frozenset(name for name, on in wanted.items() if on)
