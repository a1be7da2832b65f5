"""Exported models: weights that are no numbers are refused in whichever part they stand."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from nuwa_lightning.errors import UsageError
from nuwa_lightning.hub import SHIPPED
from nuwa_lightning.pipeline import NuwaInfinityPipeline

PARTS = ["landscape/model", "landscape/tokenizer", "landscape/coarse", "landscape_video/pixel_guided"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", PARTS)
def test_weights_that_are_not_finite(tmp_path: Path, part: str, value: float) -> None:
    model, _, name = part.partition("/")
    shutil.copytree(SHIPPED / model, tmp_path / model)
    weights = tmp_path / part / "model.safetensors"
    state = load_file(weights)
    spoiled = next(key for key, weight in state.items() if weight.is_floating_point() and weight.ndim > 1)
    state[spoiled].view(-1)[-1] = value
    save_file(state, weights)
    with pytest.raises(UsageError, match=f"{spoiled} holds NaN or infinity") as caught:
        NuwaInfinityPipeline.from_folder(tmp_path / model)
    assert f"/{name}: " in str(caught.value)
