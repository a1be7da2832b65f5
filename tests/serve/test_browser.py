"""The page in a real browser: Chromium, without a window."""

from __future__ import annotations

import importlib
import importlib.util
import io
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nuwa_lightning.pipeline import NuwaInfinityPipeline
from tests.canvas.editable import tiny
from tests.serve.served import Served, serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or importlib.util.find_spec("playwright") is None, reason="needs Chromium and playwright"
)


class Window:
    """A page of the browser."""

    def __init__(self, page: Any) -> None:
        self.page, self.wrong, self.asked = page, list[str](), list[str]()
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def _console(self, said: Any) -> None:
        if said.type in ("error", "warning") and "willReadFrequently" not in said.text:  # that is :meth:`drawn`
            self.wrong.append(said.text)

    def until(self, holds: Callable[[], object], seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, self.page.locator("#say").inner_text()
            time.sleep(0.05)

    def said(self, text: str) -> None:
        self.until(lambda: text in self.page.locator("#say").inner_text())

    def drawn(self) -> np.ndarray:
        """The image as it is on the screen, pixel by pixel, once all of it is there."""
        self.page.evaluate("""() => {
            viewer.scale = 1; viewer.hover = null; viewer.selected = null;
            viewer.center = [viewer.canvas.bounds[0] + viewer.size[0] / 2 - 8, viewer.canvas.bounds[1] + viewer.size[1] / 2 - 8];
            viewer.paint();
        }""")  # noqa: E501
        self.until(lambda: self.page.evaluate(
            "!viewer.due && !viewer.store.loading.size && !viewer.store.wanted.length && "
            "![...viewer.store.kept.values()].some(each => each.stale)"
        ))  # fmt: skip
        time.sleep(0.1)
        left, top, width, height = self.page.evaluate("""() => {
            const {bounds, size} = viewer.canvas;
            return [...viewer.toScreen(bounds.slice(0, 2)).map(Math.floor), ...size];
        }""")
        values = self.page.evaluate(
            "box => Array.from(viewer.context.getImageData(...box).data)", [left, top, width, height]
        )
        return np.asarray(values, np.uint8).reshape(height, width, 4)[..., :3]

    def click_at(self, x: float, y: float) -> None:
        """Click on a pixel of the lattice."""
        found = self.page.evaluate("at => viewer.toScreen(at)", [x, y])
        self.page.locator("#view").click(position={"x": found[0], "y": found[1]})


@contextmanager
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield opened
        finally:
            opened.close()


def opened(chromium: Any, server: Served) -> Window:
    window = Window(chromium.new_page(viewport={"width": 1200, "height": 800}))
    window.page.goto(f"http://127.0.0.1:{server.port}/")
    window.said("Ready.")
    return window


def exported(server: Served, canvas: str) -> np.ndarray:
    job = server.do(f"/api/canvases/{canvas}/export", {"suffix": ".png"})
    return np.asarray(Image.open(io.BytesIO(server.ask("GET", f"/api/jobs/{job['id']}/file")[1])).convert("RGB"))


@pytest.fixture(scope="module")
def pipe() -> NuwaInfinityPipeline:
    return tiny()


@needs_browser
def test_what_is_on_the_screen_is_what_an_export_writes(pipe: NuwaInfinityPipeline, tmp_path: Path) -> None:
    with serving(pipe, tmp_path) as server, browser() as chromium:
        canvas = server.new(width=300, height=40)
        window = opened(chromium, server)
        assert (window.drawn() == exported(server, canvas)).all()
        window.click_at(307, 20)  # beyond the right side: a patch
        window.said("grow: done")
        assert server.canvas(canvas)["size"] == [308, 40]
        assert (window.drawn() == exported(server, canvas)).all()
        assert window.wrong == []
        assert all(url.startswith((f"http://127.0.0.1:{server.port}/", "blob:")) for url in window.asked)


@needs_browser
@pytest.mark.slow
def test_a_visit(pipe: NuwaInfinityPipeline, tmp_path: Path) -> None:
    """Begin, zoom, grow three times, redo a box by candidates, undo, export, reload; by keys and by the pointer."""
    with serving(pipe, tmp_path) as server, browser() as chromium:
        window = opened(chromium, server)
        page = window.page
        page.fill("#new [name=width]", "64")
        page.fill("#new [name=height]", "40")
        page.click("#new button:has-text('Generate')")
        window.said("new: done")
        (found,) = server.get("/api/state")["canvases"]
        canvas = found["id"]
        page.fill("#step", "24")
        page.focus("#view")
        for width in (88, 112, 136):
            page.keyboard.press("Shift+ArrowRight")
            window.until(lambda width=width: server.canvas(canvas)["size"] == [width, 40])
            window.until(lambda: server.canvas(canvas)["finished"])
        page.keyboard.press("Shift+ArrowUp")
        window.until(lambda: server.canvas(canvas)["size"] == [136, 64] and server.canvas(canvas)["finished"])
        before = window.drawn()
        assert (before == exported(server, canvas)).all()
        scale = page.evaluate("viewer.scale")
        page.keyboard.press("+")
        assert page.evaluate("viewer.scale") == pytest.approx(1.5 * scale)
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("0")

        page.keyboard.press("b")  # a box, drawn
        corners = [page.evaluate("at => viewer.toScreen(at)", at) for at in ([100, 20], [120, 30])]
        box = page.locator("#view").bounding_box()
        page.mouse.move(box["x"] + corners[0][0], box["y"] + corners[0][1])
        page.mouse.down()
        page.mouse.move(box["x"] + corners[1][0], box["y"] + corners[1][1], steps=4)
        page.mouse.up()
        drawn = [int(page.input_value(f"#redo [name={name}]")) for name in ("left", "top", "right", "bottom")]
        assert np.abs(np.subtract(drawn, [100, 44, 120, 54])).max() <= 1
        page.fill("#redo [name=count]", "3")
        page.fill("#steer [name=seed]", "11")
        page.click("#redo button")
        window.until(lambda: page.locator("#candidates figure").count() == 3)
        window.said("redo: done")
        assert (window.drawn() == before).all()
        page.locator("#candidates img").nth(2).wait_for()
        page.click("text=Keep 2")
        window.said("keep: done")
        assert [edit.get("seed") for edit in server.canvas(canvas)["edits"]][-1] == 12
        kept = window.drawn()
        assert (kept == exported(server, canvas)).all()
        assert (kept != before).any()

        page.click("#export")
        window.until(lambda: page.locator("#say a").count() == 1)
        with page.expect_download() as download:
            page.click("#say a")
        assert (np.asarray(Image.open(download.value.path()).convert("RGB")) == kept).all()

        page.reload()
        window.said("Ready.")
        assert (window.drawn() == kept).all()
        page.focus("#view")
        page.keyboard.press("u")
        window.said("undo: done")
        assert (window.drawn() == before).all()

        data = io.BytesIO()
        Image.fromarray(before[:32, :48]).save(data, "PNG")
        page.set_input_files("#file", {"name": "mine.png", "mimeType": "image/png", "buffer": data.getvalue()})
        window.until(lambda: page.locator("#image-name").inner_text() == "mine.png, 48×32")  # noqa: RUF001
        page.fill("#expand [name=right]", "16")
        page.click("#new button:has-text('Generate')")
        window.until(lambda: page.evaluate("viewer.canvas.size.join()") == "64,32")
        window.said("new: done")
        assert (window.drawn()[:, :48] == before[:32, :48]).all()

        page.set_input_files("#file", {"name": "mine.png", "mimeType": "image/png", "buffer": data.getvalue()})
        page.locator("#paint").wait_for()  # a hole is painted, by keys, and nothing but the hole changes
        page.fill("#expand [name=right]", "0")
        page.click("#paint-name")
        page.fill("#pad-brush", "20")
        page.focus("#pad")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press(" ")
        page.click("#new button:has-text('Generate')")
        window.until(lambda: page.evaluate("viewer.canvas.request.mask") == "mask.png")
        window.said("new: done")
        changed = (window.drawn() != before[:32, :48]).any(2)
        assert changed.any()
        assert not np.delete(changed, range(10, 30), 1).any()

        page.fill("#redo [name=right]", "9999")  # what cannot be is told in a line, and nothing else happens
        page.click("#redo button")
        window.said("box: ")
        assert window.wrong == []
        assert all(url.startswith((f"http://127.0.0.1:{server.port}/", "blob:")) for url in window.asked)


@needs_browser
@pytest.mark.slow
def test_frames_and_the_brush(tmp_path: Path) -> None:
    """A video: each frame on the screen is the exported one; painted patches of a frame are redone, by keys alone."""
    pipe = tiny(frames=3)
    with serving(pipe, tmp_path) as server, browser() as chromium:
        canvas = server.new(width=40, height=24, frames=4)
        here = pipe(size=(40, 24), frames=4, seed=3, output_type="tokens").canvases[0]
        window = opened(chromium, server)
        page = window.page
        frames = list(here.pixels())
        page.focus("#frame")
        for key, t in [("Home", 0), ("ArrowRight", 1), ("ArrowRight", 2), ("End", 3), ("ArrowLeft", 2), ("Home", 0)]:
            page.keyboard.press(key)
            assert page.locator("#frame-number").inner_text() == f"{t + 1} of 4"
            assert (window.drawn() == frames[t]).all()
        page.focus("#view")
        for key, t in [(".", 1), (".", 2), (",", 1), (",", 0), (",", 0)]:
            page.keyboard.press(key)
            assert (window.drawn() == frames[t]).all()
        page.click("#play")
        seen = set[str]()
        window.until(lambda: len(seen.add(page.locator("#frame-number").inner_text()) or seen) == 4)
        page.click("#play")
        page.focus("#frame")
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")

        page.focus("#view")
        page.keyboard.press("m")
        page.evaluate("viewer.cursor = null; viewer.center = [20, 12]")  # the patch in the middle
        for key in [
            "ArrowDown",
            "ArrowRight",
            " ",
            "ArrowRight",
            " ",
            "ArrowLeft",
            "ArrowLeft",
            "ArrowLeft",
            "ArrowLeft",
            " ",
        ]:
            page.keyboard.press(key)
        boxes, part = (
            [[0, 16, 8, 24], [24, 16, 40, 24]],
            here.dependents([(0, 16, 8, 24), (24, 16, 40, 24)], frames=(1, 2)),
        )
        assert sorted(page.evaluate("viewer.brush.boxes(viewer.canvas.patch, viewer.canvas.bounds)")) == boxes
        page.check("#redo [name=single]")
        window.until(lambda: f"3 painted, {len(part)} of 60" in page.locator("#dependents").inner_text())
        assert page.locator("#corners").is_hidden()
        page.fill("#steer [name=seed]", "8")
        page.focus("#view")
        page.keyboard.press("r")
        window.said("redo: done")
        options = server.canvas(canvas)["edits"][-1]["options"]
        page.keyboard.press("Escape")
        assert page.evaluate("viewer.brush.empty && !viewer.tool")
        assert page.locator("#corners").is_visible()
        here.redo([tuple(box) for box in boxes], frames=(1, 2), seed=8, options=options)
        for t, frame in enumerate(here.pixels()):
            page.fill("#frame", str(t))
            assert (window.drawn() == frame).all()
        page.fill("#brush-side", "3")  # by the pointer, three patches wide
        page.click("#brush")
        window.click_at(20, 12)
        assert page.evaluate("viewer.brush.boxes(viewer.canvas.patch, viewer.canvas.bounds)") == [[8, 0, 32, 24]]
        assert window.wrong == []


@needs_browser
@pytest.mark.slow
def test_eight_pages_see_the_same_and_come_back_after_a_restart(pipe: NuwaInfinityPipeline, tmp_path: Path) -> None:
    with browser() as chromium:
        with serving(pipe, tmp_path) as server:
            canvas = server.new(width=64, height=40)
            windows = [opened(chromium, server) for _ in range(8)]
            windows[3].page.keyboard.press("Shift+ArrowRight")
            for window in windows:
                window.until(lambda window=window: window.page.evaluate("viewer.canvas.size[0]") == 320)
                window.said("grow: done")
            whole = exported(server, canvas)
            assert all((window.drawn() == whole).all() for window in windows)
            assert all(window.wrong == [] for window in windows)
            port = server.port
        windows[0].said("The server does not answer")
        with serving(pipe, tmp_path, port=port) as server:
            server.do(f"/api/canvases/{canvas}/grow", {"down": 8})
            for window in windows:
                window.until(lambda window=window: window.page.evaluate("viewer.canvas.size[1]") == 48)
            whole = exported(server, canvas)
            assert all((window.drawn() == whole).all() for window in windows)


@needs_browser
@pytest.mark.slow
def test_endless(pipe: NuwaInfinityPipeline, tmp_path: Path) -> None:
    with serving(pipe, tmp_path) as server, browser() as chromium:
        canvas = server.new(width=64, height=40)
        window = opened(chromium, server)
        page = window.page
        page.check("#endless")
        page.focus("#view")
        end = time.monotonic() + 600
        while server.canvas(canvas)["size"][0] < 1500:
            assert time.monotonic() < end
            page.keyboard.press("ArrowRight")
            time.sleep(0.05)
        page.uncheck("#endless")
        assert window.wrong == []


# What can be used, as it is seen: those that are hidden, or lie in what is folded, cannot.
USED = """() => [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]")]
    .filter(each => each.checkVisibility() && !each.disabled)"""
NAMELESS = f"""() => ({USED})().filter(each => !(each.labels?.length && [...each.labels].some(l => l.textContent.trim())
    || each.textContent.trim() && each.tagName !== "SELECT" && each.tagName !== "TEXTAREA"
    || each.getAttribute("aria-label"))).map(each => each.outerHTML)"""
UNREACHED = f"""reached => ({USED})().filter(each => !reached.includes(each.outerHTML)).map(each => each.outerHTML)"""
FAINT = """() => {
    const parse = color => color.match(/[\\d.]+/g).map(Number), over = ([r, g, b, a = 1], under) =>
        [r, g, b].map((n, i) => n * a + under[i] * (1 - a));
    const light = color => color.slice(0, 3).map(n => n / 255).map(n => n <= 0.04045 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4)
        .reduce((sum, n, i) => sum + n * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = each => {
        const own = parse(getComputedStyle(each).backgroundColor);
        return own[3] === undefined ? own : each.parentElement ? over(own, ground(each.parentElement)) : over(own, [255, 255, 255]);
    };
    const seen = [], faint = [];
    for (const each of document.querySelectorAll("body *")) {
        const holds = [...each.childNodes].some(node => node.nodeType === 3 && node.data.trim()) || each.matches("input, select, textarea");
        if (!holds || !each.checkVisibility({opacityProperty: true}) || each.matches(":disabled, :disabled *")) continue;
        const under = ground(each), kinds = [null, ...(each.placeholder ? ["::placeholder"] : [])];
        for (const kind of kinds) {
            const style = getComputedStyle(each, kind), ink = over(parse(style.color), under).map((n, i) => n * style.opacity + under[i] * (1 - style.opacity));
            const [a, b] = [light(ink), light(under)].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
            seen.push(ratio);
            if (ratio < 4.5) faint.push(`${ratio.toFixed(2)} ${each.outerHTML.slice(0, 80)}`);
        }
    }
    return [seen.length, faint];
}"""  # noqa: E501


@needs_browser
@pytest.mark.slow
def test_keys_names_and_contrast(pipe: NuwaInfinityPipeline, tmp_path: Path) -> None:
    """Everything that can be used has a name, is reached by Tab, shows that it is, and can be read, dark or light."""
    with serving(pipe, tmp_path) as server, browser() as chromium:
        canvas = server.new(width=64, height=40)
        window = opened(chromium, server)
        page = window.page
        server.do(f"/api/canvases/{canvas}/redo", {"box": [0, 0, 8, 8], "seed": 5, "count": 2})
        page.locator("#candidates img").nth(1).wait_for()
        page.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": png(64, 40)})
        page.click("#paint-name")
        page.check("#overlay")
        page.click("#export")
        window.until(lambda: page.locator("#say a").count() == 1)
        assert page.evaluate(NAMELESS) == []
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            seen, faint = page.evaluate(FAINT)
            assert seen > 60
            assert faint == []
        page.evaluate("document.activeElement.blur()")
        page.evaluate(f"() => ({USED})().forEach((each, n) => {{ each.dataset.number = n; }})")  # so that they differ
        reached = list[str]()
        for _ in range(300):
            page.keyboard.press("Tab")
            html, outline = page.evaluate("""() => [document.activeElement.outerHTML, getComputedStyle(
                document.activeElement.matches("label input[type=file]") ? document.activeElement.parentElement : document.activeElement
            ).outlineWidth]""")  # noqa: E501
            if html.startswith("<body"):  # from the last one back to the first
                continue
            if html in reached:
                break
            assert float(outline.removesuffix("px")) >= 2, html
            reached.append(html)
        assert page.evaluate(UNREACHED, reached) == []
        assert window.wrong == []


def png(width: int, height: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (width, height), "#468").save(data, "PNG")
    return data.getvalue()


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_store_of_tiles() -> None:
    done = subprocess.run(
        ["node", "--test", str(Path(__file__).with_name("tiles.test.mjs"))],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "# pass 8" in done.stdout
