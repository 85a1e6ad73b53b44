"""The listening sockets: the master binds them, hands them to children, and keeps them open.

**One SO_REUSEPORT socket per seat and address.** The kernel spreads connections over the group by hash. Closing the
last descriptor of one resets what its queue holds, so the master never closes a seat's socket while its address is
to be served: a respawned worker finds the queue of its predecessor. Never shutdown() one: that acts on the description
which all processes share.

**Bound early, listening later.** A socket joins its group with listen(), not with bind(). So a few seats more than
are wanted are bound (`SPARE`) before the first fork: when a seat is added, the master calls listen() and every child
already holds that seat's socket and can adopt it.

**A second instance would join the group unnoticed**, so a bind without the option goes first: it fails while anybody
listens there.
"""

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable, Collection, Iterable, Iterator

from puerta.config.schema import Address, BaseRoute
from puerta.errors import BootError
from puerta.log import logger
from puerta.process.unix import Identity, check_socket_path
from puerta.role import Listener

BACKLOG = 4096
"""Asked for; the kernel cuts it to net.core.somaxconn, each seat has a queue of its own (listen(2))."""

SPARE = 16
"""Seats bound beyond those wanted, so that workers which live now can adopt seats that are added later."""

MOST_SEATS = 128

SHARED = -1
"""The seat of a socket that all workers accept on: a Unix socket knows no SO_REUSEPORT groups."""

Key = tuple[str, int]
"""A socket's address as configured, and its seat."""


class Listeners:
    """Every listening socket of this server, by key."""

    def __init__(self, owner: Identity | None = None) -> None:
        self.sockets: dict[Key, socket.socket] = {}
        self.admin: list[Listener] = []
        self.bound = 0
        """Seats that have sockets: those below this number."""
        self.live = 0
        """Seats whose sockets listen: those below this number. Never falls, a seat that retired is adopted."""
        self._owner = owner
        self._resolved: dict[str, tuple[socket.AddressFamily, tuple[str, int]]] = {}
        self._files: dict[str, os.stat_result] = {}

    # -- opening -----------------------------------------------------------------------------------------------------

    def open(self, addresses: Iterable[Address], seats: int) -> None:
        """Bind what is missing for `seats` seats, and listen on new addresses for the seats that are live.

        All or nothing: raises BootError naming the address, and then nothing has changed.
        """
        addresses = tuple(addresses)
        bound = max(self.bound, min(seats + SPARE, MOST_SEATS))
        fresh = [address for address in addresses if not self._knows(address)]
        made: list[Key] = []
        try:
            self._resolve_all(fresh, addresses)
            for address in fresh:
                self._probe(address)
            for address in addresses:
                self._bind(address, bound, made)
            self._listen(key for key in made if key[1] < self.live)
        except BootError:
            self._close(made)
            raise
        self.bound = bound

    def go_live(self, seats: int) -> None:
        """Let the sockets of the first `seats` seats listen. Raises BootError if the kernel refuses."""
        if seats > self.live:
            self._listen(key for key in self.sockets if self.live <= key[1] < seats)
            self.live = seats

    def open_admin(self, path: str, listen: Address | None) -> None:
        """Bind the admin interface's Unix socket at `path`, and its TCP address if it has one. Raises BootError."""
        made = self._bind_unix(path, 0o600)
        self.admin.append(Listener("admin", f"unix:{path}", SHARED, made))
        if listen is not None:
            self._resolve_all([listen], [listen])
            made = self._bind_unix(listen.path, 0o600) if listen.path else self._bind_tcp(listen, reuse_port=False)
            self.admin.append(Listener("admin", str(listen), SHARED, made))
        for listener in self.admin:
            with _saying(listener.address):
                listener.socket.listen(BACKLOG)

    # -- handing out -------------------------------------------------------------------------------------------------

    def of(self, routes: Iterable[BaseRoute]) -> list[Listener]:
        """All seats' sockets of `routes`: what a worker is born with. Addresses that are on their way out have none for
        seats that were bound since."""
        return [
            Listener(route.name, key[0], key[1], self.sockets[key])
            for route in routes
            for address in route.listen
            for key in self._keys(address, self.bound)
            if key in self.sockets
        ]

    def keys_of(self, seat: int) -> set[Key]:
        return {key for key in self.sockets if key[1] == seat}

    def close_others(self, kept: Collection[Listener]) -> None:
        """In a child: close every socket but `kept`. The master's stay open, so no queue is lost."""
        wanted = {id(listener.socket) for listener in kept}
        for sock in (*self.sockets.values(), *(listener.socket for listener in self.admin)):
            if id(sock) not in wanted:
                sock.close()

    # -- closing -----------------------------------------------------------------------------------------------------

    def prune(self, wanted: Iterable[Address], held: Collection[Key]) -> None:
        """Close the sockets of addresses nobody wants any more, once no child of `held` has them."""
        names = {str(address) for address in wanted}
        gone = [key for key in self.sockets if key[0] not in names and key not in held]
        for name in sorted({key[0] for key in gone}):
            logger.info("no longer listening on %s", name)
        self._close(gone)

    def close_routes(self) -> None:
        """Nobody new is to be served: what clients connect to refuses them once the children have closed theirs, too."""
        self._close(list(self.sockets))

    def close(self) -> None:
        """The end: close everything and unlink the Unix sockets that are still ours."""
        self._close(list(self.sockets))
        for listener in self.admin:
            listener.socket.close()
        for path in list(self._files):
            self._unlink(path)
        self.admin.clear()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _knows(self, address: Address) -> bool:
        return self._keys(address, 1)[0] in self.sockets

    @staticmethod
    def _keys(address: Address, seats: int) -> list[Key]:
        if address.path:
            return [(str(address), SHARED)]
        return [(str(address), seat) for seat in range(seats)]

    def _resolve_all(self, addresses: Collection[Address], wanted: Collection[Address]) -> None:
        """Look each host up once: seats that are added later must join the same group, whatever DNS says then. What is open
        and not `wanted` any more has another spelling in the configuration now."""
        for address in addresses:
            if address.path:
                continue
            found = resolve(address)
            open_names = {key[0] for key in self.sockets} | {str(other) for other in addresses}
            for name, other in self._resolved.items():
                if other == found and name in open_names - {str(address)}:
                    if name not in {str(each) for each in wanted}:
                        raise BootError(f"{address} is open already as {name} (keep that spelling, or restart)")
                    raise BootError(f"{address} and {name} are the same address")
            self._resolved[str(address)] = found

    def _probe(self, address: Address) -> None:
        """Nobody else can be on a port that we have already, if on another interface: there the probe would meet ourselves."""
        ours = {self._resolved[name][1][1] for name, seat in self.sockets if seat != SHARED}
        if not address.path and address.port not in ours:
            self._bind_tcp(address, reuse_port=False).close()

    def _bind(self, address: Address, seats: int, made: list[Key]) -> None:
        for key in self._keys(address, seats):
            if key not in self.sockets:
                new = self._bind_unix(address.path, 0o660) if address.path else self._bind_tcp(address, reuse_port=True)
                self.sockets[key] = new
                made.append(key)

    def _listen(self, keys: Iterable[Key]) -> None:
        for key in keys:
            with _saying(key[0]):
                self.sockets[key].listen(BACKLOG)

    def _bind_tcp(self, address: Address, *, reuse_port: bool) -> socket.socket:
        family, where = self._resolved[str(address)]
        made = socket.socket(family, socket.SOCK_STREAM)
        with _saying(str(address), made.close):
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if reuse_port:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made.bind(where)
        made.setblocking(False)  # belongs to the description, so once and here
        return made

    def _bind_unix(self, path: str, mode: int) -> socket.socket:
        check_socket_path(path)
        remove_stale(path)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o777 & ~mode)  # never open to others, not even between bind and chmod
        try:
            with _saying(f"unix:{path}", made.close):
                made.bind(path)
                self._files[path] = os.stat(path)
                if self._owner is not None:
                    os.chown(path, self._owner.uid, self._owner.gid)
        finally:
            os.umask(mask)
        made.setblocking(False)
        return made

    def _close(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self.sockets.pop(key).close()
            if key[1] == SHARED:
                self._unlink(key[0].removeprefix("unix:"))

    def _unlink(self, path: str) -> None:
        ours = self._files.pop(path, None)
        with contextlib.suppress(OSError):
            if ours is not None and os.path.samestat(ours, os.stat(path)):
                os.unlink(path)


def resolve(address: Address) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """The first IP address behind a TCP address. Raises BootError when its host name is not known."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise BootError(f"can't listen on {address}: {error.strerror or error}") from error
    family, where = found[0][0], (str(found[0][4][0]), address.port)
    if where[0] != address.host:
        logger.info("%s is %s", address, where[0])
    return family, where


def remove_stale(path: str) -> None:
    """Unlink the socket file that a dead server left. Raises BootError when it is no socket, or somebody answers."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise BootError(f"can't listen on unix:{path}: the file exists and is no socket")
    except FileNotFoundError:
        return
    except OSError as error:
        raise BootError(f"can't listen on unix:{path}: {error.strerror}") from error
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)
        try:
            caller.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError:
            pass  # a full queue (EAGAIN), or a file that we may not judge
    raise BootError(f"unix:{path} is in use (is another instance running?)")


@contextlib.contextmanager
def _saying(address: str, undo: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Turn the kernel's refusal into a BootError that names the address."""
    try:
        yield
    except OSError as error:
        undo()
        hints = {errno.EADDRINUSE: " (is another instance running?)", errno.EACCES: " (ports below 1024 need root)"}
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        raise BootError(f"can't listen on {address}: {reason}{hints.get(error.errno or 0, '')}") from error
