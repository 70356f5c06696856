"""The one way out: HTTP requests to URLs that tenants name (attachments by URL, webhooks).

Nothing else in the product opens an outbound connection, except the JMAP client, which knows one server.
A tenant's URL is hostile until shown otherwise: it may name our database, a cloud's metadata service or a
name whose address changes between check and use. So a URL is taken apart strictly (`targets`), its
name is resolved here and once, every address it has is judged, and the connection goes to a judged
address while TLS and `Host` keep the name (`fetcher`). There are no redirects, no cookies, no proxies
from the environment, and everything has a bound: time, size, headers, connections.
"""

from __future__ import annotations

from agentmail_cp.outbound.errors import OutboundError, Reason
from agentmail_cp.outbound.fetcher import Outbound, Request, Resolve, Response
from agentmail_cp.outbound.targets import Network, Target, permitted, target_of

__all__ = [
    "Network",
    "Outbound",
    "OutboundError",
    "Reason",
    "Request",
    "Resolve",
    "Response",
    "Target",
    "permitted",
    "target_of",
]
