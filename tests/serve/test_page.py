"""The page's server: what it shows is what an export writes, and every edit is one of the canvas itself."""

from __future__ import annotations

import importlib
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nuwa_lightning import GenerationRequest, NuwaInfinityPipeline, UsageError
from nuwa_lightning.request_fields import Size
from tests.canvas.editable import same_but, tiny
from tests.serve.served import Served, serving


@pytest.fixture(scope="module")
def pipe() -> NuwaInfinityPipeline:
    return tiny()


@pytest.fixture
def server(pipe: NuwaInfinityPipeline, tmp_path: Path):
    with serving(pipe, tmp_path) as served:
        yield served


@pytest.fixture(scope="module")
def shared(pipe: NuwaInfinityPipeline, tmp_path_factory: pytest.TempPathFactory):
    with serving(pipe, tmp_path_factory.mktemp("canvases")) as served:
        yield served


def exported(server: Served, canvas: str, suffix: str = ".png") -> np.ndarray:
    job = server.do(f"/api/canvases/{canvas}/export", {"suffix": suffix})
    status, data, _ = server.ask("GET", f"/api/jobs/{job['id']}/file")
    assert status == 200
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def shown(server: Served, canvas: str) -> np.ndarray:
    pixels = server.pixels(canvas)
    assert (pixels[..., 3] == 255).all()
    return pixels[..., :3]


def test_tiles_are_what_an_export_writes_after_growing_to_every_side(server: Served) -> None:
    canvas = server.new(width=300, height=24)
    assert (shown(server, canvas) == exported(server, canvas)).all()
    for wish in ({"right": 20}, {"left": 13, "up": 5}, {"down": 8}):
        server.do(f"/api/canvases/{canvas}/grow", wish)
        assert (shown(server, canvas) == exported(server, canvas)).all()
    found = server.canvas(canvas)
    assert (found["size"], found["bounds"]) == ([333, 37], [-13, -5, 320, 32])


def test_growing_here_is_growing_by_the_pipeline(server: Served, pipe: NuwaInfinityPipeline) -> None:
    canvas = server.new()
    server.do(f"/api/canvases/{canvas}/grow", {"right": 16, "options": {"temperature": 0.7, "top_k": 5}, "seed": 9})
    here = pipe(size=(40, 24), seed=3, output_type="tokens").canvases[0]
    here.grow(right=16, seed=9, options={"temperature": 0.7, "top_k": 5})
    assert (shown(server, canvas) == next(here.pixels())).all()


@torch.inference_mode()
def test_coarse_tiles_are_means_of_the_fine_ones(server: Served, pipe: NuwaInfinityPipeline) -> None:
    canvas = server.new(width=560, height=48)
    fine = shown(server, canvas).astype(float)
    half = server.pixels(canvas, level=1)[..., :3]
    assert np.abs(half - fine.reshape(24, 2, 280, 2, 3).mean((1, 3))).max() <= 1
    tokens_YX = pipe(size=(560, 48), seed=3, output_type="tokens").canvases[0].tokens_TYX[0]
    field = torch.stack([pipe.tokenizer.decode(torch.full((1, 3, 3), k))[0, :, 4:8, 4:8] for k in range(16)])
    colors_K3 = ((field.mean((2, 3)) + 1) * 127.5).numpy()
    quarter = server.pixels(canvas, level=2)  # a pixel a token: of the middle of a field of it
    assert (quarter[..., 3] == 255).all()
    assert np.abs(quarter[..., :3] - colors_K3[tokens_YX]).max() <= 0.51
    eighth = server.pixels(canvas, level=3)[..., :3]
    assert np.abs(eighth - quarter[..., :3].reshape(6, 2, 70, 2, 3).mean((1, 3))).max() <= 1


def test_redo_with_candidates_keep_one_and_undo(server: Served, pipe: NuwaInfinityPipeline) -> None:
    canvas = server.new()
    before, box = shown(server, canvas), [16, 8, 24, 16]
    direct = pipe(size=(40, 24), seed=3, output_type="tokens").canvases[0]
    status, found = server.post(f"/api/canvases/{canvas}/dependents", {"box": box})
    assert (status, found) == (200, {"patches": len(direct.dependents((16, 8, 24, 16))), "of": 15})
    assert server.post(f"/api/canvases/{canvas}/dependents", {"box": [16, 8, 99, 16]})[0] == 400
    job = server.do(f"/api/canvases/{canvas}/redo", {"box": box, "seed": 7, "count": 3})
    assert job["result"]["candidates"] == [7, 8, 9]
    assert (shown(server, canvas) == before).all()
    for number in range(3):
        status, data, _ = server.ask("GET", f"/api/canvases/{canvas}/candidates/{number}")
        assert status == 200
        assert Image.open(io.BytesIO(data)).size == (40, 24)  # the box with what lies around it
    server.do(f"/api/canvases/{canvas}/keep", {"number": 1})
    direct.redo((16, 8, 24, 16), seed=8)
    assert (shown(server, canvas) == next(direct.pixels())).all()
    server.do(f"/api/canvases/{canvas}/redo", {"box": box, "seed": 11})
    server.do(f"/api/canvases/{canvas}/undo")
    assert (shown(server, canvas) == next(direct.pixels())).all()
    server.do(f"/api/canvases/{canvas}/undo")
    assert (shown(server, canvas) == before).all()
    assert server.canvas(canvas)["edits"] == []
    job = server.do(f"/api/canvases/{canvas}/undo", ends="failed")
    assert "nothing to undo" in job["error"]


def test_an_image_is_begun_from_and_stays(server: Served, sample_photos) -> None:
    photo = sample_photos["flower.jpg"][200:231, 300:345]
    data = io.BytesIO()
    Image.fromarray(photo).save(data, "PNG")
    status, body, _ = server.ask("POST", "/api/images?name=f.png", data.getvalue(), content_type="image/png")
    assert status == 200, body
    image = json.loads(body)["id"]
    canvas = server.do("/api/canvases", {"image": image, "expand": {"left": 10, "down": 9}, "seed": 3})["canvas"]
    pixels = shown(server, canvas)
    assert pixels.shape == (40, 55, 3)
    assert (pixels[:31, 10:] == photo).all()
    server.do(f"/api/canvases/{canvas}/grow", {"up": 7})
    assert (shown(server, canvas)[7:38, 10:] == photo).all()
    assert (shown(server, canvas) == exported(server, canvas)).all()


def test_what_is_in_the_making_is_seen_and_can_be_stopped_and_gone_on_with(server: Served, pipe) -> None:
    canvas = server.new()
    status, job = server.post(f"/api/canvases/{canvas}/grow", {"right": 2400})
    assert status == 200
    while server.canvas(canvas)["patches"][0] < 40:
        pass
    server.post(f"/api/jobs/{job['id']}/stop")
    server.wait(job["id"], ends="stopped")
    found = server.canvas(canvas)
    assert not found["finished"]
    pixels = server.pixels(canvas)
    assert (pixels[:, :40, 3] == 255).all()
    assert not pixels[:, -8:, 3].any()
    count, of = found["patches"]
    assert pixels[..., 3].sum() // 255 == 64 * count < 64 * of
    server.do(f"/api/canvases/{canvas}/resume")
    here = pipe(size=(40, 24), seed=3, output_type="tokens").canvases[0].grow(right=2400)
    assert (shown(server, canvas) == next(here.pixels())).all()


def test_what_another_process_writes_is_seen(server: Served, pipe: NuwaInfinityPipeline, tmp_path: Path) -> None:
    pipe(size=(40, 24), seed=5).canvases[0].save(tmp_path / "other.canvas").close()
    (found,) = server.get("/api/state")["canvases"]
    first = shown(server, found["id"])
    with pipe.open_canvas(tmp_path / "other.canvas") as canvas:
        canvas.redo((0, 0, 8, 8), seed=9)
        second = shown(server, found["id"])
        assert (second == next(canvas.pixels())).all()
        canvas.undo().grow(down=8)
        third = shown(server, found["id"])
        assert (third == next(canvas.pixels())).all()
        job = server.do(f"/api/canvases/{found['id']}/grow", {"right": 8}, ends="failed")
        assert "another process is writing it" in job["error"]
    assert (first != second).any()
    assert (third[:24] == first).mean() > 0.9
    server.do(f"/api/canvases/{found['id']}/grow", {"right": 8})


def test_a_second_server_is_told(server: Served, pipe: NuwaInfinityPipeline, tmp_path: Path) -> None:
    canvas = server.new()
    with serving(pipe, tmp_path) as second:
        assert (shown(second, canvas) == shown(server, canvas)).all()
        assert "another process" in second.do(f"/api/canvases/{canvas}/grow", {"right": 8}, ends="failed")["error"]
        server.do(f"/api/canvases/{canvas}/grow", {"right": 8})
        assert (shown(second, canvas) == shown(server, canvas)).all()
        assert shown(second, canvas).shape == (24, 48, 3)


def test_all_pages_hear_of_it(server: Served) -> None:
    import http.client

    pages = []
    for _ in range(3):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.request("GET", "/api/events")
        answer = connection.getresponse()
        assert answer.getheader("content-type", "").startswith("text/event-stream")
        pages.append((connection, answer))
    canvas = server.new()
    server.do(f"/api/canvases/{canvas}/grow", {"right": 8})
    for connection, answer in pages:
        events, done, waves = [], 0, []
        while done < 2:
            name = answer.readline().decode().strip().removeprefix("event: ")
            if name.startswith(("retry", ":")) or not name:
                continue
            data = json.loads(answer.readline().decode().removeprefix("data: "))
            events.append(name)
            done += name == "job" and data["state"] == "done"
            waves += [data] if name == "wave" else []
        assert events[0] == "all"
        assert {"canvases", "changed", "wave"} <= set(events)
        grown = [patch["at"] for wave in waves for patch in wave["finished"]]
        assert sorted(map(tuple, grown)) == [(x, y) for x in range(6) for y in range(3)]  # each once, known ones not
        sees = {tuple(p["at"]): p["sees"] for wave in waves for p in wave["finished"]}
        assert sees[5, 1]
        assert all(max(abs(x - a), abs(y - b)) <= 1 for (x, y), seen in sees.items() for a, b in seen)
        answer.close()
        connection.close()


def test_lines_that_make_it_again(server: Served, pipe: NuwaInfinityPipeline, tmp_path: Path) -> None:
    from nuwa_lightning.commands.canvas import parsed as edits
    from nuwa_lightning.commands.generate_options import parser as generate

    canvas = server.new(options={"temperature": 0.8})
    server.do(f"/api/canvases/{canvas}/grow", {"right": 16, "seed": 4, "options": {"top_k": 3}})
    server.do(f"/api/canvases/{canvas}/redo", {"box": [0, 0, 9, 9], "seed": 7})
    server.do(f"/api/canvases/{canvas}/redo", {"box": [[0, 16, 8, 24], [24, 0, 32, 8]], "seed": 8})
    lines = server.get(f"/api/canvases/{canvas}/recipe")
    code = (
        lines["python"].replace("NuwaInfinityPipeline.from_pretrained(", "found(").replace("from nuwa", "# from nuwa")
    )
    code = code.replace("canvas.canvas", str(tmp_path / "again"))
    made = {"found": lambda _: pipe}
    exec(code, made)
    assert (next(made["canvas"].pixels()) == shown(server, canvas)).all()
    import shlex

    first, *others = map(shlex.split, lines["command"].splitlines())
    generate().parse_args(first[4:])
    for words in others:
        edits(words[4:])


@pytest.mark.parametrize(
    ("path", "wish", "named"),
    [
        ("/api/canvases", {"width": 0, "height": 8}, "width"),
        ("/api/canvases", {"width": "8", "height": 8}, "width"),
        ("/api/canvases", {"width": 8, "height": 8, "options": {"prompt": "a lake"}}, "prompt"),
        ("/api/canvases", {"width": 8, "height": 8, "options": {"temperature": float("nan")}}, "temperature"),
        ("/api/canvases", {"width": 8, "height": 8, "options": {"size": 3}}, "options"),
        ("/api/canvases", {"width": 1 << 23, "height": 1 << 23}, "size"),
        ("/api/canvases", {"image": "nothing", "expand": {}}, "image"),
        ("/api/canvases", {"width": 8, "height": 8, "seed": -1}, "seed"),
        ("/api/canvases", {"width": 8, "height": 8, "seed": True}, "seed"),
        ("/api/canvases", {"width": 8, "height": 8, "name": 5}, "name"),
        ("/api/canvases", {"width": 8, "height": 8, "wrap": "z"}, "wrap"),
        ("/api/canvases", [], "body"),
        ("{}/grow", {"right": -1}, "right"),
        ("{}/redo", {"box": [0, 0, 8], "seed": 1}, "box"),
        ("{}/redo", {"box": [0, 0, 8, 8], "seed": 1, "count": 9}, "count"),
        ("{}/redo", {"box": [[0, 0, 8, 8]] * 1001, "seed": 1}, "box"),
        ("{}/redo", {"box": [[0, 0, 8, 8], 8], "seed": 1}, "box"),
        ("{}/dependents", {"box": []}, "box"),
        ("{}/export", {"suffix": "/../x.png"}, "suffix"),
        ("{}/fly", {}, "action"),
    ],
)
def test_wrong_wishes_are_one_line(shared: Served, path: str, wish: object, named: str) -> None:
    canvas = shared.new() if "{}" in path else ""
    before, body = len(shared.get("/api/state")["canvases"]), json.dumps(wish).encode()
    status, answer, _ = shared.ask(
        "POST", path.format(f"/api/canvases/{canvas}"), body, content_type="application/json"
    )
    line = json.loads(answer)["error"]
    assert status == 400
    assert line.startswith(f"{named}: ")
    assert "\n" not in line
    assert len(shared.get("/api/state")["canvases"]) == before


@pytest.mark.parametrize(
    ("path", "wish", "named"),
    [
        ("grow", {}, "grow"),
        ("grow", {"right": 8, "options": {"temperature": -1}}, "temperature"),
        ("redo", {"box": [0, 0, 999, 8], "seed": 1}, "box"),
        ("keep", {"number": 0}, "candidate"),
    ],
)
def test_what_a_canvas_refuses_leaves_it_whole(shared: Served, path: str, wish: object, named: str) -> None:
    canvas = shared.new()
    before = shown(shared, canvas)
    job = shared.do(f"/api/canvases/{canvas}/{path}", wish, ends="failed")
    assert job["error"].startswith(f"{named}: ")
    assert (shown(shared, canvas) == before).all()


@pytest.mark.parametrize("wrap", ["x", "xy"])
def test_on_a_closed_canvas_only_tiles_that_changed_go(server: Served, wrap: str) -> None:
    assert server.page is not None
    canvas = server.new(width=1600, height=32, wrap=wrap)
    shown(server, canvas)
    tiles = server.page.library.open(canvas).tiles
    kept = dict(tiles._made._kept)
    wish = {"box": [1576, 24, 1600, 32], "seed": 8, "options": {"temperature": 4, "top_k": 0}}
    job = server.do(f"/api/canvases/{canvas}/redo", wish)
    assert 0 < job["patches"][1] < 200
    left = set(tiles._made._kept)
    assert 0 < len(left & set(kept)) < len(kept)
    assert (shown(server, canvas) == exported(server, canvas)).all()
    changed = {key for key, value in kept.items() if tiles._made._kept[key] != value}
    assert changed
    assert not changed & left


def test_patches_that_were_painted_are_redone_with_what_saw_them(server: Served, pipe: NuwaInfinityPipeline) -> None:
    canvas, boxes = server.new(), [[0, 16, 8, 24], [24, 16, 40, 24]]
    direct = pipe(size=(40, 24), seed=3, output_type="tokens").canvases[0]
    status, found = server.post(f"/api/canvases/{canvas}/dependents", {"box": boxes})
    alone = [direct.dependents(tuple(box)) for box in boxes]
    assert direct.dependents(boxes) == alone[0] | alone[1]
    assert (status, found["patches"]) == (200, len(alone[0] | alone[1]))
    server.do(f"/api/canvases/{canvas}/redo", {"box": boxes, "seed": 7})
    before = direct.tokens_TYX.clone()
    direct.redo([tuple(box) for box in boxes], seed=7)
    assert (shown(server, canvas) == next(direct.pixels())).all()
    assert same_but(before, direct.tokens_TYX, alone[0] | alone[1])
    assert server.canvas(canvas)["edits"][-1]["redo"] == boxes
    server.do(f"/api/canvases/{canvas}/redo", {"box": boxes, "seed": 9, "count": 2})
    status, data, _ = server.ask("GET", f"/api/canvases/{canvas}/candidates/1")
    assert (status, Image.open(io.BytesIO(data)).size) == (200, (40, 24))
    server.do(f"/api/canvases/{canvas}/undo")
    assert server.canvas(canvas)["edits"] == []


def test_strange_folders_do_no_harm(server: Served, tmp_path: Path) -> None:
    canvas = server.new(name='../<b>"x')
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "canvas.json").write_text("{}")
    (tmp_path / "plain").mkdir()
    (tmp_path / "file").write_text("x")
    found = {entry["name"]: entry for entry in server.get("/api/state")["canvases"]}
    assert set(found) == {"b-x.canvas", "damaged"}
    assert found["b-x.canvas"]["id"] == canvas
    assert "damaged" in found["damaged"]["error"]


def test_a_canvas_of_another_model_is_told(server: Served, tmp_path: Path) -> None:
    other = tiny(layers=2)
    other(size=(16, 16), seed=0).canvases[0].save(tmp_path / "other.canvas").close()
    (entry,) = server.get("/api/state")["canvases"]
    assert "another model" in entry["error"]
    assert server.ask("GET", f"/api/canvases/{entry['id']}/tiles/0/0/0")[0] == 404


def test_a_text_model_reads_the_prompt_of_an_edit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    shutil.copy(repository / "tests" / "text" / "letters.py", tmp_path / "own_letters.py")  # a class of the user's own
    monkeypatch.syspath_prepend(tmp_path)
    own, pipe = importlib.import_module("own_letters").Letters, tiny(text=True)
    pipe.generator = replace(pipe.generator, text_encoder=own(most=9))
    with serving(pipe, tmp_path, own=(own,)) as server:
        canvas = server.new(options={"prompt": "a lake", "guidance": 1.5})
        server.do(f"/api/canvases/{canvas}/grow", {"right": 16, "options": {"prompt": "snow"}})
        server.do(f"/api/canvases/{canvas}/redo", {"box": [0, 0, 4, 4], "seed": 5, "options": {"prompt": ""}})
        here = pipe("a lake", guidance_scale=1.5, size=(40, 24), seed=3, output_type="tokens").canvases[0]
        here.grow(right=16, options={"prompt": "snow"}).redo((0, 0, 4, 4), seed=5, options={"prompt": ""})
        assert (shown(server, canvas) == next(here.pixels())).all()
        plain = pipe("a lake", guidance_scale=1.5, size=(40, 24), seed=3, output_type="tokens").canvases[0]
        assert (next(plain.grow(right=16).pixels()) != shown(server, canvas)).any()
        with pytest.raises(UsageError, match="an edit cannot have its own"):
            plain.grow(right=8, options={"order": "zeta"})


def test_a_video_is_shown_frame_by_frame(tmp_path: Path) -> None:
    pipe = tiny(frames=3)
    with serving(pipe, tmp_path) as server:
        canvas = server.new(width=24, height=16, frames=4)
        here = pipe(size=(24, 16), frames=4, seed=3, output_type="tokens").canvases[0]
        for t, frame in reversed(list(enumerate(here.pixels()))):
            assert (server.pixels(canvas, t=t)[..., :3] == frame).all()
        assert server.ask("GET", f"/api/canvases/{canvas}/tiles/0/0/0?t=4")[0] == 400


def test_tiles_asked_for_while_it_grows_to_all_sides(server: Served) -> None:
    import threading

    canvas, seen = server.new(width=48, height=40), []
    ended = threading.Event()

    def ask(seed: int) -> None:
        place = np.random.default_rng(seed)
        while not ended.is_set():
            level = place.integers(0, 4)
            x, y = place.integers(-2, 2, 2)
            seen.append(server.ask("GET", f"/api/canvases/{canvas}/tiles/{level}/{x}/{y}")[0])

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for side in ("left", "up", "right", "down"):
        server.do(f"/api/canvases/{canvas}/grow", {side: 41})
    ended.set()
    for thread in threads:
        thread.join()
    assert set(seen) == {200, 204}
    assert (shown(server, canvas) == exported(server, canvas)).all()


def sent(server: Served, pixels: np.ndarray) -> str:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    status, body, _ = server.ask("POST", "/api/images?name=x.png", data.getvalue(), content_type="image/png")
    assert status == 200, body
    return str(json.loads(body)["id"])


def test_a_hole_is_filled_and_the_rest_stays(server: Served, pipe: NuwaInfinityPipeline, sample_photos) -> None:
    photo, mask = sample_photos["flower.jpg"][200:232, 300:348], np.zeros((32, 48, 3), np.uint8)
    mask[8:20, 10:30] = 255
    canvas = server.do("/api/canvases", {"image": sent(server, photo), "mask": sent(server, mask), "seed": 3})["canvas"]
    pixels = shown(server, canvas)
    assert (pixels[mask == 0] == photo[mask == 0]).all()
    assert (pixels == np.asarray(pipe.inpaint(photo, mask, seed=3).images[0])).all()
    status, answer = server.post("/api/canvases", {"image": sent(server, photo), "mask": sent(server, mask[1:])})
    assert (status, answer["error"][:6]) == (400, "mask: ")


def test_a_plan_lays_a_canvas_out_and_is_kept(tmp_path: Path) -> None:
    from tests.canvas.test_coarse import planned

    pipe, sketch = planned(), np.random.default_rng(3).integers(0, 256, (6, 8, 3), np.uint8)
    with serving(pipe, tmp_path) as server:
        model = server.get("/api/state")["model"]
        assert model["plan"]
        assert model["sampling"] == {"temperature": 1.0, "top_k": 50, "top_p": 1.0}
        canvas = server.new(width=64, height=48, plan=sent(server, sketch))
        server.do(f"/api/canvases/{canvas}/redo", {"box": [16, 0, 32, 16], "seed": 7})
    with serving(pipe, tmp_path) as server:
        server.do(f"/api/canvases/{canvas}/grow", {"right": 16})
        here = pipe(size=(64, 48), seed=3, plan=Image.fromarray(sketch)).canvases[0]
        here.redo((16, 0, 32, 16), seed=7).grow(right=16)
        assert (shown(server, canvas) == next(here.pixels())).all()


def test_it_may_begin_with_a_canvas(pipe: NuwaInfinityPipeline, tmp_path: Path) -> None:
    request = GenerationRequest(size=Size(40, 24), seed=3, unprompted=True)
    with serving(pipe, tmp_path, first=request) as served:
        canvas = served.wait(1)["canvas"]
        expected = pipe.generate(request).images[0]
        assert np.array_equal(served.pixels(canvas)[..., :3], np.asarray(expected))
