"""A trained model as a folder: what is saved is what comes back, and nothing else gets in."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.local import (
    AutoregressiveLocalDecoder,
    LocalDecoder,
    LocalityLocalDecoder,
    MaskedLocalDecoder,
    ParallelLocalDecoder,
)
from nuwa_lightning.generation.pretrained import Generator, load_generator, save_generator
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.models.nuwa_infinity import PatchTransformer, TransformerConfig
from nuwa_lightning.planning.context import ContextPool, NearbyContextPool
from nuwa_lightning.planning.direction import (
    ArbitraryDirectionController,
    DirectionController,
    RasterDirectionController,
)
from nuwa_lightning.training.nuwa_module import NuwaInfinityModule
from tests.strategies import CONTROLLERS, POOLS
from tests.text.letters import Letters


@dataclass(frozen=True)
class MyPool(ContextPool):
    reach: tuple[int, int] = (1, 1)

    @property
    def embedding_extent(self):
        return (0, *self.reach)

    def select(self, patch, live):
        return ()

    def remove(self, live, grid, finished):
        return list(live)


def generator(
    pool: ContextPool | None = None,
    direction: DirectionController | None = None,
    local_decoder: LocalDecoder | None = None,
) -> Generator:
    torch.manual_seed(0)
    pool = pool or NearbyContextPool((0, 1, 2))
    size = TransformerConfig(dim=16, num_layers=2, num_heads=4, num_kv_heads=2, position_feed="logit", layer_scale=0.3)
    local_decoder = local_decoder or AutoregressiveLocalDecoder()
    kind = {"bidirectional": local_decoder.bidirectional, "grouped": local_decoder.grouped}
    extent = pool.embedding_extent
    model = PatchTransformer(16, 4, patch_size=(2, 2), embedding_extent=extent, size=size, **kind).eval()
    model.set_codes(torch.randn(16, 4))
    return Generator(model, pool, direction or ArbitraryDirectionController(), "mirrored", "f" * 64, local_decoder)


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_pools_come_back(tmp_path, pool):
    save_generator(tmp_path / "model", generator(pool))
    assert load_generator(tmp_path / "model").pool == pool


def test_ways_of_drawing_come_back(tmp_path):
    for ways in (Sampling(), Sampling(0.7, 256, 0.9)):
        save_generator(tmp_path / "model", dataclasses.replace(generator(), sampling=ways))
        assert load_generator(tmp_path / "model").sampling == ways


def test_the_length_of_training_samples_comes_back(tmp_path):
    save_generator(tmp_path / "model", dataclasses.replace(generator(), frames=4))
    assert load_generator(tmp_path / "model").frames == 4
    _config(lambda c: c.pop("frames"))(tmp_path / "model")  # as written before there were videos
    assert load_generator(tmp_path / "model").frames == 1
    _config(lambda c: c.update(frames="many"))(tmp_path / "model")
    with pytest.raises(UsageError, match="is damaged"):
        load_generator(tmp_path / "model")


@pytest.mark.parametrize("direction", CONTROLLERS, ids=str)
def test_directions_come_back(tmp_path, direction):
    save_generator(tmp_path / "model", generator(direction=direction))
    assert repr(load_generator(tmp_path / "model").direction) == repr(direction)


@pytest.mark.parametrize(
    "decoder",
    [AutoregressiveLocalDecoder(), MaskedLocalDecoder(5), ParallelLocalDecoder(), LocalityLocalDecoder(4, (9, 3))],
    ids=str,
)
def test_local_decoders_come_back(tmp_path, decoder):
    save_generator(tmp_path / "model", generator(local_decoder=decoder))
    loaded = load_generator(tmp_path / "model")
    assert loaded.local_decoder == decoder
    assert loaded.renderer(Sampling()).local_decoder == decoder


def test_a_folder_that_does_not_say_how_patches_are_written_is_autoregressive(tmp_path):
    save_generator(tmp_path / "model", generator())
    _config(lambda c: (c.pop("local_decoder"), c["model"].pop("bidirectional")))(tmp_path / "model")
    assert load_generator(tmp_path / "model").local_decoder == AutoregressiveLocalDecoder()


def test_weights_sizes_and_the_rest_come_back(tmp_path):
    saved = generator()
    save_generator(tmp_path / "model", saved)
    loaded = load_generator(tmp_path / "model", direction=RasterDirectionController())
    assert loaded.direction == RasterDirectionController()
    assert (loaded.token_order, loaded.tokenizer_fingerprint) == ("mirrored", "f" * 64)
    assert loaded.model.size == saved.model.size
    assert not loaded.model.training
    state = loaded.model.state_dict()
    assert state.keys() == saved.model.state_dict().keys()
    for name, value in saved.model.state_dict().items():
        assert torch.equal(state[name], value), name
    # Again over itself: replaced, nothing left over.
    save_generator(tmp_path / "model", loaded)
    assert {p.name for p in tmp_path.iterdir()} == {"model"}
    assert {p.name for p in (tmp_path / "model").iterdir()} == {"config.json", "model.safetensors"}


def test_a_pool_of_somebodys_own_has_to_be_given(tmp_path):
    save_generator(tmp_path / "model", generator(MyPool((2, 1))))
    with pytest.raises(UsageError, match=r"own: tests\.generation\.test_pretrained\.MyPool: "):
        load_generator(tmp_path / "model")
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "config.json").write_text('{"class": "mine.Gray"}')
    allow = r"test_pretrained\.MyPool, mine\.Gray: .* `own=\[.*MyPool, mine\.Gray\]`, if you trust it"
    with pytest.raises(UsageError, match=allow):
        load_generator(tmp_path / "model")
    assert load_generator(tmp_path / "model", own=[MyPool]).pool == MyPool((2, 1))


@pytest.mark.parametrize("own", [["my_pools.MyPool"], [MyPool((1, 1))], MyPool, "my_pools.MyPool"], ids=repr)
def test_what_is_allowed_is_a_list_of_classes(tmp_path, own):
    save_generator(tmp_path / "model", generator(MyPool((2, 1))))
    with pytest.raises(UsageError, match=r"^own: .*: give a list of classes, such as own=\[my_pools\.MyPool\]$"):
        load_generator(tmp_path / "model", own=own)


def _config(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        change(config)
        (folder / "config.json").write_text(json.dumps(config))

    return edit


def _weights(value: float) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        next(weight for weight in state.values() if weight.is_floating_point()).view(-1)[-1] = value
        save_file(state, folder / "model.safetensors")

    return edit


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "is missing|is damaged"),
    "half a config": (lambda f: (f / "config.json").write_text('{"kind": '), "is damaged"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "is damaged"),
    "half the weights": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]),
        "is damaged",
    ),
    "a pickle": (lambda f: (f / "model.safetensors").write_bytes(pickle.dumps({"a": 1})), "is damaged"),
    "NaN weights": (_weights(float("nan")), "holds NaN or infinity"),
    "infinite weights": (_weights(float("-inf")), "holds NaN or infinity"),
    "another kind": (_config(lambda c: c.update(kind="cake")), "holds a cake"),
    "another format": (_config(lambda c: c.update(format=99)), "has format 99"),
    "another width": (_config(lambda c: c["model"]["size"].update(width=32)), "is damaged"),
    "an unknown number": (_config(lambda c: c["model"]["size"].update(wings=2)), "is damaged"),
    "no fingerprint": (_config(lambda c: c.pop("tokenizer_fingerprint")), "is damaged"),
    "an unknown pool": (_config(lambda c: c["context_pool"].update(name="NoPool")), "own: my_file.NoPool"),
    "a path as a pool": (_config(lambda c: c["context_pool"].update(name="os.system")), "own: os.system"),
    "an unknown direction": (_config(lambda c: c["direction"].update(name="Up")), "own: my_file.Up"),
    "a pool of another extent": (
        _config(lambda c: c["context_pool"]["args"].update(extent=[0, 3, 3])),
        "offsets up to",
    ),
    "a pool with wrong numbers": (
        _config(lambda c: c["context_pool"]["args"].update(extent=[1])),
        "extent: .* is not of the kind",
    ),
    "a local decoder of another kind": (
        _config(lambda c: c["local_decoder"].update(name="ParallelLocalDecoder")),
        "damaged",
    ),
    "an unknown local decoder": (_config(lambda c: c["local_decoder"].update(name="Up")), "own: my_file.Up"),
    "an unknown token order": (_config(lambda c: c.update(token_order="zigzag")), "token_order"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_one_line(tmp_path, damage):
    save_generator(tmp_path / "model", generator())
    spoil, words = DAMAGES[damage]
    spoil(tmp_path / "model")
    with pytest.raises(UsageError, match=words) as error:
        load_generator(tmp_path / "model")
    assert "\n" not in str(error.value)


def test_a_model_that_reads_text_comes_back_with_its_encoder(tmp_path):
    torch.manual_seed(0)
    size = TransformerConfig(dim=16, num_layers=2, num_heads=4)
    model = PatchTransformer(16, 4, patch_size=(2, 2), embedding_extent=(0, 1, 1), size=size, text_dim=8).eval()
    pool, direction = NearbyContextPool((0, 1, 1)), ArbitraryDirectionController()
    saved = Generator(model, pool, direction, "mirrored", "f" * 64, text_encoder=Letters(most=9))
    save_generator(tmp_path / "model", saved)
    with pytest.raises(UsageError, match=r"`own=\[tests\.text\.letters\.Letters\]`"):
        load_generator(tmp_path / "model")
    found = load_generator(tmp_path / "model", own=[Letters])
    assert found.text_encoder == Letters(most=9)
    assert found.model.state_dict().keys() == model.state_dict().keys()
    for name, value in found.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "text_fingerprint": "another"}))
    with pytest.raises(UsageError, match="is not what it was in training"):
        load_generator(tmp_path / "model", own=[Letters])
    save_generator(tmp_path / "plain", generator())
    assert '"text_' not in (tmp_path / "plain" / "config.json").read_text()


class Reach(ContextPool):
    """A pool that is no dataclass."""

    def __init__(self, reach: int = 2, *, kept: bool = True) -> None:
        if kept:
            self._reach, self.kept = reach, kept

    @property
    def embedding_extent(self):
        return (0, 1, 1)

    def select(self, patch, live):
        return ()

    def remove(self, live, grid, finished):
        return list(live)


def test_arguments_of_a_class_that_is_no_dataclass(tmp_path):
    save_generator(tmp_path / "model", generator(Reach(1)))
    assert load_generator(tmp_path / "model", own=[Reach]).pool._reach == 1


def test_an_argument_that_is_not_kept_is_refused_before_training():
    with pytest.raises(
        UsageError, match=r"model.context_pool: Reach: its argument reach cannot be saved: .*self.reach"
    ):
        NuwaInfinityModule(16, 4, context_pool=Reach(kept=False))
