"""More of them: what people write, images and videos, models and checkpoints."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_targets import REPOSITORY, VQGAN_SIZE, Target, inside, painted, target, tiny
from PIL import Image

from nuwa_lightning import NuwaInfinityPipeline

# -- what people write -------------------------------------------------------------------------------------------------


@target
class Configs(Target):
    """Recipes, protocols and options of generate, up to where classes are made."""

    name, files = "YAML", ("*.yaml",)

    def make(self, folder: Path) -> None:
        for path in (REPOSITORY / "recipes").glob("*.yaml"):
            shutil.copy(path, folder / f"recipe-{path.name}")
        for path in (REPOSITORY / "evaluation" / "protocols").glob("*.yaml"):
            shutil.copy(path, folder / f"protocol-{path.name}")
        text = "size: 64x32\nseed: 3\ntemperature: 0.9\ntop_k: 20\nprompt: [a lake]\nwrap: x\nrecord_every: 3.5\n"
        (folder / "generate-a.yaml").write_text(text)

    def read(self, folder: Path) -> None:
        from evaluation.protocol import load_protocol
        from evaluation.video.score import load_video_protocol
        from nuwa_lightning.commands import generate_options
        from nuwa_lightning.commands.parsing import check_configs
        from nuwa_lightning.legacy import upgraded_arguments

        errors: list[Exception] = []
        for path in sorted(folder.glob("*.yaml")):
            if path.read_bytes() == self.good(path.name):
                continue
            try:
                if path.name.startswith("generate"):
                    generate_options.parsed(["--config", str(path), "--output", "x.png"])
                elif path.name in ("protocol-video.yaml", "protocol-fvd.yaml", "protocol-jedi.yaml"):
                    load_video_protocol(path)
                elif path.name.startswith("protocol"):
                    load_protocol(path)
                else:
                    check_configs(["--config", str(path)])
                    upgraded_arguments(["--config", str(path)])
            except ValueError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def good(self, name: str) -> bytes:
        kind, _, rest = name.partition("-")
        source = {"recipe": REPOSITORY / "recipes", "protocol": REPOSITORY / "evaluation" / "protocols"}.get(kind)
        return b"" if source is None else (source / rest).read_bytes()


@target
class WholeRecipe(Target):
    """A recipe, read by fit as a whole and printed."""

    name, files, share = "recipe", ("a.yaml",), 0.05

    def make(self, folder: Path) -> None:
        shutil.copy(REPOSITORY / "recipes" / "landscape.yaml", folder / "a.yaml")

    def read(self, folder: Path) -> None:
        from nuwa_lightning.cli import main

        with inside(folder), redirect_stdout(io.StringIO()):
            try:
                status = main(["fit", "--config", "a.yaml", "--print_config"])
            except SystemExit as ended:  # how jsonargparse ends once it has printed
                status = int(ended.code or 0)
            _status(status)


def _status(status: int) -> None:
    from nuwa_lightning.errors import UsageError

    if status == 2:
        raise UsageError("command", "status", "2: it told a line")
    assert status == 0, f"status {status}"


@target
class CaptionFiles(Target):
    """Captions in one file for all, or beside each."""

    name, files = "captions", ("a.csv", "b.tsv", "c.jsonl", "d.txt")

    def make(self, folder: Path) -> None:
        rows = [("1.png", "a lake"), ("2.png", 'fog, "thick"'), ("é.png", "über den Dünen")]
        (folder / "a.csv").write_text(
            "file_name,caption\n" + "".join(f'{n},"{c.replace(chr(34), chr(34) * 2)}"\n' for n, c in rows)
        )
        (folder / "b.tsv").write_text("file\ttext\n" + "".join(f"{n}\t{c.replace(chr(34), '')}\n" for n, c in rows))
        (folder / "c.jsonl").write_text("".join(json.dumps({"image": n, "captions": [c, "x"]}) + "\n" for n, c in rows))
        (folder / "d.txt").write_text("a dune\n")
        painted(9, 9).save(folder / "d.png")

    def read(self, folder: Path) -> None:
        from nuwa_lightning.data.captions import read_captions

        for source in ("a.csv", "b.tsv", "c.jsonl"):
            found = read_captions(folder, source)
            assert all(isinstance(found.of(folder / name), str) for name in ("1.png", "d.png"))


@target
class Reports(Target):
    """Reports of scores, what lies beside samples, and the page made of them."""

    name, files = "reports", ("a.json", "a.json", "samples.json")

    def make(self, folder: Path) -> None:
        from evaluation.record import SAMPLES, digest

        row = {"name": "lite0-KID", "set": "generated", "value": 0.1, "std": 0.01, "low": 0.0, "high": 0.2, "n": 9}
        row |= {"better": "lower", "how": "subsets", "floor": 0.01, "floor_std": 0.0, "floor_n": 9}
        sets = {kind: {"folder": kind, "sha256": "0" * 64, "crops": 9, "files": 9} for kind in ("real", "generated")}
        report: dict[str, Any] = {"metrics": [row, {**row, "name": "FID"}], "sets": sets, "notes": [],
                                  "protocol": {"name": "a", "version": 1, "sha256": "0", "settings": {"seed": 0}},
                                  "versions": {"python": "3", "torch": "2"}, "commit": "0",
                                  "machine": {"cpu": "a", "cores": 2}}  # fmt: skip
        found = {
            **report,
            "digest": digest(report),
            "run": {"wall_seconds": 1.0, "sampling": {"size": "64x32", "temperature": 1, "top_k": 9}},
        }
        for name in ("a", "b"):
            (folder / f"{name}.json").write_text(json.dumps(found))
        (folder / SAMPLES).write_text(json.dumps({"count": 9, "seconds": 3.5, "request": {"size": "64x32"}}))

    def read(self, folder: Path) -> None:
        from evaluation.record import samples_of, showing
        from evaluation.report.document import blocks_of
        from evaluation.report.markdown import to_markdown
        from evaluation.report.study import load_study

        samples_of(folder)
        paths = [folder / "a.json", folder / "b.json"]
        with showing(*paths):
            to_markdown("a", blocks_of(load_study(paths, "again")))


# -- images and videos -------------------------------------------------------------------------------------------------


@target
class Metadata(Target):
    """How an image was made, by its own file, taken for another one."""

    name, files = "metadata", ("a.png", "a.png", "*.jpg", "*.webp", "*.tif", "*_files/*.json", "*.gif", "*.mp4",
                               "*.frames/video.json", "*.zarr/zarr.json")  # fmt: skip

    def make(self, folder: Path) -> None:
        canvas = tiny()(size=(40, 24), seed=0).canvases[0]
        for suffix in (".png", ".jpg", ".webp", ".tif", ".dzi", ".zarr"):
            canvas.export(folder / f"a{suffix}")
        from nuwa_lightning.writers import write_video

        metadata = dict(canvas._store.facts.how["metadata"][0])
        for suffix in (".gif", ".mp4", ".frames"):
            frames = (np.asarray(painted(24, 40, n)) for n in range(3))
            write_video(frames, folder / f"v{suffix}", width=40, height=24, fps=8, metadata=metadata)

    def read(self, folder: Path) -> None:
        from nuwa_lightning.commands import generate_options

        errors: list[Exception] = []
        for path in sorted(folder.iterdir()):
            if path.suffix and not path.name.endswith("_files"):
                try:
                    generate_options.parsed(["--from", str(path), "--output", str(folder / "x.png")])
                except ValueError as error:
                    errors.append(error)
        if errors:
            raise errors[0]


@target
class Images(Target):
    """Images that are trained on, or gone on from."""

    name = "images"

    def make(self, folder: Path) -> None:
        image = painted(40, 60)
        exif = Image.Exif()
        exif[0x0112], exif[0x010E] = 6, "a lake"
        for suffix in ("jpg", "png", "tif", "webp", "gif", "bmp"):
            image.save(folder / f"a.{suffix}", **({"exif": exif} if suffix in ("jpg", "png", "webp", "tif") else {}))
        image.convert("LA").save(folder / "la.png")
        Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60) * 20).save(folder / "deep.png")

    def read(self, folder: Path) -> None:
        from nuwa_lightning.data import ImageReadError, read_image
        from nuwa_lightning.data.reading import image_size
        from nuwa_lightning.request_fields import InputImage

        errors: list[Exception] = []
        for path in sorted(folder.iterdir()):
            for reader in (image_size, read_image, InputImage.open):
                try:
                    reader(path)
                except (ImageReadError, ValueError) as error:
                    errors.append(error)
        if errors:
            raise errors[0]


@target
class VideoFiles(Target):
    """Videos that are trained on."""

    name, files, share = "videos", ("*.mp4", "*.gif"), 0.3

    def make(self, folder: Path) -> None:
        from nuwa_lightning.writers import write_video

        for suffix in (".mp4", ".gif"):
            frames = (np.asarray(painted(24, 40, n)) for n in range(6))
            write_video(frames, folder / f"v{suffix}", width=40, height=24, fps=8)

    def read(self, folder: Path) -> None:
        from nuwa_lightning.data.video_reading import PyAvReader

        for path in sorted(folder.iterdir()):
            for _ in PyAvReader().frames(path):
                pass


# -- models and checkpoints --------------------------------------------------------------------------------------------


@target
class ModelFolder(Target):
    """A trained run that is generated from: what is taken has to make an image."""

    name, files = "models", ("*/config.json", "*/model.safetensors")

    def make(self, folder: Path) -> None:
        tiny().save_pretrained(folder)

    def read(self, folder: Path) -> None:
        NuwaInfinityPipeline.from_folder(folder)(size=(16, 16), seed=0)


def _named(name: str, arguments: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": arguments}


class _Checkpoints(Target):
    """Both stages, trained for some steps."""

    def make(self, folder: Path) -> None:
        from nuwa_lightning.cli import main

        (folder / "photos").mkdir()
        for number in range(3):
            painted(70, 90, number).save(folder / "photos" / f"{number}.png")
        trainer = {
            "accelerator": "cpu", "max_steps": 3, "max_epochs": -1, "enable_model_summary": False, "logger": False,
            "enable_progress_bar": False,
        }  # fmt: skip
        data = {"root": "photos", "cache": "cache", "batch_size": 2, "steps_per_epoch": 2}
        data |= {"crops": {"size": 32, "short_sides": [64], "val_short_sides": [64]}}
        model = {"vqgan": VQGAN_SIZE, "loss": {"perceptual": {"weight": 0}}, "unquantized_steps": 1, "warmup_steps": 1}
        one = (
            {"class_path": "VQGANModule", "init_args": model},
            {"class_path": "ImageFolderDataModule", "init_args": data},
        )
        model = {"codebook_size": 16, "codebook_dim": 4, "patch_size": [2, 2], "descent": {"warmup_steps": 1}}
        model |= {"transformer": {"dim": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1}}
        photos = _named("FolderPhotos", {"root": "photos"})
        data = {"photos": photos, "cache": "cache", "grid": [4, 4], "bank": {"short_sides": [64], "phases": 1}}
        data |= {"batch_size": 2, "steps_per_epoch": 2}
        two = (
            {"class_path": "NuwaInfinityModule", "init_args": model},
            {"class_path": "TokenDataModule", "init_args": data},
        )
        with inside(folder):
            for name, (model, data) in {"one": one, "two": two}.items():
                recipe: dict[str, Any] = {"run": name, "model": model, "data": data, "trainer": trainer}
                if name == "two":
                    recipe["tokenizer"] = {"path": "one/tokenizer"}
                Path(f"{name}.yaml").write_text(json.dumps(recipe))
                assert main(["fit", "--config", f"{name}.yaml"]) == 0

    def go_on(self, folder: Path, name: str, *more: str) -> None:
        from nuwa_lightning.cli import main

        with inside(folder):
            path = f"{name}/checkpoints/last.ckpt"
            _status(main(["fit", "--config", f"{name}.yaml", "--ckpt_path", path, *more]))


@target
class ReadCheckpoints(_Checkpoints):
    """The reader of checkpoints alone."""

    name, files = "checkpoints", ("*/checkpoints/last.ckpt",)

    def read(self, folder: Path) -> None:
        from nuwa_lightning.callbacks.checkpoint_io import read_checkpoint

        for path in sorted(folder.glob("*/checkpoints/last.ckpt")):
            for mapped in (True, False):
                read_checkpoint(path, mapped=mapped)


@target
class Resuming(_Checkpoints):
    """A training that goes on from a checkpoint by two steps."""

    name, files, share = "going on", ("two/checkpoints/last.ckpt", "one/checkpoints/last.ckpt"), 0.02

    def make(self, folder: Path) -> None:
        super().make(folder)
        self.good = {name: (folder / name / "checkpoints" / "last.ckpt").read_bytes() for name in ("one", "two")}

    def read(self, folder: Path) -> None:
        for name, good in self.good.items():
            if (folder / name / "checkpoints" / "last.ckpt").read_bytes() != good:
                self.go_on(folder, name, "--trainer.max_steps", "5")


@target
class Manifests(Target):
    """What says which images of a package, or of a program, are kept."""

    name, files = "manifests", ("p/manifest.json", "samples-1/*/index.json")

    def make(self, folder: Path) -> None:
        entry = {"file": "a.jpg", "bytes": 3, "package": {"name": "x", "version": "1"}, "path": "a.jpg"}
        (folder / "p").mkdir()
        (folder / "p" / "a.jpg").write_bytes(b"abc")
        said = {"packages": {"x": {"version": "1"}}, "photos": {"a": entry, "b": {**entry, "file": "b.jpg"}}}
        (folder / "p" / "manifest.json").write_text(json.dumps(said))
        self.read(folder)

    def read(self, folder: Path) -> None:
        from nuwa_lightning.data import IterablePhotos
        from nuwa_lightning.data.packages import Package, PackagedFile, PackageFiles

        files = [PackagedFile("a", "x", "a.jpg", "0" * 64, "CC0", "a lake")]
        found = PackageFiles(folder / "p", "photos", [Package("x", "npm", "1", 3)], files, progress=False)
        for key, known in found.entries().items():
            found.path(key, known).stat()
        found.missing(["npm"])

        class Drawn(IterablePhotos):
            def samples(self) -> Any:
                return ((painted(20, 30, n), f"caption {n}") for n in range(3))

        source = Drawn("drawn", cache=str(folder))
        source.prepare()
        for photo in source.photos("train"):
            with suppress(UnicodeError):
                photo.caption.encode()
