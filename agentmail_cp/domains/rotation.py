"""New DKIM keys for a domain: on request, by their records, and when old ones can't be read any more.

Keys change in steps that mail under way survives: new ones are pending and their records asked for; once a
check has seen them they sign and the old ones are retiring, whose records stay until mail signed with them
has arrived; then those are retired. Which keys the mail server has follows from the rows (`settlement`).
Asking for new keys while some are pending changes nothing. A name that is proved is to have keys that sign
at all times: without, its mail would leave unsigned, and receivers refuse it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import LiteralString

import structlog

from agentmail_cp.db import Database, Tx
from agentmail_cp.domains import dkim, keys
from agentmail_cp.domains.domain import UNSETTLED, Domain
from agentmail_cp.domains.judging import Finding
from agentmail_cp.domains.keys import StoredKey

log = structlog.stdlib.get_logger(__name__)


async def rotate(tx: Tx, domain: Domain, pairs: Sequence[dkim.Pair], sealing_key: bytes) -> bool:
    """Give a domain new keys, whose records are then to be published; False when some are pending already.
    A domain that is not proved yet gets them in the place of its first ones.
    """
    held = await keys.of_domain(tx, domain.organization_id, domain.domain_id)
    if domain.proved_at is None:
        await keys.retire(
            tx, domain.organization_id, domain.domain_id, [key.selector for key in held]
        )
    elif any(key.stage == "pending" for key in held):
        return False
    await keys.add(tx, domain.organization_id, domain.domain_id, pairs, sealing_key)
    return True


async def move_on(
    tx: Tx,
    domain: Domain,
    held: Sequence[StoredKey],
    findings: Mapping[str, Finding],
    retiring: timedelta,
) -> None:
    """Let pending keys sign whose records are all there, of which the mail server is to be told, and give up
    those that have been `retiring` for long enough, unless the mail server may still sign with them.
    """
    if domain.unsettled_since is None:
        over = datetime.now(UTC) - retiring
        done = [key.selector for key in held if key.retiring_at and key.retiring_at < over]
        await keys.retire(tx, domain.organization_id, domain.domain_id, done)
    pending = [key.selector for key in held if key.stage == "pending"]
    if not pending or any(findings[f"dkim:{each}"].status != "VALID" for each in pending):
        return
    await keys.activate(tx, domain.organization_id, domain.domain_id, pending)
    await tx.execute(
        _TO_TELL, {"organization_id": domain.organization_id, "domain_id": domain.domain_id}
    )


_TO_TELL: LiteralString = (
    f"update domain set unsettled_since = {UNSETTLED} where organization_id = %(organization_id)s"
    " and domain_id = %(domain_id)s"
)


async def replace_lost(
    db: Database, domain: Domain, lost: Sequence[StoredKey], sealing_key: bytes
) -> None:
    """Make keys anew whose private half does not open, as the secret was changed before the mail server had
    them. One that has others meanwhile goes on signing with those; a domain that has none is not told of
    until it has.
    """
    names = {"organization_id": domain.organization_id, "domain_id": domain.domain_id}
    pairs = await dkim.new_pairs()
    selectors = {key.selector for key in lost}
    async with db.transaction() as tx:
        held = await keys.of_domain(tx, **names)
        if not selectors <= {key.selector for key in held}:
            return
        await keys.retire(tx, **names, selectors=selectors)
        if any(key.stage == "active" for key in lost):
            await keys.reinstate(tx, **names)
            await tx.execute(_NOTHING_TO_TELL, names)
        if not any(key.stage == "pending" and key.selector not in selectors for key in held):
            await keys.add(tx, **names, pairs=pairs, sealing_key=sealing_key)
    log.warning("domain.dkim_keys_remade", domain_id=str(domain.domain_id), reason="secret_changed")


_NOTHING_TO_TELL: LiteralString = """
update domain set unsettled_since = null where organization_id = %(organization_id)s
    and domain_id = %(domain_id)s and installed_at is null and deleted_at is null
    and not exists (select from dkim_key where dkim_key.organization_id = %(organization_id)s
        and dkim_key.domain_id = %(domain_id)s and dkim_key.stage = 'active')
"""
