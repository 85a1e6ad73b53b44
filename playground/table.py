"""Tables for a terminal: numbers to the right, a rule under the heads."""

from collections.abc import Sequence


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """The lines of a table; a column of numbers stands to the right."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(heads)
    numeric = [bool(column) and all(isinstance(cell, int) for cell in column) for column in columns]
    widths = [max(len(head), *(len(str(cell)) for cell in column)) for head, column in zip(heads, columns, strict=True)]

    def line(cells: Sequence[object]) -> str:
        parts = (
            str(cell).rjust(width) if right else str(cell).ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        )
        return "  " + "  ".join(parts).rstrip()

    return "\n".join([line(heads), "  " + "  ".join("─" * width for width in widths), *map(line, rows)])
