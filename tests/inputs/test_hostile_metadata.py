"""``generate --from`` an image whose metadata somebody else wrote: a request that holds, or one line."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from nuwa_lightning import GenerationRequest, UsageError
from nuwa_lightning.commands import generate_options

FIELDS = [each.name for each in dataclasses.fields(GenerationRequest) if each.init] + ["mask", "print_config", "own"]


def deep() -> Any:
    value: Any = {}
    for _ in range(2000):
        value = {"a": value}
    return value


HOSTILE = {
    "null": None, "true": True, "minus": -1, "huge": 1e308, "nan": float("nan"), "digits": 10**400, "small": -(2**70),
    "empty": "", "text": "abc", "no text": "null", "yaml": "[", "object": "!!python/object:os.system", "alias": "&a *a",
    "long": "x" * 5000, "nul": "\0", "surrogate": "\udc80", "list": [], "numbers": [1], "nested": [[]],
    "mixed": ["a", None], "mapping": {"a": 1}, "class": {"class_path": "os.system"}, "deep": deep(),
}  # fmt: skip


def parsed() -> tuple[GenerationRequest, generate_options.RunOptions] | UsageError:
    try:
        return generate_options.parsed(["--from", "a.png", "--output", "b.png"])
    except UsageError as error:
        return error


@pytest.mark.parametrize("kind", HOSTILE)
def test_every_field(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FIELDS:
        stored = {"options": {name: HOSTILE[kind]}, "checkpoint": {"path": "two"}, "version": "1"}
        monkeypatch.setattr(generate_options, "image_metadata", lambda _, stored=stored: stored)
        made = parsed()
        if isinstance(made, UsageError):
            assert len(str(made).splitlines()) == 1, name
            continue
        request, where = made
        assert where.own == ()
        again = GenerationRequest.from_options(request.to_options())
        assert again.to_options() == request.to_options() or kind == "nan"


@pytest.mark.parametrize("kind", HOSTILE)
def test_the_checkpoint(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = {"options": {}, "checkpoint": {"path": HOSTILE[kind]}}
    monkeypatch.setattr(generate_options, "image_metadata", lambda _: stored)
    made = parsed()
    if isinstance(made, UsageError):
        assert len(str(made).splitlines()) == 1
    else:
        assert isinstance(made[1].checkpoint, str)
