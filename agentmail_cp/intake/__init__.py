"""Intake: learning what happened in the mailboxes, losing nothing and announcing nothing twice.

Stalwart's webhook is only a doorbell: it is lossy, repeats itself and holds events back, so it does no
more than mark an inbox as due. The truth is what changed since the state stored in `inbox_sync`. A batch of
due inboxes is claimed, read in one request and written in one transaction together with the new states;
an inbox's state moves on only if it still is what was read from and under the same claim, so reading one
twice is harmless, and what was read before somebody else wrote is read again. The
sweep claims inboxes nobody rang for. An inbox that fails waits alone, longer each time. States of a row:
quiet (`due_at` null) → due → claimed (`claimed_until`) → quiet, or due again later. A claim outlives its
worker by `LEASE` at most. Never decides what a message means: `messages.record` does, `policy` whether its
sender is let in, and `outcomes` whether a mail merely tells what became of another.
"""

from __future__ import annotations

from agentmail_cp.intake.doorbell import Doorbell, ring
from agentmail_cp.intake.reading import Backlog, Intake, measure

__all__ = ["Backlog", "Doorbell", "Intake", "measure", "ring"]
