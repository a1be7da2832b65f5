"""Draw docs/method.svg: patches, the pool, the order, and the two levels. Everything drawn is computed by the package.

python experiments/draw_method.py
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from nuwa_lightning.planning.context import NearbyContextPool
from nuwa_lightning.planning.direction import ArbitraryDirectionController
from nuwa_lightning.planning.geometry import PatchGrid, PatchIndex
from nuwa_lightning.planning.schedule import walk

ROWS, COLUMNS, SIDE = 4, 7, 56
NOW = PatchIndex(0, 1, 3)
OUTPUT = Path(__file__).parents[1] / "docs" / "method.svg"
COLORS = {"finished": "#d5e3e0", "live": "#8fc1b5", "seen": "#2f8f83", "now": "#e08e45", "later": "#ffffff"}


def drawing() -> str:
    """Return the SVG."""
    grid = PatchGrid(1, ROWS, COLUMNS)
    steps = list(
        walk(ArbitraryDirectionController("omega").plan(grid, frozenset()), NearbyContextPool((0, 1, 1)), grid)
    )
    patch_of = {step.number: step.patch for step in steps}
    now = next(step for step in steps if step.patch == NOW)
    seen = {patch_of[number] for number in now.context}
    dropped = {patch_of[n] for step in steps[: now.number] for n in step.dropped}
    parts = []
    for step in steps:
        y, x = step.patch.y, step.patch.x
        kind = "later"
        if step.patch == NOW:
            kind = "now"
        elif step.patch in seen:
            kind = "seen"
        elif step.number < now.number:
            kind = "finished" if step.patch in dropped else "live"
        left, top = 20 + x * SIDE, 50 + y * SIDE
        parts.append(f'<rect x="{left}" y="{top}" width="{SIDE}" height="{SIDE}" fill="{COLORS[kind]}" stroke="#555"/>')
        color = "#fff" if kind in ("seen", "now") else "#777"
        parts.append(
            f'<text x="{left + SIDE / 2}" y="{top + SIDE / 2 + 5}" text-anchor="middle" fill="{color}">'
            f"{step.number + 1}</text>"
        )
    zoom, cell = 20 + COLUMNS * SIDE + 90, 26
    for n in range(64):
        column, row = divmod(n, 8)  # tokens in the direction of travel: down a column, columns to the right
        fill = COLORS["seen"] if n < 29 else COLORS["now"] if n == 29 else "#fff"
        parts.append(
            f'<rect x="{zoom + column * cell}" y="{54 + row * cell}" width="{cell}" height="{cell}" fill="{fill}"'
            ' stroke="#999"/>'
        )
    right, middle = 20 + (NOW.x + 1) * SIDE, 50 + NOW.y * SIDE
    for y0, y1 in ((middle, 54), (middle + SIDE, 54 + 8 * cell)):
        parts.append(f'<path d="M{right} {y0} L{zoom} {y1}" stroke="#e08e45" fill="none" stroke-dasharray="5 4"/>')
    legend = [
        ("now", "being generated"),
        ("seen", "Select: what it may see"),
        ("live", "in the pool for later patches"),
        ("finished", "Remove: forgotten"),
        ("later", "not generated yet"),
    ]
    for n, (kind, words) in enumerate(legend):
        left, top = 20 + (n % 3) * 235, 50 + ROWS * SIDE + 24 + (n // 3) * 26
        parts.append(f'<rect x="{left}" y="{top}" width="16" height="16" fill="{COLORS[kind]}" stroke="#555"/>')
        parts.append(f'<text x="{left + 24}" y="{top + 13}">{words}</text>')
    titles = [(20, "global level: patch after patch, in the direction's order"), (zoom, "local level: its tokens")]
    parts += [f'<text x="{x}" y="34" font-weight="bold">{words}</text>' for x, words in titles]
    width, height = zoom + 8 * cell + 20, 50 + ROWS * SIDE + 84
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' font-family="sans-serif" font-size="14" fill="#222">\n<rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    OUTPUT.write_text(drawing(), encoding="utf-8")
