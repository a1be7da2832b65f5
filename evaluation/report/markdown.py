"""A report as Markdown; drawings and images are files beside it."""

import re
from collections.abc import Iterable

from evaluation.report.document import Block, Commands, Figure, Heading, ImageStrips, Notes, Paragraph, Table


def to_markdown(title: str, blocks: Iterable[Block]) -> str:
    """Return the text of the document."""
    parts = [f"# {_plain(title)}"]
    for block in blocks:
        if isinstance(block, Heading):
            parts.append(f"## {_plain(block.text)}")
        elif isinstance(block, Paragraph):
            parts.append(_plain(block.text))
        elif isinstance(block, Table):
            parts.append(_table(block))
        elif isinstance(block, Notes):
            parts.append("\n".join(f"{number}. {_plain(line)}" for number, line in enumerate(block.lines, 1)))
        elif isinstance(block, Figure):
            parts.append(f"![{_plain(block.caption)}](figures/{block.name}.svg)")
            parts.append(_plain(block.caption))
        elif isinstance(block, ImageStrips):
            parts += [
                f"{_plain(strip.name)}\n\n![{_plain(strip.name)}](figures/{block.name}_{i}.jpg)"
                + "".join(f"\n{number}. {_plain(caption)}" for number, caption in enumerate(strip.captions, 1))
                for i, strip in enumerate(block.strips)
            ]
        elif isinstance(block, Commands):
            parts.append("```\n" + "\n".join(block.lines) + "\n```")
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    lines = [_row(map(_plain, table.head)), _row(["---"] * len(table.head))]
    for number, row in enumerate(table.rows):
        lines.append(
            _row([f"**{_plain(cell)}**" if (number, i) in table.marked else _plain(cell) for i, cell in enumerate(row)])
        )
    return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """Return text that shows as it is: folders have names, and some of them would be a column, or bold."""
    return re.sub(r"([\\`*_~<|])", r"\\\1", " ".join(text.split()))
