"""Which crops are taken of a folder: settled by sizes and contents, and the same as cutting the whole image."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluation import images as module
from evaluation.blocks import count_of_blocks
from evaluation.color import color_of
from evaluation.crop_spec import CropSpec
from evaluation.feature_cache import FeatureCache
from evaluation.images import ImageSet, pixel_sha256
from evaluation.looking import Wanted, look
from evaluation.protocol import Blocks, Seams
from evaluation.seams import ratio_of, seam_ratio
from nuwa_lightning.data.reading import read_image
from nuwa_lightning.errors import UsageError
from tests.evaluation.toys import ToyFeatures

Photos = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, sample_photos: Photos) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for name, photo in sample_photos.items():
        Image.fromarray(photo).save(root / name.replace("jpg", "png"))
    return root


def crops(folder: Path, **spec: Any) -> np.ndarray[Any, Any]:
    return np.stack(list(ImageSet(folder, CropSpec(**spec)).crops()))


def test_windows_lie_beside_each_other(folder: Path, sample_photos: Photos) -> None:
    found = ImageSet(folder, CropSpec(crop="windows", side=200))
    first = found.files.index(folder / "china.png")
    china = sample_photos["china.jpg"]
    assert len(found) == 12
    assert found.clusters().tolist() == [0] * 6 + [1] * 6
    np.testing.assert_array_equal(list(found.crops())[6 * first + 4], china[200:400, 200:400])
    canvases = list(found.canvases())
    np.testing.assert_array_equal(canvases[first], china)
    assert found.canvas_files().tolist() == [0, 1]


def test_the_centre_at_each_scale(folder: Path, sample_photos: Photos) -> None:
    found = crops(folder, crop="center", side=100, short_sides=(120, 200))
    first = 2 * ImageSet(folder).files.index(folder / "china.png")
    assert found.shape == (4, 100, 100, 3)
    whole = Image.fromarray(sample_photos["china.jpg"]).resize((180, 120), Image.Resampling.LANCZOS)
    middle = np.asarray(whole)[10:110, 40:140].astype(int)
    # Only the square is resampled: the same pixels up to rounding.
    assert np.abs(found[first].astype(int) - middle).max() <= 2


def test_random_crops_depend_on_contents_not_on_names(folder: Path, tmp_path: Path) -> None:
    spec: dict[str, Any] = {"crop": "random", "side": 100, "count": 6, "short_sides": (150, 200), "seed": 4}
    found = crops(folder, **spec)
    assert found.shape == (6, 100, 100, 3)
    np.testing.assert_array_equal(found, crops(folder, **spec))
    shutil.copytree(folder, tmp_path / "renamed")
    (tmp_path / "renamed" / "china.png").rename(tmp_path / "renamed" / "a.png")
    np.testing.assert_array_equal(found, crops(tmp_path / "renamed", **spec))
    assert (found != crops(folder, **{**spec, "seed": 5})).any()
    whole = np.asarray(Image.open(folder / "china.png").resize((225, 150), Image.Resampling.LANCZOS)).astype(int)
    number = ImageSet(folder).files.index(folder / "china.png")
    crop = found[4 * number]  # files and scales take turns: the first at the first scale
    best = min(np.abs(whole[y : y + 100, x : x + 100] - crop).mean() for y in range(51) for x in range(126))
    assert best < 1.0


def test_a_number_of_crops_is_drawn_once_and_for_all(folder: Path) -> None:
    every = crops(folder, crop="windows", side=100)
    some = crops(folder, crop="windows", side=100, count=5)
    again = crops(folder, crop="windows", side=100, count=5)
    assert len(some) == 5
    np.testing.assert_array_equal(some, again)
    assert all(any((one == other).all() for other in every) for one in some)
    with pytest.raises(UsageError, match="holds 48 crops, the protocol asks for 49"):
        crops(folder, crop="windows", side=100, count=49)


def test_images_of_one_size_are_asked_for(folder: Path, tmp_path: Path) -> None:
    assert crops(folder).shape == (2, 427, 640, 3)
    shutil.copytree(folder, tmp_path / "mixed")
    Image.new("RGB", (64, 64)).save(tmp_path / "mixed" / "zz.png")
    with pytest.raises(UsageError, match=r"mixed sizes \(china.png is 640x427 but zz.png is 64x64\)"):
        crops(tmp_path / "mixed")
    with pytest.raises(UsageError, match="is 640x427, the protocol asks for 256x256"):
        crops(folder, side=256)
    with pytest.raises(UsageError, match="no image is 500 pixels wide and high"):
        crops(folder, crop="windows", side=500)
    with pytest.raises(UsageError, match="smaller than the crops of 500 pixels"):
        crops(folder, crop="random", side=500, count=2)


def test_damaged_files_are_named_or_counted(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "damaged")
    head = (folder / "china.png").read_bytes()
    (tmp_path / "damaged" / "cut.png").write_bytes(head[:2000])  # its size can be read, its pixels cannot
    (tmp_path / "damaged" / "none.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"none.png: .*`skip_corrupt`"):
        crops(tmp_path / "damaged", crop="windows", side=200)
    found = ImageSet(tmp_path / "damaged", CropSpec(crop="windows", side=200), skip_corrupt=True)
    assert len(list(found.crops())) == 12 == len(found)
    assert {path.name for path in found.skipped} == {"cut.png", "none.png"}
    assert found.clusters().tolist() == [0] * 6 + [1] * 6
    for path in sorted((tmp_path / "damaged").iterdir())[:1] + sorted((tmp_path / "damaged").iterdir())[2:]:
        if path.name != "none.png":
            path.unlink()
    with pytest.raises(UsageError, match="holds no image that can be read"):
        (tmp_path / "damaged" / "cut.png").unlink(missing_ok=True)
        _ = ImageSet(tmp_path / "damaged", skip_corrupt=True).plan


def test_the_hash_is_of_contents(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "renamed")
    (tmp_path / "renamed" / "china.png").rename(tmp_path / "renamed" / "z.png")
    assert ImageSet(folder).sha256() == ImageSet(tmp_path / "renamed").sha256()
    with (tmp_path / "renamed" / "z.png").open("ab") as file:
        file.write(b"x")
    assert ImageSet(folder).sha256() != ImageSet(tmp_path / "renamed").sha256()


@pytest.mark.parametrize("spec", [{"crop": "windows", "side": 64}, {"crop": "random", "side": 64, "count": 30}])
def test_a_look_decodes_each_file_once(
    spec: dict[str, Any], folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And finds what passes of their own find."""
    read: list[Path] = []

    def reading(path: Path, **options: Any) -> Any:
        read.append(path)
        return read_image(path, **options)

    images, cache = ImageSet(folders["other"], CropSpec(**spec)), FeatureCache(ToyFeatures(), enabled=False)
    canvases, crops = list(images.canvases()), list(images.crops())
    monkeypatch.setattr(module, "read_image", reading)
    shown: dict[Path, Any] = {}
    wanted = Wanted(Seams(32, 8), True, 32, True, Blocks(32), frozenset({3, 5}), shown.__setitem__)
    found = look(images, cache, wanted)
    assert sorted(read) == sorted(images.files)
    for path, whole in shown.items():
        np.testing.assert_array_equal(whole, np.asarray(Image.open(path)))
    assert list(shown) == images.files
    alone = cache.of_crops(crops, count=len(crops))
    np.testing.assert_array_equal(found.features.features_ND, alone.features_ND)
    np.testing.assert_array_equal(found.features.clusters_N, images.clusters())
    assert found.colors == [color_of(canvas) for canvas in canvases]
    assert (
        ratio_of(found.steps, images.canvas_files(), patch=32, token=8).value
        == seam_ratio(canvases, patch=32, token=8).value
    )
    assert [len(one) for one in found.spreads] == [(len(one) // 32) * (one.shape[1] // 32) for one in canvases]
    assert found.blocks is not None
    assert len(found.blocks.places) == count_of_blocks(images, Blocks(32))
    assert found.hashes[0] >= {pixel_sha256(crops[0]), pixel_sha256(crops[0][:, ::-1])}
    read.clear()
    for number, crop in zip((5, 3, 0), found.some(np.array([5, 3, 0])), strict=True):
        np.testing.assert_array_equal(crop, crops[number])
    assert len(read) == 1
