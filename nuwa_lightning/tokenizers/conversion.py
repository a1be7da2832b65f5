"""Reading the files of published tokenizers, once, into a :class:`PublishedVQGAN`.

Three layouts are known: taming's (also LDM, IBQ), LlamaGen's, and a diffusers folder (aMUSEd, MoVQ). One table turns
the names of the first two into the third's; the architecture is read off the shapes. Pickles are loaded by PyTorch's
restricted unpickler alone; classes of trainers that they name are replaced by an empty one of ours.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from nuwa_lightning.errors import UsageError, some_of
from nuwa_lightning.models.unfilled import unfilled
from nuwa_lightning.plain_data import read_json, read_mapping
from nuwa_lightning.tokenizers.published import Pixels, PublishedVQGAN, Rule

# In this order. Levels of taming's decoder are counted from the other end, see _diffusers_name.
_NAMES: Final = (
    (r"^encoder\.(?:down|conv_blocks)\.", "encoder.down_blocks."),
    (r"^decoder\.(?:up|conv_blocks)\.", "decoder.up_blocks."),
    (r"_blocks\.(\d+)\.(?:block|res)\.", r"_blocks.\1.resnets."),
    (r"_blocks\.(\d+)\.attn\.", r"_blocks.\1.attentions."),
    (r"\.mid\.(?:block_1|0)\.", ".mid_block.resnets.0."),
    (r"\.mid\.(?:attn_1|1)\.", ".mid_block.attentions.0."),
    (r"\.mid\.(?:block_2|2)\.", ".mid_block.resnets.1."),
    (r"(\.attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(\.attentions\.\d+)\.([qkv])\.", r"\1.to_\2."),
    (r"(\.attentions\.\d+)\.proj_out\.", r"\1.to_out.0."),
    (r"\.(down|up)sample\.conv\.", r".\1samplers.0.conv."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.norm_out\.", ".conv_norm_out."),
    (r"^quantize\.embed\.", "quantize.embedding."),
)
# Names of VQModel, and ours.
_PARTS: Final = {
    "encoder.": "encoder.0.",
    "quant_conv.": "encoder.1.",
    "decoder.": "decoder.net.",
    "post_quant_conv.": "decoder.post_quant_conv.",
    "quantize.embedding.weight": "quantizer.codebook_KD",
    "quantize.proj.": "quantizer.proj.",
}
_NOT_NEEDED: Final = ("loss.", "model_ema.", "colorize", "quantize.codebook_used")
_RULES: Final[Mapping[str, Rule]] = {
    "VQModel": "nearest",
    "VQModelInterface": "nearest",
    "GumbelVQ": "gumbel",
    "IBQ": "dot",
}
_TRAINERS: Final = ("pytorch_lightning", "lightning", "omegaconf", "argparse", "numpy")
_VQMODEL: Final = (
    *("in_channels", "out_channels", "down_block_types", "up_block_types", "block_out_channels", "layers_per_block"),
    *("act_fn", "latent_channels", "num_vq_embeddings", "norm_num_groups", "vq_embed_dim", "norm_type"),
    "mid_block_add_attention",
)


def convert(path: str | Path, *, config: str | Path | None = None, rule: Rule | None = None) -> PublishedVQGAN:
    """Read a published tokenizer.

    Args:
        path: the authors' file (``.ckpt``, ``.pt``, ``.pth``, ``.bin``, ``.safetensors``), or a diffusers folder.
        config: the authors' YAML that goes with a file of taming's layout; says by which rule a code is chosen.
        rule: that rule, instead of the YAML.

    Returns:
        The tokenizer, frozen, in evaluation mode.

    Raises:
        UsageError: if it cannot be read, names what would have to be executed, or is of another layout.
    """
    path = Path(path)
    if path.is_dir():
        vqmodel, state, pixels = _diffusers_folder(path)
        return _made(path, vqmodel, state, rule=rule or "nearest", pixels=pixels)
    state = _averaged(_weights(path))
    state = {name: value for name, value in state.items() if not name.startswith(_NOT_NEEDED)}
    llamagen = any(".conv_blocks." in name for name in state)
    if not llamagen and "encoder.down.0.block.0.conv1.weight" not in state:
        what = f"holds {some_of(sorted(state)) or 'no weights'}: neither taming's layout nor LlamaGen's"
        raise UsageError("file", path, f"{what}; of diffusers give the folder with config.json")
    if any(name.startswith("quantize.proj.") for name in state):
        found: Rule | None = "gumbel"
    else:
        found = "nearest" if llamagen else _rule_of(config) if config is not None else None
    if found is None and rule is None:
        hint = "weights do not say whether the nearest code is meant (taming, LDM) or the largest product (IBQ)"
        raise UsageError("config", None, f"{hint}: give the authors' YAML, or `rule` nearest, or `rule` dot")
    if found is not None and rule is not None and found != rule:
        raise UsageError("rule", rule, f"these weights are for {found}: leave the option out")
    levels = 1 + max(int(m[1]) for m in (re.match(r"encoder\.(?:down|conv_blocks)\.(\d+)", n) for n in state) if m)
    named = {_diffusers_name(name, levels): value for name, value in state.items()}
    for name, value in named.items():
        if (".attentions." in name or name == "quantize.proj.weight") and value.ndim == 4:
            named[name] = value[:, :, 0, 0]  # a 1x1 convolution as a matrix
    try:
        vqmodel = _architecture(named, levels)
    except (KeyError, IndexError) as error:
        raise UsageError("file", path, f"is no whole tokenizer, {error} is missing: download it again") from None
    return _made(path, vqmodel, named, rule=rule or found or "nearest", unit_codes=llamagen)


def _made(
    path: Path,
    vqmodel: dict[str, Any],
    state: Mapping[str, Tensor],
    *,
    rule: Rule,
    unit_codes: bool = False,
    pixels: Pixels = "signed",
) -> PublishedVQGAN:
    try:
        with unfilled():
            made = PublishedVQGAN(vqmodel, rule, unit_codes=unit_codes, pixels=pixels)
        ours = {_our_name(name): value.float().contiguous() for name, value in state.items()}
        if unit_codes:
            ours["quantizer.codebook_KD"] = functional.normalize(ours["quantizer.codebook_KD"], dim=1)
        spoiled = next((name for name, value in ours.items() if not bool(torch.isfinite(value).all())), None)
        if spoiled is not None:
            raise UsageError("file", path, f"{spoiled} holds NaN or infinity: download it again")
        made.load_state_dict(ours, strict=True, assign=True)
    except UsageError:
        raise
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError("file", path, f"is of an architecture that is not known here ({reason})") from None
    return made.eval().requires_grad_(False)


def _our_name(name: str) -> str:
    return next((ours + name[len(theirs) :] for theirs, ours in _PARTS.items() if name.startswith(theirs)), name)


def _diffusers_name(name: str, levels: int) -> str:
    level = re.match(r"decoder\.up\.(\d+)\.", name)
    if level:
        name = f"decoder.up.{levels - 1 - int(level[1])}.{name[level.end() :]}"
    for pattern, new in _NAMES:
        name = re.sub(pattern, new, name)
    return name


def _architecture(state: Mapping[str, Tensor], levels: int) -> dict[str, Any]:
    """Return the arguments of ``VQModel``, read off the weights; GroupNorm has 32 groups in all of them."""

    def kinds(where: str, attention: str, plain: str) -> list[str]:
        return [attention if f"{where}.{n}.attentions.0.to_q.weight" in state else plain for n in range(levels)]

    return {
        "in_channels": state["encoder.conv_in.weight"].shape[1],
        "out_channels": state["decoder.conv_out.weight"].shape[0],
        "down_block_types": kinds("encoder.down_blocks", "AttnDownEncoderBlock2D", "DownEncoderBlock2D"),
        "up_block_types": kinds("decoder.up_blocks", "AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        "block_out_channels": [
            state[f"encoder.down_blocks.{n}.resnets.0.conv2.weight"].shape[0] for n in range(levels)
        ],
        "layers_per_block": sum(
            bool(re.match(r"encoder\.down_blocks\.0\.resnets\.\d+\.conv2\.weight", name)) for name in state
        ),
        "latent_channels": state["encoder.conv_out.weight"].shape[0],
        "num_vq_embeddings": state["quantize.embedding.weight"].shape[0],
        "vq_embed_dim": state["quantize.embedding.weight"].shape[1],
        "mid_block_add_attention": "encoder.mid_block.attentions.0.to_q.weight" in state,
    }


def _rule_of(config: str | Path) -> Rule:
    """Return the rule that the authors' YAML names by the class of the model."""
    content = read_mapping(config, "config", example="model: {target: taming.models.vqgan.VQModel}")
    model = content.get("model")
    model = model if isinstance(model, Mapping) else {}
    name = str(model.get("target") or model.get("class_path")).rpartition(".")[2]
    arguments = model.get("params") or model.get("init_args") or {}
    if name not in _RULES or not isinstance(arguments, Mapping):
        hint = f"its model is {name}, not one of {', '.join(_RULES)}: give another YAML, or `rule`"
        raise UsageError("config", config, hint)
    other = [key for key in ("remap", "l2_normalize", "cosine_similarity") if arguments.get(key)]
    if other:
        raise UsageError("config", config, f"{other[0]} chooses codes in a way that is not known here")
    return _RULES[name]


def _averaged(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights with moving averages in their place, which the authors use (IBQ); names there lack dots."""
    flat = {name.replace(".", ""): name for name in state if not name.startswith(_NOT_NEEDED)}
    averages = {name.removeprefix("model_ema."): value for name, value in state.items()}
    return {**state, **{flat[name]: value for name, value in averages.items() if name in flat}}


class _Inert(dict[Any, Any]):
    """What stands for any object of a trainer in a pickle: it takes everything and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()


def _weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name: the averages where there are two sets (LlamaGen)."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        loaded: Any = _opened(path, load_file)
    else:
        loaded = _opened(path, _unpickled)
    for key in ("state_dict", "ema", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    state = loaded if isinstance(loaded, Mapping) else {}
    return {str(name): value for name, value in state.items() if isinstance(value, Tensor)}


def _opened(path: Path, load: Any) -> Any:
    from safetensors import SafetensorError

    try:
        return load(path)
    except FileNotFoundError:
        raise UsageError("file", path, "there is no such file: name a published tokenizer") from None
    except UsageError:
        raise
    except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError, ValueError, KeyError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        hint = f"cannot be read as weights ({reason}): unpack an archive first, or download it again"
        raise UsageError("file", path, hint) from None


def _unpickled(path: Path) -> Any:
    """Load a pickle by the restricted unpickler; classes of trainers are never imported."""
    inert: list[Any] = []
    while True:
        try:
            with torch.serialization.safe_globals(inert):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            named = re.search(r"(?:GLOBAL|global|class) (?!GLOBAL)([\w.]+)", str(error))
            if named is None or any(named[1] == name for _, name in inert):
                raise
            if named[1].split(".")[0] not in _TRAINERS:
                hint = f"names {named[1]}, which is no weight and would have to be executed: get the file elsewhere"
                raise UsageError("file", path, hint) from None
            inert.append((_Inert, named[1]))


def _diffusers_folder(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], Pixels]:
    """Return architecture, weights and range of pixels of a folder that diffusers wrote."""
    folder = next((f for f in (path, path / "vqvae", path / "movq") if (f / "config.json").is_file()), path)
    try:
        config = read_json(folder / "config.json")
    except FileNotFoundError:
        raise UsageError("file", path, "is a folder without config.json: name one that diffusers wrote") from None
    except (OSError, ValueError) as error:
        raise UsageError("file", path, f"config.json cannot be read ({error}): download it again") from None
    kind = config.get("_class_name") if isinstance(config, dict) else None
    if kind != "VQModel":
        raise UsageError("file", folder, f"holds {kind or 'something else'}, no VQModel of diffusers: name one")
    files = [folder / f"diffusion_pytorch_model.{suffix}" for suffix in ("safetensors", "bin")]
    state = _weights(next((file for file in files if file.is_file()), files[0]))
    # aMUSEd's images are in [0, 1]; of VQModels that diffusers has pipelines for it alone looks codes up by this key.
    pixels: Pixels = "unit" if config.get("lookup_from_codebook") else "signed"
    return {key: config[key] for key in _VQMODEL if key in config}, state, pixels
