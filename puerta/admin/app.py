"""The admin interface over HTTP: read-only pages about this machine's Puerta, as a WSGI application (PEP 3333).

It changes nothing, whoever asks, by any method: it needs no tokens, and a page that lures a browser here gains nothing.
"""

import base64
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from puerta.admin import metrics, page
from puerta.admin.status import Watcher, build, readiness
from puerta.log import logger
from puerta.role import Role

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

PLAIN = "text/plain; charset=utf-8"
METHODS = ("GET", "HEAD")

STYLE_HASH = base64.b64encode(hashlib.sha256(page.STYLE.encode()).digest()).decode()
SECURITY_HEADERS = [
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; frame-ancestors 'none'; "
     "base-uri 'none'; form-action 'none'"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answer:
    body: str | bytes
    kind: str = PLAIN
    status: HTTPStatus = HTTPStatus.OK
    headers: tuple[tuple[str, str], ...] = ()


class App:
    """`config_text` is the effective configuration with its secrets redacted: `/config` shows it as it is."""

    def __init__(self, role: Role, watcher: Watcher, config_text: str) -> None:
        self.role, self.watcher, self.config_text = role, watcher, config_text
        self.registry = metrics.registry(metrics.BoardCollector(role.board, self.status, config_text))
        self.pages: dict[str, Callable[[dict[str, str]], Answer]] = {
            "/": self._page,
            "/config": lambda query: Answer(self.config_text),
            "/livez": self._live,
            "/metrics": lambda query: Answer(metrics.exposition(self.registry), metrics.CONTENT_TYPE),
            "/readyz": self._ready,
            "/status": self._status,
        }

    def status(self) -> dict[str, Any]:
        return build(self.role, self.watcher)

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        answer = self._answer(environ)
        body = answer.body.encode() if isinstance(answer.body, str) else answer.body
        headers = [
            ("Content-Type", answer.kind),
            ("Content-Length", str(len(body))),
            *answer.headers,
            *SECURITY_HEADERS,
        ]
        start_response(f"{answer.status.value} {answer.status.phrase}", headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _answer(self, environ: "WSGIEnvironment") -> Answer:
        show = self.pages.get(environ.get("PATH_INFO", "") or "/")
        if show is None:
            return Answer("not found\n", status=HTTPStatus.NOT_FOUND)
        if environ["REQUEST_METHOD"] not in METHODS:
            allow = (("Allow", ", ".join(METHODS)),)
            return Answer("read-only\n", status=HTTPStatus.METHOD_NOT_ALLOWED, headers=allow)
        try:
            query = parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True, max_num_fields=16)
        except ValueError:
            return Answer("bad query\n", status=HTTPStatus.BAD_REQUEST)
        try:
            return show(dict(query))
        except Exception:  # an operator must see that something is wrong here, and no more than that
            logger.exception("admin page failed")
            return Answer("internal error\n", status=HTTPStatus.INTERNAL_SERVER_ERROR)

    def _page(self, query: dict[str, str]) -> Answer:
        return Answer(page.render(self.status()), "text/html; charset=utf-8")

    def _status(self, query: dict[str, str]) -> Answer:
        return Answer(json.dumps(self.status(), indent=1) + "\n", "application/json")

    def _live(self, query: dict[str, str]) -> Answer:
        """Alive = this process answers and the master runs. A check that fails here is a reason to restart."""
        alive = is_alive(self.role.board.master.get(0, "pid"))
        return checks([("supervisor", None), ("master", None if alive else "it does not run")], "verbose" in query)

    def _ready(self, query: dict[str, str]) -> Answer:
        """Ready = new clients can be served. A check that fails here is a reason to send them elsewhere."""
        return checks(readiness(self.status()), "verbose" in query)


def checks(found: list[tuple[str, str | None]], verbose: bool) -> Answer:
    """`ok`, or what fails; each check on a line of its own if `verbose`."""
    failed = [(name, why) for name, why in found if why is not None]
    lines = [f"[-]{name} failed: {why}" if why is not None else f"[+]{name} ok" for name, why in found]
    shown = lines if verbose else [f"[-]{name} failed: {why}" for name, why in failed]
    status = HTTPStatus.SERVICE_UNAVAILABLE if failed else HTTPStatus.OK
    return Answer("\n".join([*shown, "failed" if failed else "ok"]) + "\n", status=status)


def is_alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it runs as somebody else: we dropped our privileges, it kept its own
    return True
