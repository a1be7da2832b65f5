"""The page in Firefox, without a window: the same visit as in Chromium, by pointer and keys."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.canvas.editable import tiny
from tests.serve.marionette import FIREFOX, Firefox, firefox
from tests.serve.served import Served, serving
from tests.serve.test_browser import exported

SHIFT, RIGHT, ESCAPE = "\ue008", "\ue014", "\ue00c"
DRAWN = """async () => {
    viewer.scale = 1; viewer.hover = null; viewer.selected = null;
    viewer.center = [viewer.canvas.bounds[0] + viewer.size[0] / 2 - 8, viewer.canvas.bounds[1] + viewer.size[1] / 2 - 8];
    viewer.paint();
    do await new Promise(done => setTimeout(done, 100));
    while (viewer.due || !viewer.store.idle || [...viewer.store.kept.values()].some(each => each.stale));
    const {bounds, size} = viewer.canvas;
    return [...viewer.context.getImageData(...viewer.toScreen(bounds.slice(0, 2)).map(Math.floor), ...size).data];
}"""  # noqa: E501


def drawn(page: Firefox) -> np.ndarray:
    width, height = page.run("() => viewer.canvas.size")
    return np.asarray(page.run(DRAWN), np.uint8).reshape(height, width, 4)[..., :3]


def visited(page: Firefox, server: Served) -> None:
    page("Navigate", {"url": f"http://127.0.0.1:{server.port}/"})
    page.until("window.viewer && document.getElementById('say').textContent.startsWith('Ready')")
    page.run("() => { window.wrong = []; addEventListener('error', e => wrong.push(e.message)); "
             "addEventListener('unhandledrejection', e => wrong.push(String(e.reason))); }")  # fmt: skip


@pytest.mark.skipif(FIREFOX is None, reason="needs Firefox")
@pytest.mark.slow
def test_a_visit(tmp_path: Path) -> None:
    with serving(tiny(), tmp_path) as server, firefox(1200, 900) as page:
        canvas = server.new(width=300, height=40)
        visited(page, server)
        assert (drawn(page) == exported(server, canvas)).all()
        page.fill("#step", "24")
        page.run("() => document.getElementById('view').focus()")
        for width in (324, 348, 372):
            page.keys(SHIFT, RIGHT)
            page.until(f"viewer.canvas.size[0] === {width} && viewer.canvas.finished")
        before = drawn(page)
        assert (before == exported(server, canvas)).all()
        scale = page.run("() => viewer.scale")
        page.keys("+")
        assert page.run("() => viewer.scale") == pytest.approx(1.5 * scale)

        page.keys("m")  # patches, painted by a drag along the bottom
        drawn(page)
        left, top = page.run(
            "() => { const box = viewer.element.getBoundingClientRect(); return [box.left, box.top]; }"
        )
        ends = [page.run("at => viewer.toScreen(at)", at) for at in ([340, 36], [370, 36])]
        page.drag(*((left + x, top + y) for x, y in ends))
        (box,) = page.run("() => viewer.brush.boxes(viewer.canvas.patch, viewer.canvas.bounds)")
        assert box[1::2] == [32, 40]
        page.fill("#steer [name=seed]", "11")
        page.click("#redo > button")
        page.until("viewer.canvas.edits.length === 4 && viewer.canvas.finished")
        page.run("() => document.getElementById('view').focus()")
        page.keys(ESCAPE)
        kept = drawn(page)
        assert (kept == exported(server, canvas)).all()
        assert (kept != before).any()
        page("Refresh", {})
        page.until("window.viewer && document.getElementById('say').textContent.startsWith('Ready')")
        assert (drawn(page) == kept).all()
        page.click("#undo")
        page.until("viewer.canvas.edits.length === 3")
        assert (drawn(page) == before).all()
        assert page.run("() => window.wrong ?? []") == []
