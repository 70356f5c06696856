"""Whom we believe when we speak TLS: one context for all connections of a process.

To read all certificates takes 50 ms, in which nothing else goes on, so it happens once and not before
somebody speaks TLS. Knows nothing of HTTP and of who connects where.
"""

from __future__ import annotations

import functools
import ssl

import certifi


@functools.cache
def context() -> ssl.SSLContext:
    """Believes the system's authorities (SSL_CERT_FILE and SSL_CERT_DIR count) and those of certifi."""
    believing = ssl.create_default_context()
    believing.load_verify_locations(certifi.where())
    return believing


def unused() -> ssl.SSLContext:
    """For connections without TLS, where libraries want a context all the same; believes nobody."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
