"""Previews of mails that show HTML only.

Stalwart's own `preview` drops tags without a space ("Click <b>here</b> to go" reads "Click hereto go"),
and people and agents decide by it what to open. So the HTML of just those mails is fetched and
rendered here; a batch without any costs no request. A preview is no reason to hold up a mail: where
its body cannot be read or shows nothing, Stalwart's preview stays.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from agentmail_cp.extract import preview_html
from agentmail_cp.mailserver import AccountId
from agentmail_cp.stalwart.calls import Call, GetAnswer
from agentmail_cp.stalwart.emails import Bodies

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from agentmail_cp.stalwart.calls import Answer
    from agentmail_cp.stalwart.emails import Email
    from agentmail_cp.stalwart.jmap import JmapClient

ShownAt = tuple[AccountId, str]
"""An account and an Email id as its answer spells it."""

BODY: Final = 32 * 1024
"""Bytes of a body that are fetched: newsletters begin with some 20 kB of style sheets."""
BODIES: Final = 50
"""Mails whose bodies come in one answer."""


async def previews(
    jmap: JmapClient, mails: Mapping[AccountId, Sequence[Email]]
) -> dict[ShownAt, str]:
    """A preview of each of these mails that shows HTML only."""
    parts = {
        (account_id, email.id): part_id
        for account_id, emails in mails.items()
        for email in emails
        if (part_id := email.html_shown) is not None
    }
    if not parts:
        return {}
    most = min(BODIES, (await jmap.limits()).max_objects_in_get)
    calls = list(_gets(parts, most))
    answers = await jmap.call_many([[call] for _, call in calls])
    bodies = {
        (account_id, mail.id): mail.body_values
        for account_id, call in calls
        for mail in _found(answers[call.tag])
    }
    htmls = {
        key: values[parts[key]].value for key, values in bodies.items() if parts[key] in values
    }
    # Rendering takes up to some ms a mail, too long to keep everybody else waiting.
    return await asyncio.to_thread(_rendered, htmls)


def _gets(parts: Iterable[ShownAt], most: int) -> Iterator[tuple[AccountId, Call]]:
    by_account: dict[AccountId, list[str]] = {}
    for account_id, mail_id in parts:
        by_account.setdefault(account_id, []).append(mail_id)
    for account_id, ids in by_account.items():
        for start in range(0, len(ids), most):
            arguments = {
                "accountId": account_id,
                "ids": ids[start : start + most],
                "properties": ["id", "bodyValues"],
                "fetchTextBodyValues": True,
                "maxBodyValueBytes": BODY,
            }
            yield account_id, Call("Email/get", arguments, f"{account_id} {start}")


def _found(answer: Answer) -> list[Bodies]:
    return [] if answer.error is not None else answer.into(GetAnswer[Bodies]).found


def _rendered(htmls: Mapping[ShownAt, str]) -> dict[ShownAt, str]:
    return {key: preview_html(html) for key, html in htmls.items()}
