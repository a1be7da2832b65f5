"""Files of options: what is no plain mapping is one line that names the file, however large or deep it would grow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from evaluation.clip_score import known_captions
from evaluation.config import set_option
from evaluation.protocol import load_protocol
from nuwa_lightning.cli import main
from nuwa_lightning.errors import UsageError
from nuwa_lightning.plain_data import parse_json, read_mapping

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
RECIPES = Path(__file__).parents[2] / "recipes"
NO_YAML: dict[str, tuple[str | bytes, str]] = {
    "a date that is none": ("seed: 2026-99-99", "month must be in 1..12"),
    "a time that is none": ("seed: 2026-01-01 99:00:00", "hour must be in 0..23"),
    "a number that becomes infinite": ("model: {lr: 1e400}", "1e400 is too large a number"),
    "5000 digits": ("seed: " + "9" * 5000, "5000 digits"),
    "20,000 levels that stay open": ("a: " + "[" * 20_000, "more than 64 levels"),
    "20,000 levels": ("a: " + "[" * 20_000 + "]" * 20_000, "more than 64 levels"),
    "65 mappings": ("".join(f"{' ' * n}a:\n" for n in range(66)), "more than 64 levels"),
    "aliases of aliases": (BOMB, "more than 100000 values"),
    "doubled mappings": (
        "x0: &x0 {a: 1}\n" + "".join(f"x{n + 1}: &x{n + 1} {{a: *x{n}, b: *x{n}}}\n" for n in range(40)),
        "more than 100000 values",
    ),
    "a list that holds itself": ("run: &r [*r]", "*r holds itself"),
    "a mapping that holds itself": ("&r {a: *r}", "*r holds itself"),
    "an alias of nothing": ("run: *nothing", "undefined alias"),
    "a merge of a number": ("trainer: {<<: 3}", "expected a mapping"),
    "a key twice": ("run: a\nseed: 1\nrun: b", "run is there twice, the second time in line 3"),
    "a key twice, further in": ("a: {b: 1, b: 2}", "b is there twice"),
    "keys that are equal": ("a: {1: x, 2: y, 1.0: z}", "1.0 is there twice (as 1), the second time in line 1"),
    "keys that are equal, in octal": ("a:\n  8: x\n  0x8: y", "0x8 is there twice (as 8), the second time in line 3"),
    "a truth as a key": ("cells:\n  no: {}", "no in line 2 is no name in YAML, but False: write 'no'"),
    "a truth as a key beside a number": ("{1: a, true: b}", "true in line 1 is no name in YAML, but True"),
    "eights": ("a: 3\nseed: 010", "010 in line 2 has two meanings in YAML: write '010' in quotes, or a number"),
    "negative eights": ("seed: [-0644]", "-0644 in line 1 has two meanings"),
    "sixties": ("max_time: 1:12:00:00", "1:12:00:00 in line 1 has two meanings"),
    "sixties with a point": ("fps: 1:30.5", "1:30.5 in line 1 has two meanings"),
    "eights as a key": ("a: {010: b}", "010 in line 1 has two meanings"),
    "a list as a key": ("? [a, b]\n: 3", "unhashable key"),
    "two documents": ("run: a\n---\nrun: b", "a single document"),
    "code to run": ("run: !!python/object/apply:os.system [touch ran]", "could not determine a constructor"),
    "a tag of somebody": ("run: !mine x", "could not determine a constructor"),
    "a tab": ("\trun: x", "found character"),
    "a zero byte": (b"run: a\0b", "special characters are not allowed"),
    "latin-1": ("run: Gr\u00fcn".encode("latin-1"), "can't decode byte"),
    "UTF-16": ("run: x".encode("utf-16"), "can't decode byte"),
    "a bracket that stays open": ("run: x\ntrainer: {max_steps: 3\n", "line 2"),
    "5 MB": ("#" * (5 << 20), "are too many"),
}
NO_MAPPING = {
    "nothing": "",
    "a comment": "# nothing",
    "null": "null",
    "a list": "[1, 2]",
    "a number": "3",
    "a word": "text",
    "a date": "2026-11-29",
}


def written(text: str | bytes) -> Path:
    Path("o.yaml").write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    return Path("o.yaml")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", NO_YAML)
def test_what_is_no_yaml(name: str) -> None:
    text, words = NO_YAML[name]
    with pytest.raises(UsageError) as caught:
        read_mapping(written(text), "--config", example="run: x")
    assert str(caught.value).startswith("--config: o.yaml: is no YAML: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("ran").exists()


@pytest.mark.parametrize("name", NO_MAPPING)
def test_what_is_no_mapping(name: str) -> None:
    with pytest.raises(UsageError, match=r"^--config: o.yaml: holds no options: write lines such as 'run: x'$"):
        read_mapping(written(NO_MAPPING[name]), "--config", example="run: x")


@pytest.mark.parametrize("name", ["trainer.max_steps", "trainer"])
def test_one_option_in_two_ways(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    lines = ["trainer.max_steps: 3", "trainer: {max_steps: 5}"]
    written("\n".join(lines if lines[0].startswith(f"{name}:") else lines[::-1]))
    assert main(["fit", "-c", str(RECIPES / "landscape.yaml"), "-c", "o.yaml", "--print_config"]) == 2
    words = "says trainer.max_steps beside trainer, of which one is lost: write it below trainer"
    assert capfd.readouterr().err == f"error: --config: o.yaml: {words}\n"


@pytest.mark.parametrize(
    "kind", ["a pipe", "a device", "a folder", "a link to itself", "nothing", "a zero byte", "long"]
)
def test_what_is_no_file(kind: str) -> None:
    path = {"a device": "/dev/zero", "a zero byte": "a\0b", "long": 300 * "a"}.get(kind, "o.yaml")
    makes = {"a pipe": os.mkfifo, "a folder": os.mkdir, "a link to itself": lambda name: os.symlink(name, name)}
    if kind in makes:
        makes[kind](path)
    with pytest.raises(UsageError, match=r"^--config: "):
        read_mapping(path, "--config", example="run: x")


@pytest.mark.parametrize(
    "name", ["aliases that stay small", "a merge", "unlike keys that print alike", "numbers with one meaning"]
)
def test_what_is_read_as_pyyaml_reads_it(name: str) -> None:
    text = {
        "aliases that stay small": "a: &a [1, 2]\nb: [*a, *a]",
        "a merge": "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}",
        "unlike keys that print alike": "1: a\n'1': b",
        "numbers with one meaning": "[0, 00, 007, -3, 10, 0x1f, 1_000, 1.5, 010.5, '010', '1:30', 00:12:00:00, 1:75]",
    }[name]
    text = text if text.startswith(("a", "1")) else f"a: {text}"
    assert read_mapping(written(text), "--config", example="") == yaml.safe_load(text)


@pytest.mark.parametrize("command", [("fit",), ("generate", "--checkpoint", "none")], ids=lambda c: c[0])
@pytest.mark.parametrize("name", ["5000 digits", "aliases of aliases", "a date that is none", "latin-1"])
def test_every_command_refuses_it(command: tuple[str, ...], name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--config", str(written(NO_YAML[name][0]))]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: --config: o.yaml: is no YAML: ")


@pytest.mark.parametrize("name", ["5000 digits", "aliases of aliases", "a date that is none", "latin-1"])
def test_a_protocol_is_read_alike(name: str) -> None:
    with pytest.raises(UsageError, match=r"^protocol: o.yaml: is no YAML"):
        load_protocol(written(NO_YAML[name][0]))
    if isinstance(value := NO_YAML[name][0], str) and ": " in value and "\n" not in value:
        with pytest.raises(UsageError, match=r"^set: .*: the value is no YAML"):
            set_option({}, f"seed={value.partition(': ')[2]}")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 5000, "", "{", "nan,", "\ud800"])
def test_json_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_json(text)


@pytest.mark.parametrize("text", ['{"a": 1, "b": 2, "a": 1}', '[{"b": {"a": 1, "\\u0061": 2}}]'])
def test_json_with_a_key_twice(text: str) -> None:
    with pytest.raises(ValueError, match=r"^'a' is there twice$"):
        parse_json(text)
    Path("captions.json").write_text(text)
    with pytest.raises(UsageError, match=r"^generated: .*captions\.json: is no JSON: 'a' is there twice"):
        known_captions([Path("a.png")], option="generated")


PART = "class_path: NuwaInfinityModule\ninit_args:\n  transformer: "
OVERLAYS: dict[str, tuple[str, tuple[str, ...], str]] = {  # an overlay, or flags and the file that they name
    "text": ("run: no", (), "--run: False: Expected str: write it in quotes"),
    "texts": ("tokenizer: {path: 2026}", (), "--tokenizer.path: 2026: Expected str: write it in quotes"),
    "nothing": ("data: {init_args: {batch_size: }}", (), "--data.batch_size: null: is empty: give it a value, or"),
    "nothing of the trainer": ("trainer: {max_steps: null}", (), "--trainer.max_steps: null: is empty"),
    "nothing, further in": (
        "model: {init_args: {transformer: {num_layers: }}}", (), "--model.transformer.num_layers: null: is empty",
    ),
    "sixties": ("", ("--data.batch_size", "1:30"), "--data.batch_size: 1:30: Expected int"),
    "eights in a flag": ("", ("--model.transformer", '{"num_layers": 010}'), "010 in line 1 has two meanings in YAML"),
    "eights in a part": (f"{PART}{{num_layers: 010}}", ("--model", "part.yaml"), "010 in line 3 has two meanings"),
    "a key twice in a part": (
        f"{PART}{{num_layers: 1, num_layers: 2}}", ("--model", "part.yaml"), "num_layers is there twice",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OVERLAYS)
def test_options_of_the_wrong_kind(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    text, flags, words = OVERLAYS[name]
    Path("part.yaml").write_text(text)
    overlay = ("-c", "part.yaml") if not flags else ()
    assert main(["fit", "-c", str(RECIPES / "landscape.yaml"), *overlay, *flags, "--print_config"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: --")
    assert words in line


@pytest.mark.parametrize("name", ["seed", "resamples", "features.name", "metrics.kid.subsets", "real.crop"])
def test_a_protocol_has_no_empty_settings(name: str) -> None:
    with pytest.raises(UsageError, match=rf"^protocol\.{name}: null: is empty: give it a value, or leave it out$"):
        load_protocol("landscape", [f"{name}="])


@pytest.mark.parametrize("text", ["trainer: [1, 2]", "trainer:\n", "data: 7", "model: null", "trainer: yes"])
def test_what_holds_options_is_a_mapping(text: str, capfd: pytest.CaptureFixture[str]) -> None:
    written(f"{text}\n")
    assert main(["fit", "-c", str(RECIPES / "landscape.yaml"), "-c", "o.yaml"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(
        f"error: --config: o.yaml: holds no options of {text.partition(':')[0]}: write them in lines"
    )


def test_numbers_and_truths_as_they_are_meant(capfd: pytest.CaptureFixture[str]) -> None:
    written("trainer: {max_steps: '7', max_time: 00:12:00:00, deterministic: yes}\nmodel: {init_args: {lr: 1e-4}}\n")
    with pytest.raises(SystemExit) as ended:
        main(["fit", "-c", str(RECIPES / "landscape.yaml"), "-c", "o.yaml", "--print_config"])
    said = yaml.safe_load(capfd.readouterr().out)
    kept = [said["trainer"][name] for name in ("max_steps", "max_time", "deterministic")]
    assert (ended.value.code, kept) == (0, [7, "00:12:00:00", True])
    assert float(said["model"]["init_args"]["lr"]) == 1e-4
