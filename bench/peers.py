"""The sides: Puerta and every peer, each started from its template in bench/configs/ and stopped by pid.

Every side gets the same number of workers or threads, the same backends and, where it has such settings, the same
buffers and backlog. `direct` is no proxy at all: the ceiling.
"""

import copy
import hashlib
import itertools
import string
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from bench import processes, programs
from playground.servers import Server, free_port

CONFIGS = programs.HERE / "configs"
FILES = 19000
"""Descriptors one process may need at 9,000 idle connections, two for each."""


@dataclass(frozen=True)
class Task:
    """What a scenario asks of a side."""

    mode: str
    """tcp, mongodb or redis."""

    workers: int
    backends: tuple[int, ...]
    """Ports on 127.0.0.1. In mode redis: the masters of a cluster."""

    single: int = 0
    """Mode redis: a server of its own with the same keys, for a side that knows no cluster."""

    buffer: int = 16384
    mbuf: int = 16384
    """twemproxy's unit of memory; its manual advises a small one for many connections."""

    affinity: bool = False
    """Keep each client on one backend."""


class Side(Server):
    """A proxy under load: a process tree behind one port. Subclasses say how it is configured and started."""

    name = ""
    needs: tuple[str, ...] = ()
    modes: tuple[str, ...] = ("tcp", "mongodb")
    threads_most: int | None = None
    """Workers it can have at most; None = any number."""

    template: Path

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.config_path = self.directory / self.template.name
        self.config_path.write_text(self.render())

    def values(self) -> dict[str, str]:
        """What is put in place of the template's `$name`s, beside the common ones."""
        raise NotImplementedError

    def render(self) -> str:
        common = {"port": self.port, "workers": self.task.workers, "buffer": self.task.buffer, "files": FILES}
        text = string.Template(self.template.read_text())
        return text.substitute(common, directory=self.directory, **self.values())

    def digest(self) -> str:
        """SHA-256 of the configuration as it would be with ports and a directory that are always the same."""
        ports = itertools.count(1)
        fixed = copy.copy(self)
        fixed.port, fixed.directory = next(ports), Path("/")
        backends = tuple(next(ports) for _ in self.task.backends)
        fixed.task = replace(self.task, backends=backends, single=next(ports) if self.task.single else 0)
        return hashlib.sha256(fixed.render().encode()).hexdigest()

    def lines(self, pattern: str, ports: tuple[int, ...] | None = None) -> str:
        """`pattern` once for each backend, with its number and its port."""
        ports = self.task.backends if ports is None else ports
        return "\n".join(pattern.format(number=number, port=port) for number, port in enumerate(ports))

    def look(self) -> list[processes.Process]:
        return processes.look(self.pid)

    def memory(self) -> int:
        return processes.memory(self.pid)

    def gone(self) -> bool:
        """Whether its first process has ended."""
        return self.process is not None and self.process.poll() is not None

    def stop(self) -> None:
        pids = processes.tree(self.pid) if self.process is not None else []
        super().stop()
        processes.end(pids)

    @classmethod
    def version(cls) -> str:
        raise NotImplementedError


class Puerta(Side):
    name = "puerta"
    needs = ("puerta", "valkey-server")
    modes = ("tcp", "mongodb", "redis")
    template = CONFIGS / "puerta.yaml"
    scheduling = "auto"

    def values(self) -> dict[str, str]:
        return {"mode": self.task.mode, "scheduling": self.scheduling, "route": self.route()}

    def route(self) -> str:
        if self.task.mode == "redis":
            nodes = ", ".join(f"127.0.0.1:{port}" for port in self.task.backends)
            return f"    cluster: [{nodes}]"
        route = "    backends:\n" + self.lines("      - {{address: 127.0.0.1:{port}}}")
        if not self.task.affinity:
            route += "\n    affinity: {by: none}\n    balance: round-robin"
        return route + ("\n    expect: any" if self.task.mode == "mongodb" else "")

    def command(self) -> list[str]:
        return [sys.executable, "-m", "puerta", "-c", str(self.config_path)]

    @classmethod
    def version(cls) -> str:
        return programs.puerta_version()


class PuertaNormal(Puerta):
    """Puerta whose workers always preempt the load and the backends when they wake."""

    name = "puerta-normal"
    scheduling = "normal"


class Haproxy(Side):
    name = "haproxy"
    needs = ("haproxy",)
    template = CONFIGS / "haproxy.cfg"
    connections = 9200
    splice = ""

    def values(self) -> dict[str, str]:
        table = "    stick-table type ip size 100k expire 30m\n    stick on src" if self.task.affinity else ""
        servers = self.lines("    server s{number} 127.0.0.1:{port} check inter 5s", self.servers())
        return {"affinity": table, "servers": servers, "splice": self.splice, "connections": str(self.connections)}

    def servers(self) -> tuple[int, ...]:
        return self.task.backends

    def command(self) -> list[str]:
        return [programs.path_of("haproxy"), "-db", "-f", str(self.config_path)]

    @classmethod
    def version(cls) -> str:
        return programs.first_line([programs.path_of("haproxy"), "-v"], r"HAProxy version \S+")


class HaproxySplice(Haproxy):
    """HAProxy that lets the kernel move long streams from socket to socket."""

    name = "haproxy-splice"
    connections = 1000  # it sets aside descriptors for two pipes for each
    splice = "    option splice-auto"


class HaproxyTcp(Haproxy):
    """HAProxy in front of one Redis server, whose protocol it does not know: what a round trip costs any TCP proxy."""

    name = "haproxy-tcp"
    modes = ("redis",)

    def servers(self) -> tuple[int, ...]:
        return (self.task.single,)


class Nginx(Side):
    name = "nginx"
    needs: tuple[str, ...] = ("nginx", "nginx stream module")
    template = CONFIGS / "nginx.conf"

    def values(self) -> dict[str, str]:
        module = programs.path_of("nginx stream module") if programs.nginx_stream() else ""
        return {
            "load_module": f"load_module {module};" if module else "",
            "affinity": "        hash $remote_addr consistent;" if self.task.affinity else "",
            "servers": self.lines("        server 127.0.0.1:{port};"),
        }

    def command(self) -> list[str]:
        return [programs.path_of("nginx"), "-p", str(self.directory), "-e", "stderr", "-c", str(self.config_path)]

    @classmethod
    def version(cls) -> str:
        return programs.first_line([programs.path_of("nginx"), "-v"], r"nginx/\S+")


class NginxBatch(Nginx):
    """nginx under the policy that Puerta's workers take while it pays; nginx has no such option."""

    name = "nginx-batch"
    needs = (*Nginx.needs, "chrt")

    def command(self) -> list[str]:
        return [programs.path_of("chrt"), "--batch", "0", *super().command()]


class Envoy(Side):
    name = "envoy"
    needs = ("envoy",)
    modes: tuple[str, ...] = ("tcp", "mongodb", "redis")
    flush = 0

    def __init__(self, task: Task) -> None:
        self.template = CONFIGS / ("envoy-redis.yaml" if task.mode == "redis" else "envoy-tcp.yaml")
        super().__init__(task)

    def values(self) -> dict[str, str]:
        address = "address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}"
        return {
            "affinity": "hash_policy: [{source_ip: {}}]" if self.task.affinity else "",
            "policy": "MAGLEV" if self.task.affinity else "ROUND_ROBIN",
            "flush": str(self.flush),
            "servers": self.lines("            - endpoint: {{" + address + "}}"),
        }

    def command(self) -> list[str]:
        command = [programs.path_of("envoy"), "-c", str(self.config_path), "--concurrency", str(self.task.workers)]
        return [*command, "--disable-hot-restart", "--log-level", "error"]  # which also spares a base id

    @classmethod
    def version(cls) -> str:
        build = programs.first_line([programs.path_of("envoy"), "--version"], r"[0-9a-f]{40}/[0-9.]+")
        return f"Envoy {build.rpartition('/')[2]}"


class EnvoyBatch(Envoy):
    """Envoy that gathers requests for an upstream before it writes."""

    name = "envoy-batch"
    modes = ("redis",)
    flush = 1024


class Twemproxy(Side):
    name = "twemproxy"
    needs = ("nutcracker",)
    modes = ("redis",)
    threads_most = 1
    template = CONFIGS / "nutcracker.yml"

    def values(self) -> dict[str, str]:
        return {"servers": self.lines("    - 127.0.0.1:{port}:1", (self.task.single,))}

    def command(self) -> list[str]:
        command = [programs.path_of("nutcracker"), "-c", str(self.config_path), "-m", str(self.task.mbuf)]
        command += ["-o", str(self.directory / "log"), "-p", str(self.directory / "pid")]
        return [*command, "-v", "4", "-a", "127.0.0.1", "-s", str(free_port())]  # it can't do without statistics

    @classmethod
    def version(cls) -> str:
        return programs.first_line([programs.path_of("nutcracker"), "-V"], r"nutcracker-\S+")


class Direct(Side):
    """No proxy: the load goes straight to the (single) backend."""

    name = "direct"
    modes = ("tcp", "mongodb", "redis")
    template = CONFIGS / "puerta.yaml"

    def __init__(self, task: Task) -> None:
        Server.__init__(self, task.single or task.backends[0])
        self.task = task

    def start(self) -> Server:
        return self

    def look(self) -> list[processes.Process]:
        return []

    def digest(self) -> str:
        return ""

    def stop(self) -> None:
        Server.stop(self)

    @classmethod
    def version(cls) -> str:
        return "no proxy"


SIDES: dict[str, type[Side]] = {
    side.name: side
    for side in (
        Puerta, PuertaNormal, Haproxy, HaproxySplice, HaproxyTcp, Nginx, NginxBatch, Envoy, EnvoyBatch, Twemproxy, Direct,
    )
}  # fmt: skip
"""Every side by the name that --peers and the result lines use."""
