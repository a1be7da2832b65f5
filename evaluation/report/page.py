"""A report as one HTML page that needs nothing else: drawings and images are inside, and nothing is fetched."""

import base64
import re
from collections.abc import Iterable
from html import escape

from evaluation.report.document import Block, Commands, Figure, Heading, ImageStrips, Notes, Paragraph, Table

_STYLE = """\
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 1160px; margin: 2em auto;
       padding: 0 1.2em; }
h1 { font-size: 1.7em; } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ddd; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .3em .7em; border-bottom: 1px solid #e4e4e4; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid #999; }
small { color: #666; font-weight: 400; }
td.best { font-weight: 700; background: #eaf4ea; }
figure { margin: 1em 0; } figure img { max-width: 100%; } figcaption { font-size: 13px; color: #555; }
.strip { margin: .4em 0 1em; font-size: 13px; } .strip p { margin: 0 0 .2em; }
.strip ol { margin: .3em 0; color: #555; } .strip img { width: 100%; display: block; }
.notes { font-size: 13px; color: #555; }
pre { background: #f6f6f4; padding: .8em 1em; overflow-x: auto; font-size: 12.5px; }
"""
# The page says itself that nothing may be fetched and no script may run.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def to_html(title: str, blocks: Iterable[Block]) -> str:
    """Return the text of the page."""
    body = "\n".join(_html(block) for block in blocks)
    return (
        "<!DOCTYPE html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<style>\n{_STYLE}</style></head>\n<body>\n<h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h2>{escape(block.text)}</h2>"
    if isinstance(block, Paragraph):
        return f"<p>{escape(block.text)}</p>"
    if isinstance(block, Notes):
        return f'<ol class="notes">{"".join(f"<li>{escape(line)}</li>" for line in block.lines)}</ol>'
    if isinstance(block, Commands):
        return f"<pre>{escape(chr(10).join(block.lines))}</pre>"
    if isinstance(block, Figure):
        data = base64.b64encode(block.data).decode("ascii")
        image = f'<img alt="{escape(block.caption)}" src="data:image/svg+xml;base64,{data}">'
        return f"<figure>{image}<figcaption>{escape(block.caption)}</figcaption></figure>"
    if isinstance(block, ImageStrips):
        parts = []
        for strip in block.strips:
            told = escape(f"{strip.name}: {', '.join(strip.files)}")
            image = f'<img alt="{told}" src="{strip.data}">'
            files = strip.files[0] if len(strip.files) == 1 else f"{strip.files[0]} to {strip.files[-1]}"
            captions = "".join(f"<li>{escape(caption)}</li>" for caption in strip.captions)
            below = f"<ol>{captions}</ol>" if captions else ""
            about = f"<p>{escape(strip.name)} <small>{escape(files)}</small></p>"
            parts.append(f'<div class="strip">{about}{image}{below}</div>')
        return "\n".join(parts)
    return _table(block)


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.head)
    rows = []
    for number, row in enumerate(table.rows):
        cells = "".join(
            f'<td class="best">{_cell(cell)}</td>' if (number, i) in table.marked else f"<td>{_cell(cell)}</td>"
            for i, cell in enumerate(row)
        )
        rows.append(f"<tr>{cells}</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _cell(text: str) -> str:
    """Return a cell's content; an interval stands below its value, so that many columns fit."""
    found = re.fullmatch(r"(\S+) (\[.+\])", text)
    return f"{escape(found[1])}<br><small>{escape(found[2])}</small>" if found else escape(text)
