"""The storm in its short form; `make failure` is the long one."""

from __future__ import annotations

import pytest

from tests.failure.storm.course import outage, storm
from tests.failure.storm.strikes import LASTS, strikes
from tests.fix_stalwart import needs_stalwart, private_folder

pytestmark = [pytest.mark.stalwart, pytest.mark.slow]


def test_a_storm_can_be_had_again() -> None:
    """A failure nobody can repeat would stay."""
    assert strikes(7, 30, pause=1) == strikes(7, 30, pause=1) != strikes(8, 30, pause=1)
    assert {each.blow for each in strikes(7, len(LASTS), pause=1)} == set(LASTS)


@pytest.mark.timeout(300)
async def test_nothing_is_lost_or_told_twice_in_a_storm(
    tmp_path_factory: pytest.TempPathFactory, database_url: str
) -> None:
    """A crash anywhere would lose an agent's mail, or have it answered twice."""
    needs_stalwart()
    folder = private_folder(tmp_path_factory)
    report = await storm(folder, database_url, seconds=14, rate=20, seed=6, pause=1.6, patience=150)
    assert report.complaints == [], report.text


@pytest.mark.timeout(300)
async def test_an_outage_of_the_whole_control_plane_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory, database_url: str
) -> None:
    """Mail that came during an update would never be read."""
    needs_stalwart()
    folder = private_folder(tmp_path_factory)
    report = await outage(folder, database_url, seconds=8, rate=20, seed=6)
    assert report.complaints == [], report.text
