"""Hash slots and redirections of a Redis Cluster (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/)."""

import binascii
import re

SLOTS = 16384

_REDIRECT = re.compile(rb"-?(MOVED|ASK) ([0-9]{1,5}) ([^\s]{0,300}):([0-9]{1,5})(?:\r\n)?", re.ASCII)
_HOST = re.compile(r"[0-9A-Za-z_.:%-]{0,255}", re.ASCII)


def slot_of(key: bytes) -> int:
    """The slot of a key: CRC-16/XMODEM of its hash tag, modulo 16384.

    The tag is what stands between the first "{" and the first "}" after it, when that is not empty; else the whole key.
    """
    opened = key.find(b"{")
    if opened >= 0:
        closed = key.find(b"}", opened + 1)
        if closed > opened + 1:
            key = key[opened + 1 : closed]
    return binascii.crc_hqx(key, 0) & (SLOTS - 1)


def parse_redirect(line: bytes) -> tuple[str, int, str, int] | None:
    """("MOVED" or "ASK", slot, host, port) of an error line, with or without "-" and CR LF; None when it is no redirection.

    The host is "" where the node did not name one: it is then the one that answered. The last colon ends the host, so an
    IPv6 address may stand with or without brackets; it is returned without. A "?" (the node knows no name for the other) is
    no host to go to: None.
    """
    found = _REDIRECT.fullmatch(line)
    if found is None:
        return None
    kind, slot, host, port = found[1].decode(), int(found[2]), found[3].decode("latin-1"), int(found[4])
    if host.startswith("[") and host.endswith("]") and ":" in host:
        host = host[1:-1]
    if slot >= SLOTS or not 0 < port < 65536 or not _HOST.fullmatch(host):
        return None
    return kind, slot, host, port
