"""A bar chart of ratios as an SVG, written by hand: no library, readable on a light and on a dark page.

The scale is logarithmic and the bars start at 1, so that half as much and twice as much are equally far from even.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH = 760
LEFT, RIGHT = 310, 60
ROW, GAP, HEAD, FOOT = 20, 12, 56, 34
FURTHEST = 4.0
"""Ratios beyond this, or below its inverse, are drawn up to the edge; their figure is written all the same."""

TICKS = (0.25, 0.5, 1.0, 2.0, 4.0)
NAMES = {0.25: "¼", 0.5: "½", 1.0: "1", 2.0: "2", 4.0: "4"}

STYLE = """
    text { font: 12px system-ui, sans-serif; fill: #24292f }
    .title { font-weight: 600; font-size: 14px }
    .group { font-weight: 600 }
    .quiet { fill: #57606a }
    .grid { stroke: #d0d7de }
    .even { stroke: #57606a }
    .less { fill: #1a7f64 }
    .more { fill: #bc4c00 }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 }
      .quiet { fill: #9198a1 }
      .grid { stroke: #3d444d }
      .even { stroke: #9198a1 }
      .less { fill: #3fb993 }
      .more { fill: #f0883e }
    }"""


@dataclass(frozen=True)
class Bar:
    """One ratio. Bars of one `group` that follow each other stand together under its name."""

    group: str
    label: str
    ratio: float


def place(ratio: float) -> float:
    """The x of a ratio."""
    bounded = min(max(ratio, 1 / FURTHEST), FURTHEST)
    share = (math.log2(bounded) / math.log2(FURTHEST) + 1) / 2
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def draw(title: str, subtitle: str, bars: Sequence[Bar]) -> str:
    """The whole SVG document."""
    body: list[str] = []
    top = HEAD
    group = None
    for bar in bars:
        if bar.group != group:
            top += GAP if group is not None else 0
            body.append(text(12, top + 14, bar.group, "group"))
            group = bar.group
        body += draw_bar(bar, top)
        top += ROW
    height = top + FOOT
    head = [text(12, 22, title, "title"), text(12, 40, subtitle, "quiet")]
    return "\n".join([opening(title, height), *head, *grid(top), *body, "</svg>"]) + "\n"


def opening(title: str, height: int) -> str:
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n'
        f"  <title>{escape(title)}</title>\n  <style>{STYLE}\n  </style>"
    )


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'  <text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def draw_bar(bar: Bar, top: int) -> list[str]:
    even, end = place(1.0), place(bar.ratio)
    kind = "less" if bar.ratio <= 1 else "more"
    x, width = min(even, end), max(abs(end - even), 1.0)
    figure = text(end - 6, top + 14, f"{bar.ratio:.2f}", anchor="end") if bar.ratio <= 1 else ""
    figure = figure or text(end + 6, top + 14, f"{bar.ratio:.2f}")
    return [
        text(LEFT - 135, top + 14, bar.label, "quiet"),
        f'  <rect x="{x:.1f}" y="{top + 3}" width="{width:.1f}" height="{ROW - 6}" rx="2" class="{kind}"/>',
        figure,
    ]


def grid(bottom: int) -> list[str]:
    lines = []
    for tick in TICKS:
        x, kind = place(tick), "even" if tick == 1 else "grid"
        lines.append(f'  <line x1="{x:.1f}" y1="{HEAD - 6}" x2="{x:.1f}" y2="{bottom + 4}" class="{kind}"/>')
        lines.append(text(x, bottom + 20, NAMES[tick], "quiet", "middle"))
    return lines
