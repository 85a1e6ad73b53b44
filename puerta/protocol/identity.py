"""Which client a connection belongs to, as a key that all its connections share and no other client's does.

An error to one side costs balance (two clients under one key share a backend), to the other side correctness (the
cursors and transactions of a client whose connections are split). So a key is made only of what is the same on every
connection of a process, the monitor's included: never of the port, the request id, driver, platform, compression or
authentication.

A key is a hash: it names the client in the shared store, where no identity may stand in clear.
"""

import re
from hashlib import sha256
from ipaddress import IPv6Address, ip_address

KEY_SIZE = 16
"""Bytes of a key; the shared store shows them as 32 hexadecimal digits."""

UNIX = "unix"
"""The address of every client that comes over a Unix socket: they all run on this machine."""

_KINDS = frozenset(("address", "fingerprint", "session", "hybrid", "none"))


def affinity_key(
    by: str,
    *,
    address: str,
    application: bytes | None,
    server_name: bytes | None,
    proxy_identity: bytes | None,
    session_pattern: re.Pattern[str] | None,
) -> bytes | None:
    """The key of a connection's client, or None when `by` is "none". Each kind falls back to the next it includes:

    - "hybrid": the identity that a trusted proxy gave; else as "session".
    - "session": what `session_pattern` finds in the application name, without the address; else as "fingerprint".
    - "fingerprint": address and application name; else address and TLS server name; else as "address".
    - "address": the source address alone.

    `address` is an IP address in any spelling, or anything else for a peer on a Unix socket. Keys of different kinds
    never meet. Raises ValueError for an unknown `by`.
    """
    if by not in _KINDS:
        raise ValueError(f"unknown affinity {by!r}")
    if by == "none":
        return None
    if by == "hybrid" and proxy_identity:
        return _digest(b"proxy", proxy_identity)
    if by in ("hybrid", "session") and (session := session_name(application, session_pattern)):
        return _digest(b"session", session)
    host = normal_address(address).encode()
    if by != "address" and application:
        return _digest(b"application", host, application)
    if by != "address" and server_name:
        return _digest(b"server_name", host, server_name.lower())
    return _digest(b"address", host)


def session_name(application: bytes | None, pattern: re.Pattern[str] | None) -> bytes | None:
    """What names one client process in its application name: group 1 of the pattern if it has groups, else the match.

    None when the pattern finds nothing there, or nothing but emptiness. The name may be any bytes; those that are no
    UTF-8 reach the pattern as lone surrogates.
    """
    if not application or pattern is None:
        return None
    match = pattern.search(application.decode("utf-8", "surrogateescape"))
    if match is None:
        return None
    text = match.group(1 if pattern.groups else 0)
    return text.encode("utf-8", "surrogateescape") if text else None


def normal_address(address: str) -> str:
    """One spelling for one host: `::ffff:192.0.2.1` is `192.0.2.1`, an IPv6 zone is dropped; not an IP: UNIX."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return UNIX
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(parsed)


def _digest(kind: bytes, *parts: bytes) -> bytes:
    """Hash of the kind and the parts, each behind its length: no two different lists give the same text."""
    text = sha256(b"puerta affinity")
    for part in (kind, *parts):
        text.update(len(part).to_bytes(4, "big"))
        text.update(part)
    return text.digest()[:KEY_SIZE]
