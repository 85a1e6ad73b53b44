"""Every option, once: its place, type, default, meaning and whether a reload takes it.

The loader, `--print-config` and the reference in docs/configuration.md are all made from these classes. A class is a
mapping in the file, a field is a key of it; `option` gives a field its kind and help, `section` makes it a mapping.
"""

# ruff: noqa: RUF009 - option() and section() are dataclasses.field() with our metadata
import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from puerta.config.kinds import (
    ADDRESS,
    BOOLEAN,
    NAME,
    NETWORK,
    PATH,
    REGEX,
    SECRET,
    STORE_URL,
    TEXT,
    WORKERS,
    Address,
    Kind,
    choice,
    duration,
    integer,
    parse_address,
    parse_duration,
    parse_size,
    show_duration,
    show_size,
    size,
)

__all__ = [
    "ADDRESS",
    "ROUTES",
    "SECRET",
    "Accept",
    "Address",
    "Admin",
    "Affinity",
    "AnyRoute",
    "Auth",
    "Backend",
    "BaseRoute",
    "Checks",
    "ClientAuth",
    "Config",
    "Health",
    "Kind",
    "Limits",
    "Log",
    "MongodbRoute",
    "ProxyProtocol",
    "RedisLimits",
    "RedisRoute",
    "Store",
    "TcpRoute",
    "option",
    "parse_address",
    "parse_duration",
    "parse_size",
    "section",
    "show_duration",
    "show_size",
]


def option(
    kind: Kind, help: str, default: Any = dataclasses.MISSING, *, reload: bool = True, many: bool = False
) -> Any:
    """One key. `default` MISSING = required; None is written `~`; `many` = one value or a list, kept as a tuple.

    What may hold a secret stays out of the repr, so that it stays out of tracebacks.
    """
    metadata = {"kind": kind, "help": help, "reload": reload, "many": many}
    return dataclasses.field(default=default, metadata=metadata, repr=kind.conceal is None)


def section(type: Any, help: str, *, many: bool = False) -> Any:
    """A key that holds a mapping, or with `many` a list of mappings, at least one, each known by its class's first key.

    `type` is the mapping's class, or the classes by the value of their key `mode`.
    """
    metadata = {"section": type, "help": help, "many": many}
    if many:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default_factory=type, metadata=metadata)


# -- the file ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Store:
    url: str = option(
        STORE_URL,
        "Where session affinity and health are shared by every worker on every machine. "
        "`embedded` runs a private Valkey or Redis as a child, and needs its program; else redis://, rediss:// or unix://.",
        "embedded",
        reload=False,
    )
    namespace: str = option(NAME, "Prefix of every key in the store.", "puerta", reload=False)
    timeout: float = option(
        duration(0.001, 10), "Budget of one exchange; beyond it the rendezvous hash decides alone.", 0.05
    )


@dataclass(frozen=True, slots=True)
class Admin:
    socket: str | None = option(
        PATH, "Unix socket of the admin interface, mode 0600. Default: {run_dir}/puerta.sock.", None, reload=False
    )
    listen: Address | None = option(
        ADDRESS, "HTTP address, read-only: status page, /status, /metrics, /livez, /readyz.", None, reload=False
    )


@dataclass(frozen=True, slots=True)
class Log:
    level: str = option(choice("debug", "info", "warning", "error"), "The least severe record that is written.", "info")
    format: str = option(choice("text", "json"), "One line a record: for people or for machines.", "text")
    access: bool = option(BOOLEAN, "One line per client connection, at its end.", True)


@dataclass(frozen=True, slots=True)
class Backend:
    address: Address = option(ADDRESS, "HOST:PORT, [IPV6]:PORT or unix:PATH; also the backend's id.")
    weight: int = option(integer(0, 1000), "Share of new clients; 0 = only clients it already has.", 1)

    @property
    def id(self) -> str:
        return str(self.address)


@dataclass(frozen=True, slots=True)
class Affinity:
    by: str = option(
        choice("address", "fingerprint", "session", "hybrid", "none"),
        "What makes two connections the same client: source IP; IP and application name; the process that "
        "session_pattern names; the best of these that is known; nothing.",
        "hybrid",
    )
    session_pattern: re.Pattern[str] | None = option(
        REGEX, "Regular expression on application.name; group 1 (or the whole match) names one client process.", None
    )
    ttl: float = option(duration(1, 30 * 86400), "How long a binding outlives the client's last connection.", 1800.0)
    cache: int = option(
        integer(16, 10_000_000), "Bindings of clients without a connection that each worker remembers.", 65536
    )


@dataclass(frozen=True, slots=True)
class Checks:
    every: float = option(
        duration(0.1, 3600), "Interval of checks on a healthy backend; a suspect one is asked faster.", 5.0
    )
    timeout: float = option(duration(0.05, 60), "A check that takes longer has failed.", 2.0)
    rise: int = option(integer(1, 100), "Good checks in a row that bring a backend up.", 2)
    fall: int = option(integer(1, 100), "Bad checks in a row that take it down.", 3)


@dataclass(frozen=True, slots=True)
class Health(Checks):
    on_down: str = option(choice("close", "keep"), "What happens to the sessions of a backend that went down.", "close")


@dataclass(frozen=True, slots=True)
class Limits:
    connections: int = option(
        integer(1, 10_000_000), "Client connections of this route at one time, over all workers.", 10000
    )
    connect_timeout: float = option(duration(0.01, 60), "Budget for reaching a backend, all attempts together.", 3.0)
    handshake_timeout: float = option(duration(0.01, 60), "Deadline for the PROXY header and the first message.", 5.0)
    idle_timeout: float | None = option(
        duration(1, 30 * 86400), "Close after this long without a byte in either direction; ~ = never.", None
    )
    buffer: int = option(
        size(4 << 10, 64 << 20),
        "Bytes held for a slow reader, per direction; then the sender waits. More than the default acts as the default.",
        512 << 10,
    )


@dataclass(frozen=True, slots=True)
class Accept:
    accept: tuple[Any, ...] | None = option(
        NETWORK, "Networks whose connections must begin with a PROXY header (v1 or v2); ~ = none.", None, many=True
    )


@dataclass(frozen=True, slots=True)
class ProxyProtocol(Accept):
    send: str | None = option(
        choice("v1", "v2"), "Tell backends the client's address by a PROXY header; ~ = don't.", None
    )


@dataclass(frozen=True, slots=True)
class Auth:
    username: str | None = option(TEXT, "User of Redis' access control lists; ~ = its default user.", None)
    password: str | None = option(SECRET, "Password; ~ = no AUTH is sent.", None)


@dataclass(frozen=True, slots=True)
class ClientAuth:
    password: str | None = option(
        SECRET, "Password that clients must show by AUTH or HELLO; ~ = none, and their AUTH is an error.", None
    )


@dataclass(frozen=True, slots=True)
class RedisLimits:
    connections: int = option(
        integer(1, 10_000_000), "Client connections of this route at one time, over all workers.", 10000
    )
    pending: int = option(
        integer(1, 1_000_000),
        "Commands of one client in flight; then it is read no further until one is answered.",
        1024,
    )
    buffer: int = option(
        size(64 << 10, 1 << 30), "Bytes held for one client, or for one connection to a node.", 64 << 20
    )
    idle_timeout: float | None = option(
        duration(1, 30 * 86400), "Close after this long without a command; ~ = never.", None
    )
    slowlog: float = option(
        duration(0, 3600), "A command that takes longer is shown by SLOWLOG and counted; 0 = none is.", 0.01
    )
    connect_timeout: float = option(duration(0.01, 60), "Budget of one connect to a node.", 1.0)
    call_timeout: float = option(
        duration(0.01, 3600),
        "A command that a node has not answered by then is an error; not for those that block.",
        5.0,
    )


@dataclass(frozen=True, slots=True)
class BaseRoute:
    """What every route has."""

    name: str = option(NAME, "Names the route in logs, metrics and keys.")
    mode: str = option(choice("mongodb", "tcp", "redis"), "What the clients speak.")
    listen: tuple[Address, ...] = option(ADDRESS, "Address, or list of addresses, that clients connect to.", many=True)


@dataclass(frozen=True, slots=True)
class TcpRoute(BaseRoute):
    """Any protocol: no byte is looked at."""

    backends: tuple[Backend, ...] = section(Backend, "The servers behind this route.", many=True)
    balance: str = option(
        choice("rendezvous", "least-connections", "round-robin", "random-two"),
        "Which backend is proposed to a new client; all are weighted.",
        "rendezvous",
    )
    affinity: Affinity = section(Affinity, "Which connections belong to one client, and for how long.")
    health: Health = section(Health, "How backends are checked.")
    slow_start: float = option(
        duration(0, 3600), "A backend that came up gets its full share only after this long.", 0.0
    )
    limits: Limits = section(Limits, "Bounds of what clients may cost.")
    proxy_protocol: ProxyProtocol = section(ProxyProtocol, "PROXY protocol v1 and v2, in and out.")


@dataclass(frozen=True, slots=True)
class MongodbRoute(TcpRoute):
    """MongoDB clients: the first message names the client."""

    expect: str = option(
        choice("mongos", "any"),
        "What hello must answer for a backend to be healthy: a mongos, or any server.",
        "mongos",
    )


@dataclass(frozen=True, slots=True)
class RedisRoute(BaseRoute):
    """Redis or Valkey clients, in front of one Redis Cluster: it looks like a single server to them."""

    cluster: tuple[Address, ...] = option(
        ADDRESS, "Seeds: nodes of one Redis Cluster, which name all the others.", many=True
    )
    auth: Auth = section(Auth, "What Puerta shows the cluster.")
    client_auth: ClientAuth = section(ClientAuth, "What clients must show Puerta.")
    read_from: str = option(
        choice("masters", "replicas", "any"),
        "Which nodes of a slot are asked by commands that only read. A replica may not have a client's own last write yet.",
        "masters",
    )
    max_redirects: int = option(
        integer(0, 16), "How often one command follows MOVED, ASK or TRYAGAIN before its client gets the error.", 5
    )
    topology_refresh: float = option(
        duration(1, 3600), "Interval of looks at a healthy cluster's layout; a doubt brings the next one forward.", 30.0
    )
    health: Checks = section(Checks, "How nodes are checked.")
    limits: RedisLimits = section(RedisLimits, "Bounds of what clients may cost.")
    proxy_protocol: Accept = section(Accept, "PROXY protocol v1 and v2, from clients.")


AnyRoute = TcpRoute | RedisRoute

ROUTES: dict[str, type[AnyRoute]] = {"mongodb": MongodbRoute, "tcp": TcpRoute, "redis": RedisRoute}
"""The class of a route by its `mode`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    name: str = option(NAME, "Shown in process titles and metrics.", "puerta", reload=False)
    workers: int | None = option(WORKERS, "gevent worker processes; auto = one a core.", None)
    pin_cpus: bool = option(BOOLEAN, "Bind worker N to the N-th core it may use.", False)
    scheduling: str = option(
        choice("auto", "normal", "batch"),
        "batch: workers don't preempt other processes when they wake (SCHED_BATCH), so they find more to do at once; "
        "auto: only while they are busy and need not wait long for it.",
        "auto",
    )
    io_uring: bool = option(
        BOOLEAN,
        "Workers send what has gathered in a turn with one system call; where the kernel forbids that, one by one.",
        True,
    )
    user: str | None = option(TEXT, "Drop to this user and its groups after binding; needs root.", None, reload=False)
    run_dir: str = option(
        PATH, "Directory of the admin socket, the pid file and the embedded store.", "run", reload=False
    )
    stop_timeout: float = option(
        duration(0, 86400), "TERM and a reload drain this long, then close what is left.", 30.0
    )
    upgrade_timeout: float = option(duration(1, 86400), "Reserved: USR2 is not available in this version.", 60.0)
    store: Store = section(Store, "Session affinity and health, shared.")
    admin: Admin = section(Admin, "How operators look in.")
    log: Log = section(Log, "What is written, and how.")
    routes: tuple[AnyRoute, ...] = section(ROUTES, "What Puerta listens on and what stands behind it.", many=True)
