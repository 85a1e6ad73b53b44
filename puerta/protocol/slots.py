"""Hash slots and redirections of a Redis Cluster (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/)."""

import binascii


def slot_of(key: bytes) -> int:
    """The key's hash slot: CRC16 of the first non-empty {tag}, else of the whole key, modulo 16384."""
    opened = key.find(b"{")
    if opened >= 0:
        closed = key.find(b"}", opened + 1)
        if closed > opened + 1:
            key = key[opened + 1 : closed]
    return binascii.crc_hqx(key, 0) & 16383


def parse_redirect(line: bytes) -> tuple[str, int, str, int] | None:
    """(kind, slot, host, port) of a MOVED or ASK error; host "" = the node that answered. None for anything else."""
    parts = line.strip().removeprefix(b"-").split(b" ")
    if len(parts) != 3 or parts[0] not in (b"MOVED", b"ASK") or not parts[1].isdigit() or int(parts[1]) > 16383:
        return None
    host, _, port = parts[2].decode("ascii", "replace").rpartition(":")
    if not port.isdigit() or not 0 < int(port) < 65536:
        return None
    return parts[0].decode(), int(parts[1]), host.strip("[]"), int(port)
