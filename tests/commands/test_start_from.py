"""Stage 2 from the parts of another run, or of the model that comes with the package."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nuwa_lightning.hub import DEFAULT, SHIPPED, find_part
from nuwa_lightning.tokenizers.pretrained import load_tokenizer
from tests.commands.conftest import Shell


def weights(run: str | Path) -> dict[str, torch.Tensor]:
    return load_file(Path(run) / "model" / "model.safetensors")


def test_it_begins_with_the_weights_of_the_run(shell: Shell, finished: Path) -> None:
    still = ("--model.lr", "1e-12", "--model.descent.weight_decay", "0", "--trainer.max_steps", "1")
    options = ("fit", "-c", "two.yaml", "--model.start_from", finished / "two", *still)
    assert shell(*options, "--run", "on").status == 0
    begun, ours = weights(finished / "two"), weights("on")
    assert all(torch.allclose(ours[name], value, atol=1e-6) for name, value in begun.items())
    assert shell("fit", "-c", "two.yaml", *still, "--run", "new").status == 0
    assert not all(torch.allclose(weights("new")[name], value, atol=1e-3) for name, value in begun.items())


def test_another_shape_is_refused(shell: Shell, finished: Path) -> None:
    done = shell("fit", "-c", "two.yaml", "--model.start_from", finished / "two", "--model.transformer.num_layers", 3)
    assert done.status == 2
    assert "--model.start_from" in done.error
    assert "its size is" in done.error
    done = shell("fit", "-c", "two.yaml", "--model.start_from", "nowhere")
    assert done.status == 2
    assert "nowhere" in done.error


def test_parts_are_found_in_runs(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_part(DEFAULT, "coarse") == SHIPPED / DEFAULT / "coarse"
    assert find_part(finished / "two", "tokenizer") == finished / "two" / "tokenizer"
    assert find_part(finished / "two" / "tokenizer", "tokenizer") == finished / "two" / "tokenizer"
    assert find_part("nowhere", "tokenizer") == Path("nowhere")
    shipped = load_tokenizer(SHIPPED / DEFAULT / "tokenizer")
    assert load_tokenizer(DEFAULT).full_fingerprint() == shipped.full_fingerprint()


def test_a_refined_decoder_needs_no_recipe(shell: Shell, finished: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = ("fit", "-c", "two.yaml", "--trainer.max_steps", "1", "--tokenizer.refined")
    assert shell(*one, "nowhere", "--run", "plain").status == 0
    assert "--tokenizer.refined nowhere is not there" in caplog.text
    caplog.clear()
    assert shell(*one, finished / "one" / "tokenizer", "--run", "refined").status == 0
    assert "is not there" not in caplog.text
