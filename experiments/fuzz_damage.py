"""What ``fuzz_inputs.py`` does to a file: to its bytes, or to what it says, so that it is still one of its kind."""

from __future__ import annotations

import hashlib
import io
import json
import random
import sqlite3
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

NAN, INF = float("nan"), float("inf")


def deep(depth: int, leaf: Any = 1) -> Any:
    """Return lists and mappings in each other."""
    for level in range(depth):
        leaf = [leaf] if level % 2 else {"a": leaf}
    return leaf


def hostile(rng: random.Random) -> Any:
    """Return a value that hardly anybody expects."""
    numbers = [0, 1, -1, 2, 7, 255, 65536, 2**31 - 1, 2**31, 2**63, -(2**63) - 1, 10**12, 10**400, 0.5, 1e308, -1e300]
    texts = ["", "a", "7", "-1", "nan", "\0", "a\nb", "x" * 5000, "../../etc/passwd", "/dev/zero", "é", "\udcff", "{}"]
    others = [None, True, False, NAN, INF, -INF, [], {}, [[]], [None], [1, 2, 3], {"a": 1}, ["a", "b"], {"": None}]
    kind = rng.random()
    if kind < 0.4:
        return rng.choice(numbers)
    if kind < 0.65:
        return rng.choice(texts)
    return deep(rng.choice([3, 60, 70, 400, 900])) if kind > 0.95 else rng.choice(others)


def places(value: Any, found: list[tuple[Any, Any]] | None = None) -> list[tuple[Any, Any]]:
    """Return every container in a value with every key or index in it."""
    found = [] if found is None else found
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            found.append((value, key))
            places(value[key], found)
    return found


def changed(value: Any, rng: random.Random) -> Any:
    """Return a plain value with one to three of its parts replaced, taken out, doubled or moved."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        there = places(value)
        if not there or rng.random() < 0.02:
            return hostile(rng)
        inside, key = rng.choice(there)
        way = rng.random()
        if way < 0.6:
            inside[key] = near(inside[key], rng) if rng.random() < 0.3 else hostile(rng)
        elif way < 0.75:
            del inside[key]
        elif way < 0.85 and isinstance(inside, dict):
            inside[rng.choice(["a", "", "\0", "class_path", f"{key}s"])] = inside.pop(key)
        elif isinstance(inside, list):
            inside.insert(key, inside[key])
        else:
            other, name = rng.choice(there)
            inside[key] = json.loads(json.dumps(other[name], default=str)) if name in range(10**6) else hostile(rng)
    return value


def near(value: Any, rng: random.Random) -> Any:
    """Return a value of the same kind that is a little wrong."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + rng.choice([-1, 1, 2, 10**6])
    if isinstance(value, float):
        return value * rng.choice([-1, 2, 1e6])
    if isinstance(value, str):
        return value[: len(value) // 2] + rng.choice(["", "0", value])
    return value


def bytes_changed(data: bytes, rng: random.Random) -> bytes:
    """Return bytes that are cut, flipped, overwritten, doubled, taken out or put in."""
    found, size = bytearray(data), len(data)
    a, b = sorted(rng.randrange(size + 1) for _ in range(2)) if rng.random() < 0.5 else (0, 0)
    if (a, b) == (0, 0):
        a = rng.randrange(size + 1)
        b = min(size, a + rng.choice([1, 4, 16, 256]))
    way = rng.randrange(8)
    if way == 0:
        return bytes(found[: rng.choice([0, 1, a, size - 1])])
    if way <= 2:
        for _ in range(rng.choice([1, 2, 8, 64])):
            if size:
                found[rng.randrange(size)] ^= 1 << rng.randrange(8)
        return bytes(found)
    fill = {3: bytes(b - a), 4: b"\xff" * (b - a), 5: rng.randbytes(b - a), 6: b""}.get(way, bytes(found[a:b]) * 2)
    return bytes(found[:a]) + fill + bytes(found[b:])


# -- what is said, format by format ------------------------------------------------------------------------------------


def _sum(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def change_json(path: Path, rng: random.Random) -> None:
    """Of a canvas and of a report mostly with the right checksum again."""
    content = json.loads(path.read_text("utf-8"))
    if isinstance(content, dict) and {"canvas", "sha256"} <= content.keys():
        canvas = changed(content["canvas"], rng)
        content = {"canvas": canvas, "sha256": _sum(canvas)} if rng.random() < 0.95 else changed(content, rng)
    elif isinstance(content, dict) and {"digest", "metrics"} <= content.keys() and rng.random() < 0.95:
        content = changed(content, rng)
        if isinstance(content, dict):
            content["digest"] = _sum({k: v for k, v in content.items() if k not in ("run", "digest")})
    else:
        content = changed(content, rng)
    path.write_text(json.dumps(content), encoding="utf-8")


def change_lines(path: Path, rng: random.Random) -> None:
    """Of JSON lines one line, of other text a word."""
    lines = path.read_text("utf-8").splitlines(keepends=True)
    at = rng.randrange(len(lines))
    if path.suffix == ".jsonl":
        lines[at] = json.dumps(changed(json.loads(lines[at]), rng)) + "\n"
    else:
        marks = ['"', ",", ";", "\t", "\n", "\0", "\r", "=", "\ufeff", "'", str(hostile(rng))[:9000]]
        cut = rng.randrange(len(lines[at]) + 1)
        lines[at] = lines[at][:cut] + rng.choice(marks) + lines[at][cut + rng.choice([0, 1, 3]) :]
    path.write_bytes("".join(lines).encode("utf-8", "surrogatepass"))


YAML_WORDS = (
    *("&a [*a]", "*b", "2001-99-99", "0x_", "!!python/object/apply:os.system [ls]", "!!binary x", "1e999", ".nan"),
    *("<<: 1", "? a", "- - -", "9" * 5000, "[" * 200, "{a: [" * 100, "null", "~", "0o9", "1:99:99", "=", "%", "'"),
    "\n".join(
        ["a: &a [x, x]"] + [f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]" for n in range(20)]
    ),
)


def change_yaml(path: Path, rng: random.Random) -> None:
    """What it says, or a word as no program writes it."""
    text = path.read_text("utf-8")
    if rng.random() < 0.6:
        try:
            text = yaml.safe_dump(changed(yaml.safe_load(text), rng))
        except (yaml.YAMLError, RecursionError, ValueError):
            text = "a: " + "[" * 500
    else:
        lines = text.splitlines()
        at = rng.randrange(len(lines))
        key, colon, _ = lines[at].partition(":")
        lines[at] = f"{key}{colon} {rng.choice(YAML_WORDS)}"
        text = "\n".join(lines)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))


def change_array(path: Path, rng: random.Random) -> None:
    """The header of a .npy file, its shape and type, or its values."""
    array = np.load(path)
    if rng.random() < 0.5:
        data = path.read_bytes()
        size = struct.unpack_from("<H", data, 8)[0]
        said = data[10 : 10 + size].decode("latin1")
        words = ["(-1,)", "(10**9, 10**9)", "()", "None", "'O'", "'|S0'", "True", "1e9", "(2**70,)", "[", "('a',)"]
        words += ["(" * 300, "99999999999999999999", "'<f2'", "'V8'", "[('a', '<i4')]", "'<M8[ns]'", "{}", ""]
        old = rng.choice([w for w in ("'descr'", str(array.shape), "False", "fortran_order", "'shape'") if w in said])
        said = said.replace(old, rng.choice(words))[:60000]
        path.write_bytes(data[:8] + struct.pack("<H", len(said)) + said.encode("latin1") + data[10 + size :])
        return
    kinds = [np.float16, np.float64, np.int64, np.uint8, np.bool_, np.complex64, "U3"]
    with np.errstate(all="ignore"):
        made = rng.choice([
            lambda: array.astype(rng.choice(kinds)), lambda: array[:-1], lambda: array.reshape(-1)[None],
            lambda: array.reshape(-1), lambda: np.zeros((0, *array.shape[1:]), array.dtype),
            lambda: np.full_like(array, 255), lambda: np.concatenate([array, array]), lambda: array[..., :1],
            lambda: np.full(array.shape, rng.choice([NAN, INF])).astype(array.dtype), lambda: np.array(7),
        ])()  # fmt: skip
    np.save(path, made)


def change_safetensors(path: Path, rng: random.Random, *, start: int = 0) -> None:
    """The header, in JSON, or the tensors; of a canvas' state with the right checksum again."""
    from safetensors.torch import load, save

    whole = path.read_bytes()
    head, data = whole[:start], whole[start:]
    size = struct.unpack_from("<Q", data)[0]
    said = json.loads(data[8 : 8 + size])
    if rng.random() < 0.5:
        if "__metadata__" in said and rng.random() < 0.7:
            facts = changed(json.loads(said["__metadata__"]["facts"]), rng)
            said["__metadata__"]["facts"] = json.dumps(facts)
        else:
            said = changed(said, rng)
        text = json.dumps(said).encode()
        data = struct.pack("<Q", len(text)) + text + data[8 + size :]
    else:
        metadata = said.get("__metadata__")
        data = save(tensors_changed(load(data), rng), metadata=metadata)
    if start:  # nuwa_lightning state 1, see canvas/facts.py
        head = head[: start - 32] + hashlib.sha256(data).digest()
    path.write_bytes(head + data)


def tensors_changed(state: dict[str, torch.Tensor], rng: random.Random) -> dict[str, torch.Tensor]:
    """Return tensors of which one has another value, type, shape or name."""
    name = rng.choice(sorted(state))
    value = state[name]
    kinds = [torch.float16, torch.float64, torch.int64, torch.bool, torch.complex64, torch.bfloat16, torch.uint8]
    ways: list[Callable[[], Any]] = [
        lambda: state.pop(name),
        lambda: state.update({name + "x": value}),
        lambda: state.update({name: value.to(rng.choice(kinds))}),
        lambda: state.update({name: value.reshape(-1)}),
        lambda: state.update({name: value.reshape(-1)[:1].clone()}),
        lambda: state.update({name: torch.full_like(value, rng.choice([0, 1, 100]))}),
        lambda: state.update({name: value * rng.choice([NAN, INF, -1, 1e30])}),
        lambda: state.update({name: torch.zeros(0)}),
    ]
    rng.choice(ways)()
    return state


def change_checkpoint(path: Path, rng: random.Random) -> None:
    """Any part of what ``torch.save`` wrote."""
    content = torch.load(path, weights_only=True)
    part = rng.choice([content, *(v for v in content.values() if isinstance(v, dict | list) and v)])
    there = places(part)
    inside, key = rng.choice(there)
    value = inside[key]
    if isinstance(value, torch.Tensor) and rng.random() < 0.5:
        inside[key] = tensors_changed({"a": value}, rng).get("a", "gone")
    elif rng.random() < 0.3:
        del inside[key]
    else:
        inside[key] = near(value, rng) if rng.random() < 0.3 else hostile(rng)
    torch.save(content, path)


def change_rows(path: Path, rng: random.Random) -> None:
    """A row, a column or a table of SQLite."""
    value = rng.choice([b"", b"abc", bytes(4000), "text", 7, None, 1.5, struct.pack("<f", NAN) * 9])
    changes = [("UPDATE features SET row = ?", (value,)), ("UPDATE features SET key = ? WHERE rowid = 1", (value,))]
    changes += [(f"UPDATE features SET row = ? WHERE rowid = {rng.choice([1, 2, 3])}", (value,))] * 3
    changes += [(f"ALTER TABLE features RENAME COLUMN {rng.choice(['row', 'key'])} TO other", ())]
    changes += [("DROP TABLE features", ()), ("ALTER TABLE features RENAME TO others", ())]
    changes += [("CREATE TRIGGER t BEFORE INSERT ON features BEGIN SELECT RAISE(ABORT, 'no'); END", ())]
    store = sqlite3.connect(path)
    with store:
        store.execute(*rng.choice(changes))
    store.close()


def change_log(path: Path, rng: random.Random) -> None:
    """A record of a canvas' log, with the right checksum again; the canvas beside it says how long records are."""
    canvas = json.loads((path.parent / "canvas.json").read_text())["canvas"]
    rows, columns = canvas["patch_size"]
    size = 12 + 2 * len(canvas["seeds"]) * rows * columns + 4
    data = bytearray(path.read_bytes())
    number = rng.randrange(max(1, len(data) // size))
    record = data[number * size : (number + 1) * size]
    if rng.random() < 0.5:
        struct.pack_into("<i", record, 4 * rng.randrange(3), rng.choice([-1, 0, 1, 5, 2**31 - 1, -(2**31)]))
    else:
        struct.pack_into("<H", record, 12, rng.choice([0, 15, 16, 65535]))
    record[-4:] = struct.pack("<I", zlib.crc32(bytes(record[:-4]), number))
    data[number * size : (number + 1) * size] = record
    path.write_bytes(bytes(data) * rng.choice([1, 1, 2]))


def change_png(path: Path, rng: random.Random) -> None:
    """The metadata of this program in a PNG."""
    from PIL import Image, PngImagePlugin

    with Image.open(path) as image:
        image.load()
        text = image.info.get("nuwa_lightning")
        info = PngImagePlugin.PngInfo()
        said = json.dumps(changed(json.loads(text), rng)) if text else "x"
        info.add_text("nuwa_lightning", said)
        out = io.BytesIO()
        image.save(out, "PNG", pnginfo=info)
    path.write_bytes(out.getvalue())


_STATE = len(b"nuwa_lightning state 1\n") + 32
_WAYS: dict[str, Callable[[Path, random.Random], None]] = {
    ".json": change_json, ".yaml": change_yaml, ".npy": change_array, ".safetensors": change_safetensors,
    ".ckpt": change_checkpoint, ".sqlite": change_rows, ".log": change_log, ".png": change_png,
    ".csv": change_lines, ".tsv": change_lines, ".jsonl": change_lines, ".txt": change_lines, ".dzi": change_lines,
}  # fmt: skip


def damaged(path: Path, rng: random.Random) -> str:
    """Damage a file, and return how."""
    way = _WAYS.get(path.suffix)
    if path.name.startswith("state-"):

        def way(path: Path, rng: random.Random) -> None:  # fmt: skip
            change_safetensors(path, rng, start=_STATE)

    if way is None or rng.random() < 0.35:
        path.write_bytes(bytes_changed(path.read_bytes(), rng))
        return "its bytes"
    try:
        way(path, rng)
    except Exception as error:
        path.write_bytes(bytes_changed(path.read_bytes(), rng))  # such a value cannot be written in this format
        return f"its bytes ({type(error).__name__})"
    return "what it says"
