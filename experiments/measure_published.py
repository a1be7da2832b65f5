"""Published tokenizers against their authors' own code, with random weights at full architecture.

    python experiments/measure_published.py PEERS [NAME ...]

``PEERS`` is a folder with checkouts (none of it is part of this project): ``taming`` (CompVis/taming-transformers),
``ldm`` (CompVis/latent-diffusion), ``llamagen`` (FoundationVision/LlamaGen), ``voken`` (TencentARC/SEED-Voken), and
the package einops. Each tokenizer is built by the authors' classes, saved as they save it (old Lightning classes in
the pickle included), converted by ``convert-tokenizer`` and compared, at sizes that are not
square, too: latents, indices, pixels.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from nuwa_lightning.cli import main as nuwa
from nuwa_lightning.tokenizers.pretrained import load_tokenizer

SIZES = ((6, 10), (12, 12), (9, 3))  # in tokens
DD: dict[str, Any] = {"double_z": False, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128, "dropout": 0.0}


def ddconfig(z: int, mult: tuple[int, ...], attention: tuple[int, ...], blocks: int = 2, **more: Any) -> dict[str, Any]:
    """Return the arguments of the authors' encoder and decoder."""
    numbers = {"z_channels": z, "ch_mult": list(mult), "num_res_blocks": blocks, "attn_resolutions": list(attention)}
    return {**DD, **numbers, **more}


F16, F8, F4 = (1, 1, 2, 2, 4), (1, 2, 2, 4), (1, 2, 4)
# name: checkout, ddconfig, number of codes, their length, class in the YAML
TAMING: dict[str, tuple[str, dict[str, Any], int, int, str]] = {
    "taming-f16-1024": ("taming", ddconfig(256, F16, (16,)), 1024, 256, "taming.models.vqgan.VQModel"),
    "taming-f16-16384": ("taming", ddconfig(256, F16, (16,)), 16384, 256, "taming.models.vqgan.VQModel"),
    "taming-f8-gumbel": ("taming", ddconfig(256, (1, 1, 2, 4), (32,)), 8192, 256, "taming.models.vqgan.GumbelVQ"),
    "ldm-f4": ("ldm", ddconfig(3, F4, ()), 8192, 3, "ldm.models.autoencoder.VQModel"),
    "ldm-f4-noattn": ("ldm", ddconfig(3, F4, (), attn_type="none"), 8192, 3, "ldm.models.autoencoder.VQModel"),
    "ldm-f8": ("ldm", ddconfig(4, F8, (32,)), 16384, 4, "ldm.models.autoencoder.VQModel"),
    "ldm-f8-n256": ("ldm", ddconfig(4, F8, (32,)), 256, 4, "ldm.models.autoencoder.VQModel"),
    "ldm-f16": ("ldm", ddconfig(8, F16, (16,)), 16384, 8, "ldm.models.autoencoder.VQModel"),
    "ibq-1024": ("voken", ddconfig(256, F16, (16,), 4), 1024, 256, "src.IBQ.models.ibqgan.IBQ"),
    "ibq-16384": ("voken", ddconfig(256, F16, (16,), 4), 16384, 256, "src.IBQ.models.ibqgan.IBQ"),
}
LLAMAGEN = {"llamagen-vq16": "VQ-16", "llamagen-vq8": "VQ-8"}
DIFFUSERS: dict[str, dict[str, Any]] = {
    "amused": {
        "block_out_channels": [128, 256, 256, 512, 768],
        "down_block_types": ["DownEncoderBlock2D"] * 5,
        "up_block_types": ["UpDecoderBlock2D"] * 5,
        "latent_channels": 64,
        "layers_per_block": 2,
        "num_vq_embeddings": 8192,
        "vq_embed_dim": 64,
        "mid_block_add_attention": False,
        "lookup_from_codebook": True,
    },
    "movq": {
        "block_out_channels": [128, 256, 256, 512],
        "down_block_types": [*["DownEncoderBlock2D"] * 3, "AttnDownEncoderBlock2D"],
        "up_block_types": ["AttnUpDecoderBlock2D", *["UpDecoderBlock2D"] * 3],
        "latent_channels": 4,
        "layers_per_block": 2,
        "num_vq_embeddings": 16384,
        "vq_embed_dim": 4,
        "norm_type": "spatial",
    },
}
Encode = Callable[[Tensor], tuple[Tensor, Tensor]]
Decode = Callable[[Tensor], Tensor]


class Peer(nn.Module):
    """Encoder, decoder and quantizer of the authors, put together as their Lightning module does."""

    def __init__(self, root: Path, name: str) -> None:
        super().__init__()
        checkout, dd, count, dim, target = TAMING[name]
        layers = {
            "taming": "taming.modules.diffusionmodules.model",
            "ldm": "ldm.modules.diffusionmodules.model",
            "voken": "src.IBQ.modules.diffusionmodules.model",
        }[checkout]
        sys.path.insert(0, str(root / checkout))
        sys.path.insert(0, str(root / "taming"))
        model = importlib.import_module(layers)
        self.encoder, self.decoder = model.Encoder(**dd), model.Decoder(**dd)
        self.quant_conv = nn.Conv2d(dd["z_channels"], dim, 1)
        self.post_quant_conv = nn.Conv2d(dim, dd["z_channels"], 1)
        where = "src.IBQ.modules.vqvae.quantize" if checkout == "voken" else "taming.modules.vqvae.quantize"
        quantize = importlib.import_module(where)
        if target.endswith("GumbelVQ"):
            self.quantize = quantize.GumbelQuantize(dd["z_channels"], dim, n_embed=count)
        elif target.endswith("IBQ"):
            self.quantize = quantize.IndexPropagationQuantize(count, dim)
        else:
            self.quantize = quantize.VectorQuantizer2(count, dim, beta=0.25)
        self.config = {"model": {"target": target, "params": {"embed_dim": dim, "n_embed": count, "ddconfig": dd}}}

    def tokens(self, image_B3YX: Tensor) -> tuple[Tensor, Tensor]:
        """Return latents and indices."""
        z_BDYX = self.quant_conv(self.encoder(image_B3YX))
        if hasattr(self.quantize, "proj"):  # their forward draws Gumbel noise, which the largest logit is without
            return z_BDYX, self.quantize.proj(z_BDYX).argmax(1)
        return z_BDYX, self.quantize(z_BDYX)[2][2].reshape(len(z_BDYX), *z_BDYX.shape[2:])

    def pixels(self, tokens_BYX: Tensor) -> Tensor:
        """Return the decoded image."""
        shape = (*tokens_BYX.shape, self.quant_conv.out_channels)
        q_BDYX = self.quantize.get_codebook_entry(tokens_BYX.flatten(), shape)
        made_B3YX: Tensor = self.decoder(self.post_quant_conv(q_BDYX))
        return made_B3YX


def spread(codebook_KD: Tensor, z_BDYX: Tensor) -> None:
    """Put the codes where the latents are: at their start most authors' are so small that one is always nearest."""
    codebook_KD.normal_().mul_(z_BDYX.std()).add_(z_BDYX.mean())


def checkpoint(state: dict[str, Tensor]) -> dict[str, Any]:
    """Return what Lightning of that time saved, with the classes that it names."""
    named = "pytorch_lightning.callbacks.model_checkpoint"
    for depth in range(1, 4):
        sys.modules.setdefault(".".join(named.split(".")[:depth]), types.ModuleType(".".join(named.split(".")[:depth])))
    callback = type("ModelCheckpoint", (), {"__module__": named})
    sys.modules[named].ModelCheckpoint = callback  # type: ignore[attr-defined]
    return {"epoch": 3, "state_dict": state, "callbacks": {callback: {"best_model_score": torch.tensor(0.1)}}}


def peer_of(name: str, root: Path, folder: Path) -> tuple[list[str], Encode, Decode, int]:
    """Return the arguments of ``convert-tokenizer`` for a saved peer, and how the peer encodes and decodes."""
    first_B3YX = torch.rand(1, 3, 64, 64) * 2 - 1
    if name in TAMING:
        made = Peer(root, name).eval()
        book = made.quantize.embed if hasattr(made.quantize, "embed") else made.quantize.embedding
        spread(book.weight, made.tokens(first_B3YX)[0])
        state = made.state_dict()
        if name.startswith("ibq"):  # what counts are the averages
            averages = {f"model_ema.{k.replace('.', '')}": v for k, v in state.items()}
            state = {**{k: v + 1 for k, v in state.items()}, **averages}
        torch.save(checkpoint({**state, "loss.discriminator.main.0.weight": torch.zeros(3)}), folder / "last.ckpt")
        (folder / "model.yaml").write_text(yaml.safe_dump(made.config))
        levels = len(made.config["model"]["params"]["ddconfig"]["ch_mult"])  # type: ignore[index]
        config = ["--config", str(folder / "model.yaml")]
        return [str(folder / "last.ckpt"), *config], made.tokens, made.pixels, 2 ** (levels - 1)
    if name in LLAMAGEN:
        sys.path.insert(0, str(root / "llamagen"))
        vq = importlib.import_module("tokenizer.tokenizer_image.vq_model").VQ_models[LLAMAGEN[name]]().eval()
        vq.quantize.embedding.weight.normal_()  # not of length 1, as trained ones are not
        torch.save({"model": vq.state_dict(), "args": argparse.Namespace(vq_model=name)}, folder / "vq.pt")

        def tokens(image_B3YX: Tensor) -> tuple[Tensor, Tensor]:
            z_BDYX = vq.quant_conv(vq.encoder(image_B3YX))
            return z_BDYX, vq.encode(image_B3YX)[2][2].view(len(z_BDYX), *z_BDYX.shape[2:])

        def pixels(tokens_BYX: Tensor) -> Tensor:
            shape = (len(tokens_BYX), 8, *tokens_BYX.shape[1:])
            made_B3YX: Tensor = vq.decode_code(tokens_BYX.flatten(), shape)
            return made_B3YX

        return [str(folder / "vq.pt")], tokens, pixels, 16 if name.endswith("16") else 8
    from diffusers import VQModel

    model = VQModel(**DIFFUSERS[name]).eval()
    unit = name == "amused"

    def latents(image_B3YX: Tensor) -> tuple[Tensor, Tensor]:
        z_BDYX = model.encode((image_B3YX + 1) / 2 if unit else image_B3YX).latents
        return z_BDYX, model.quantize(z_BDYX)[2][2].view(len(z_BDYX), *z_BDYX.shape[2:])

    def decode(tokens_BYX: Tensor) -> Tensor:
        q_BDYX = model.quantize.get_codebook_entry(tokens_BYX, (*tokens_BYX.shape, model.config.vq_embed_dim))
        vectors = tokens_BYX if model.config.lookup_from_codebook else q_BDYX
        shape = (*tokens_BYX.shape, model.config.vq_embed_dim)
        made_B3YX: Tensor = model.decode(vectors, force_not_quantize=True, shape=shape).sample
        return made_B3YX * 2 - 1 if unit else made_B3YX

    spread(model.quantize.embedding.weight, latents(first_B3YX)[0])
    model.save_pretrained(folder / "vqvae")
    return [str(folder)], latents, decode, 2 ** (len(DIFFUSERS[name]["block_out_channels"]) - 1)


@torch.no_grad()
def measure(name: str, root: Path) -> dict[str, Any]:
    """Return the largest differences of one tokenizer, over the sizes."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        arguments, tokens, pixels, factor = peer_of(name, root, folder)
        if nuwa(["convert-tokenizer", *arguments, "--output", str(folder / "ours"), "--window", "0"]):
            raise SystemExit(1)
        ours: Any = load_tokenizer(folder / "ours")
    found: dict[str, Any] = {"name": name, "parameters": sum(p.numel() for p in ours.parameters())}
    latent, image, equal, count, used, range_ = 0.0, 0.0, 0, 0, set(), 0.0
    for height, width in ((factor * side for side in size) for size in SIZES):
        given_B3YX = torch.rand(1, 3, height, width) * 2 - 1
        z_BDYX, theirs_BYX = tokens(given_B3YX)
        latent = max(latent, float((ours.encode_features(given_B3YX) - z_BDYX).abs().max()))
        mine_BYX = ours.encode(given_B3YX)
        equal, count = equal + int((mine_BYX == theirs_BYX).sum()), count + theirs_BYX.numel()
        used |= set(theirs_BYX.flatten().tolist())
        made_B3YX = pixels(theirs_BYX)
        range_ = max(range_, float(made_B3YX.abs().max()))
        image = max(image, float((ours.decode_features(ours.quantizer.lookup(theirs_BYX)) - made_B3YX).abs().max()))
        assert given_B3YX.shape == made_B3YX.shape
        assert mine_BYX.shape[1] * factor == height
    return {**found, "latents": latent, "indices_equal": equal, "of": count, "codes_used": len(used)} | {
        "pixels": image,
        "largest_pixel": range_,
    }


def main() -> None:
    """Print a line of JSON for each tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", type=Path)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    for name in options.names or [*TAMING, *LLAMAGEN, *DIFFUSERS]:
        sys.stdout.write(json.dumps(measure(name, options.peers)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
