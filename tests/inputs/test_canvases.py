"""Canvases that are damaged, or made by a stranger with right checksums: one line, or the last good state."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save

from nuwa_lightning import NuwaInfinityPipeline, UsageError
from nuwa_lightning.canvas import facts as canvas_facts
from nuwa_lightning.canvas.keeping import hashes
from nuwa_lightning.serve.view import CanvasView
from tests.canvas.editable import tiny
from tests.data.conftest import painted


@pytest.fixture(scope="module")
def pipe() -> NuwaInfinityPipeline:
    return tiny()


@pytest.fixture(scope="module")
def kept(pipe: NuwaInfinityPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A canvas around an image, edited and grown."""
    folder = tmp_path_factory.mktemp("kept") / "a.canvas"
    with pipe.outpaint(Image.fromarray(painted(16, 24)), right=16, seed=1).canvases[0].save(folder) as canvas:
        canvas.redo((32, 0, 40, 8), seed=5).grow(down=8)
    return folder


@pytest.fixture
def folder(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "a.canvas"))


def said(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """Change what a canvas says, with a right checksum."""

    def rewrite(folder: Path) -> None:
        content = json.loads((folder / "canvas.json").read_text())["canvas"]
        change(content)
        whole = {"canvas": content, "sha256": canvas_facts._sum_of(content)}
        (folder / "canvas.json").write_text(json.dumps(whole))

    return rewrite


def with_nan(change: Callable[[dict[str, Any], float], object]) -> Callable[[Path], object]:
    """As ``said``, with NaN, which no canvas of ours holds."""

    def rewrite(folder: Path) -> None:
        content = json.loads((folder / "canvas.json").read_text())["canvas"]
        change(content, float("nan"))
        whole = {"canvas": content, "sha256": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}
        (folder / "canvas.json").write_text(json.dumps(whole))

    return rewrite


def how(**values: object) -> Callable[[Path], object]:
    return said(lambda content: content["how"].update(values))


def request(**values: object) -> Callable[[Path], object]:
    return said(lambda content: content["how"]["request"].update(values))


def stage(**values: object) -> Callable[[Path], object]:
    return said(lambda content: content["stages"][-1].update(values))


def pipe_instead(name: str) -> Callable[[Path], object]:
    return lambda folder: ((folder / name).unlink(), os.mkfifo(folder / name))


def bytes_of(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


HOSTILE: dict[str, Callable[[Path], object]] = {
    "no metadata": said(lambda content: content["how"].pop("metadata")),
    "metadata of nothing": how(metadata=[]),
    "metadata of text": how(metadata=["a"]),
    "a request of text": how(request="an image"),
    "no request": said(lambda content: content["how"].pop("request")),
    "edits of numbers": how(edits=[1, 2]),
    "growth that never was": how(edits=[{"grow": {}}] * 9),
    "lengths of text": how(undo=["a"]),
    "a length beyond the log": how(undo=[10**6]),
    "a length below 0": how(undo=[-3]),
    "hashes of numbers": how(given={"image.png": 7}),
    "another image": how(given={"image.png": "0" * 64}),
    "another model": how(model="0" * 32),
    "a seed of text": request(seed="one"),
    "a size of nothing": request(size="0x0", image=None, expand=None),
    "an unknown wish": request(wish="a cake"),
    "a task of another kind": request(task="animate", frames=3),
    "no image": how(given={}),
    "an expansion of 10^8": request(expand="left=99999999"),
    "a blend of text": request(blend="much"),
    "a larger image": stage(size=[4000, 4000]),
    "an image without an end": stage(size=[16, None]),
    "an origin outside": stage(origin=[10**6, 0]),
    "an origin below 0": stage(origin=[-1, 0]),
    "a grid of 10^9 patches": stage(grid={"t": 1, "y": 31623, "x": 31623, "wrap": ""}),
    "a grid without an end": stage(grid={"t": 1, "y": None, "x": 3, "wrap": ""}),
    "a grid of text": stage(grid={"t": 1, "y": "3", "x": 3, "wrap": ""}),
    "a closed axis that is none": stage(grid={"t": 1, "y": 3, "x": 5, "wrap": "z"}),
    "patches of 10^6 tokens": said(lambda content: content.update(patch_size=[1000, 1000])),
    "NaN in the metadata": with_nan(lambda content, nan: content["how"]["metadata"][0].update(options={"top_k": nan})),
    "NaN for a temperature": with_nan(lambda content, nan: content["how"]["request"].update(temperature=nan)),
    "NaN for a length": with_nan(lambda content, nan: content.update(log=nan)),
    "NaN for a size": with_nan(lambda content, nan: content["stages"][-1].update(size=[nan, 40])),
    "nested 100 deep": how(deep=json.loads("[" * 100 + "]" * 100)),
    "nested 100,000 deep": lambda folder: (folder / "canvas.json").write_text("[" * 100_000),
    "5,000 digits": lambda folder: (folder / "canvas.json").write_text('{"canvas": ' + "9" * 5000 + "}"),
    "no text": lambda folder: (folder / "canvas.json").write_bytes(b"\xff\xfe\0\0"),
    "an empty file": lambda folder: (folder / "canvas.json").write_bytes(b""),
    "a pipe that says it": pipe_instead("canvas.json"),
    "a pipe of tokens": pipe_instead("tokens.log"),
    "a pipe of pixels": pipe_instead("image.png"),
    "no tokens": bytes_of("tokens.log", lambda _: b""),
    "tokens cut short": bytes_of("tokens.log", lambda data: data[: len(data) // 2]),
    "a changed token": bytes_of("tokens.log", lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:]),
    "changed pixels": bytes_of("image.png", lambda data: data[:-20] + bytes(20)),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_canvases(pipe: NuwaInfinityPipeline, folder: Path, kind: str) -> None:
    HOSTILE[kind](folder)
    with pytest.raises(UsageError) as caught, pipe.open_canvas(folder) as canvas:
        canvas.export(folder.parent / "a.png")
    assert len(str(caught.value).splitlines()) == 1
    with suppress(UsageError):
        json.dumps(CanvasView(folder, pipe, hashes(pipe.builder)).told())


def test_a_good_one_opens(pipe: NuwaInfinityPipeline, folder: Path) -> None:
    with pipe.open_canvas(folder) as canvas:
        assert canvas.size == (40, 24)
        canvas.undo().undo()
        assert canvas.size == (40, 16)
    assert CanvasView(folder, pipe, hashes(pipe.builder)).told()["finished"]


@pytest.fixture(scope="module")
def growing(pipe: NuwaInfinityPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A canvas that was stopped while it grew."""
    folder = tmp_path_factory.mktemp("growing") / "a.canvas"
    with pipe(size=(32, 24), seed=1).canvases[0].save(folder) as canvas:
        waves = iter([False] * 3 + [True])
        canvas.grow(right=64, record_every=0, stop=lambda: next(waves))
        assert not canvas.finished
    return folder


def state(change: Callable[[dict[str, Any], dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    """Change what the states say and hold, with right checksums."""

    def rewrite(folder: Path) -> None:
        for path in folder.glob("state-*"):
            found = canvas_facts.read_state(path)
            assert found is not None
            facts, tensors = {**found.facts, "waves": found.waves}, dict(found.tensors)
            change(facts, tensors)
            data = save(tensors, metadata={"facts": json.dumps(facts)})
            path.write_bytes(canvas_facts._MAGIC + hashlib.sha256(data).digest() + data)

    return rewrite


def tensor(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], object]:
    return state(lambda _, tensors: tensors.update({name: change(tensors[name])}))


MISFITS: dict[str, Callable[[Path], object]] = {
    "no number of patches": state(lambda facts, _: facts.pop("patches")),
    "a number of patches in words": state(lambda facts, _: facts.update(patches="many")),
    "half a patch": state(lambda facts, _: facts.update(patches=0.5)),
    "no waves": state(lambda facts, _: facts.pop("waves")),
    "more waves than there are": state(lambda facts, _: facts.update(waves=10**12)),
    "another wave": state(lambda facts, _: facts.update(waves=facts["waves"] + 1)),
    "more records than there are": state(lambda facts, _: facts.update(log=10**6)),
    "no steps": state(lambda _, tensors: tensors.pop("pool.numbers")),
    "no tokens": state(lambda _, tensors: tensors.pop("pool.tokens")),
    "no values": state(lambda _, tensors: tensors.pop("pool.values.0")),
    "other steps": tensor("pool.numbers", lambda numbers: numbers + 7),
    "steps in fractions": tensor("pool.numbers", lambda numbers: numbers + 0.5),
    "one step": tensor("pool.numbers", lambda numbers: numbers.sum()),
    "tokens beyond the code book": tensor("pool.tokens", lambda tokens: tokens + 99),
    "tokens in fractions": tensor("pool.tokens", lambda tokens: tokens + 0.5),
    "complex tokens": tensor("pool.tokens", lambda tokens: tokens * (1 + 1j)),
    "flat keys": tensor("pool.keys.0", lambda keys: keys.flatten()),
    "whole keys": tensor("pool.keys.0", lambda keys: keys.long()),
    "NaN keys": tensor("pool.keys.0", lambda keys: keys * float("nan")),
    "infinite values": tensor("pool.values.0", lambda values: values / 0),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_a_state_that_does_not_fit(pipe: NuwaInfinityPipeline, growing: Path, tmp_path: Path, kind: str) -> None:
    """One line, and the canvas from before it grew is there still."""
    folder = Path(shutil.copytree(growing, tmp_path / "a.canvas"))
    MISFITS[kind](folder)
    with pipe.open_canvas(folder) as canvas:
        with pytest.raises(UsageError) as caught:
            canvas.resume()
        assert len(str(caught.value).splitlines()) == 1
        before = pipe(size=(32, 24), seed=1).canvases[0]
        assert torch.equal(canvas.undo().tokens_TYX, before.tokens_TYX)


def test_a_damaged_record_after_the_state_before(pipe: NuwaInfinityPipeline, growing: Path, tmp_path: Path) -> None:
    """The line names a way out, and that is one."""
    folder = Path(shutil.copytree(growing, tmp_path / "a.canvas"))
    whole = pipe(size=(32, 24), seed=1).canvases[0].grow(right=64)
    first, last = (canvas_facts.read_state(path) for path in sorted(folder.glob("state-*")))
    assert first is not None
    assert last is not None
    size = (folder / "tokens.log").stat().st_size // last.facts["log"]
    os.truncate(folder / "tokens.log", first.facts["log"] * size + 3)
    with pipe.open_canvas(folder) as canvas:
        with pytest.raises(UsageError, match="choose resume earlier"):
            canvas.resume()
        assert torch.equal(canvas.resume(earlier=True).tokens_TYX, whole.tokens_TYX)
