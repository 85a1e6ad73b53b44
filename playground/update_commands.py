"""Renews the command table's data: `python -m playground.update_commands HOST:PORT …`, one running server of each kind.

What a server says of a command replaces what the servers named before it said, so name the one to be trusted most last.
Commands that a server does not have stay as another described them.
"""

import json
import sys
from typing import Any

import redis

from puerta.protocol import commands
from puerta.protocol.entry import Entry, read


def ask(address: str) -> list[Entry]:
    """All commands and subcommands of one server."""
    host, _, port = address.rpartition(":")
    with redis.Redis(host=host or "127.0.0.1", port=int(port), socket_timeout=10) as client:
        client.response_callbacks.clear()
        reply: Any = client.execute_command("COMMAND")
    return list(read(reply))


def document(entries: dict[str, Entry]) -> str:
    """JSON with one command a line, by name."""
    rows = [f'"{name}": {json.dumps(entries[name].dump())}' for name in sorted(entries)]
    return "{\n" + ",\n".join(rows) + "\n}\n"


def main(addresses: list[str]) -> int:
    if not addresses:
        print(__doc__, file=sys.stderr)
        return 2
    entries: dict[str, Entry] = {}
    for address in addresses:
        entries.update((entry.name, entry) for entry in ask(address))
    commands.DATA.write_text(document(entries))
    print(f"{len(entries)} commands in {commands.DATA}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
