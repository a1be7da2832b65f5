"""What README and CONTRIBUTING say is so: files, classes, targets, options, and the pool in ten lines."""

from __future__ import annotations

import itertools
import pkgutil
import re
import runpy
import shlex
from pathlib import Path

import pytest

import nuwa_lightning
from tests.canvas.editable import tiny

DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "evaluation/README.md",
    "SECURITY.md",
    "docs/generate.md",
    "docs/map.md",
    "docs/index.md",
    "docs/method.md",
]


def blocks(text: str, language: str = "") -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.M | re.S)
    return [block for tag, block in found if tag == language]


def commands(text: str) -> list[list[str]]:
    joined = [block.replace("\\\n", " ") for block in blocks(text)]
    lines = [line.split("  #")[0] for block in joined for line in block.splitlines()]
    return [shlex.split(part) for line in lines for part in line.split(" && ") if part.strip()]


@pytest.fixture(scope="module")
def tables(repository: Path) -> str:
    return (repository / "docs" / "map.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text(encoding="utf-8")


def test_the_table_of_terms_holds(repository: Path, tables: str) -> None:
    rows = re.findall(r"^\| [^|]+ \| (`[^|]+`) \| `([^|`]+)` \| `([^|`]+)` \|$", tables, flags=re.M)
    assert len(rows) >= 10
    for classes, file, test in rows:
        path = repository / file
        sources = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        text = "\n".join(source.read_text(encoding="utf-8") for source in sources)
        for name in re.findall(r"`(\w+)`", classes):
            assert re.search(rf"^class {name}\b", text, flags=re.M), f"{name} is not in {file}"
        assert (repository / test).is_file(), f"{test} is missing"


def test_the_table_of_tasks_holds(repository: Path, tables: str) -> None:
    """Class, file, test and recipe are there, and the options are those of ``generate``."""
    from nuwa_lightning.commands.generate_options import parser

    row = r"^\| [^|`]+ \| ([^|]+) \| `([^|`]+)` \| `([^|`]+)` \| ([^|]+) \| `([^|`]+)` \|$"
    rows = re.findall(row, tables, flags=re.M)
    assert len(rows) == 9
    for classes, file, test, recipes, options in rows:
        path = repository / file
        sources = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        text = "\n".join(source.read_text(encoding="utf-8") for source in sources)
        for name in re.findall(r"`(\w+)`", classes):
            assert re.search(rf"^class {name}\b", text, flags=re.M), f"{name} is not in {file}"
        assert (repository / test).is_file()
        for recipe in re.findall(r"`(recipes/[^`]+)`", recipes):
            assert (repository / recipe).is_file()
        parser().parse_args(["--checkpoint", "RUN", "--output", "OUT", *shlex.split(options)])


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(repository: Path, document: str) -> None:
    text = (repository / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
        assert ((repository / document).parent / target).exists(), f"{document} links to {target}"


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_make_targets_exist(repository: Path, document: str) -> None:
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    text = (repository / document).read_text(encoding="utf-8")
    said = "\n".join(blocks(text) + re.findall(r"`(make [a-z]+)`", text))
    for target in re.findall(r"\bmake ([a-z]+)\b", said):
        assert re.search(rf"^{target}:", makefile, flags=re.M), f"{document} names make {target}"


def test_commands_name_files_and_options_that_exist(repository: Path, readme: str) -> None:
    """Every command of the READMEs: its recipes are there and its options are known to the help of the program."""
    from evaluation.__main__ import parsed
    from nuwa_lightning.commands.generate_options import parser

    seen = set()
    names = ("evaluation/README.md", "docs/index.md", "docs/generate.md")
    more = [(repository / name).read_text(encoding="utf-8") for name in names]
    for words in [words for text in (readme, *more) for words in commands(text)]:
        if words[0] == "torchrun":
            words = ["python", *words[words.index("-m") :]]
        if words[:3] == ["python", "-m", "nuwa_lightning"]:
            seen.add(words[3])
            for flag, value in itertools.pairwise(words):
                if flag in ("--config", "-c"):
                    assert (repository / value).is_file(), f"{value} is missing"
            if words[3] == "generate":
                parser().parse_args(words[4:])
        elif words[:3] == ["python", "-m", "evaluation"]:
            seen.add(words[3])
            parsed(words[3:])
        elif words[0] == "pip":
            for name in re.findall(r"requirements/\S+", " ".join(words)):
                assert (repository / name).is_file()
    assert {"fit", "generate", "score"} <= seen


def test_every_promise_names_a_test_that_is_there(repository: Path) -> None:
    text = (repository / "docs" / "reliability.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| promise")]
    assert len(rows) >= 30
    for row in rows:
        found = re.search(r"`(tests/[\w/]+\.py)::(test_\w+)`", row)
        assert found, row
        assert f"\ndef {found[2]}(" in (repository / found[1]).read_text(encoding="utf-8"), row


def test_the_api_page_has_every_public_name(repository: Path) -> None:
    text = (repository / "docs" / "api.md").read_text(encoding="utf-8")
    found = []
    for path, members in re.findall(r"^::: (\S+)(?:\n    options: \{members: \[(.*)\]\}$)?", text, flags=re.M):
        whole = pkgutil.resolve_name(path)
        found += [whole, *(getattr(whole, name) for name in members.split(", ") if name)]
    missing = [name for name in nuwa_lightning.__all__[1:] if getattr(nuwa_lightning, name) not in found]
    assert missing == []


HOW_TOS = sorted(path.name for path in Path(__file__).parents[1].glob("docs/how-to/*.md"))


@pytest.mark.parametrize("page", HOW_TOS)
def test_the_code_of_a_how_to_runs(
    repository: Path, tmp_path: Path, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks of a page are one program; a page is a screen."""
    monkeypatch.chdir(tmp_path)
    text = (repository / "docs" / "how-to" / page).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    if "runs/landscape" in text:
        tiny().save_pretrained(tmp_path / "runs" / "landscape")
    path = tmp_path / "page.py"
    path.write_text("\n\n".join(blocks(text, "python")))
    runpy.run_path(str(path), run_name="page")


def test_nothing_third_party_is_in_the_tree(repository: Path) -> None:
    import subprocess

    listed = subprocess.run(["git", "ls-files", "-z"], cwd=repository, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    wrong = (".jpg", ".jpeg", ".pth", ".pt", ".ckpt", ".safetensors", ".mp4", ".avi", ".npy")
    found = {name for name in listed.stdout.split("\0") if name.lower().endswith(wrong)}
    parts = {"landscape": ("coarse",), "landscape_text": (), "landscape_video": ("pixel_guided",)}
    ours = {
        f"nuwa_lightning/shipped/{name}/{part}/model.safetensors"
        for name, more in parts.items()
        for part in ("model", "tokenizer", *more)
    }
    images = {f"docs/results_{name}.jpg" for name in ("outpainting", "panoramas", "text", "video")}
    assert found == ours | images | {"docs/panorama.jpg"}
