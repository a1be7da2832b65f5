"""Names of the first version: its recipes, flags, saved models and checkpoints keep loading."""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

_LOG = logging.getLogger(__name__)

_KEYS: Final[tuple[tuple[str, str, str], ...]] = (  # below which key (a pattern), old, new
    (".*", "num_codes", "codebook_size"),
    (".*", "code_dim", "codebook_dim"),
    (".*", "text_width", "text_dim"),
    ("transformer|size", "width", "dim"),
    ("transformer|size", "depth", "num_layers"),
    ("transformer|size", "heads", "num_heads"),
    ("transformer|size", "kv_heads", "num_kv_heads"),
    ("transformer|size", "feed_forward_multiple", "mlp_ratio"),
    ("transformer|size", "neighbours", "neighbor_embedding"),
    ("transformer|size", "repeat", "copy_head"),
    ("conditions", "known_share", "known_prob"),
    ("conditions", "closing_share", "closing_prob"),
    ("conditions", "misread", "token_noise"),
    ("direction", "views", "symmetries"),
    ("data", "views", "crops"),
    ("data", "films", "videos"),
)
_CLASSES: Final = {"GiantPicture": "GiantImage", "SyntheticFilms": "SyntheticVideos", "Views": "CropSettings"}
_MODULES: Final = (
    (r"nuwa_lightning\.(context|direction|geometry)\b", r"nuwa_lightning.planning.\1"),
    (r"nuwa_lightning\.stages\.(nuwa_module|vqgan_module|pixel_guided_module)\b", r"nuwa_lightning.training.\1"),
    (r"nuwa_lightning\.stages\.conditions\b", "nuwa_lightning.training.conditioning"),
    (r"nuwa_lightning\.stages\.optimization\b", "nuwa_lightning.training.optimization"),
    (
        r"nuwa_lightning\.modules\.patch_layer\.TransformerSize\b",
        "nuwa_lightning.models.nuwa_infinity.TransformerConfig",
    ),
    (r"nuwa_lightning\.tokenizers\.vqgan\.VQGANSize\b", "nuwa_lightning.models.vqgan.VQGANConfig"),
    (r"nuwa_lightning\.data\.giant_picture\b", "nuwa_lightning.data.giant_image"),
    (r"nuwa_lightning\.data\.synthetic_films\b", "nuwa_lightning.data.synthetic_videos"),
    (r"nuwa_lightning\.data\.views\b", "nuwa_lightning.data.crops"),
)
_TENSORS: Final = (
    (r"\bcodes_(KE|KD)$", r"codebook_\1"),
    (r"(^|\.)begin$", r"\1bos"),
    (r"(^|\.)blank$", r"\1mask_token"),
    (r"(^|\.)views$", r"\1symmetries"),
    (r"(^|\.)near\.linear\.", r"\1neighbor_embedding.linear."),
    (r"(^|\.)repeat\.linear\.", r"\1copy_head.linear."),
)
_TRANSPARENT: Final = ("init_args", "args", "dict_kwargs")


def upgraded(config: Any, *, below: str = "") -> Any:
    """Return a configuration with the first version's keys and class names replaced by today's."""
    if isinstance(config, list):
        return [upgraded(item, below=below) for item in config]
    if isinstance(config, str):
        return _class_name(config)
    if not isinstance(config, Mapping):
        return config
    made: dict[str, Any] = {}
    for key, value in config.items():
        inner = below if key in _TRANSPARENT else str(key)
        made[_key(str(key), below)] = upgraded(value, below=inner) if key != "caption" else value
    return made


def first_names(option: str) -> list[str]:
    """Return what a dotted option was called in the first version, if that was something else.

    >>> first_names("model.transformer.dim"), first_names("model.dim")
    (['model.transformer.width'], [])
    """
    *_, below, key = ("", *option.split("."))
    return [option.removesuffix(key) + old for within, old, new in _KEYS if new == key and re.fullmatch(within, below)]


def upgraded_arguments(arguments: Sequence[str]) -> list[str]:
    """Return command-line arguments with old names replaced; says once per name that it is deprecated."""
    made = []
    expects_file = False
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if expects_file or option in ("-c", "--config"):
            made.append(_config_argument(argument, option + equals if equals and not expects_file else ""))
            expects_file = not expects_file and not equals
            continue
        if option.startswith("--") and "." in option:
            parts = option[2:].split(".")
            renamed = [_key(part, parts[n - 1] if n else "") for n, part in enumerate(parts)]
            _note(option, "--" + ".".join(renamed))
            argument = "--" + ".".join(renamed) + equals + (_class_name(value) if equals else "")
        else:
            argument = _class_name(argument)
        made.append(argument)
    return made


def upgrade_state(state: dict[str, Any]) -> None:
    """Rename tensors of the first version in a state dict, in place."""
    for name in list(state):
        new = name
        for old, today in _TENSORS:
            new = re.sub(old, today, new)
        if new != name:
            state[new] = state.pop(name)


def upgrade_checkpoint(checkpoint: dict[str, Any]) -> None:
    """Rename what a training checkpoint of the first version holds, in place."""
    for part in ("state_dict", "current_model_state"):
        if isinstance(checkpoint.get(part), dict):
            upgrade_state(checkpoint[part])
    for part in ("patch_transformer", "vqgan_size", "pixel_guided"):
        if part in checkpoint:
            checkpoint[part] = upgraded(checkpoint[part])


def first_name(tensor: str) -> str:
    """Return what the first version called a tensor, which hashes of saved models hold."""
    return re.sub(r"\bcodebook_(KE|KD)$", r"codes_\1", tensor)


def first_keys(size: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tokenizer's size under the first version's keys, which hashes of saved models hold."""
    old = {"codebook_size": "num_codes", "codebook_dim": "code_dim"}
    return {old.get(key, key): value for key, value in size.items()}


def _key(key: str, below: str) -> str:
    return next((new for where, old, new in _KEYS if key == old and re.fullmatch(where, below)), key)


def _class_name(text: str) -> str:
    if text in _CLASSES:
        return _CLASSES[text]
    if not text.startswith("nuwa_lightning."):
        return text
    for old, new in _MODULES:
        text = re.sub(old, new, text)
    head, dot, name = text.rpartition(".")
    return head + dot + _CLASSES.get(name, name)


def _config_argument(argument: str, prefix: str) -> str:
    import yaml

    path = Path(argument[len(prefix) :])
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return argument  # what is wrong with it is said by whoever reads it
    new = upgraded(content)
    if new == content:
        return argument
    _LOG.warning("%s: names of the first version are deprecated: see CHANGELOG.md for today's", path)
    return prefix + json.dumps(new, default=str)


def _note(old: str, new: str) -> None:
    if old != new:
        _LOG.warning("%s is deprecated: write %s", old, new)
