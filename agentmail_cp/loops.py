"""PURE: when a conversation looks like two machines answering each other (RFC 3834).

Nothing of a mail's words is looked at, only who wrote when: people pause, and machines that say what they are
can be believed. Both rules say until when to wait; after that, the next mail may go.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

HOUR = timedelta(hours=1)
LONGEST = timedelta(days=1)
"""The longest pause that is asked for."""

_ENOUGH = 20
"""Doublings after which any pace has come to `LONGEST`: 2^20 seconds are twelve days."""


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
    """When a conversation that went back and forth `most` times, each time sooner than `pace`, has paused
    for long enough to go on; None when it may now. Machines that wait as they are told and then go on as
    before wait twice as long each time; twice the wait, or a pause before that, begins a new count. Several
    messages of one side in a row are one turn. `turns` is the thread, newest first; 0 is no limit.
    """
    if not most or not turns:
        return None
    count = _unbroken(turns, most, pace)
    until = turns[0].at + _wait(count, most, pace)
    return until if count >= most and now < until else None


def _unbroken(turns: Sequence[Turn], most: int, pace: timedelta) -> int:
    """How many turns there were up to the newest without a pause that begins a new count."""
    count, before = 0, turns[-1]
    for turn in reversed(turns):
        enough = pace if count < most else 2 * _wait(count, most, pace)
        if turn.at - before.at >= enough:
            count = 0
        count += turn.own is not before.own or not count
        before = turn
    return count


def _wait(count: int, most: int, pace: timedelta) -> timedelta:
    """How long to pause after so many turns."""
    times = max(0, count // most - 1)
    return min(LONGEST, pace * 2 ** min(times, _ENOUGH))
