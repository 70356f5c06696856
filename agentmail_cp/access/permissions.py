"""PURE: the names of permissions, and how a list of them is written."""

from __future__ import annotations

import re
from collections.abc import Mapping

from agentmail_cp.errors import Invalid

PERMISSIONS = frozenset(
    f"{noun}_{verb}"
    for noun, verbs in {
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
    }.items()
    for verb in verbs.split()
)
"""The contract's permission names that mean something here; others are kept but grant nothing."""

MOST_PERMISSIONS = 256
_PERMISSION_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


def check(permissions: Mapping[str, bool] | None) -> None:
    """Unknown names are kept for clients that know more than we do, but not just anything."""
    if len(permissions or {}) > MOST_PERMISSIONS:
        raise Invalid(
            "permissions",
            f"There are over {MOST_PERMISSIONS} permissions.",
            fix="Name only those that exist.",
        )
    if not all(_PERMISSION_NAME.fullmatch(each) for each in permissions or ()):
        raise Invalid(
            "permissions",
            "This is not the name of a permission.",
            fix="Use names like message_read.",
        )
