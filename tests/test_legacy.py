"""What the first version wrote loads: folders, checkpoints, recipes and flags, by the names that they hold."""

from __future__ import annotations

import json
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nuwa_lightning import NuwaInfinityPipeline
from nuwa_lightning.callbacks.checkpoint_io import AtomicCheckpointIO, read_checkpoint
from nuwa_lightning.generation.local import AutoregressiveLocalDecoder, MaskedLocalDecoder
from nuwa_lightning.generation.pretrained import Generator
from nuwa_lightning.legacy import upgraded, upgraded_arguments
from nuwa_lightning.models.nuwa_infinity import PatchTransformer, TransformerConfig
from nuwa_lightning.models.vqgan import VQGAN, VQGANConfig
from nuwa_lightning.planning.context import NearbyContextPool
from nuwa_lightning.planning.direction import ArbitraryDirectionController

KEYS = {
    "codebook_size": "num_codes", "codebook_dim": "code_dim", "text_dim": "text_width", "symmetries": "views",
    "dim": "width", "num_layers": "depth", "num_heads": "heads", "num_kv_heads": "kv_heads",
    "mlp_ratio": "feed_forward_multiple", "neighbor_embedding": "neighbours", "copy_head": "repeat",
}  # fmt: skip
"""Today's keys, and the first version's."""
TENSORS = {
    "codebook_K": "codes_K", "bos": "begin", "mask_token": "blank", "symmetries": "views",
    "neighbor_embedding.": "near.", "copy_head.": "repeat.",
}  # fmt: skip


def first_config(config: Any) -> Any:
    if isinstance(config, dict):
        return {KEYS.get(key, key): first_config(value) for key, value in config.items()}
    return config.replace("nuwa_lightning.planning.", "nuwa_lightning.") if isinstance(config, str) else config


def first_tensors(state: dict[str, Any]) -> dict[str, Any]:
    pattern = re.compile(r"(?<![a-z_])(" + "|".join(map(re.escape, TENSORS)) + ")")
    return {pattern.sub(lambda found: TENSORS[found[1]], name): value for name, value in state.items()}


def tiny(*, bidirectional: bool) -> NuwaInfinityPipeline:
    torch.manual_seed(0)
    size = VQGANConfig(16, 4, encoder_channels=(8,), encoder_blocks=(0,), decoder_channels=(8,), decoder_blocks=(1,))
    vqgan, pool = VQGAN.build(size).eval(), NearbyContextPool((0, 1, 1))
    model = PatchTransformer(
        16,
        4,
        patch_size=(2, 2),
        embedding_extent=pool.embedding_extent,
        size=TransformerConfig(16, 1, num_heads=2, num_kv_heads=1, mlp_ratio=2.0, copy_head=True),
        bidirectional=bidirectional,
    ).eval()
    model.set_codes(vqgan.codebook_KD)
    decoder = MaskedLocalDecoder() if bidirectional else AutoregressiveLocalDecoder()
    direction = ArbitraryDirectionController("omega", symmetries=("omega", "zeta"))
    return NuwaInfinityPipeline(Generator(model, pool, direction, "mirrored", vqgan.fingerprint(), decoder), vqgan)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_folder_of_the_first_version_makes_the_same(tmp_path: Path, bidirectional: bool) -> None:
    pipe = tiny(bidirectional=bidirectional)
    pipe.save_pretrained(tmp_path)
    seen = set()
    for part in ("model", "tokenizer"):
        path, weights = tmp_path / part / "config.json", tmp_path / part / "model.safetensors"
        before, state = json.loads(path.read_text()), load_file(weights)
        config, old = first_config(before), first_tensors(state)
        path.write_text(json.dumps(config))
        save_file(old, weights)
        seen |= set(re.findall(r"\w+", path.read_text())) | {word for name in old for word in name.split(".")}
    assert {*KEYS.values()} - {"text_width"} <= seen
    assert {"codes_KE", "codes_KD", "views", "near", "repeat", "blank" if bidirectional else "begin"} <= seen
    again = NuwaInfinityPipeline.from_pretrained(tmp_path)
    assert again.generator.direction == pipe.generator.direction
    ours, theirs = (each(size=(32, 16), seed=1).canvases[0].tokens_TYX for each in (pipe, again))
    assert torch.equal(ours, theirs)


def test_a_checkpoint_of_the_first_version_is_read(tmp_path: Path) -> None:
    model = tiny(bidirectional=False).generator.model
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    sizes = {"patch_transformer": {"codebook_size": 16, "size": {"dim": 16, "num_layers": 1}}}
    sizes |= {"vqgan_size": {"codebook_dim": 4}, "pixel_guided": {"size": {"vqgan": {"codebook_size": 16}}}}
    old = {"state_dict": first_tensors(state), "current_model_state": first_tensors(state), **first_config(sizes)}
    assert set(old["state_dict"]) != set(state)
    assert old["patch_transformer"] == {"num_codes": 16, "size": {"width": 16, "depth": 1}}
    AtomicCheckpointIO().save_checkpoint(old, tmp_path / "a.ckpt")
    found = read_checkpoint(tmp_path / "a.ckpt")
    for part in ("state_dict", "current_model_state"):
        assert set(found[part]) == set(state)
        model.load_state_dict({name.removeprefix("model."): value for name, value in found[part].items()})
    assert {name: found[name] for name in sizes} == sizes


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("context.NearbyContextPool", "planning.context.NearbyContextPool"),
        ("direction.RasterDirectionController", "planning.direction.RasterDirectionController"),
        ("geometry.PatchGrid", "planning.geometry.PatchGrid"),
        ("stages.nuwa_module.NuwaInfinityModule", "training.nuwa_module.NuwaInfinityModule"),
        ("stages.vqgan_module.VQGANModule", "training.vqgan_module.VQGANModule"),
        ("stages.pixel_guided_module.PixelGuidedModule", "training.pixel_guided_module.PixelGuidedModule"),
        ("stages.conditions.Conditions", "training.conditioning.Conditions"),
        ("modules.patch_layer.TransformerSize", "models.nuwa_infinity.TransformerConfig"),
        ("tokenizers.vqgan.VQGANSize", "models.vqgan.VQGANConfig"),
        ("data.giant_picture.GiantPicture", "data.giant_image.GiantImage"),
        ("data.synthetic_films.SyntheticFilms", "data.synthetic_videos.SyntheticVideos"),
        ("data.views.Views", "data.crops.CropSettings"),
        ("data.GiantPicture", "data.GiantImage"),
    ],
)
def test_classes_of_the_first_version_are_found(before: str, now: str) -> None:
    (found,) = upgraded([f"nuwa_lightning.{before}"])
    assert found == f"nuwa_lightning.{now}"
    assert isinstance(pkgutil.resolve_name(found), type)


def test_flags_of_the_first_version_are_known(caplog: pytest.LogCaptureFixture) -> None:
    old = ["--model.transformer.width=64", "--model.conditions.known_share", "0.2", "--model.conditions.misread=0.1"]
    old += ["--model.conditions.closing_share=0", "--data.views.size=64", "--data.films=SyntheticFilms"]
    assert upgraded_arguments(old) == [
        "--model.transformer.dim=64", "--model.conditions.known_prob", "0.2", "--model.conditions.token_noise=0.1",
        "--model.conditions.closing_prob=0", "--data.crops.size=64", "--data.videos=SyntheticVideos",
    ]  # fmt: skip
    assert caplog.messages[0] == "--model.transformer.width is deprecated: write --model.transformer.dim"
