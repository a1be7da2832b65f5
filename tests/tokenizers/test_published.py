"""Published tokenizers in files of their authors' layouts, small; an encoder and decoder written here are the truth."""

from __future__ import annotations

import pickle
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional

from nuwa_lightning.cli import main
from nuwa_lightning.errors import UsageError
from nuwa_lightning.tokenizers.base import Tokenizer
from nuwa_lightning.tokenizers.conversion import convert
from nuwa_lightning.tokenizers.pretrained import load_tokenizer
from nuwa_lightning.tokenizers.published import PublishedVQGAN
from nuwa_lightning.tokenizers.tiling import decode_tiled, encode_tiled
from nuwa_lightning.tokenizers.windows import WindowedTokenizer

CH, MULT, DIM, CODES = 32, (1, 2, 2), 4, 32
TARGETS = {
    "taming": "taming.models.vqgan.VQModel",
    "gumbel": "taming.models.vqgan.GumbelVQ",
    "ldm-noattn": "ldm.models.autoencoder.VQModel",
    "ibq": "src.IBQ.models.ibqgan.IBQ",
    "llamagen": None,
}
FAMILIES = (*TARGETS, "amused", "movq")


def weights(family: str) -> dict[str, Tensor]:  # noqa: C901
    """Random weights under the authors' names: three levels, attention at the coarsest and in the middle."""
    llamagen, attention = family == "llamagen", family != "ldm-noattn"
    state: dict[str, Tensor] = {}

    def conv(name: str, inside: int, out: int, side: int) -> None:
        state[f"{name}.weight"] = torch.randn(out, inside, side, side) / (inside * side**2) ** 0.5
        state[f"{name}.bias"] = torch.randn(out) / 10

    def norm(name: str, channels: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = 1 + torch.randn(channels) / 10, torch.randn(channels) / 10

    def block(name: str, inside: int, out: int) -> None:
        norm(f"{name}.norm1", inside), conv(f"{name}.conv1", inside, out, 3)
        norm(f"{name}.norm2", out), conv(f"{name}.conv2", out, out, 3)
        if inside != out:
            conv(f"{name}.nin_shortcut", inside, out, 1)

    def attend(name: str, channels: int) -> None:
        norm(f"{name}.norm", channels)
        for part in ("q", "k", "v", "proj_out"):
            conv(f"{name}.{part}", channels, channels, 1)

    def middle(name: str, channels: int) -> None:
        parts = ("0", "1", "2") if llamagen else ("block_1", "attn_1", "block_2")
        block(f"{name}.{parts[0]}", channels, channels), block(f"{name}.{parts[2]}", channels, channels)
        if attention:
            attend(f"{name}.{parts[1]}", channels)

    channels, last = [CH * m for m in MULT], len(MULT) - 1
    down, up, res = ("conv_blocks", "conv_blocks", "res") if llamagen else ("down", "up", "block")
    conv("encoder.conv_in", 3, CH, 3)
    for n, width in enumerate(channels):
        block(f"encoder.{down}.{n}.{res}.0", channels[n - 1] if n else CH, width)
        if attention and n == last:
            attend(f"encoder.{down}.{n}.attn.0", width)
        if n < last:
            conv(f"encoder.{down}.{n}.downsample.conv", width, width, 3)
    middle("encoder.mid", channels[-1])
    norm("encoder.norm_out", channels[-1]), conv("encoder.conv_out", channels[-1], DIM, 3)
    conv("decoder.conv_in", DIM, channels[-1], 3)
    middle("decoder.mid", channels[-1])
    for n in reversed(range(len(channels))):
        at = last - n if llamagen else n
        for b in range(2):
            block(f"decoder.{up}.{at}.{res}.{b}", channels[min(n + 1, last)] if b == 0 else channels[n], channels[n])
            if attention and n == last:
                attend(f"decoder.{up}.{at}.attn.{b}", channels[n])
        if n:
            conv(f"decoder.{up}.{at}.upsample.conv", channels[n], channels[n], 3)
    norm("decoder.norm_out", CH), conv("decoder.conv_out", CH, 3, 3)
    conv("quant_conv", DIM, DIM, 1), conv("post_quant_conv", DIM, DIM, 1)
    book = "quantize.embed.weight" if family == "gumbel" else "quantize.embedding.weight"
    state[book] = torch.randn(CODES, DIM)
    if family == "gumbel":
        conv("quantize.proj", DIM, CODES, 1)
    if llamagen:
        state["quantize.codebook_used"] = torch.zeros(65536)
    return state


class Reference:
    """Reads the authors' names one by one, after their papers and configs; shares nothing with the package."""

    def __init__(self, family: str, state: dict[str, Tensor]) -> None:
        self.family, self.w, self.llamagen = family, state, family == "llamagen"

    def conv(self, name: str, x: Tensor, **more: Any) -> Tensor:
        weight = self.w[f"{name}.weight"]
        return functional.conv2d(x, weight, self.w[f"{name}.bias"], **{"padding": weight.shape[-1] // 2, **more})

    def norm(self, name: str, x: Tensor) -> Tensor:
        return functional.group_norm(x, 32, self.w[f"{name}.weight"], self.w[f"{name}.bias"], 1e-6)

    def block(self, name: str, x: Tensor) -> Tensor:
        h = self.conv(f"{name}.conv1", functional.silu(self.norm(f"{name}.norm1", x)))
        h = self.conv(f"{name}.conv2", functional.silu(self.norm(f"{name}.norm2", h)))
        return h + (self.conv(f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in self.w else x)

    def attend(self, name: str, x: Tensor) -> Tensor:
        if f"{name}.q.weight" not in self.w:
            return x
        h = self.norm(f"{name}.norm", x)
        q, k, v = (self.conv(f"{name}.{part}", h).flatten(2) for part in "qkv")
        weight = torch.einsum("bcq,bck->bqk", q, k).div(q.shape[1] ** 0.5).softmax(2)
        return x + self.conv(f"{name}.proj_out", torch.einsum("bqk,bck->bcq", weight, v).view_as(x))

    def middle(self, name: str, x: Tensor) -> Tensor:
        first, second, third = ("0", "1", "2") if self.llamagen else ("block_1", "attn_1", "block_2")
        return self.block(f"{name}.{third}", self.attend(f"{name}.{second}", self.block(f"{name}.{first}", x)))

    def latents(self, image: Tensor) -> Tensor:
        down, res = ("conv_blocks", "res") if self.llamagen else ("down", "block")
        x = self.conv("encoder.conv_in", image)
        for n in range(3):
            x = self.attend(f"encoder.{down}.{n}.attn.0", self.block(f"encoder.{down}.{n}.{res}.0", x))
            if n < 2:
                x = self.conv(
                    f"encoder.{down}.{n}.downsample.conv", functional.pad(x, (0, 1, 0, 1)), stride=2, padding=0
                )
        x = functional.silu(self.norm("encoder.norm_out", self.middle("encoder.mid", x)))
        return self.conv("quant_conv", self.conv("encoder.conv_out", x))

    def tokens(self, z: Tensor) -> Tensor:
        book = self.w.get("quantize.embedding.weight")
        flat = z.permute(0, 2, 3, 1)
        if self.family == "gumbel":
            return self.conv("quantize.proj", z).argmax(1)
        assert book is not None
        if self.family == "ibq":
            return (flat @ book.T).argmax(-1)
        if self.llamagen:
            book, flat = functional.normalize(book, dim=1), functional.normalize(flat, dim=-1)
        return (flat[..., None, :] - book).square().sum(-1).argmin(-1)

    def pixels(self, tokens: Tensor) -> Tensor:
        book = self.w["quantize.embed.weight" if self.family == "gumbel" else "quantize.embedding.weight"]
        q = (functional.normalize(book, dim=1) if self.llamagen else book)[tokens].permute(0, 3, 1, 2)
        up, res = ("conv_blocks", "res") if self.llamagen else ("up", "block")
        x = self.middle("decoder.mid", self.conv("decoder.conv_in", self.conv("post_quant_conv", q)))
        for n in (2, 1, 0):
            at = 2 - n if self.llamagen else n
            for b in range(2):
                x = self.attend(f"decoder.{up}.{at}.attn.{b}", self.block(f"decoder.{up}.{at}.{res}.{b}", x))
            if n:
                x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
                x = self.conv(f"decoder.{up}.{at}.upsample.conv", x)
        return self.conv("decoder.conv_out", functional.silu(self.norm("decoder.norm_out", x)))


class ModelCheckpoint:
    """Stands in a pickle as the class of old Lightning did; loading it must not import, let alone build, anything."""

    def __setstate__(self, state: object) -> None:
        raise AssertionError("a class of a pickle was used")


def save_authors_file(family: str, state: dict[str, Tensor], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a file as the authors do, with what else theirs hold."""
    if family == "llamagen":
        import argparse

        torch.save({"model": state, "args": argparse.Namespace(lr=1)}, folder / "vq.pt")
        return folder / "vq.pt"
    if family == "ibq":  # what counts are the averages, under names without dots
        averages = {f"model_ema.{name.replace('.', '')}": value for name, value in state.items()}
        state = {**{name: value + 1 for name, value in state.items()}, **averages}
    module = "pytorch_lightning.callbacks.model_checkpoint"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, module, types.ModuleType(module))
        patch.setattr(sys.modules[module], "ModelCheckpoint", ModelCheckpoint, raising=False)
        patch.setattr(ModelCheckpoint, "__module__", module)
        callback = ModelCheckpoint()
        callback.best = 3
        content = {"state_dict": {**state, "loss.discriminator.0.weight": torch.ones(2)}, "callbacks": {0: callback}}
        torch.save({**content, "callback_states": {ModelCheckpoint: {}}}, folder / "last.ckpt")
    config = {"model": {"target": TARGETS[family], "params": {"n_embed": CODES, "ddconfig": {"ch": CH}}}}
    (folder / "model.yaml").write_text(yaml.safe_dump(config))
    return folder / "last.ckpt"


def save_diffusers_folder(family: str, folder: Path) -> nn.Module:
    """Write a folder as aMUSEd's, or as MoVQ's."""
    diffusers = pytest.importorskip("diffusers")
    more: dict[str, Any] = {"mid_block_add_attention": False, "lookup_from_codebook": True}
    if family == "movq":
        more = {"norm_type": "spatial"}
    attention = family == "movq"
    model = diffusers.VQModel(
        down_block_types=["DownEncoderBlock2D", "DownEncoderBlock2D", f"{'Attn' * attention}DownEncoderBlock2D"],
        up_block_types=[f"{'Attn' * attention}UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"],
        block_out_channels=[CH * m for m in MULT],
        latent_channels=DIM,
        num_vq_embeddings=CODES,
        vq_embed_dim=DIM,
        **more,
    ).eval()
    nn.init.normal_(model.quantize.embedding.weight)
    model.save_pretrained(folder / "vqvae")
    made: nn.Module = model
    return made


def published(family: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> PublishedVQGAN:
    """Return a small converted tokenizer of a family."""
    if family in ("amused", "movq"):
        save_diffusers_folder(family, folder)
        return convert(folder)
    file = save_authors_file(family, weights(family), folder, monkeypatch)
    return convert(file, config=None if family == "llamagen" else folder / "model.yaml")


@pytest.fixture(autouse=True)
def _seed() -> None:
    pytest.importorskip("diffusers")
    torch.manual_seed(0)


@pytest.mark.parametrize("family", TARGETS)
@pytest.mark.parametrize("size", [(16, 16), (12, 40)])
def test_it_is_what_the_authors_wrote(family, size, tmp_path, monkeypatch):
    state = weights(family)
    file = save_authors_file(family, state, tmp_path, monkeypatch)
    ours = convert(file, config=None if family == "llamagen" else tmp_path / "model.yaml")
    theirs = Reference(family, state)
    image_B3YX = torch.rand(2, 3, *size) * 2 - 1
    with torch.no_grad():
        z_BDYX = theirs.latents(image_B3YX)
        torch.testing.assert_close(ours.encode_features(image_B3YX), z_BDYX, atol=1e-5, rtol=0)
        tokens_BYX = theirs.tokens(z_BDYX)
        assert torch.equal(ours.encode(image_B3YX), tokens_BYX)
        assert len(tokens_BYX.unique()) > 3
        torch.testing.assert_close(ours.decode(tokens_BYX), theirs.pixels(tokens_BYX).clamp(-1, 1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["amused", "movq"])
def test_a_diffusers_folder_is_what_diffusers_makes_of_it(family, tmp_path):
    model: Any = save_diffusers_folder(family, tmp_path)
    ours, image_B3YX = convert(tmp_path), torch.rand(2, 3, 12, 40) * 2 - 1
    unit = family == "amused"  # its pipelines never leave [0, 1]
    with torch.no_grad():
        z_BDYX = model.encode((image_B3YX + 1) / 2 if unit else image_B3YX).latents
        q_BDYX, _, (_, _, tokens) = model.quantize(z_BDYX)
        assert torch.equal(ours.encode(image_B3YX).flatten(), tokens)
        made_B3YX = model.decode(z_BDYX).sample
        expected = (made_B3YX * 2 - 1 if unit else made_B3YX).clamp(-1, 1)
        torch.testing.assert_close(ours.decode(tokens.view(2, 3, 10)), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_pieces_are_the_whole_in_windows(family, tmp_path, monkeypatch):
    windowed = WindowedTokenizer(published(family, tmp_path, monkeypatch), 4, 1)
    assert isinstance(windowed, Tokenizer)
    image_B3YX = torch.rand(1, 3, 4 * 5, 4 * 14) * 2 - 1
    tokens_BYX = windowed.encode(image_B3YX)
    assert torch.equal(encode_tiled(windowed, image_B3YX, tile=7), tokens_BYX)
    torch.testing.assert_close(decode_tiled(windowed, tokens_BYX, tile=7), windowed.decode(tokens_BYX))


def test_the_command_writes_a_folder_that_loads(tmp_path, monkeypatch, capsys):
    file = save_authors_file("taming", weights("taming"), tmp_path, monkeypatch)
    out = tmp_path / "published" / "taming"
    line = ["convert-tokenizer", str(file), "--config", str(tmp_path / "model.yaml"), "--output", str(out)]
    assert main([*line, "--window", "6", "--overlap", "2"]) == 0
    assert "32 codes of 4 numbers by the rule nearest, 4x4 pixels a token" in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == ["config.json", "model.safetensors"]
    found = load_tokenizer(out)
    assert isinstance(found, WindowedTokenizer)
    assert (found.step, found.overlap, found.codebook_size) == (6, 2, 32)
    whole = convert(file, rule="nearest")
    assert found.whole.fingerprint() == whole.fingerprint()
    assert found.full_fingerprint() == WindowedTokenizer(whole, 6, 2).full_fingerprint()
    assert main(line) == 2
    assert "is there already" in capsys.readouterr().err


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return eval, ("print('executed')",)


def test_nothing_of_a_pickle_is_executed(tmp_path, capsys):
    for n, content in enumerate(({"state_dict": weights("taming"), "x": Evil()}, {"model": Evil()})):
        for old in (False, True):
            path = tmp_path / f"{n}{old}.ckpt"
            torch.save(content, path, _use_new_zipfile_serialization=not old)
            with pytest.raises(UsageError, match="eval, which is no weight and would have to be executed"):
                convert(path, rule="nearest")
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(UsageError):
        convert(tmp_path / "plain.ckpt", rule="nearest")
    assert "executed" not in capsys.readouterr().out


def test_a_file_from_before_zip_files(tmp_path, monkeypatch):
    state = weights("taming")
    torch.save({"state_dict": state}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    image_B3YX = torch.rand(1, 3, 16, 16)
    theirs = Reference("taming", state)
    with torch.no_grad():
        assert torch.equal(
            convert(tmp_path / "old.ckpt", rule="nearest").encode(image_B3YX), theirs.tokens(theirs.latents(image_B3YX))
        )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoder.conv_out.weight": None}, "is no whole tokenizer"),
        ({"encoder.mid.block_1.conv1.weight": None}, "is of an architecture that is not known"),
        ({"encoder.mid.attn_1.to_qkv.weight": torch.ones(3)}, "is of an architecture that is not known"),
        ({"encoder.conv_in.weight": torch.full((32, 3, 3, 3), float("nan"))}, "holds NaN or infinity"),
        ({"quantize.embedding.weight": None}, "is no whole tokenizer"),
        ({"encoder.down.0.block.0.conv1.weight": None}, "neither taming's layout nor LlamaGen's"),
    ],
)
def test_what_is_no_such_tokenizer_is_refused(change, words, tmp_path):
    state = {name: value for name, value in {**weights("taming"), **change}.items() if value is not None}
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    with pytest.raises(UsageError, match=words):
        convert(tmp_path / "a.ckpt", rule="nearest")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (None, "weights do not say whether"),
        ({"target": "ldm.models.autoencoder.AutoencoderKL"}, "its model is AutoencoderKL"),
        ({"target": "taming.models.vqgan.VQModel", "params": {"remap": "some.npy"}}, "remap chooses codes"),
        ({"target": "taming.models.vqgan.GumbelVQ"}, "is of an architecture"),
        ({}, "its model is None"),
    ],
)
def test_the_rule_is_never_guessed(model, words, tmp_path):
    torch.save(weights("taming"), tmp_path / "a.ckpt")
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"model": model}))
    with pytest.raises(UsageError, match=words):
        convert(tmp_path / "a.ckpt", config=None if model is None else tmp_path / "a.yaml")
    if model is None:
        torch.save(weights("gumbel"), tmp_path / "g.ckpt")
        with pytest.raises(UsageError, match="these weights are for gumbel"):
            convert(tmp_path / "g.ckpt", rule="nearest")
