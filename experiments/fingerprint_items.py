"""What ``fingerprint.py`` runs: recipes, kinds of ``generate``, and what makes the models that these begin with."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import yaml

Item = list[list[str]]
"""Commands, each as words."""

OWN = "letters.Letters"
"""A text encoder without weights, of the tree's tests."""
BRIEF = """--run run --seed_everything 0 --data.cache cache --data.steps_per_epoch 3 --trainer.val_check_interval 3
    --trainer.max_steps 3 --trainer.limit_val_batches 2 --trainer.log_every_n_steps 1 --trainer.callbacks []
    --trainer.logger lightning.pytorch.loggers.CSVLogger --trainer.logger.save_dir . --trainer.accelerator cpu
    --trainer.enable_progress_bar false --trainer.enable_model_summary false"""
CODES = "--model.codebook_size 256 --model.codebook_dim 8"
WIDTHS = " ".join(f"--model.transformer.{name} 2" for name in ("num_layers", "num_heads", "num_kv_heads"))
STAGE_1 = """--data ImageFolderDataModule --data.root photos --data.val_fraction 0.5 --data.crops.size 64
    --data.crops.short_sides [96] --data.crops.val_short_sides [96] --data.crops.val_size 64"""
LEVELS = """--model.unquantized_steps 2 --model.vqgan.codebook_size 256 --model.vqgan.codebook_dim 8
    --model.vqgan.encoder_channels [8,12] --model.vqgan.encoder_blocks [1,1]
    --model.vqgan.decoder_channels [12,8,8] --model.vqgan.decoder_blocks [1,1,1]"""
GUIDED = """--data VideoFolderDataModule --data.root clips --data.val_fraction 0.5 --data.clips.short_side 96
    --data.size 64 --data.batch_size 1"""
MADE = ("recipe", "refine", "refined", "guided", "guided_recipe")
LONG = "--trainer.max_steps 24 --data.steps_per_epoch 24 --trainer.val_check_interval 24 --trainer.logger false"
TINY = f"{LONG} --model.patch_size [2,2] --data.grid [8,8] --data.batch_size 4 --model.lr 0.03"
ABLATIONS = {
    "accumulated": "--model.optimize accumulated",
    "per patch": "--model.optimize per_patch",
    "one key head": "--model.transformer.num_kv_heads 1",
    "no copy head": "--model.transformer.copy_head false",
    "position to logits": "--model.transformer.position_feed logit",
    "extent 3": "--model.context_pool.extent [0,3,3]",
    "patches of 4 x 4": "--model.patch_size [4,4]",
    "past warm-up": "--model.descent.warmup_steps 1",
    "raster tokens": "--model.token_order raster",
    "layers made again": "--model.scaling.recompute_layers true --model.scaling.logits_chunk 512",
    "two batches a step": "--model.scaling.accumulate_grad_batches 2",
}
"""Over recipes/landscape.yaml."""
TEXT = f"--model.conditions.text_encoder {OWN} --model.conditions.text_dropout 0.1"
MODELS = {
    "plain": "",
    "raster_tokens": "--model.token_order raster",
    "two_around": "--model.context_pool.extent [0,2,2]",
    **{name: f"-c RECIPES/context/{name}.yaml" for name in ("empty", "full", "recency")},
    **{name: f"-c RECIPES/direction/{name}.yaml" for name in ("raster", "spiral", "outward")},
    **{name: f"-c RECIPES/local_decoder/{name}.yaml" for name in ("masked", "parallel", "locality")},
    "text": TEXT,
    "planned": "--model.plan.scale 2 --coarse.path models/plain/model",
}
"""Runs of recipes/landscape.yaml to generate from, in the order in which they are made."""
MODELS["locality"] += " --model.local_decoder.steps 2 --model.local_decoder.schedules [4,2]"
FILMS = {"video": "--tokenizer.guided models/guided/pixel_guided", "text_video": TEXT}
"""The same of recipes/landscape_video.yaml."""

FORMATS = ("float32", "bfloat16", "int8")
SIZE, FILM, NUMBERS = "--size 96x64", "--output out.frames", "--size 256x128 --temperature 1.5 --top_k 0 --top_p 1"
GENERATE = {
    "unconditional": f"plain {SIZE}",
    "best tokens": f"plain {SIZE} --temperature 0",
    "best tokens that reach p": f"plain {SIZE} --top_k 0 --top_p 0.9",
    "two images": f"plain {SIZE} --count 2",
    "one row at a time": f"plain {SIZE} --max_rows 1",
    "small tiles": f"plain {SIZE} --tile 4",
    "endless": "plain --size x64 --waves 7 --output out.tif",
    "jacobi": f"plain {SIZE} --local_decoder JacobiLocalDecoder",
    "static steps": f"plain {SIZE} --local_decoder StaticLocalDecoder",
    **{f"wrap {axes}": f"plain {SIZE} --wrap {axes}" for axes in ("x", "y", "xy")},
    **{f"order {order}": f"plain {SIZE} --order {order}" for order in ("omega", "omega*", "zeta", "zeta*")},
    **{f"{w}, cache {c}": f"two_around {NUMBERS} --weights {w} --cache {c}" for w in FORMATS for c in FORMATS},
    **{f"model {name}": f"{name} {SIZE}" for name in MODELS if name not in ("plain", "text")},
    **{f"model {name}, given": f"{name} --image in.png --expand right=32" for name in ("full", "spiral", "masked")},
    "outpaint": "plain --image in.png --expand left=32,right=16,up=16,down=16",
    "outpaint, no blend": "plain --image in.png --expand right=32 --blend 0",
    "mask": "plain --image in.png --mask mask.png",
    "text": f"text {SIZE} --prompt 'a lake' --guidance 2",
    "text, not guided": f"text {SIZE} --prompt 'a lake' --guidance 1",
    "text, none": f"text {SIZE} --task unconditional",
    "text, regions": f"text {SIZE} --prompt '0,0,48,64: a lake' --prompt dunes --guidance 3",
    "text, outpaint": "text --image in.png --expand left=32 --prompt 'a lake' --guidance 2",
    "plan, guided": f"planned {SIZE} --plan_guidance 2",
    "plan, image": f"planned {SIZE} --plan sketch.png",
    "video": f"video --size 48x32 --frames 4 {FILM}",
    "video, int8": f"video --size 48x32 --frames 4 --weights int8 --cache int8 {FILM}",
    "video, wrap x": f"text_video --size 48x32 --frames 3 --wrap x --unprompted {FILM}",
    "animate": f"video --image in.png --frames 4 {FILM}",
    "animate, not guided by pixels": f"text_video --image in.png --frames 3 --unprompted {FILM}",
    "text to video": f"text_video --size 48x32 --frames 4 --prompt 'a lake' --guidance 2 {FILM}",
    **{f"file {end}": f"plain {SIZE} --output out.{end}" for end in ("jpg", "webp", "tif", "zarr", "dzi")},
    "film gif": "video --size 48x32 --frames 3 --output out.gif",
}
"""The model, and the options of ``generate``."""
DRAWN = "--seed 3 --temperature 0.9 --top_k 40 --top_p 0.95 --output out.png --canvas kept"
EDITS = {
    "grow": "grow kept --right 32 --up 16",
    "grow by another seed": "grow kept --left 32 --seed 5",
    "redo": "redo kept --box 32,16,48,32 --seed 7",
}
"""What ``canvas`` does with the canvas of "unconditional"."""


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe with another one laid over it."""
    both = {name for name in above if isinstance(above[name], dict) and isinstance(below.get(name), dict)}
    return {**below, **above, **{name: merged(below[name], above[name]) for name in both}}


def fit(recipes: Path, *names: str, options: str = "") -> list[str]:
    """Return the command that trains a recipe with overlays for three steps: small, from the inputs."""
    recipe: dict[str, Any] = {}
    for name in names:
        recipe = merged(recipe, yaml.safe_load((recipes / name).read_text(encoding="utf-8")))
    model, flags = recipe["model"]["init_args"], [BRIEF]
    if recipe["model"]["class_path"] == "VQGANModule":
        flags += [STAGE_1, "--model.start_from models/one/tokenizer" if "start_from" in model else LEVELS]
    else:
        flags += ["--tokenizer.path models/one/tokenizer", *(f"--tokenizer.{name} null" for name in MADE)]
    if recipe["model"]["class_path"] == "PixelGuidedModule":
        flags += [GUIDED]
    elif recipe["model"]["class_path"] == "NuwaInfinityModule":
        flags += [CODES, WIDTHS, "--model.transformer.dim 32", *samples(names[-1], recipe["data"]["init_args"])]
        if (model.get("conditions") or {}).get("text_encoder"):
            flags += [f"--model.conditions.text_encoder {OWN}"]
        if model.get("plan"):
            flags += ["--coarse.path models/plain/model --coarse.recipe null --model.plan.scale 2"]
        if "start_from" in model:
            flags += ["--model.start_from models/planned --model.patch_size [2,2] --data.grid [8,8]"]
            flags += ["--model.transformer.dropout 0"]
    files = [word for name in names for word in ("-c", str(recipes / name))]
    return ["fit", *files, *shlex.split(" ".join([*flags, options]).replace("RECIPES", str(recipes)))]


def samples(name: str, data: dict[str, Any]) -> list[str]:
    """Return options of what stage 2 learns from."""
    large = name.startswith(("landscape_base", "landscape_large", "paper/"))
    side = 128 if large else 256
    flags = ["--model.patch_size [2,2] --data.grid [4,4]" if large else "", "--data.batch_size 1"]
    if "videos" in data:
        flags += [f"--data.clips.fps 8 --data.clips.short_side {side} --data.videos FolderVideos"]
        return [*flags, "--data.videos.root clips --data.videos.val_fraction 0.5"]
    source = data["photos"]["class_path"]
    if source == "SyntheticLandscapes":
        return [*flags, "--data.photos.count 72"]
    if source == "GiantImage":
        flags += [f"--data.photos.path scroll.png --data.photos.crop {side} --data.photos.overlap 64"]
    else:
        flags += ["--data.photos FolderPhotos --data.photos.root photos --data.photos.val_fraction 0.5"]
    return [*flags, "--data.bank.phases 1", "" if "coarse_" in name else f"--data.bank.short_sides [{side}]"]


def generate(options: str) -> list[str]:
    """Return a command that leaves ``out.*``, and its canvas in ``kept``."""
    model, *words = shlex.split(options)
    own = ["--own", OWN] if "text" in model else []
    return ["generate", "--checkpoint", f"models/{model}", *own, *DRAWN.split(), *words]


def all_models(recipes: Path) -> dict[str, Item]:
    """Return what makes the tokenizer and the models of the inputs, in an order that works."""
    made = {"one": [fit(recipes, "landscape_vqgan.yaml", options=f"{LONG} --run models/one")]}
    made["guided"] = [fit(recipes, "landscape_pixel_guided.yaml", options=f"{LONG} --run models/guided")]
    for base, models, side in (("", MODELS, "bank.short_sides [96]"), ("_video", FILMS, "clips.short_side 96")):
        for name, options in models.items():
            options = f"{options} {TINY} --data.{side} --run models/{name}"
            made[name] = [fit(recipes, f"landscape{base}.yaml", options=options)]
    return made


def all_items(recipes: Path) -> dict[str, Item]:
    """Return every item by its name."""
    found: dict[str, Item] = {}
    for path in sorted(recipes.rglob("*.yaml")):
        name, kind = path.relative_to(recipes).as_posix(), path.parent.name
        if kind != "ablations" and name != "scores.yaml":
            whole = "class_path" in yaml.safe_load(path.read_text(encoding="utf-8")).get("model", {})
            below = {"paper": "landscape_base.yaml", "photos": "landscape_text.yaml"}.get(kind, "landscape.yaml")
            found[f"fit {name}"] = [fit(recipes, *([] if whole else [below]), name)]
    found |= {f"fit, {name}": [fit(recipes, "landscape.yaml", options=each)] for name, each in ABLATIONS.items()}
    plain = fit(recipes, "landscape.yaml")
    found["fit, gone on with"] = [plain, [*plain, "--ckpt_path", "last", "--trainer.max_steps", "6"]]
    found["validate"] = [plain, ["validate", *plain[1:], "--ckpt_path", "last"]]
    found |= {f"generate, {name}": [generate(options)] for name, options in GENERATE.items()}
    for name, edit in EDITS.items():
        edited = [["canvas", *words.split()] for words in (edit, "export kept out_again.png")]
        found[f"canvas, {name}"] = [generate(GENERATE["unconditional"]), *edited]
    return found
