"""Shards: the batches of the token bank, by any number of processes; damage and another tokenizer are refused."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.numpy import load_file

from nuwa_lightning.data import FolderPhotos, TokenDataModule, TokenShardsDataModule
from nuwa_lightning.data.shard_making import make_shards
from nuwa_lightning.data.streams import photo_of_sample, shuffled
from nuwa_lightning.data.token_bank import BankEntry
from nuwa_lightning.data.token_data import BankSettings
from nuwa_lightning.data.token_shards import ShardBuilder, TokenShards
from nuwa_lightning.errors import UsageError
from tests.data.conftest import Paint
from tests.data.test_streams import Memory, fit
from tests.data.test_token_data import Means


def from_bank(folder: Path, **options: Any) -> TokenDataModule:
    given = {"grid": (4, 6), "bank": BankSettings((32, 40), phases=2), "batch_size": 3, "steps_per_epoch": 5}
    return TokenDataModule(FolderPhotos(str(folder), val_fraction=0.3), **{**given, **options})


def from_shards(folder: Path, tokenizer: Means | None = None, **options: Any) -> TokenShardsDataModule:
    data = TokenShardsDataModule(str(folder), **{"grid": (4, 6), "batch_size": 3, "steps_per_epoch": 5, **options})
    data.attach_tokenizer(tokenizer or Means())
    return data


def make(photos: Path, folder: Path, *, size: int = 4, tokenizer: Means | None = None, **options: Any) -> bool:
    tokenizer = tokenizer or Means()
    return make_shards(folder, from_bank(photos).shard_parts(tokenizer, size), tokenizer, progress=False, **options)


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("codebook_size", [1000, 65537])
@pytest.mark.parametrize("world", [1, 3])
def test_the_batches_are_those_of_the_bank(photo_folder: Path, tmp_path: Path, world: int, codebook_size: int) -> None:
    tokenizer = Means(codebook_size=codebook_size)
    done = [
        make(photo_folder, tmp_path / "s", tokenizer=tokenizer, rank=n, world=world) for n in reversed(range(world))
    ]
    assert done == [False] * (world - 1) + [True]
    bank, shards = from_bank(photo_folder), from_shards(tmp_path / "s", tokenizer)
    bank.attach_tokenizer(tokenizer)
    assert len(shards.shards.index["shards"]["train"]) > 1
    for rank in range(2):
        one, other = bank.training_batches(rank, 2), shards.training_batches(rank, 2)
        assert all(equal(one.batch(step), other.batch(step)) for step in range(12))
    (expected,), (found,) = bank.val_dataloader(), shards.val_dataloader()
    assert all(equal(*pair) for pair in zip(expected, found, strict=True))
    assert len(bank.bank) == len(shards.bank)
    for file in sorted((tmp_path / "s").glob("*.safetensors")):
        tables = load_file(file)
        assert tables["tokens"].dtype == (np.uint16 if codebook_size <= 65536 else np.uint32)
        assert (tables["photos"].shape[1], tables["grids"].shape[1]) == (5, 10)


def test_ranks_share_the_samples(photo_folder: Path, tmp_path: Path) -> None:
    """Two processes with batches of 3 see what one sees with batches of 6."""
    make(photo_folder, tmp_path / "s")
    whole = from_shards(tmp_path / "s", batch_size=6).training_batches(0, 1)
    ranks = [from_shards(tmp_path / "s").training_batches(rank, 2) for rank in range(2)]
    for step in range(12):
        parts = [rank.batch(step) for rank in ranks]
        assert not equal(*parts)
        assert equal(whole.batch(step), {name: torch.cat([part[name] for part in parts]) for name in parts[0]})


@pytest.mark.parametrize("stop", [2, 7])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_sees_the_same_batches(photo_folder: Path, tmp_path: Path, stop: int, workers: int) -> None:
    make(photo_folder, tmp_path / "s")
    whole, first, rest = Memory(), Memory(), Memory()
    fit(tmp_path, whole, from_shards(tmp_path / "s"))
    saver = ModelCheckpoint(tmp_path / "saved", filename="at", every_n_train_steps=stop)
    fit(tmp_path, first, from_shards(tmp_path / "s"), max_steps=stop, callbacks=[saver])
    data = from_shards(tmp_path / "s", num_workers=workers)
    again = ModelCheckpoint(tmp_path / "saved", every_n_train_steps=stop)
    fit(tmp_path, rest, data, ckpt=str(tmp_path / "saved" / "at.ckpt"), callbacks=[again])
    assert first.seen + rest.seen == whole.seen
    assert len(set(whole.seen)) == 13


def test_what_was_broken_off_goes_on(photo_folder: Path, tmp_path: Path) -> None:
    make(photo_folder, tmp_path / "whole")
    calls = Means()

    def failing(image_B3YX: torch.Tensor) -> torch.Tensor:
        if calls.calls == 45:
            raise KeyboardInterrupt
        return calls.encode(image_B3YX)

    with pytest.raises(KeyboardInterrupt):
        make(photo_folder, tmp_path / "s", encode=failing)
    with pytest.raises(UsageError, match="1 parts are made, not all: run make-shards"):
        from_shards(tmp_path / "s").training_batches(0, 1)
    fresh = Means()
    assert make(photo_folder, tmp_path / "s", tokenizer=fresh)
    assert 0 < fresh.calls < 100
    names = sorted(file.name for file in (tmp_path / "whole").glob("*.*"))
    assert names == sorted(file.name for file in (tmp_path / "s").glob("*.*"))
    assert all((tmp_path / "s" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in names)
    assert make(photo_folder, tmp_path / "s", encode=failing)  # nothing is left to be encoded


def test_another_tokenizer_is_refused(photo_folder: Path, tmp_path: Path) -> None:
    make(photo_folder, tmp_path / "s")
    with pytest.raises(UsageError, match="shards of another tokenizer"):
        make(photo_folder, tmp_path / "s", tokenizer=Means(name="other"))
    with pytest.raises(UsageError, match="was made with another tokenizer"):
        from_shards(tmp_path / "s", Means(name="other")).training_batches(0, 1)
    make(photo_folder, tmp_path / "t", tokenizer=Means(name="other"))
    name = sorted(file.name for file in (tmp_path / "s").glob("train-*"))[0]
    (tmp_path / "s" / name).write_bytes((tmp_path / "t" / name).read_bytes())
    with pytest.raises(UsageError, match="of another tokenizer than the others"):
        TokenShards(tmp_path / "s").entries(0)


def test_other_data_or_settings_are_refused(photo_folder: Path, tmp_path: Path, paint: Paint) -> None:
    make(photo_folder, tmp_path / "s")
    for size, words in ((5, "parts"), (4, "photos")):
        if size == 4:
            paint("photos/a/99.png", seed=99)
        with pytest.raises(UsageError, match=f"other data or settings .*{words}"):
            make(photo_folder, tmp_path / "s", size=size)


@given(data=st.data())
def test_damage_is_found_where_it_is_read(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("shards")
    write(folder, count=3)
    (file,) = folder.glob("train-*")
    content = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(content)
    found, good, told = TokenShards(folder), numbers(3), ""
    try:
        for photo in range(3):
            (entry,) = found.entries(photo)
            assert np.array_equal(found.tokens(entry)[0], good[photo])
            assert found.text(photo) == {"key": f"{photo}", "caption": f"number {photo}"}
    except UsageError as error:
        told = str(error)
    found.close()
    assert not told or "damaged" in told or "another tokenizer" in told


@pytest.mark.parametrize("left", [0, 7, 200, -1])
def test_a_file_cut_short_is_found(tmp_path: Path, left: int) -> None:
    write(tmp_path, count=3)
    (file,) = tmp_path.glob("train-*")
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(UsageError, match="damaged"):
        TokenShards(tmp_path).entries(0)
    file.unlink()
    with pytest.raises(UsageError, match="run make-shards again"):
        TokenShards(tmp_path).entries(0)


def numbers(count: int, codebook_size: int = 1000) -> list[np.ndarray]:
    return [np.random.default_rng(n).integers(0, codebook_size, (4, 6)) for n in range(count)]


def write(folder: Path, *, count: int) -> None:
    """A set of one shard, written by hand."""
    builder = ShardBuilder("means", 1000)
    for number, tokens_YX in enumerate(numbers(count)):
        builder.add(f"{number}", f"number {number}", [(BankEntry(0, 16, False, 0, 0, 4, 6), tokens_YX[None])])
    shard = builder.write(folder / "train-000000.safetensors")
    about = {"fingerprint": "means", "codebook_size": 1000, "smallest": [1, 4, 6], "name": "by hand"}
    (folder / "index.json").write_text(json.dumps({**about, "shards": {"train": [shard], "val": []}}))


def test_a_damaged_part_is_made_anew(photo_folder: Path, tmp_path: Path) -> None:
    make(photo_folder, tmp_path / "s")
    file = sorted((tmp_path / "s").glob("train-*"))[0]
    good = file.read_bytes()
    file.write_bytes(good[:-1] + b"?")
    assert make(photo_folder, tmp_path / "s")
    assert file.read_bytes() == good


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda index: index.update(shards={"train": []}), "damaged"),
        (lambda index: index.update(smallest=[1, "a", 2]), "damaged"),
        (lambda index: index["shards"]["train"][0].update(file="../a"), "damaged"),
        (lambda index: index["shards"]["train"][0].update(photos=-3), "damaged"),
        (lambda index: index.update(fingerprint=None), "damaged"),
    ],
)
def test_a_damaged_index_is_one_line(tmp_path: Path, change: Callable[[Any], None], words: str) -> None:
    write(tmp_path, count=2)
    index = json.loads((tmp_path / "index.json").read_text())
    change(index)
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match=words):
        TokenShards(tmp_path).prepare()


def test_odd_photos_are_left_out_and_named(photo_folder: Path, tmp_path: Path, paint: Paint) -> None:
    (photo_folder / "a" / "broken.png").write_bytes(b"\x89PNG no more")
    paint("photos/b/small.png", 12, 40)
    make(photo_folder, tmp_path / "s")
    left_out = TokenShards(tmp_path / "s").index["left_out"]
    assert (left_out["skipped"], left_out["skipped_count"]) == (["a/broken.png"], 1)
    assert left_out["too_small"] == ["b/small.png"]


def test_a_window_larger_than_the_grids(photo_folder: Path, tmp_path: Path) -> None:
    make(photo_folder, tmp_path / "s")
    with pytest.raises(UsageError, match=r"hold grids from 7x\d+ tokens"):
        from_shards(tmp_path / "s", grid=(9, 6)).training_batches(0, 1)
    with pytest.raises(UsageError, match="whole_height"):
        from_shards(tmp_path / "s", whole_height=True)


class Words:
    """Each caption is as many tokens as it has words."""

    def states(self, captions: Sequence[str]) -> list[torch.Tensor]:
        return [torch.full((len(c.split()), 2), float(len(c)), dtype=torch.float16) for c in captions]

    def bank(self, captions: Sequence[str], cache: Path) -> Any:
        raise AssertionError("all captions at once")


def anonymous() -> int:
    """Return how many bytes this process holds that are no pages of files."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon:"))
    return 1024 * int(line.split()[1])


def test_no_set_is_held(tmp_path: Path) -> None:
    """Ten megabytes of tokens: reading 16,000 of 20,000 photos keeps next to nothing, keeping them is seen."""
    random, size = np.random.default_rng(0), 16
    shards = []
    for part in range(20):
        builder = ShardBuilder("means", 1000)
        for number, tokens_YX in enumerate(random.integers(0, 1000, (1000, size, size), dtype=np.uint16)):
            builder.add(f"{part} {number}", "", [(BankEntry(0, 16, False, 0, 0, size, size), tokens_YX[None])])
        shards.append(builder.write(tmp_path / f"train-{part:06d}.safetensors"))
    about = {"fingerprint": "means", "codebook_size": 1000, "smallest": [1, size, size], "name": "random"}
    (tmp_path / "index.json").write_text(json.dumps({**about, "shards": {"train": shards, "val": []}}))
    data = from_shards(tmp_path, batch_size=8, steps_per_epoch=2200)
    batches, seen = data.training_batches(0, 1), set[int]()
    for step in range(200):
        batches.batch(step)
    tracemalloc.start()
    try:
        before = anonymous()
        for step in range(200, 2200):
            seen.update(batches.batch(step)["index"].tolist())
        assert len(seen) == 16_000
        held, _ = tracemalloc.get_traced_memory()
        assert max(held, anonymous() - before) < 3e6
        kept = [data.shards.tokens(entry).copy() for number in seen for entry in data.shards.entries(number)]
        assert tracemalloc.get_traced_memory()[0] - held > 6e6  # of NumPy and Python: those pages may have been there
        assert len(kept) == 16_000
    finally:
        tracemalloc.stop()


def test_captions_come_with_their_photos(photo_folder: Path, tmp_path: Path) -> None:
    for number, file in enumerate(sorted(photo_folder.rglob("*.png"))[:10]):
        file.with_suffix(".txt").write_text(f"{file.stem} " + "snow " * number)
    make(photo_folder, tmp_path / "s")
    data = from_shards(tmp_path / "s")
    data.attach_text_encoder(Words())
    with pytest.raises(UsageError, match=r"2 of 12 have no caption.*`captioned`"):
        data.training_batches(0, 1)
    make(photo_folder, tmp_path / "c", captioned=True)
    data = from_shards(tmp_path / "c")
    data.attach_text_encoder(Words())
    batch = data.training_batches(0, 1).batch(0)
    for index, text_SE, mask_S in zip(batch["index"].tolist(), batch["text"], batch["text_mask"], strict=True):
        said = data.shards.text(index)
        assert said["caption"].split()[0] == Path(said["key"]).stem
        assert int(mask_S.sum()) == len(said["caption"].split())
        assert float(text_SE[0, 0]) == len(said["caption"])


def test_it_is_a_source_and_goes_to_loading_processes(photo_folder: Path, tmp_path: Path) -> None:
    make(photo_folder, tmp_path / "s")
    shards = TokenShards(tmp_path / "s")
    (first, *_) = shards.entries(0)
    assert np.array_equal(pickle.loads(pickle.dumps(shards)).tokens(first), shards.tokens(first))
    with pytest.raises(UsageError, match="damaged"):
        shards.tokens(replace(first, x=first.x - 1))
    data = from_shards(tmp_path / "s")
    data.prepare_data()
    record = json.loads(json.dumps(data.record()))
    assert (record["train"] + record["val"], record["tokens"]) == (12, len(shards))
    assert data.state_dict()["bank"] == shards.name


@given(st.integers(1, 5000), st.integers(0, 3), st.integers(0, 3))
def test_an_order_that_is_not_held_holds_each_once(count: int, seed: int, round_: int) -> None:
    assert sorted(shuffled(seed, round_, place, count) for place in range(count)) == list(range(count))


def test_such_orders_are_random() -> None:
    count = (1 << 18) + 1
    first = np.array([photo_of_sample(3, sample, count) for sample in range(20000)])
    assert len(set(first.tolist())) == 20000
    later = np.array([photo_of_sample(3, sample + count, count) for sample in range(20000)])
    # The mean of so many uniform numbers has a deviation of 0.002; neighbors and rounds are uncorrelated to 0.007.
    for some in (first, later):
        assert abs(some.mean() / count - 0.5) < 0.01
        assert abs(np.histogram(some, 16, (0, count))[0] / 1250 - 1).max() < 0.15
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.03
    assert abs(np.corrcoef(first, later)[0, 1]) < 0.03
