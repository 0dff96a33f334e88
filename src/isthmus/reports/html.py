"""A document as one page of HTML that needs nothing else: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from html import escape

from isthmus.reports.document import Block, Document, Lines, Prose, Scatter, Section, Table, Tornado
from isthmus.reports.svg import lines_svg, scatter_svg, tornado_svg

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #ffffff; --faint: #6b7280; --rule: #d7dae0;
  --one: #0b62a4; --two: #b4430a; --three: #23703a; --four: #7b3fa0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e7ea; --paper: #15171b; --faint: #9aa1ac;
  --rule: #363b44; --one: #6db5f2; --two: #f59a66; --three: #7bcf92; --four: #c99bea; } }
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto;
  max-width: 62rem; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { border-bottom: 1px solid var(--rule); padding: 0.3rem 0.8rem 0.3rem 0; text-align: left;
  vertical-align: top; }
.number { text-align: right; }
figure { margin: 1rem 0; } svg { max-width: 100%; height: auto; } svg text { fill: var(--ink); }
figcaption { color: var(--faint); font-size: 0.9rem; }
"""


def html(document: Document) -> str:
    """The page."""
    title = escape(document.title)
    sections = "\n".join(map(_section, document.sections))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{title}</h1>\n{sections}\n</main>\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    blocks = "\n".join(map(_block, section.blocks))
    return f"<section>\n<h2>{escape(section.title)}</h2>\n{blocks}\n</section>"


def _block(block: Block) -> str:
    match block:
        case Prose(text):
            return f"<p>{escape(text)}</p>"
        case Table():
            return _table(block)
        case Lines():
            return _figure(lines_svg(block), block.says)
        case Tornado():
            return _figure(tornado_svg(block), block.says)
        case Scatter():
            return _figure(scatter_svg(block), block.says)


def _figure(picture: str, says: str) -> str:
    return f"<figure>\n{picture}\n<figcaption>{escape(says)}</figcaption>\n</figure>"


def _table(table: Table) -> str:
    def row(cells: tuple[str, ...], tag: str) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        marks = ['class="number"' if column >= table.numbers else "" for column in range(len(cells))]
        return "".join(
            f"<{tag}{scope}{' ' + mark if mark else ''}>{escape(cell)}</{tag}>"
            for cell, mark in zip(cells, marks, strict=True)
        )

    body = "\n".join(f"<tr>{row(cells, 'td')}</tr>" for cells in table.rows)
    return (
        '<div class="wide" tabindex="0">\n<table>\n'
        f"<thead><tr>{row(table.heads, 'th')}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )
