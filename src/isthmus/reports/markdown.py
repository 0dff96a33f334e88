"""A document as Markdown that reads well as it stands, in a terminal. Charts are left to HTML."""

from __future__ import annotations

from collections.abc import Sequence

from isthmus.reports.document import Block, Document, Prose, Table


def markdown(document: Document) -> str:
    """The document's text, ending in a line break."""
    parts = [f"# {document.title}"]
    for section in document.sections:
        parts.append(f"## {section.title}")
        parts += [text for block in section.blocks if (text := _block(block))]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    match block:
        case Prose(text):
            return text
        case Table():
            return _table(block)
    return ""


def _table(table: Table) -> str:
    rows = [tuple(cell.replace("|", "\\|") for cell in row) for row in (table.heads, *table.rows)]
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(table.heads))]
    rule = [
        "-" * width if column < table.numbers else "-" * (width - 1) + ":"
        for column, width in enumerate(widths)
    ]
    heads, *body = [_padded(row, widths, table.numbers) for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, rule, *body))


def _padded(row: Sequence[str], widths: Sequence[int], numbers: int) -> list[str]:
    return [
        cell.ljust(width) if column < numbers else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
