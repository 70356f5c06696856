"""Tells of a failure as soon as it happened: a run that is ended before its end has said why."""

from __future__ import annotations

import pytest

LONGEST = 20_000
"""Characters of what a test wrote that are shown, from the end."""


class OnTheSpot:
    """Prints what failed, with its traceback, between the tests."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._terminal.line("")
            self._terminal.section(f"{report.nodeid} ({report.when})", "_")
            self._terminal.line(report.longreprtext)
            for name, text in report.sections:
                self._terminal.section(name, "-")
                self._terminal.line(text[-LONGEST:])


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    # A process that runs tests for another one has none: the other one tells.
    if isinstance(terminal, pytest.TerminalReporter):
        config.pluginmanager.register(OnTheSpot(terminal), "failures on the spot")
