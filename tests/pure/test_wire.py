"""Connections outlive what their clients make of them."""

from __future__ import annotations

import httpx

from agentmail_cp.app import AgentMail, http_config
from agentmail_cp.web import wire
from tests.fix_app import settings_for


def test_a_client_gives_an_idle_connection_up_before_we_do() -> None:
    """The Python SDK keeps one for five seconds: were it as long here, a request that is sent after such a
    pause would now and then meet a closed connection, and a send is not repeated.
    """
    config = http_config(AgentMail(route_handlers=[]), settings_for("postgresql://nobody/none"))
    expiry = httpx.Limits().keepalive_expiry
    assert expiry is not None
    assert config.timeout_keep_alive == wire.KEEP_ALIVE > expiry
