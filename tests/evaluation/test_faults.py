"""What could mislead a reader is refused, counted or told: one test for each way."""

from __future__ import annotations

import base64
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy import stats

from evaluation.collapse import collapse
from evaluation.crop_spec import CropSpec
from evaluation.estimates import of_mean, of_share
from evaluation.extractor import check_name
from evaluation.extractors import make_extractor
from evaluation.feature_cache import FeatureCache, FeatureSet
from evaluation.features import Lite0Features
from evaluation.images import ImageSet
from evaluation.inception_score import inception_score
from evaluation.kid import KidAgainst, kid, real_floor
from evaluation.protocol import Protocol, load_protocol
from evaluation.record import check_comparable
from evaluation.report.study import over_seeds, student
from evaluation.rows import nearest
from evaluation.score import Networks, Work, score
from evaluation.seams import seam_ratio
from evaluation.table import text_table
from evaluation.weights import INCEPTION
from nuwa_lightning.errors import UsageError
from tests.evaluation.toys import NamelessFeatures, ToyClips, ToyFeatures

TOY = "features.name=tests.evaluation.toys.ToyFeatures"
NO_CACHE = Work(cached=False)


def protocol(tmp_path: Path, *changes: str, **metrics: Any) -> Protocol:
    path = tmp_path / "protocol.yaml"
    path.write_text(yaml.safe_dump({"name": "test", "version": 1, "metrics": metrics}), encoding="utf-8")
    return load_protocol(path, [TOY, "resamples=50", *changes])


def rows_of(report: dict[str, Any]) -> dict[str, Any]:
    return {row["name"]: row for row in report["metrics"]}


def part(source: Path, target: Path, count: int) -> Path:
    target.mkdir()
    for path in sorted(source.iterdir())[:count]:
        shutil.copy(path, target)
    return target


def test_other_real_images_and_other_numbers_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    wanted = protocol(tmp_path, kid={})
    another = part(folders["real"], tmp_path / "another", 20)
    for path in list(another.iterdir())[:5]:
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    more = part(folders["other"], tmp_path / "more", 10)
    Image.open(next(folders["blurred"].iterdir())).save(more / "z.png")
    first = score(wanted, folders["real"], generated=folders["other"], work=NO_CACHE)
    second = score(wanted, another, generated=folders["other"], work=NO_CACHE)
    third = score(wanted, folders["real"], generated=more, work=NO_CACHE)
    with pytest.raises(UsageError, match=r"real images differ \(real and another\)"):
        check_comparable({"a": first, "b": second})
    with pytest.raises(UsageError, match=r"numbers of generated images differ \(10 and 11\)"):
        check_comparable({"a": first, "b": third})


class Weighted(ToyFeatures):
    """Features that depend on a file that its protocol does not tell of."""

    prefix = "weighted-"

    def __init__(self, *, weights: Any = None, device: str = "cpu") -> None:
        super().__init__()
        self._scale = float(Path(weights).read_text()) if weights else 1.0

    def __call__(self, images_BYX3: Any) -> tuple[Any, Any]:
        features, logits = super().__call__(images_BYX3)
        return self._scale * features, logits


class Twin(ToyFeatures):
    """Another class of the same protocol."""


def test_the_cache_tells_networks_apart(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 3), dtype=np.uint8)
    found = []
    for scale in ("1", "2"):
        (tmp_path / "w").write_text(scale)
        extractor = make_extractor("tests.evaluation.test_faults.Weighted", weights=tmp_path / "w")
        found.append(FeatureCache(extractor, folder=tmp_path).of_crops(iter(images), count=3).features_ND)
    np.testing.assert_allclose(found[1], 2 * found[0])
    first, twin = ToyFeatures(), Twin()
    assert FeatureCache(first, folder=tmp_path).path != FeatureCache(twin, folder=tmp_path).path


def crops_of_photographs(rng: np.random.Generator, photos: int, crops: int) -> tuple[Any, Any]:
    """Crops of one photograph are alike: all of the spread is between photographs."""
    centers = rng.normal(size=(photos, 4))
    x = np.repeat(centers, crops, axis=0) + 0.05 * rng.normal(size=(photos * crops, 4))
    return x, np.repeat(np.arange(photos), crops)


def test_pairs_of_one_photograph_do_not_count() -> None:
    """A perfect generator is 0 away, and so is the floor, whatever the number of crops of a photograph."""
    values, naive, floors = [], [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x, own = crops_of_photographs(rng, 12, 8)
        y = rng.normal(size=(60, 4)) + 0.05 * rng.normal(size=(60, 4))
        values.append(KidAgainst(x, own).value(y))
        naive.append(KidAgainst(x).value(y))
        floors.append(real_floor(x, 40, clusters_N=own, splits=5, seed=seed).value)
    for found in (values, floors):
        assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(40)
    assert np.mean(naive) > 3 * np.std(naive) / np.sqrt(40)
    # By brute force, pair by pair.
    k = (x @ x.T / 4 + 1) ** 3
    within = np.mean([k[i, j] for i in range(96) for j in range(96) if own[i] != own[j]])
    yy = (y @ y.T / 4 + 1) ** 3
    wanted = within + (yy.sum() - np.trace(yy)) / (60 * 59) - 2 * ((x @ y.T / 4 + 1) ** 3).mean()
    assert KidAgainst(x, own).value(y) == pytest.approx(wanted)


def test_copies_are_counted_and_lie_near(folders: dict[str, Path], tmp_path: Path) -> None:
    copies = part(folders["real"], tmp_path / "copies", 12)
    for path in sorted(copies.iterdir())[:4]:
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    wanted = protocol(tmp_path)
    memorized = rows_of(score(wanted, folders["real"], generated=copies, work=NO_CACHE))
    fresh = rows_of(score(wanted, folders["real"], generated=folders["other"], work=NO_CACHE))
    assert memorized["copies of real files"]["value"] == 1.0
    assert fresh["copies of real files"]["value"] == 0.0
    assert fresh["copies of real files"]["high"] > 0.2  # of ten
    nearest = memorized["toy-nearest real"]
    assert nearest["high"] < nearest["floor"]
    assert memorized["toy-authenticity"]["value"] == 0


def test_half_of_copies_lies_on_real_images() -> None:
    """Wherever the originals of the copies lie among the real images; and real images are compared by file."""
    rng = np.random.default_rng(0)
    real, fresh = rng.normal(size=(40, 4)), rng.normal(size=(40, 4))
    for copies in (0, 10, 24):
        x = {"real": real, "generated": np.concatenate([real[rng.permutation(40)[:copies]], fresh[copies:]])}
        (row,) = nearest("toy-", {name: feature_set(z) for name, z in x.items()})
        ways = np.linalg.norm(x["generated"][:, None] - real[None], axis=2).min(1)
        assert row["value"] == pytest.approx(np.median(ways), abs=1e-6)
        assert (row["value"] < 1e-6) is (copies == 24)
    between = np.linalg.norm(real[:, None] - real[None], axis=2) + np.diag([np.inf] * 40)
    assert row["floor"] == pytest.approx(np.median(between.min(1)), rel=1e-6)
    twice = FeatureSet(np.repeat(real, 2, axis=0), np.zeros((80, 0), np.float32), np.repeat(np.arange(40), 2))
    (row,) = nearest("toy-", {"real": twice, "generated": feature_set(fresh)})
    assert row["floor"] == pytest.approx(np.median(between.min(1)), rel=1e-6)
    one = FeatureSet(real, np.zeros((40, 0), np.float32), np.zeros(40, np.intp))
    assert "floor" not in nearest("toy-", {"real": one, "generated": feature_set(fresh)})[0]


def feature_set(x_ND: Any) -> FeatureSet:
    return FeatureSet(x_ND, np.zeros((len(x_ND), 0), np.float32), np.arange(len(x_ND)))


def test_copies_of_crops_are_counted_and_shown(folders: dict[str, Path], tmp_path: Path) -> None:
    """Real photographs are larger than what is scored: their crops are what a copy equals."""
    spec = CropSpec(crop="windows", side=64)
    (tmp_path / "copies").mkdir()
    for i, crop in enumerate(list(ImageSet(folders["real"], spec).crops())[:12]):
        Image.fromarray(crop[:, ::-1] if i % 2 else crop).save(tmp_path / "copies" / f"{i:02d}.png")
    wanted = protocol(tmp_path, "real.crop=windows", "real.side=64", "generated.crop=whole")
    report = score(wanted, folders["real"], generated=tmp_path / "copies", work=NO_CACHE)
    assert rows_of(report)["copies of real files"]["value"] == 1.0
    shown = report["nearest"]
    assert len(shown["distances"]) == len(shown["generated"]) == len(shown["real"]) == 8
    assert shown["distances"][0] == pytest.approx(0, abs=1e-3)
    with Image.open(io.BytesIO(base64.b64decode(shown["jpeg"]))) as sheet:
        upper, lower = np.asarray(sheet)[:128, :128].astype(int), np.asarray(sheet)[132:, :128].astype(int)
    assert np.abs(upper - lower).mean() < 8


def test_intervals_over_subsets_have_a_width() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 4)), rng.normal(size=(40, 4))
    found = kid(x, y, subset_size=40, subsets=10)
    whole = kid(x, y)
    assert found.value == pytest.approx(whole.value)
    assert found.high - found.low == pytest.approx(whole.high - whole.low, rel=0.3)


def test_shares_stay_shares_and_canvases_are_what_is_independent() -> None:
    own = np.repeat(np.arange(12), 4)
    nothing = of_share(np.zeros(48), how="", clusters_N=own)
    assert (nothing.low, nothing.value) == (0.0, 0.0)
    assert 0.2 < nothing.high < 0.4  # of twelve canvases, not of 48 windows
    hits = np.repeat(np.arange(12) % 2, 4).astype(float)
    clustered, single = of_share(hits, how="", clusters_N=own), of_share(hits, how="")
    assert clustered.high - clustered.low > 1.5 * (single.high - single.low)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_where_all_agree_canvases_count(value: float) -> None:
    """Also where a hit depends on other members: precision of a model that has collapsed."""
    own, depends = np.repeat(np.arange(12), 4), np.linspace(-1, 1, 48)
    found = of_share(np.full(48, value), how="", clusters_N=own, influence_N=value + depends)
    alone = of_share(np.full(48, value), how="", clusters_N=own)
    assert (found.value, found.low, found.high) == (value, alone.low, alone.high)


@pytest.mark.slow
def test_intervals_cover_what_they_say() -> None:
    """A coverage simulation of 400 repeats: shares and means of windows of few canvases."""
    hit = {"share": 0, "mean": 0}
    for seed in range(400):
        rng = np.random.default_rng(seed)
        chance = rng.beta(4, 4, size=16)
        own = np.repeat(np.arange(16), 6)
        share = of_share((rng.random(96) < chance[own]).astype(float), how="", clusters_N=own)
        hit["share"] += share.low <= 0.5 <= share.high
        mean = of_mean(rng.normal(size=16)[own] + rng.normal(size=96), how="", clusters_N=own)
        hit["mean"] += mean.low <= 0 <= mean.high
    for name, count in hit.items():
        assert 0.93 <= count / 400 <= 0.97, (name, count)


def test_students_t_at_any_number_of_seeds() -> None:
    values = list(np.random.default_rng(0).normal(size=15))
    low, high = stats.t.interval(0.95, 14, np.mean(values), stats.sem(values))
    found = student(values)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_seeds_that_agree_have_an_interval() -> None:
    row = {"value": 0.0, "low": 0.0, "high": 0.24, "share": True}
    found = over_seeds([row, row, row])
    assert (found.low, found.high) == (0.0, 0.24)
    wide = over_seeds([{**row, "value": value} for value in (0.0, 0.05, 0.0)])
    assert wide.low == 0.0


def test_blurred_borders_are_not_better_and_the_token_grid_has_its_own_row() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(100, 156, (128, 128, 3)).astype(np.uint8)
    lattice = image.astype(int)
    for at in range(0, 128, 16):
        lattice[at : at + 8] += 60
    found = seam_ratio([lattice.astype(np.uint8)], patch=64, token=8)
    assert found.lattice is not None
    assert found.lattice.across_y > 1.5
    assert found.lattice.across_x == pytest.approx(1, abs=0.1)
    plain = seam_ratio([image], patch=64, token=8)
    assert plain.lattice is not None
    assert plain.value == pytest.approx(plain.lattice.value, abs=0.1)


def test_wide_canvases_are_not_flatter_than_real_ones(folders: dict[str, Path]) -> None:
    rng = np.random.default_rng(0)
    spread = rng.uniform(20, 60, 400)
    windows = [np.clip(128 + s * rng.normal(size=(32, 32, 1)), 0, 255).repeat(3, 2).astype(np.uint8) for s in spread]
    wide = [np.concatenate(windows[i : i + 4], axis=1) for i in range(200, 400, 4)]
    found = collapse(windows[:200], wide, window=32)
    assert found.collapsed / found.canvases > 0.1  # four chances instead of one
    assert found.flat / found.windows == pytest.approx(0.05, abs=0.05)


TAKEN = [
    "", "\u200b", " ", "mine", "-", "lite0-", "Lite0-", "lite0_-", "Lite0.-", "lite0t-", "lite0t\u2011", "1ite0-",
    "LlTE0-", "dinov2.6726825d-", "clip.a1b2c3d4-", "videomae.a1b2c3d4-", "vjepa.00-", "inception.v3-", "lnception-",
    "clean-", "stlpips.-", "FID30k-", "f1d-", "my_kid-", "mine..x-", "I3D ", "i3d-", "mine-\n", "mine|-", "**mine**-",
]  # fmt: skip


@pytest.mark.parametrize("prefix", TAKEN)
@pytest.mark.parametrize("kind", [ToyFeatures, ToyClips])
def test_names_of_other_networks_are_refused(kind: Any, prefix: str) -> None:
    extractor = kind()
    extractor.prefix = prefix
    extractor.protocol |= {"weights_sha256": INCEPTION}  # whatever it claims
    with pytest.raises(UsageError, match="prefix"):
        check_name(extractor)


@pytest.mark.parametrize("prefix", ["mine-", "toy-", "colors-", "resnet50.v2-", "my_features.3-"])
def test_plain_names_are_fine(prefix: str) -> None:
    extractor = ToyFeatures()
    extractor.prefix = prefix
    check_name(extractor)


def test_only_classes_of_ours_bear_our_names() -> None:
    check_name(Lite0Features())
    renamed = Lite0Features()
    renamed.prefix = "FID30k-"
    mine = type("Lite0Features", (Lite0Features,), {"__module__": Lite0Features.__module__})
    for extractor in (renamed, mine()):
        with pytest.raises(UsageError, match="prefix"):
            check_name(extractor)


def test_scores_check_names_themselves(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="prefix ''"):
        make_extractor("tests.evaluation.toys.NamelessFeatures")
    networks = Networks(extractor=NamelessFeatures())
    with pytest.raises(UsageError, match="prefix ''"):
        score(protocol(tmp_path, kid={}), folders["real"], generated=folders["other"], networks=networks, work=NO_CACHE)


def test_names_of_files_move_nothing(folders: dict[str, Path], tmp_path: Path) -> None:
    """Of scores of subsets and of parts, either: files are in the order of their content."""
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for i, path in enumerate(sorted(folders["real"].iterdir(), reverse=True)):
        shutil.copy(path, renamed / f"{i}.png")
    cache = FeatureCache(ToyFeatures(), enabled=False)
    a, b = (cache.of_set(ImageSet(where, CropSpec())) for where in (folders["real"], renamed))
    np.testing.assert_array_equal(a.features_ND, b.features_ND)
    assert inception_score(a.scores_NK, splits=4).value == inception_score(b.scores_NK, splits=4).value


def test_a_missing_device_shows_before_any_work(folders: dict[str, Path], tmp_path: Path) -> None:
    for device in ("cuda:99", "nonsense", "meta", "mps"):
        with pytest.raises(UsageError, match="device"):
            score(
                protocol(tmp_path, kid={}), folders["real"], generated=folders["other"],
                networks=Networks(device=device), work=NO_CACHE,
            )  # fmt: skip


def test_the_device_by_its_number_is_the_device(folders: dict[str, Path], tmp_path: Path) -> None:
    reports = [
        score(
            protocol(tmp_path, kid={}), folders["real"], generated=folders["other"], networks=Networks(device=device),
            work=NO_CACHE,
        ) for device in ("cpu", "cpu:0")
    ]  # fmt: skip
    assert reports[0]["machine"]["device"] == reports[1]["machine"]["device"] == "cpu"
    assert reports[0]["digest"] == reports[1]["digest"]


def test_equal_pairs_are_counted(folders: dict[str, Path], tmp_path: Path) -> None:
    wanted = protocol(tmp_path, "reconstruction.lpips=false", kid={})
    mixed = part(folders["real"], tmp_path / "mixed", 12)
    for path in sorted(mixed.iterdir())[2:]:
        Image.fromarray(np.asarray(Image.open(path)) // 2).save(path)
    report = score(wanted, folders["real"], reconstruction=mixed, work=NO_CACHE)
    assert report["sets"]["reconstruction"]["equal_pairs"] == 2
    assert ", 2 of 12 pairs are equal to the last bit" in text_table(report)
    assert rows_of(report)["PSNR"]["n"] == 10
    assert rows_of(report)["SSIM"]["n"] == 12
    for path in sorted(mixed.iterdir())[:2]:
        Image.fromarray(np.asarray(Image.open(path)) // 2).save(path)
    honest = score(wanted, folders["real"], reconstruction=mixed, work=NO_CACHE)
    assert "equal to the last bit" not in text_table(honest)
    with pytest.raises(UsageError, match=r"equal to the last bit differ \(2 and 0\)"):
        check_comparable({"a": report, "b": honest})
    equal = part(folders["real"], tmp_path / "equal", 12)
    with pytest.raises(UsageError, match="equal their originals"):
        score(wanted, folders["real"], reconstruction=equal, work=NO_CACHE)


def test_jpegs_are_decoded_whole(tmp_path: Path, sample_photos: dict[str, Any]) -> None:
    photo = Image.fromarray(sample_photos["china.jpg"])
    photo.resize((1600, 1000)).save(tmp_path / "large.jpg", quality=95)
    spec = CropSpec(crop="center", side=100, short_sides=(100,))
    (found,) = ImageSet(tmp_path, spec).crops()
    whole = Image.open(tmp_path / "large.jpg").resize((160, 100), Image.Resampling.LANCZOS)
    assert np.abs(found.astype(int) - np.asarray(whole)[:, 30:130].astype(int)).max() <= 2


def test_mixed_sizes_name_the_way_out(folders: dict[str, Path], tmp_path: Path) -> None:
    mixed = part(folders["other"], tmp_path / "mixed", 10)
    Image.new("RGB", (64, 64)).save(mixed / "small.png")
    with pytest.raises(UsageError, match=r"`set` generated\.crop=center `set` generated\.side=N"):
        score(protocol(tmp_path, kid={}), folders["real"], generated=mixed, work=NO_CACHE)
