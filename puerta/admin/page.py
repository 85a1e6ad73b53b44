"""The status page: one HTML document with all it needs inside, readable without JavaScript, that reloads itself."""

from collections.abc import Sequence
from html import escape
from typing import Any

REFRESH = 2
"""Seconds between two loads."""

COUNTS = ("#open", "#in all", "#failed", "#downs", "#check", "#checked")
BUSIEST = 11
"""Lines of latencies: all commands together, and the ten most used."""

STYLE = """
body{font:14px/1.45 system-ui,sans-serif;margin:2em auto;max-width:72em;padding:0 1em;color:#1c2733;background:#fbfcfd}
h1{font-size:1.5em;margin:0}h2{font-size:1.1em;margin:1.8em 0 .4em}p{margin:.3em 0;color:#51606f}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.3em .8em .3em 0;border-bottom:1px solid #dde4ea}
th{font-weight:600;color:#51606f}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
b{padding:.05em .5em;border-radius:.7em;font-weight:600;background:#e7ebef}
b.up,b.running{background:#d3f2dc;color:#0b5d27}b.down,b.broken,b.hung{background:#fbd9d7;color:#8c1a13}
b.drain,b.draining,b.partial,b.backoff,b.maint{background:#fdecc8;color:#7a4b00}
@media(prefers-color-scheme:dark){body{background:#12181f;color:#dfe7ee}p,th{color:#9aabbb}th,td{border-color:#2a3743}
b{color:#1c2733}}
"""


def render(status: dict[str, Any]) -> str:
    """The page of a status, every value escaped."""
    title = f"Puerta {status['name']}"
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        f"<meta http-equiv=refresh content={REFRESH}>",
        "<meta name=viewport content='width=device-width,initial-scale=1'>",
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)} {badge(status['state'])}</h1>",
        f"<p>version {text(status['version'])} · master {text(status['pid'])} · generation "
        f"{text(status['generation'])} · up {duration(status['uptime_seconds'])} · store "
        f"{badge(status['store']['state'])} {text(status['store']['latency_ms'], ' ms')}</p>",
        *(route(each) for each in status["routes"]),
        workers(status["workers"]),
        "<p><a href=status>status</a> · <a href=metrics>metrics</a> · <a href=config>config</a> · "
        "<a href='readyz?verbose'>readyz</a></p></body></html>\n",
    ]
    return "".join(parts)


def route(each: dict[str, Any]) -> str:
    """A route's heading and its backends."""
    closed = ", ".join(f"{reason} {count}" for reason, count in each["closed"].items() if count) or "none"
    found = ", ".join(f"{how} {count}" for how, count in each["found"].items() if count) or "none"
    head = (
        f"<h2>{text(each['name'])} <small>{text(each['mode'])} on {text(', '.join(each['listen']))}</small></h2>"
        f"<p>{each['connections']} connections now, {each['connections_total']} in all · "
        f"{size(each['bytes_in'])} in, {size(each['bytes_out'])} out</p>"
        f"<p>found: {text(found)} · closed: {text(closed)}</p>"
    )
    if each["mode"] == "redis":
        return head + cluster(each)
    columns = ("backend", "state", "#weight", *COUNTS, "remark")
    rows = [
        (text(one["id"]), badge(one["state"]), f"{one['effective_weight']:g}", *counts(one)) for one in each["backends"]
    ]
    return head + table(columns, rows)


def cluster(each: dict[str, Any]) -> str:
    """What stands behind a route of mode redis, and how long its busiest commands take."""
    redirects = ", ".join(f"{kind} {count}" for kind, count in each["redirects"].items())
    head = (
        f"<p>{each['slots_covered']} slots covered, confirmed {duration(each['topology_age_seconds'])} ago · "
        f"redirects: {text(redirects)} · {each['timeouts_total']} timeouts, {each['retries_total']} retries, "
        f"{each['slow_calls_total']} slow commands</p>"
    )
    rows = [
        (
            text(one["id"]),
            text(one["role"]),
            badge(one["state"]),
            *(text(one[key]) for key in ("slots", "commands_total", "errors_total", "in_flight")),
            *counts(one),
        )
        for one in each["backends"]
    ]
    busiest = list(each["latency"].items())[:BUSIEST]
    times = [(text(name), *(text(value) for value in found.values())) for name, found in busiest]
    return (
        head
        + table(("node", "role", "state", "#slots", "#commands", "#errors", "#in flight", *COUNTS, "remark"), rows)
        + table(("command", "#count", "#p50 ms", "#p95 ms", "#p99 ms"), times)
    )


def counts(one: dict[str, Any]) -> tuple[str, ...]:
    """A backend's cells under COUNTS, and the remark."""
    check = one["check"]
    remark = "; ".join(filter(None, [check["error"], *check["warnings"]]))
    return (
        text(one["connections"]),
        text(one["connections_total"]),
        text(one["connect_failures_total"]),
        text(one["downs"]),
        text(check["latency_ms"], " ms"),
        duration(check["age_seconds"]) + " ago" if check["age_seconds"] is not None else "never",
        text(remark),
    )


def workers(members: list[dict[str, Any]]) -> str:
    columns = ("#seat", "#pid", "state", "#connections", "#heartbeat", "#lag", "#restarts")
    rows = [
        (
            text(each["seat"]),
            text(each["pid"]),
            badge(each["state"]),
            text(each["connections"]),
            duration(each["heartbeat_age_seconds"]),
            text(each["loop_lag_ms"], " ms"),
            text(each["restarts"]),
        )
        for each in members
    ]
    return "<h2>workers</h2>" + table(columns, rows)


def table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """`#` before a column's name: its cells are numbers. Cells are ready-made HTML."""
    kinds = [" class=n" if name.startswith("#") else "" for name in columns]
    head = "".join(f"<th{kind}>{name.lstrip('#')}</th>" for kind, name in zip(kinds, columns, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def text(value: object, unit: str = "") -> str:
    return "–" if value is None else escape(f"{value}{unit}")


def badge(state: str) -> str:
    return f'<b class="{escape(state)}">{escape(state)}</b>'


def duration(seconds: float | None) -> str:
    """Seconds in the largest unit that keeps a digit or two."""
    if seconds is None:
        return "–"
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.1f} s"


def size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
