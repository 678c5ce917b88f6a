"""How ranks and tables are written."""

from __future__ import annotations

from collections.abc import Collection


def ranks_text(ranks: Collection[int]) -> str:
    """Return ``"rank 1"`` or ``"ranks 0, 2"``."""
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {', '.join(map(str, sorted(ranks)))}"


def text_table(rows: list[list[str]]) -> list[str]:
    """Return the lines of a table, columns aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows
    ]
