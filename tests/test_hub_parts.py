"""The tokenizer and the transformer by themselves: folders, the hub, and out of a run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from nuwa_lightning import VQGAN, NuwaInfinityPipeline, UsageError
from nuwa_lightning.generation.pretrained import Generator
from nuwa_lightning.hub import Pretrained
from nuwa_lightning.planning.context import NearbyContextPool
from nuwa_lightning.tokenizers.published import PublishedVQGAN
from nuwa_lightning.tokenizers.windows import WindowedTokenizer
from tests.tokenizers.test_own_tokenizer import Gray
from tests.training.small import published


@pytest.fixture(scope="module")
def pipe() -> NuwaInfinityPipeline:
    return NuwaInfinityPipeline.from_pretrained("landscape")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for the hub: repositories are folders."""
    root = tmp_path / "hub"

    class Api:
        def __init__(self, token: str | None = None) -> None:
            pass

        def create_repo(self, repo_id: str, **_: object) -> SimpleNamespace:
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, *, repo_id, folder_path, allow_patterns, commit_message) -> SimpleNamespace:
            for path in Path(folder_path).rglob("*"):
                name = str(path.relative_to(folder_path))
                if name in allow_patterns:
                    to = root / repo_id / name
                    to.parent.mkdir(parents=True, exist_ok=True)
                    to.write_bytes(path.read_bytes())
            return SimpleNamespace(commit_url=f"https://hub/{repo_id}: {commit_message}")

    def download(name: str, *, allow_patterns: list[str], **_: object) -> str:
        if not (root / name).is_dir():
            raise LocalEntryNotFoundError("offline")
        (root / "asked").write_text(json.dumps(allow_patterns))
        return str(root / name)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return root


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def part(pipe: NuwaInfinityPipeline, cls: type[Pretrained]) -> Pretrained:
    made = {
        Generator: pipe.generator,
        VQGAN: pipe.tokenizer,
        WindowedTokenizer: WindowedTokenizer(pipe.tokenizer, 8, 2),
    }
    return published(codebook_size=64).eval() if cls is PublishedVQGAN else made[cls]


@pytest.mark.parametrize("cls", [Generator, VQGAN, WindowedTokenizer, PublishedVQGAN])
def test_a_part_goes_up_and_comes_down(pipe, hub, tmp_path, cls) -> None:
    if cls is PublishedVQGAN:
        pytest.importorskip("diffusers")
    own = part(pipe, cls)
    assert own.push_to_hub("me/part", commit_message="first") == "https://hub/me/part: first"
    files = {f"{cls.part}/config.json", f"{cls.part}/model.safetensors", "README.md"}
    assert {str(path.relative_to(hub / "me" / "part")) for path in hub.rglob("*") if path.is_file()} == files
    card = (hub / "me" / "part" / "README.md").read_text()
    assert f'{cls.__name__}.from_pretrained("me/part")' in card
    found = cls.from_pretrained("me/part")
    asked = json.loads((hub / "asked").read_text())
    assert set(asked) == files - {"README.md"} | {"record.json", "model/config.json"}
    own.save_pretrained(tmp_path / "folder")
    for again in (found, cls.from_pretrained(tmp_path / "folder"), cls.from_pretrained(tmp_path / "hub/me/part")):
        assert type(again) is cls
        if isinstance(again, Generator):
            assert same(again.model, own.model)
            assert (again.pool, again.direction, again.token_order) == (own.pool, own.direction, own.token_order)
        else:
            assert again.fingerprint() == own.fingerprint()
            assert torch.equal(again.decode(torch.arange(64).view(1, 8, 8)), own.decode(torch.arange(64).view(1, 8, 8)))
    exec(card.split("```python\n")[1].split("```")[0], {})


RECORD = {
    "data": {"source": "some images", "train": ["a.png", "b.png"]},
    "ended": {"step": 7, "by": "finished"},
    "seed": 3,
    "versions": {"torch": "2.0"},
}


def rows(card: Path) -> set[str]:
    return {line for line in card.read_text().splitlines() if line.startswith("| ")}


def test_the_card_of_a_part_says_how_it_was_trained(pipe, hub, tmp_path) -> None:
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "record.json").write_text(json.dumps(RECORD))
    pipe.generator.save_pretrained(tmp_path / "two" / "model")
    for name in ("one", "two"):
        pipe.tokenizer.save_pretrained(tmp_path / name / "tokenizer")
    NuwaInfinityPipeline.from_pretrained(tmp_path / "two").push_to_hub("me/all")
    told = {"| trained on | some images: 2 of it |", "| steps | 7 (finished), seed 3 |", "| trained with | torch 2.0 |"}
    assert rows(hub / "me" / "all" / "README.md") >= told
    (tmp_path / "one" / "record.json").write_text(json.dumps(RECORD))
    for cls, run in ((Generator, "two"), (VQGAN, "one")):
        # And of what came down from there.
        first, second, third = (f"me/{run}_{n}" for n in range(3))
        for place, to in ((tmp_path / run, first), (tmp_path / run / cls.part, second), (first, third)):
            cls.from_pretrained(place).push_to_hub(to)
            card = hub / to / "README.md"
            assert rows(card) >= (rows(hub / "me" / "all" / "README.md") if cls is Generator else told)
            assert json.loads((hub / to / "record.json").read_text()) == RECORD
    # The record of stage 2 says nothing of the tokenizer.
    for place in (tmp_path / "two", "me/all"):
        VQGAN.from_pretrained(place).push_to_hub("me/apart")
        assert "How it was trained is not recorded" in (hub / "me" / "apart" / "README.md").read_text()
        assert not (hub / "me" / "apart" / "record.json").exists()


def test_parts_make_a_pipeline(pipe, hub) -> None:
    pipe.push_to_hub("me/all")
    made = NuwaInfinityPipeline(Generator.from_pretrained("me/all"), VQGAN.from_pretrained("me/all"))
    assert isinstance(made.generator.pool, NearbyContextPool)
    assert same(made.tokenizer, pipe.tokenizer)
    assert same(VQGAN.from_pretrained("landscape"), pipe.tokenizer)


def test_what_is_not_there_is_said(pipe, hub, tmp_path) -> None:
    with pytest.raises(UsageError, match="checkpoint: me/nothing: is no folder here, and the hub gives none"):
        VQGAN.from_pretrained("me/nothing")
    with pytest.raises(UsageError, match="there is no tokenizer here"):
        VQGAN.from_pretrained(tmp_path)
    pipe.generator.save_pretrained(tmp_path / "model")
    with pytest.raises(UsageError, match="not a nuwa-lightning tokenizer"):
        VQGAN.from_pretrained(tmp_path / "model")
    WindowedTokenizer(pipe.tokenizer, 8, 2).save_pretrained(tmp_path / "windows")
    with pytest.raises(UsageError, match=r"holds no VQGAN: call WindowedTokenizer\.from_pretrained"):
        VQGAN.from_pretrained(tmp_path / "windows")


def test_a_stranger_is_not_run(tmp_path) -> None:
    WindowedTokenizer(Gray(), 8, 2).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="is not of this package"):
        WindowedTokenizer.from_pretrained(tmp_path)
    assert isinstance(WindowedTokenizer.from_pretrained(tmp_path, own=[Gray]).whole, Gray)
