"""PURE: when a conversation looks like two machines answering each other (RFC 3834).

Nothing of a mail's words is looked at, only who wrote when: people pause, and machines that say what they are
can be believed. Both rules say until when to wait; after that, the next mail may go.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

HOUR = timedelta(hours=1)


class Turn(msgspec.Struct, frozen=True):
    """A message of a thread: whether the inbox wrote it, and when it came or left."""

    own: bool
    at: datetime


def answered_enough(turns: Sequence[Turn], now: datetime, most: int) -> datetime | None:
    """When an inbox may answer a machine again that it has written `most` mails to within the last hour;
    None when it may now. `turns` is the thread, newest first; 0 is no limit.
    """
    recent = [turn.at for turn in turns if turn.own and turn.at > now - HOUR]
    if not most or len(recent) < most:
        return None
    return sorted(recent, reverse=True)[most - 1] + HOUR


def too_fast(turns: Sequence[Turn], now: datetime, most: int, pace: timedelta) -> datetime | None:
    """When a conversation has paused for long enough that it went back and forth `most` times without a
    pause; None when it has not. Several messages of one side in a row are one turn. `turns` is the thread,
    newest first; 0 is no limit.
    """
    if not most or _unbroken(turns, now, pace) < most:
        return None
    return turns[0].at + pace


def _unbroken(turns: Sequence[Turn], now: datetime, pace: timedelta) -> int:
    """How many turns led up to now, each sooner than `pace` after the one before."""
    count, later, own = 0, now, None
    for turn in turns:
        if later - turn.at >= pace:
            break
        count += turn.own is not own
        later, own = turn.at, turn.own
    return count
