"""Outcomes: what became of mail that was sent, at each of its recipients.

Owns the tables `queued_mail`, `outcome_report` and `feedback_mail`.
"""

from __future__ import annotations

from agentmail_cp.outcomes.record import note, queued

__all__ = ["note", "queued"]
