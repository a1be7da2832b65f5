"""The token bank and its windows, with a tokenizer whose tokens can be worked out by hand."""

from __future__ import annotations

import itertools
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nuwa_lightning.data import FolderPhotos, TokenDataModule, build_token_bank
from nuwa_lightning.data.photos import Photo
from nuwa_lightning.data.token_data import BankSettings, TokenBank
from nuwa_lightning.data.token_windows import tiles as _tiles
from nuwa_lightning.errors import UsageError
from tests.data.conftest import Paint


class Means:
    """A token is the mean of a 4x4 square, as a whole number below ``codebook_size``; counts its calls."""

    downsample_factor = 4

    def __init__(self, *, codebook_size: int = 1000, name: str = "means") -> None:
        self.codebook_size = codebook_size
        self.name = name
        self.calls = 0

    def encode(self, image_B3YX: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        mean_BYX = torch.nn.functional.avg_pool2d(image_B3YX.mean(1, keepdim=True), self.downsample_factor)[:, 0]
        return ((mean_BYX + 1) / 2 * (self.codebook_size - 1)).long().clamp(0, self.codebook_size - 1)

    def fingerprint(self) -> str:
        return self.name


def by_hand(array: np.ndarray, codebook_size: int) -> np.ndarray:
    y, x = array.shape[0] // 4, array.shape[1] // 4
    mean = array[: 4 * y, : 4 * x].astype(float).reshape(y, 4, x, 12).mean((1, 3))
    return mean / 255 * (codebook_size - 1)


@pytest.mark.parametrize("codebook_size", [1000, 65536, 65537])
def test_bank_holds_what_encoding_gives(paint: Paint, tmp_path: Path, codebook_size: int) -> None:
    photos = [Photo(paint("1.png", 42, 62), "1"), Photo(paint("2.png", 60, 40, 1), "2")]
    held = [Photo(paint("3.png", 40, 50, 2), "3")]
    settings = BankSettings((32, 40), flips=True, phases=2)
    bank = build_token_bank(
        {"train": photos, "val": held}, Means(codebook_size=codebook_size), cache=tmp_path / "cache", settings=settings
    )
    assert bank.splits == ["train", "train", "val"]
    assert bank.keys == ["1", "2", "3"]
    assert len(bank.entries) == 2 * (2 * 2 * 2) + 2
    assert all(entry.phase == 0 and not entry.flip for entry in bank.entries if entry.photo == 2)
    from nuwa_lightning.data.preparing import prepare_photos

    prepared = prepare_photos(photos + held, settings.short_sides, crop=8, cache=tmp_path / "other")
    total = 0
    for entry in bank.entries:
        array = prepared.array(entry.photo, [min(s) for s in prepared.shapes(entry.photo)].index(entry.short_side))
        array = (array[:, ::-1] if entry.flip else array)[2 * entry.phase :, 2 * entry.phase :]
        grid = bank.grid(entry)
        assert grid.dtype == (np.uint16 if codebook_size <= 65536 else np.int32)
        assert grid.shape == (array.shape[0] // 4, array.shape[1] // 4)
        expected = by_hand(array, codebook_size)
        np.testing.assert_allclose(grid, expected, atol=1 + codebook_size / 50000)
        total += grid.size
    assert len(bank) == total


def test_bank_is_built_once_per_tokenizer_and_settings(paint: Paint, tmp_path: Path) -> None:
    photos = {"train": [Photo(paint("1.png"), "1")]}
    first, again, other = Means(), Means(), Means(name="other")
    settings = BankSettings((40,))

    def build(tokenizer: Means, settings: BankSettings = settings) -> TokenBank:
        return build_token_bank(photos, tokenizer, cache=tmp_path / "cache", settings=settings)

    one, two = build(first), build(again)
    assert first.calls == 4
    assert again.calls == 0
    assert one.folder == two.folder
    assert build(other).folder != one.folder
    assert other.calls == 4
    assert build(first, BankSettings((40,), phases=1)).folder != one.folder
    paint("1.png", seed=3)
    assert build(first).folder != one.folder
    assert not list((tmp_path / "cache" / "tokens").glob("*.part"))


def test_a_build_that_broke_off_goes_on(paint: Paint, tmp_path: Path) -> None:
    photos = {"train": [Photo(paint(f"{n}.png", seed=n), str(n)) for n in range(3)]}
    settings = BankSettings((40,), flips=False, phases=1)
    calls = 0

    def failing(image: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return Means().encode(image)

    with pytest.raises(KeyboardInterrupt):
        build_token_bank(photos, Means(), cache=tmp_path / "cache", settings=settings, encode=failing)
    assert not list((tmp_path / "cache" / "tokens").rglob("index.json"))
    (shard,) = (tmp_path / "cache" / "tokens").rglob("000001.npy")
    shard.write_bytes(shard.read_bytes()[:-7])  # as a full disk would leave it
    tokenizer = Means()
    bank = build_token_bank(photos, tokenizer, cache=tmp_path / "cache", settings=settings)
    assert tokenizer.calls == 2
    whole = build_token_bank(photos, Means(), cache=tmp_path / "fresh", settings=settings)
    assert all((bank.grid(entry) == whole.grid(entry)).all() for entry in bank.entries)


@pytest.mark.parametrize(("code", "said"), [(-1, "token"), (1000, "codebook_size=1000")])
def test_tokens_out_of_range_are_refused(paint: Paint, tmp_path: Path, code: int, said: str) -> None:
    def encode(image: torch.Tensor) -> torch.Tensor:
        return Means().encode(image) * 0 + code

    photos = {"train": [Photo(paint("1.png"), "1")]}
    with pytest.raises(ValueError, match=said):
        build_token_bank(photos, Means(), cache=tmp_path, settings=BankSettings((40,)), encode=encode)
    with pytest.raises(ValueError, match="factor 4"):
        build_token_bank(
            photos, Means(), cache=tmp_path, settings=BankSettings((40,)), encode=lambda image: image[:, 0].long()
        )
    assert not list(tmp_path.rglob("index.json"))


def test_unreadable_photos(paint: Paint, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torn = paint("torn.png", seed=1)
    torn.write_bytes(torn.read_bytes()[:-200])
    photos = [Photo(torn, "torn"), Photo(paint("good.png"), "good")]
    bank = build_token_bank({"train": photos}, Means(), cache=tmp_path / "c", settings=BankSettings((40,)))
    assert (bank.keys, bank.skipped) == (["good"], [str(torn)])
    assert caplog.messages[-1] == "1 of 2 photos cannot be read"
    caplog.clear()
    again = build_token_bank({"train": photos}, Means(), cache=tmp_path / "c", settings=BankSettings((40,)))
    assert again.skipped == [str(torn)]
    assert caplog.messages == [f"1 of 2 photos cannot be read: {torn}"]
    first = rf"^root: here: none of the 1 images can be read, the first is {torn} \(.*\); give readable ones$"
    with pytest.raises(UsageError, match=first):
        build_token_bank(
            {"train": photos[:1]},
            Means(),
            cache=tmp_path / "c",
            settings=BankSettings((40,)),
            source=("root", "here"),
        )
    tiny = [Photo(paint("tiny.png", height=5, width=7), "tiny")]
    with pytest.raises(UsageError, match="all images are too small, the largest has a shorter side of 5 px"):
        build_token_bank({"train": tiny}, Means(), cache=tmp_path / "c", settings=BankSettings((40,)))


def test_a_damaged_bank_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text(json.dumps({"codebook_size": 3}))
    with pytest.raises(UsageError, match="delete the folder"):
        TokenBank(tmp_path)


def data_module(folder: Path, **options: Any) -> TokenDataModule:
    settings = {"grid": (5, 6), "bank": BankSettings((32, 40)), "batch_size": 3, "steps_per_epoch": 8, **options}
    data = TokenDataModule(FolderPhotos(str(folder), val_fraction=0.3), **settings)
    data.attach_tokenizer(Means())
    return data


def test_photos_smaller_than_a_window_are_named_and_counted(
    photo_folder: Path, paint: Paint, caplog: pytest.LogCaptureFixture
) -> None:
    paint("photos/low.png", 18, 60, seed=20)  # four rows of tokens where a window has five
    paint("photos/tiny.png", 7, 60, seed=21)  # not two tokens: not in the bank
    for _ in range(2):  # the second time from the bank
        caplog.clear()
        data = data_module(photo_folder)
        data.prepare_data()
        said = "leaving out 2 of 14 photos smaller than a window of 5x6 tokens: tiny.png, low.png"
        assert caplog.messages.count(said) == 1
        assert data.record()["too_small"] == ["tiny.png", "low.png"]
        list(data.train_dataloader())
        assert caplog.messages.count(said) == 1


def test_windows_are_cut_from_the_photos_they_name(photo_folder: Path) -> None:
    data = data_module(photo_folder)
    data.prepare_data()
    data.setup("fit")
    train = {index for index, split in enumerate(data.bank.splits) if split == "train"}
    made = list(data.train_dataloader())
    assert len(made) == 8
    for batch in made:
        assert batch["tokens"].shape == (3, 1, 5, 6)
        assert batch["tokens"].dtype == batch["index"].dtype == torch.int64
        for window, index in zip(batch["tokens"][:, 0].numpy(), batch["index"].tolist(), strict=True):
            assert index in train
            grids = [data.bank.grid(entry) for entry in data.bank.entries if entry.photo == index]
            windows = (np.lib.stride_tricks.sliding_window_view(grid, (5, 6)) for grid in grids)
            assert any((found == window).all((2, 3)).any() for found in windows)
        for window, (top, bottom) in zip(batch["tokens"][:, 0].numpy(), batch["height"].tolist(), strict=True):
            places = [(round(top * entry.y), entry) for entry in data.bank.entries if entry.y >= 5]
            assert any(
                abs(y / entry.y - top) < 1e-6 > abs((y + 5) / entry.y - bottom)
                and (np.lib.stride_tricks.sliding_window_view(data.bank.grid(entry)[y : y + 5], (5, 6)) == window)
                .all((2, 3))
                .any()
                for y, entry in places
            )
    for one, two in zip(made, data_module(photo_folder, num_workers=2).train_dataloader(), strict=True):
        assert torch.equal(one["tokens"], two["tokens"])
    other = next(iter(data_module(photo_folder, seed=1).train_dataloader()))
    assert not torch.equal(other["tokens"], made[0]["tokens"])


def test_windows_of_several_sizes_span_the_whole_height(photo_folder: Path) -> None:
    data = data_module(
        photo_folder, grids=[(8, 9)], whole_height=True, bank=BankSettings((23, 35), phases=2), steps_per_epoch=40
    )
    sizes = [tuple(batch["tokens"].shape[2:]) for batch in data.train_dataloader()]
    assert set(sizes) == {(5, 6), (8, 9)}
    assert 8 <= sizes.count((8, 9)) <= 32
    for batch in itertools.islice(data.train_dataloader(), 10):
        for window, index in zip(batch["tokens"][:, 0].numpy(), batch["index"].tolist(), strict=True):
            grids = [data.bank.grid(entry) for entry in data.bank.entries if entry.photo == index]
            high = [grid for grid in grids if len(grid) == len(window)]
            columns = (np.lib.stride_tricks.sliding_window_view(grid, window.shape) for grid in high)
            assert any((found == window).all((2, 3)).any() for found in columns)
    with pytest.raises(UsageError, match=r"data\.grids: \[9, 6\]: .*whole height"):
        data_module(photo_folder, grids=[(9, 6)], whole_height=True, bank=BankSettings((23, 35))).train_dataloader()


def test_validation_windows_tile_the_held_out_photos(photo_folder: Path) -> None:
    data = data_module(photo_folder)
    (loader,) = data.val_dataloader()
    tokens = torch.cat([batch["tokens"] for batch in loader])
    held = [entry for entry in data.bank.entries if data.bank.splits[entry.photo] == "val"]
    assert len(tokens) == sum((entry.y // 5) * (entry.x // 6) for entry in held)
    assert {int(i) for batch in loader for i in batch["index"]} == {entry.photo for entry in held}
    assert torch.equal(tokens, torch.cat([batch["tokens"] for batch in data.val_dataloader()[0]]))


@given(st.integers(1, 200), st.integers(1, 50))
def test_tiles_are_central_and_do_not_overlap(length: int, size: int) -> None:
    starts = list(_tiles(length, size))
    assert len(starts) == length // size
    assert all(later - earlier == size for earlier, later in itertools.pairwise(starts))
    if starts:
        assert 0 <= length - (starts[-1] + size) - starts[0] <= 1


def test_the_tokenizer_may_come_late(photo_folder: Path) -> None:
    data = TokenDataModule(FolderPhotos(str(photo_folder)), grid=(4, 4), bank=BankSettings((40,)))
    data.prepare_data()
    data.setup("fit")
    with pytest.raises(UsageError, match=r"model\.tokenizer"):
        data.train_dataloader()
    tokenizer = Means()
    calls = []

    def encode(image: torch.Tensor) -> torch.Tensor:
        calls.append(tuple(image.shape))
        return tokenizer.encode(image)

    data.attach_tokenizer(tokenizer, encode=encode)
    assert next(iter(data.train_dataloader()))["tokens"].shape == (2, 1, 4, 4)
    assert len(calls) == tokenizer.calls
    assert data.record()["tokens"] == len(data.bank)


def test_bank_travels_to_other_processes(photo_folder: Path) -> None:
    bank = data_module(photo_folder).bank
    bank.grid(bank.entries[0])
    sent = pickle.dumps(bank)
    assert len(sent) < 50_000
    copy = pickle.loads(sent)
    assert (copy.grid(copy.entries[3]) == bank.grid(bank.entries[3])).all()


def test_a_window_larger_than_any_photo(photo_folder: Path) -> None:
    data = data_module(photo_folder, grid=(20, 20))
    with pytest.raises(UsageError, match=r"data\.grid: \[20, 20\]: .*needs 80x80 px.*short_sides"):
        data.train_dataloader()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"grid": (0, 4)}, "data.grid"),
        ({"grids": [(4, 0)]}, "data.grids"),
        ({"bank": BankSettings(())}, "data.bank.short_sides"),
        ({"bank": BankSettings(phases=0)}, "data.bank.phases"),
        ({"batch_size": 0}, "data.batch_size"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        TokenDataModule(FolderPhotos("anywhere"), **options)
    assert caught.value.option == said


def test_command_line(photo_folder: Path) -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_class_arguments(TokenDataModule, "data")
    given_options = {"photos": "FolderPhotos", "photos.root": photo_folder, "grid": "[4,6]", "bank.phases": 1}
    config = parser.parse_args([f"--data.{name}={value}" for name, value in given_options.items()])
    data = parser.instantiate(config).data
    assert data.window.shape[1:] == (4, 6)
    assert data.settings.phases == 1
    assert len(data.photos.photos("train")) > 5
    config = parser.parse_args(["--data.photos=LandscapePhotos", "--data.photos.kinds=[closeup]"])
    assert parser.instantiate(config).data.photos.kinds == ("closeup",)


class Darker:
    """A coarse plan whose tokens are those of the image, less one, and one less again with a seed."""

    name = "darker"

    def __init__(self) -> None:
        self.seeds: list[int | None] = []

    def encode(self, image_B3YX: torch.Tensor, *, seed: int | None) -> torch.Tensor:
        self.seeds.append(seed)
        return (Means().encode(image_B3YX) - (1 if seed is None else 2)).clamp_min(0)


def test_coarse_plans_lie_where_their_windows_lie(paint: Paint, tmp_path: Path) -> None:
    paint("photos/1.png", 42, 62), paint("photos/2.png", 60, 40, 1), paint("photos/3.png", 44, 60, 2)

    def module() -> TokenDataModule:
        photos, bank = FolderPhotos(str(tmp_path / "photos")), BankSettings((32, 40))
        made = TokenDataModule(photos, grid=(3, 4), bank=bank, batch_size=4, cache=str(tmp_path / "cache"))
        made.attach_tokenizer(Means())
        return made

    plain, planned, plan = module(), module(), Darker()
    planned.attach_coarse(plan)
    for _, a, b in zip(range(5), plain.train_dataloader(), planned.train_dataloader(), strict=False):
        assert set(b) - set(a) == {"coarse"}
        assert all(torch.equal(a[name], b[name]) for name in a)
        assert torch.equal(b["coarse"], (b["tokens"] - 2).clamp_min(0))
    for batch in planned.val_dataloader()[0]:
        assert torch.equal(batch["coarse"], (batch["tokens"] - 1).clamp_min(0))
    assert len({seed for seed in plan.seeds if seed is not None}) > 4  # each grid has errors of its own
    again = Darker()
    later = module()
    later.attach_coarse(again)
    next(iter(later.train_dataloader()))
    assert again.seeds == []  # kept


def test_colours_of_the_bank_change_and_of_its_plans_alike(paint: Paint, tmp_path: Path) -> None:
    photos = {"train": [Photo(paint("1.png", 42, 62), "1")], "val": [Photo(paint("2.png", 40, 50, 2), "2")]}
    banks = [
        build_token_bank(
            photos,
            Means(),
            cache=tmp_path / "cache",
            settings=BankSettings((32, 40), colour_jitter=strength),
            coarse=plan,
        )
        for strength, plan in ((0.0, None), (0.3, None), (0.3, Darker()))
    ]
    plain, changed, planned = banks
    assert plain.entries == changed.entries == planned.entries
    moved = []
    for entry in plain.entries:
        same = np.array_equal(plain.grid(entry), changed.grid(entry))
        assert same == (entry.phase == 0)
        darker = 2 if plain.splits[entry.photo] == "train" else 1
        np.testing.assert_array_equal(planned.grid(entry), np.maximum(changed.grid(entry).astype(int) - darker, 0))
        moved.append(float((changed.grid(entry).astype(float) - plain.grid(entry)).mean()))
    assert len(set(moved)) > 4  # each grid otherwise
    named = build_token_bank(photos, Means(), cache=tmp_path / "cache", settings=BankSettings((32, 40)))
    assert named.name == plain.name
    with pytest.raises(UsageError, match=r"data\.bank\.colour_jitter: 1\.5"):
        BankSettings(colour_jitter=1.5).check()
