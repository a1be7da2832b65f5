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
from nuwa_lightning.tokenizers.windows import WindowedTokenizer
from tests.tokenizers.test_own_tokenizer import Gray


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
    return made[cls]


@pytest.mark.parametrize("cls", [Generator, VQGAN, WindowedTokenizer])
def test_a_part_goes_up_and_comes_down(pipe, hub, tmp_path, cls) -> None:
    own = part(pipe, cls)
    assert own.push_to_hub("me/part", commit_message="first") == "https://hub/me/part: first"
    files = {f"{cls.part}/config.json", f"{cls.part}/model.safetensors", "README.md"}
    assert {str(path.relative_to(hub / "me" / "part")) for path in hub.rglob("*") if path.is_file()} == files
    card = (hub / "me" / "part" / "README.md").read_text()
    assert f'{cls.__name__}.from_pretrained("me/part")' in card
    found = cls.from_pretrained("me/part")
    assert json.loads((hub / "asked").read_text()) == sorted(files - {"README.md"})
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
