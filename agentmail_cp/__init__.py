"""agentmail_cp: real email inboxes for AI agents, on a mail server people own.

A thin control plane over an external Stalwart mail server. Mail lives in Stalwart; PostgreSQL keeps
organisations, keys, threads, labels and events.
"""

from importlib.metadata import version

__version__ = version("agentmail-cp")
