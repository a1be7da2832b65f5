"""One huge image: read by parts, the same pixels as whole, no part twice, nothing of it held, what is broken told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nuwa_lightning.data import GiantImage, PhotosDataModule, TokenDataModule
from nuwa_lightning.data.crops import CropSettings
from nuwa_lightning.data.reading import ImageReadError
from nuwa_lightning.data.token_data import BankSettings
from nuwa_lightning.data.windows import TiffWindows, WholeImage, open_windows
from nuwa_lightning.errors import UsageError
from nuwa_lightning.models.vqgan import VQGAN, VQGANConfig
from nuwa_lightning.testing import ArraySource
from nuwa_lightning.writers import write_image
from tests.data.conftest import Paint, painted

KINDS = {
    "tiled": dict(tile=(64, 48)),
    "striped": dict(rowsperstrip=7),
    "one strip": dict(rowsperstrip=1000),
    "deflate": dict(tile=(64, 64), compression="zlib", predictor=True),
    "big-endian BigTIFF": dict(tile=(32, 32), bigtiff=True, byteorder=">"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("deep", [False, True], ids=["8 bits", "16 bits"])
def test_windows_equal_reading_the_whole(tmp_path: Path, kind: str, deep: bool) -> None:
    pixels = painted(150, 333)
    stored = pixels.astype(np.uint16) * 257 if deep else pixels
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", **KINDS[kind])
    with open_windows(tmp_path / "a.tif") as image:
        assert isinstance(image, TiffWindows)
        assert image.size == (150, 333)
        np.testing.assert_array_equal(image.read(0, 0, 150, 333), pixels)
        random = np.random.default_rng(0)
        for _ in range(30):
            (top, height), (left, width) = (
                (a, int(random.integers(1, n - a + 1))) for a, n in ((int(random.integers(n)), n) for n in (150, 333))
            )
            window = image.read(top, left, height, width)
            np.testing.assert_array_equal(window, pixels[top : top + height, left : left + width])
        with pytest.raises(ValueError, match="of an image of 150x333"):
            image.read(100, 0, 51, 10)


def test_grey_and_what_only_pillow_reads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    grey = painted(40, 50)[..., 0]
    tifffile.imwrite(tmp_path / "grey.tif", grey, tile=(16, 16))
    with open_windows(tmp_path / "grey.tif") as image:
        assert isinstance(image, TiffWindows)
        np.testing.assert_array_equal(image.read(3, 4, 30, 20), np.repeat(grey[3:33, 4:24, None], 3, axis=2))
    for name, options in (("a.png", {}), ("a.jpg", {}), ("lzw.tif", {"compression": "tiff_lzw"})):
        Image.fromarray(painted(40, 50)).save(tmp_path / name, **options)
        with open_windows(tmp_path / name) as image:
            with Image.open(tmp_path / name) as whole:
                expected = np.asarray(whole)[5:15, 6:30]
            np.testing.assert_array_equal(image.read(5, 6, 10, 24), expected)
    with pytest.raises(ImageReadError, match="more than max_pixels=100"):
        open_windows(tmp_path / "a.png", max_pixels=100)
    with pytest.raises(UsageError, match=r"data\.photos\.path: .*raise `max_pixels` if you trust"):
        GiantImage(str(tmp_path / "a.png"), max_pixels=100, cache=str(tmp_path / "cache")).photos("train")
    # Turned by its EXIF data: as Pillow reads it.
    Image.fromarray(painted(40, 50)).save(tmp_path / "turned.tif", tiffinfo={274: 6})
    with open_windows(tmp_path / "turned.tif") as image:
        assert isinstance(image, WholeImage)
        assert image.size == (50, 40)
    said = [
        f"{tmp_path / name}: a TIFF of a kind that is held whole; upright RGB" for name in ("lzw.tif", "turned.tif")
    ]
    assert [record.getMessage()[: len(line)] for record, line in zip(caplog.records, said, strict=True)] == said


def test_reading_by_parts_holds_little_and_decodes_each_part_once(tmp_path: Path) -> None:
    """Counted: crops row by row, with room for a row of tiles, decode each tile once; less room costs time only."""
    pixels = painted(512, 2048)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", tile=(64, 64))
    tiles, tile_bytes = 8 * 32, 3 * 64 * 64

    def read_all(held: int) -> TiffWindows:
        with open_windows(tmp_path / "a.tif", held_bytes=held) as image:
            assert isinstance(image, TiffWindows)
            assert held < pixels.nbytes / 3
            for top in range(0, 512, 128):
                for left in range(0, 2048 - 255, 128):
                    window = image.read(top, left, 128, 256)
                    np.testing.assert_array_equal(window, pixels[top : top + 128, left : left + 256])
                    assert image._part.cache_info().currsize * tile_bytes <= held
            return image

    roomy = read_all(64 * tile_bytes)
    assert roomy.decoded == tiles
    poor = read_all(4 * tile_bytes)
    assert tiles < poor.decoded <= 4 * 15 * 8
    with open_windows(tmp_path / "a.tif") as image:
        assert isinstance(image, TiffWindows)
        image.read(100, 100, 20, 20)
        assert image.decoded == 1


def test_broken_files_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tifffile.imwrite(tmp_path / "a.tif", painted(128, 128), photometric="rgb", tile=(64, 64), compression="zlib")
    whole = (tmp_path / "a.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        start = tiff.pages.first.dataoffsets[2]
    cases = {
        "missing.tif": (None, "No such file"),
        "cut.tif": (whole[:-5], "cut short: it has"),
        "half.tif": (whole[:230], "damaged: it does not say where its 4 parts lie|cut short"),
        "directory.tif": (whole[:100], "damaged: "),
        "text.tif": (b"not an image at all", "not an image in any of the formats"),
        "head.tif": (whole[:6], "damaged: "),
        "hole.tif": (whole[: start + 2] + b"\xff" * 40 + whole[start + 42 :], "part 2 of 4 is damaged"),
    }
    for name, (content, words) in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        source = GiantImage(str(tmp_path / name), crop=64, overlap=0)
        with pytest.raises(UsageError, match=words) as told:
            source.prepare()
        assert str(told.value).startswith(f"data.photos.path: {tmp_path / name}: ")
        assert "\n" not in str(told.value)
    assert not list((tmp_path / "cache").rglob("*.png"))
    assert not caplog.records
    with pytest.raises(ImageReadError, match=r"one part of it holds 64x64 pixels, more than max_pixels=1000"):
        open_windows(tmp_path / "a.tif", max_pixels=1000)


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    crop=st.integers(16, 120),
    overlap=st.integers(0, 100),
    share=st.sampled_from([0.0, 0.125, 0.4]),
)
def test_crops_cover_every_view_of_their_part_and_never_the_other(height, width, crop, overlap, share) -> None:
    overlap = min(overlap, crop - 1)
    crops = GiantImage("a.tif", crop=crop, overlap=overlap, val_share=share).crops(height, width)
    seen = {split: np.zeros((height, width), bool) for split in ("train", "val")}
    corners = {split: np.zeros((height, width), bool) for split in ("train", "val")}
    for c in crops:
        assert 0 <= c.top < c.top + c.height <= height
        assert 0 <= c.left < c.left + c.width <= width
        seen[c.split][c.top : c.top + c.height, c.left : c.left + c.width] = True
        # Where a crop of the overlap's size may begin within this crop.
        tall, wide = max(0, c.height - overlap + 1), max(0, c.width - overlap + 1)
        corners[c.split][c.top : c.top + tall, c.left : c.left + wide] = True
    assert not (seen["train"] & seen["val"]).any()
    assert (seen["train"] | seen["val"]).all()
    for split, part in seen.items():
        if part.any() and overlap >= 1:
            rows, columns = part.any(1).sum(), part.any(0).sum()
            possible = max(0, rows - overlap + 1) * max(0, columns - overlap + 1)
            assert corners[split].sum() == possible
    assert len({c.name for c in crops}) == len(crops)


@pytest.fixture
def scroll(tmp_path: Path) -> Path:
    """An image as the program itself writes it, pasted from several."""
    pixels = np.concatenate([painted(100, 80, seed=n) for n in range(8)], axis=1)
    write_image(ArraySource(pixels), tmp_path / "scroll.tif")
    return tmp_path / "scroll.tif"


def test_crops_are_the_image_s_pixels_and_are_cut_once(scroll: Path, own_cache: Path) -> None:
    pixels = np.concatenate([painted(100, 80, seed=n) for n in range(8)], axis=1)
    source = GiantImage(str(scroll), crop=64, overlap=16, val_share=0.25, caption="waves")
    source.prepare()
    names = {}
    for split in ("train", "val"):
        for photo in source.photos(split):
            assert photo.caption == "waves"
            top, left = (int(n) for n in photo.path.stem.split("-")[1:])
            with Image.open(photo.path) as image:
                np.testing.assert_array_equal(np.asarray(image), pixels[top : top + 64, left : left + 64])
            names[photo.path] = photo.path.stat().st_mtime_ns
            assert (left + 64 <= 480) if split == "train" else (left >= 480)
    record = source.record()
    assert record["size"] == [100, 640]
    assert record["train"] + record["val"] == len(names)
    again = GiantImage(str(scroll), crop=64, overlap=16, val_share=0.25)
    assert [p.path for p in again.photos("train")] == [p.path for p in source.photos("train")]
    assert {path: path.stat().st_mtime_ns for path in names} == names
    assert len(list((own_cache / "crops-4").glob("*/index.json"))) == 1


def test_it_feeds_both_stages(scroll: Path) -> None:
    def source() -> GiantImage:
        return GiantImage(str(scroll), crop=64, overlap=32, val_share=0.25)

    crops = PhotosDataModule(
        source(), crops=CropSettings(32, (64,), val_short_sides=(64,)), batch_size=2, steps_per_epoch=2
    )
    crops.prepare_data()
    crops.setup("fit")
    assert next(iter(crops.train_dataloader()))["image"].shape == (2, 3, 32, 32)
    assert len(crops.val_dataloader()) == 1
    torch.manual_seed(0)
    size = VQGANConfig(
        16, 4, encoder_channels=(8, 8), encoder_blocks=(0, 0), decoder_channels=(8,), decoder_blocks=(0,)
    )
    tokens = TokenDataModule(
        source(), grid=(4, 4), bank=BankSettings((64,), flips=False, phases=1), batch_size=2, steps_per_epoch=2
    )
    tokens.attach_tokenizer(VQGAN.build(size).eval())
    tokens.prepare_data()
    assert next(iter(tokens.train_dataloader()))["tokens"].shape == (2, 1, 4, 4)
    assert tokens.bank.splits.count("train") == len(source().photos("train"))


@pytest.mark.parametrize(
    ("options", "option"),
    [({"crop": 8}, "crop"), ({"overlap": 1024}, "overlap"), ({"val_share": 1.0}, "val_share")],
)
def test_options_that_make_no_sense_are_refused(options, option, paint: Paint) -> None:
    with pytest.raises(UsageError, match=rf"^data\.photos\.{option}: "):
        GiantImage(str(paint("a.png")), **options)
