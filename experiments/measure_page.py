"""Measure the page: the first tile, and frames a second over a canvas 100,000 pixels wide.

    python experiments/measure_page.py --output measured_page.json

Makes a canvas of 100,352 x 512 pixels whose tokens are copies of a generated one, serves it by a process of its own and
pans and zooms over it in a headless browser. Beside it, in the same browser and window: an empty page, and a page that
draws as many bitmaps of a tile's size on as large a canvas, which is what software rendering costs without this
program. Intervals are those between calls of ``requestAnimationFrame``. Run it on an idle machine; about two minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

from nuwa_lightning import GenerationRequest, NuwaInfinityPipeline
from nuwa_lightning.canvas.history import begun
from nuwa_lightning.request_fields import Size

WIDTH, HEIGHT = 100_352, 512
FRAMES = 300
WATCH = """async frames => {
    const times = [], step = ACT;
    await new Promise(done => {
        const each = now => { times.push(now); step(times.length); times.length > frames ? done() : requestAnimationFrame(each); };
        requestAnimationFrame(each);
    });
    return times.slice(1).map((time, n) => time - times[n]);
}"""  # noqa: E501
BITMAPS = """async () => {
    const view = document.body.appendChild(document.createElement("canvas")), tile = new OffscreenCanvas(256, 256);
    Object.assign(view, {width: innerWidth - 464, height: innerHeight - 100});
    tile.getContext("2d").fillRect(20, 20, 99, 99);
    const bitmap = await createImageBitmap(tile), context = view.getContext("2d");
    window.drawn = n => {
        context.clearRect(0, 0, view.width, view.height);
        for (let y = -256; y < view.height; y += 256) for (let x = -256; x < view.width; x += 256)
            context.drawImage(bitmap, 0, 0, 256, 256, x + n % 256, y + n % 256, 256, 256);
    };
}"""
SPY = """() => {
    window.spent = []; window.holes = 0;
    const draw = viewer.draw.bind(viewer), tile = viewer.drawTile.bind(viewer);
    viewer.draw = () => { const t = performance.now(); draw(); spent.push(performance.now() - t); };
    viewer.drawTile = (each, top) => { if (!viewer.store.find(each, top)) holes++; tile(each, top); };
}"""
ACTS = {
    "still": "() => {}",
    "pan, a pixel a pixel, 480 pixels a second": "() => viewer.pan(8 / viewer.scale, 0)",
    "pan, a pixel a pixel, 3000 pixels a second": "() => viewer.pan(50 / viewer.scale, 0)",
    "zoom out": "() => viewer.zoom(1 / 1.015)",
    "zoom in": "() => viewer.zoom(1.015)",
}


def wide(pipe: NuwaInfinityPipeline, folder: Path) -> None:
    """Make the canvas: copies of a small one, side by side."""
    small = pipe(size=(1024, HEIGHT), seed=4, output_type="tokens").canvases[0].tokens_TYX[0]
    store = begun(folder / "wide.canvas", pipe, GenerationRequest(size=Size(WIDTH, HEIGHT), unprompted=True))
    rows, columns = store.facts.patch_size
    height, width = (side // rows * rows for side in small.shape)
    for patch in store.facts.grid:
        y, x = patch.y * rows % height, patch.x * columns % width
        store.put([(patch, small[None, y : y + rows, x : x + columns])])
    store.amend(replace(store.facts, finished=True, log=store.length))
    store.close()


def summary(intervals: list[float]) -> dict[str, float]:
    """Return what a list of milliseconds comes to."""
    ordered = sorted(intervals)
    at = {
        name: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for name, share in (("50%", 0.5), ("95%", 0.95))
    }
    return {
        "frames_a_second": round(1000 * len(intervals) / sum(intervals), 1),
        "interval_ms_50%": round(at["50%"], 2),
        "interval_ms_95%": round(at["95%"], 2),
        "later_than_25_ms": round(sum(n > 25 for n in intervals) / len(intervals), 4),
    }


def watched(page: Any, act: str) -> Any:
    """Return the intervals of frames in each of which something is done."""
    return page.evaluate(WATCH.replace("ACT", act), FRAMES)


def until(page: Any, condition: str) -> None:
    """Wait; the page itself lets nobody evaluate text."""
    while not page.evaluate(condition):
        time.sleep(0.01)


def measured(browser: Any, address: str) -> dict[str, Any]:
    """Return the numbers of a browser."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto("about:blank")
    found: dict[str, Any] = {"empty page": summary(watched(page, "() => {}"))}
    page.evaluate(BITMAPS)
    found["as many bitmaps on an empty page"] = summary(watched(page, "n => drawn(n)"))
    started = time.monotonic()
    page.goto(address)
    until(page, "Boolean(window.viewer?.store.kept.size)")
    found["seconds_from_opening_the_page_to_its_first_tile"] = round(time.monotonic() - started, 3)
    until(page, "viewer.store.idle")
    page.evaluate(SPY)
    page.evaluate("viewer.zoom(1 / viewer.scale, viewer.canvas.bounds)")
    until(page, "viewer.store.idle")
    for name, act in ACTS.items():
        page.evaluate("spent.length = holes = 0")
        found[name] = summary(watched(page, act))
        spent = sorted(page.evaluate("spent")) or [0.0]
        found[name] |= {"our_script_ms_50%": round(spent[len(spent) // 2], 2), "our_script_ms_max": round(spent[-1], 2)}
        found[name]["tiles_not_there_at_any_level"] = page.evaluate("holes")
    page.close()
    return found


def main() -> None:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="landscape")
    parser.add_argument("--output", type=Path, default=Path("measured_page.json"))
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as play:
        folder = Path(temporary)
        wide(NuwaInfinityPipeline.from_pretrained(options.checkpoint), folder)
        words = ["serve", "--checkpoint", options.checkpoint, "--canvases", str(folder), "--port", "0"]
        begun_at = time.monotonic()
        server = subprocess.Popen([sys.executable, "-m", "nuwa_lightning", *words], stderr=subprocess.PIPE, text=True)
        try:
            assert server.stderr is not None
            found = re.search(r"http://\S+", server.stderr.readline())
            assert found
            address, loaded = found[0], time.monotonic()  # it is printed once the model is loaded
            with urllib.request.urlopen(f"{address}api/state", timeout=60) as answer:
                canvas = json.load(answer)["canvases"][0]["id"]
            with urllib.request.urlopen(f"{address}api/canvases/{canvas}/tiles/0/100/0", timeout=60) as answer:
                assert answer.status == 200
            first = time.monotonic() - loaded
            numbers: dict[str, Any] = {
                "load": os.getloadavg()[0],
                "cores": os.cpu_count(),
                "canvas": f"{WIDTH}x{HEIGHT}",
            }
            numbers |= {
                "seconds_to_load": round(loaded - begun_at, 2),
                "seconds_to_first_tile_once_loaded": round(first, 3),
            }
            browser = play.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
            numbers["chromium"] = {"version": browser.version, **measured(browser, address)}
            browser.close()
        finally:
            server.terminate()
            server.wait()
    options.output.write_text(json.dumps(numbers, indent=2) + "\n")
    sys.stdout.write(options.output.read_text())


if __name__ == "__main__":
    main()
