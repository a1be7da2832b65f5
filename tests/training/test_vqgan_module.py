"""Stage 1 in Lightning: the traps of two optimizers, resumption to the bit, what is logged, what is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader, Dataset

from nuwa_lightning.callbacks.reconstruction_sheet import ReconstructionSheet, lay_out_pairs
from nuwa_lightning.errors import UsageError
from nuwa_lightning.tokenizers.pretrained import load_tokenizer, save_tokenizer
from nuwa_lightning.training.losses import AdversarialTerm
from nuwa_lightning.training.vqgan_module import VQGANModule, codebook_use
from tests.training.small import QUIET, SIZE, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]

GAN = dataclasses.replace(QUIET, adversarial=AdversarialTerm(weight=0.3, start=0.25, ramp=0.25, channels=8, layers=1))


class Images(Dataset[dict[str, torch.Tensor]]):
    """Smooth random images, the same for the same index."""

    def __init__(self, count: int, side: int = 32) -> None:
        self.count, self.side = count, side

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        small = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(index)) * 2 - 1
        image = torch.nn.functional.interpolate(small, (self.side, self.side), mode="bilinear")[0]
        return {"image": image, "index": torch.tensor(index)}


def loader(count: int = 16, batch: int = 2) -> DataLoader[dict[str, torch.Tensor]]:
    return DataLoader(Images(count), batch_size=batch)


def module(**options) -> VQGANModule:
    seed_everything(0, verbose=False)
    return VQGANModule(SIZE, **{"loss": QUIET, "unquantized_steps": 2, "warmup_steps": 2, **options})


@pytest.mark.parametrize("loss", [QUIET, GAN], ids=["plain", "adversarial"])
def test_global_step_counts_batches_whatever_the_number_of_optimizers(tmp_path, loss):
    model, run = module(loss=loss), trainer(tmp_path)
    run.fit(model, loader(100))
    assert run.global_step == 8
    assert run.fit_loop.epoch_loop.batch_progress.total.completed == 8
    assert model._averaging is not None
    assert model._averaging._step == 8


def test_accumulation_takes_one_step_for_several_batches(tmp_path):
    run = trainer(tmp_path, max_steps=3)
    run.fit(module(accumulate_grad_batches=2), loader(100))
    assert run.global_step == 3
    assert run.fit_loop.epoch_loop.batch_progress.total.completed == 6


@pytest.mark.parametrize("stop", [1, 4])
@pytest.mark.parametrize("loss", [QUIET, GAN], ids=["plain", "adversarial"])
def test_resuming_equals_never_stopping_to_the_bit(tmp_path, loss, stop):
    whole = module(loss=loss)
    trainer(tmp_path / "a", max_steps=8).fit(whole, loader(2 * 8))

    # The checkpoint is written where a run is killed: in the middle of a training that was to take eight steps.
    def saving() -> dict[str, object]:
        keep = ModelCheckpoint(tmp_path / "c", every_n_train_steps=stop, save_top_k=-1, filename="{step}")
        return {"enable_checkpointing": True, "callbacks": [keep]}

    trainer(tmp_path / "b", **saving()).fit(module(loss=loss), loader(2 * 8))
    resumed = module(loss=loss)
    run = trainer(tmp_path / "d", max_steps=8, **saving())

    class Rest(Images):
        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            return super().__getitem__(index + 2 * stop)

    rest = DataLoader(Rest(2 * 8), batch_size=2)
    run.fit(resumed, rest, ckpt_path=str(tmp_path / "c" / f"step={stop}.ckpt"), weights_only=True)
    assert run.global_step == 8
    assert whole.state_dict().keys() == resumed.state_dict().keys()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_checkpoint_holds_averages_and_neither_perceptual_network_nor_copies(tmp_path):
    model = module(average_decay=0.5)
    keep = ModelCheckpoint(tmp_path, save_last=True)
    trainer(tmp_path, enable_checkpointing=True, callbacks=[keep]).fit(model, loader(100))
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert set(saved["state_dict"]) == set(model.state_dict())
    assert all(name.startswith("vqgan.") for name in saved["state_dict"])
    name = "vqgan.decoder.head.conv.weight"
    assert not torch.equal(saved["state_dict"][name], saved["current_model_state"][name])
    # What training leaves behind, and what is exported, are the averages.
    assert torch.equal(model.state_dict()[name], saved["state_dict"][name])
    assert torch.equal(model.finished().decoder.head.conv.weight, saved["state_dict"][name])


def test_averages_follow_the_textbook_rule(tmp_path):
    model = module(average_decay=0.5)
    name, seen = "vqgan.encoder.stem.bias", []
    average = model.vqgan.encoder.stem.bias.detach().clone()

    class Watch(ReconstructionSheet):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append(pl_module.vqgan.encoder.stem.bias.detach().clone())

    trainer(tmp_path, callbacks=[Watch()]).fit(model, loader(100))
    for step, value in enumerate(seen, start=1):
        keep = min(0.5, (1 + step) / (10 + step))
        average = keep * average + (1 - keep) * value
    torch.testing.assert_close(model.state_dict()[name], average)


def test_validation_sees_the_averages_and_logs_psnr(tmp_path):
    model = module()
    sheet = ReconstructionSheet(3, columns=2)
    run = trainer(tmp_path, max_steps=4, limit_val_batches=2, val_check_interval=4, callbacks=[sheet])
    run.fit(model, loader(100), loader(4))
    vqgan = model.finished()
    images = torch.stack([Images(4)[i]["image"] for i in range(4)])
    error_B = ((vqgan.decode(vqgan.encode(images)) - images) / 2).square().mean(dim=(1, 2, 3))
    assert run.logged_metrics["val/psnr"].item() == pytest.approx(-10 * error_B.log10().mean().item(), rel=1e-4)
    from PIL import Image

    with Image.open(tmp_path / "reconstructions.png") as image:
        assert image.size == (64, 4 * 32)


def test_sheet_places_reconstructions_below_originals():
    pairs = [(torch.full((3, 2, 2), -1.0), torch.full((3, 2, 2), value)) for value in (0.0, 0.5, 1.0)]
    sheet = lay_out_pairs(pairs, columns=2)
    assert sheet.shape == (8, 4, 3)
    assert sheet[::2, ::2, 0].tolist() == [[0, 0], [128, 191], [0, 255], [255, 255]]


def test_refining_the_decoder_keeps_the_tokens(tmp_path):
    first = module()
    trainer(tmp_path).fit(first, loader(100))
    save_tokenizer(tmp_path / "tokenizer", first.finished())
    second = module(start_from=str(tmp_path / "tokenizer"), train_only="decoder", add_decoder_blocks=(1, 0))
    assert second.vqgan.size.decoder_blocks == (2, 1)
    run = trainer(tmp_path, limit_val_batches=1, val_check_interval=8)
    run.fit(second, loader(100), loader(2))
    old, new = load_tokenizer(tmp_path / "tokenizer"), second.finished()
    assert old.fingerprint() == new.fingerprint()
    assert old.full_fingerprint() != new.full_fingerprint()
    image = Images(1)[0]["image"][None]
    assert torch.equal(old.encode(image), new.encode(image))
    assert not torch.equal(old.decode(old.encode(image)), new.decode(new.encode(image)))


def test_adversarial_training_starts_when_told_and_trains_the_discriminator(tmp_path):
    model = module(loss=GAN)
    assert model.discriminator is not None
    before = {k: v.clone() for k, v in model.discriminator.state_dict().items()}
    factors = []

    class Watch(ReconstructionSheet):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            same = all(torch.equal(v, before[k]) for k, v in pl_module.discriminator.state_dict().items())
            factors.append((pl_module._adversarial_factor(), same))

    trainer(tmp_path, callbacks=[Watch()]).fit(model, loader(100))
    assert [f for f, _ in factors] == pytest.approx([0, 0, 0, 0.15, 0.3, 0.3, 0.3, 0.3])
    assert [same for _, same in factors] == [True] * 4 + [False] * 4


def test_the_loss_is_the_weighted_sum_of_its_terms(tmp_path):
    weights = dataclasses.replace(QUIET, pixel=0.5, squared=3.0, colour=0.25, commitment=2.0)
    run = trainer(tmp_path, max_steps=4)
    run.fit(module(loss=weights), loader(100))
    logged = {name: float(run.logged_metrics[f"train/{name}"]) for name in ("pixel", "squared", "colour", "commitment")}
    expected = sum(getattr(weights, name) * value for name, value in logged.items())
    assert float(run.logged_metrics["train/loss"]) == pytest.approx(expected, rel=1e-5)
    assert logged["pixel"] ** 2 <= logged["squared"]


def test_codebook_use_against_the_definition():
    usage, perplexity = codebook_use(torch.tensor([2.0, 2.0, 4.0, 0.0]))
    assert usage == 0.75
    assert perplexity == pytest.approx((4 * 4 * 2 * 2) ** 0.25)


def watched_module() -> tuple[VQGANModule, list[torch.Tensor]]:
    """A module, and what it will have counted at each step."""
    model, counts = module(), []
    counted = model._count

    def count(count_K: torch.Tensor) -> None:
        counts.append(count_K.clone())
        counted(count_K)

    model._count = count  # type: ignore[method-assign]
    return model, counts


def test_code_book_is_watched_over_the_epoch(tmp_path):
    model, counts = watched_module()
    run = trainer(tmp_path, max_epochs=1, max_steps=-1, val_check_interval=4)  # with nothing to validate
    run.fit(model, loader(16))
    usage, perplexity = codebook_use(torch.stack(counts).sum(0))
    assert run.logged_metrics["codebook/usage"].item() == pytest.approx(usage)
    assert run.logged_metrics["codebook/perplexity"].item() == pytest.approx(perplexity)


class Metrics(Logger):
    """Keeps what is logged, by name: (step, value)."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, list[tuple[int, float]]] = {}

    name = version = "kept"

    def log_metrics(self, metrics, step=None):
        for name, value in metrics.items():
            self.seen.setdefault(name, []).append((step, value))

    def log_hyperparams(self, params, *args, **kwargs):
        pass


def test_a_run_of_one_epoch_has_a_curve_of_the_code_book(tmp_path):
    logged, (model, counts) = Metrics(), watched_module()
    options = {"val_check_interval": 3, "limit_val_batches": 1, "logger": logged}
    trainer(tmp_path, max_steps=8, max_epochs=-1, **options).fit(model, loader(100), loader(2))
    expected = [codebook_use(torch.stack(counts[a:b]).sum(0)) for a, b in ((0, 1), (1, 4), (4, 6))]
    assert [step for step, _ in logged.seen["codebook/usage"]] == [2, 5, 7]
    assert [value for _, value in logged.seen["codebook/usage"]] == pytest.approx([usage for usage, _ in expected])
    assert [v for _, v in logged.seen["codebook/perplexity"]] == pytest.approx([p for _, p in expected])


@pytest.mark.parametrize("stop", [5, 4])
def test_a_resumed_run_counts_the_codes_of_before(tmp_path, stop):
    def options(log: Logger) -> dict[str, object]:
        keep = ModelCheckpoint(tmp_path, every_n_train_steps=stop, save_top_k=-1, filename="{step}")
        return {"logger": log, "enable_checkpointing": True, "callbacks": [keep], "val_check_interval": 4}

    whole, resumed = Metrics(), Metrics()
    trainer(tmp_path, **options(whole)).fit(module(), loader(2 * 8), loader(2))

    class Rest(Images):
        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            return super().__getitem__(index + 2 * stop)

    rest, path = DataLoader(Rest(2 * 8), batch_size=2), str(tmp_path / f"step={stop}.ckpt")
    trainer(tmp_path, **options(resumed)).fit(module(), rest, loader(2), ckpt_path=path, weights_only=True)
    for name in ("codebook/usage", "codebook/perplexity"):
        assert len(whole.seen[name]) == 2
        assert resumed.seen[name][-1] == whole.seen[name][-1], (resumed.seen, whole.seen)


def test_a_collapse_is_told_while_there_is_time_but_not_of_a_few_tokens(tmp_path, caplog):
    class Grey(Images):
        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            return {"image": torch.zeros(3, 32, 32)}

    first = module()
    trainer(tmp_path).fit(first, loader(100))
    save_tokenizer(tmp_path / "tokenizer", first.finished())
    grey = DataLoader(Grey(100, side=32), batch_size=1)
    options = {"val_check_interval": 2, "limit_val_batches": 1, "max_steps": 4, "max_epochs": -1}
    refining = module(start_from=str(tmp_path / "tokenizer"), train_only="decoder")
    caplog.clear()
    trainer(tmp_path, **options).fit(refining, grey, loader(2))
    assert sum("the code book collapses: only 6.2 %" in message for message in caplog.messages) == 2
    refining._count_K.zero_()
    refining._count_K[3] = 15  # of 16 codes
    caplog.clear()
    refining._close_count()
    assert not caplog.messages


def test_a_checkpoint_that_refines_another_tokenizer_is_refused(tmp_path):
    for place in "ab":
        first = module()
        if place == "b":
            first.vqgan.quantizer.codebook_KD[0] *= -1
        save_tokenizer(tmp_path / place, first.finished())
    keep = ModelCheckpoint(tmp_path, save_last=True)
    mine = module(start_from=str(tmp_path / "a"), train_only="decoder")
    trainer(tmp_path, max_steps=2, enable_checkpointing=True, callbacks=[keep]).fit(mine, loader(100))
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    module(start_from=str(tmp_path / "a"), train_only="decoder").check_checkpoint(saved)
    with pytest.raises(UsageError, match="refines another tokenizer"):
        module(start_from=str(tmp_path / "b"), train_only="decoder").check_checkpoint(saved)


def test_divergence_stops_with_the_step_and_the_tensor(tmp_path):
    class Broken(Images):
        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            return {"image": super().__getitem__(index)["image"] * (float("nan") if index >= 6 else 1.0)}

    with pytest.raises(UsageError, match=r"model\.lr: .* the pixel loss is not finite at step 3"):
        trainer(tmp_path).fit(module(), DataLoader(Broken(100), batch_size=2))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train_only": "encoder"}, "use all or decoder"),
        ({"train_only": "decoder"}, "start_from"),
        ({"add_decoder_blocks": (1, 1)}, "only with model.start_from"),
        ({"lr": 0.0}, "above 0"),
        ({"accumulate_grad_batches": 0}, "at least 1"),
        ({"start_from": "/nowhere"}, "no tokenizer here"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        module(**options)


def test_too_few_vectors_for_the_codes_are_refused(tmp_path):
    seed_everything(0, verbose=False)
    model = VQGANModule(dataclasses.replace(SIZE, codebook_size=1024), loss=QUIET, unquantized_steps=1)
    with pytest.raises(UsageError, match="gave 32 vectors for 1024 codes"):
        trainer(tmp_path).fit(model, loader(100))


def test_checkpoint_of_another_kind_or_size_is_refused(tmp_path):
    model = module()
    with pytest.raises(UsageError, match="not of a VQGANModule"):
        model.on_load_checkpoint({})
    with pytest.raises(UsageError, match=r"model\.vqgan"):
        model.on_load_checkpoint({"vqgan_size": {}})
