"""Canvases that leave the page: shared, downloaded, and shown in the documents."""

from __future__ import annotations

import importlib
import io
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from nuwa_lightning import NuwaInfinityPipeline
from tests.canvas.editable import tiny
from tests.serve.served import Served, serving
from tests.serve.test_browser import browser, needs_browser, opened
from tests.serve.test_page import shown


@pytest.fixture(scope="module")
def pipe() -> NuwaInfinityPipeline:
    return tiny()


@pytest.fixture
def server(pipe: NuwaInfinityPipeline, tmp_path: Path):
    with serving(pipe, tmp_path) as served:
        yield served


def test_a_shared_canvas_is_grown_on_by_somebody_else(
    server: Served, pipe: NuwaInfinityPipeline, tmp_path: Path
) -> None:
    canvas = server.new(width=64, height=24)
    before = shown(server, canvas)
    job = server.do(f"/api/canvases/{canvas}/export", {"suffix": ".canvas.zip"})
    status, data, _ = server.ask("GET", f"/api/jobs/{job['id']}/file")
    assert status == 200
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert {Path(name).name for name in archive.namelist()} == {"canvas.json", "tokens.log"}
        archive.extractall(tmp_path / "theirs")
    server.do(f"/api/canvases/{canvas}/grow", {"right": 20})
    with serving(pipe, tmp_path / "theirs") as other:
        assert (shown(other, canvas) == before).all()
        other.do(f"/api/canvases/{canvas}/grow", {"right": 20})
        assert (shown(other, canvas) == shown(server, canvas)).all()


@pytest.mark.parametrize("suffix", [".dzi", ".zarr"])
def test_what_is_a_folder_is_sent_as_a_zip(server: Served, suffix: str, tmp_path: Path) -> None:
    canvas = server.new(width=64, height=24)
    job = server.do(f"/api/canvases/{canvas}/export", {"suffix": suffix})
    status, data, headers = server.ask("GET", f"/api/jobs/{job['id']}/file")
    assert status == 200
    assert f"{job['result']['name']}.zip" in headers["content-disposition"]
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        archive.extractall(tmp_path / "home")
    exports = next(tmp_path.rglob("exports"))
    there = {path.relative_to(exports): path.read_bytes() for path in exports.rglob("*") if path.is_file()}
    home = {
        path.relative_to(tmp_path / "home"): path.read_bytes()
        for path in (tmp_path / "home").rglob("*")
        if path.is_file()
    }
    assert len(home) > 1
    assert home == {path: data for path, data in there.items() if not path.name.startswith(".")}


@needs_browser
@pytest.mark.slow
def test_a_prompt_for_a_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    """A text is asked for in a box; the canvas is shared afterwards."""
    shutil.copy(repository / "tests" / "text" / "letters.py", tmp_path / "own_letters.py")  # a class of the user's own
    monkeypatch.syspath_prepend(tmp_path)
    own, pipe = importlib.import_module("own_letters").Letters, tiny(text=True)
    pipe.generator = replace(pipe.generator, text_encoder=own(most=9))
    with serving(pipe, tmp_path, own=(own,)) as server, browser() as chromium:
        canvas = server.new(options={"prompt": "a lake", "guidance": 1.5})
        window = opened(chromium, server)
        page = window.page
        page.fill("#steer [name=prompt]", "snow")
        page.fill("#steer [name=guidance]", "1.5")
        page.fill("#steer [name=seed]", "7")
        for name, value in {"left": 8, "top": 0, "right": 24, "bottom": 16}.items():
            page.fill(f"#redo [name={name}]", str(value))
        page.click("#redo button")
        window.said("redo: done")
        here = pipe("a lake", guidance_scale=1.5, size=(40, 24), seed=3, output_type="tokens").canvases[0]
        asked = {"prompt": "snow", "guidance": 1.5, "temperature": 1.0, "top_k": 50, "top_p": 1.0}
        here.redo((8, 0, 24, 16), seed=7, options=asked)
        assert (window.drawn() == next(here.pixels())).all()
        page.click("#share")
        window.until(lambda: page.locator("#say a").count() == 1)
        with page.expect_download() as download:
            page.click("#say a")
        with zipfile.ZipFile(download.value.path()) as archive:
            assert f"{server.canvas(canvas)['name']}/canvas.json" in archive.namelist()
        assert window.wrong == []


@needs_browser
@pytest.mark.slow
def test_the_screenshot_of_the_docs(tmp_path: Path) -> None:
    """A canvas of the package's model grows, with what it sees; PAGE_SCREENSHOT names where the image goes."""
    picture = Path(os.environ.get("PAGE_SCREENSHOT", tmp_path / "serve.png"))
    with serving(NuwaInfinityPipeline.from_pretrained("landscape"), tmp_path) as server, browser() as chromium:
        canvas = server.new(width=512, height=256, seed=4)
        window = opened(chromium, server)
        window.page.set_viewport_size({"width": 1200, "height": 620})
        window.page.check("#overlay")
        window.page.focus("#view")
        window.page.keyboard.press("-")
        window.page.keyboard.press("Shift+ArrowRight")
        window.until(lambda: server.canvas(canvas)["patches"][0] >= 40)
        window.page.screenshot(path=picture)
        window.until(lambda: server.canvas(canvas)["finished"])
        assert window.wrong == []
    assert picture.stat().st_size <= 300_000
