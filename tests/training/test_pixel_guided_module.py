"""Training the decoder of videos in Lightning: what guides, what is trained, resumption to the bit, what is refused."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Dataset

from nuwa_lightning.errors import UsageError
from nuwa_lightning.models.vqgan import VQGAN
from nuwa_lightning.training.losses import AdversarialTerm
from nuwa_lightning.training.optimization import OptimizerConfig
from nuwa_lightning.training.pixel_guided_module import GuideShares, PixelGuidedModule, slowed
from tests.training import small
from tests.training.small import QUIET, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]

SIZE = dataclasses.replace(small.SIZE, codebook_size=4, encoder_blocks=(0, 0))


def tokenizer(seed: int = 0) -> VQGAN:
    torch.manual_seed(seed)
    vqgan = VQGAN.build(SIZE).eval().requires_grad_(False)
    vqgan.quantizer.codebook_KD.copy_(torch.nn.functional.normalize(torch.randn(4, 4), dim=1))
    return vqgan


class Stills(Dataset[dict[str, torch.Tensor]]):
    """Clips in which nothing moves: the frame before says all that the four codes cannot."""

    def __init__(self, count: int, *, frames: int = 3, side: int = 16, first: int = 0) -> None:
        self.count, self.frames, self.side, self.first = count, frames, side, first

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(self.first + index)
        small = torch.rand(1, 3, 2, 2, generator=generator) * 2 - 1
        image = torch.nn.functional.interpolate(small, (self.side, self.side), mode="bilinear")
        return {"video": image.repeat(self.frames, 1, 1, 1), "index": torch.tensor(index)}


def loader(count: int = 16, **options) -> DataLoader[dict[str, torch.Tensor]]:
    return DataLoader(Stills(count, **options), batch_size=2)


def module(*, attach: bool = True, **options) -> PixelGuidedModule:
    seed_everything(0, verbose=False)
    made = PixelGuidedModule((1, 1), **{"loss": QUIET, "descent": OptimizerConfig(0.01, 2), **options})
    if attach:
        made.attach_tokenizer(tokenizer())
    return made


def test_training_learns_from_the_frame_before_and_leaves_the_tokenizer_alone(tmp_path):
    model = module(guides=GuideShares(1, 0, 0), lr=1e-2)
    before = model.tokenizer.full_fingerprint()
    run = trainer(tmp_path, max_steps=100, limit_val_batches=4, val_check_interval=100)
    run.validate(model, loader(8, first=900), verbose=False)
    # With real guides the plain decoder, which it begins as, knows nothing but four codes.
    plain = float(run.logged_metrics["val/psnr_plain"])
    assert float(run.logged_metrics["val/psnr"]) == pytest.approx(plain, abs=1e-4)
    run.fit(model, loader(200))
    video_BT3YX = torch.stack([Stills(8, first=900)[n]["video"] for n in range(8)])
    guided = model.finished()
    made = guided.decode_next(model.tokenizer.encode(video_BT3YX[:, 1]), video_BT3YX[:, 0])
    error = (made - video_BT3YX[:, 1]).square().mean()
    plain_error = (
        (model.tokenizer.decode(model.tokenizer.encode(video_BT3YX[:, 1])) - video_BT3YX[:, 1]).square().mean()
    )
    assert error < 0.25 * plain_error
    assert model.tokenizer.full_fingerprint() == before
    assert guided.fingerprint() == model.tokenizer.fingerprint()


def test_each_kind_of_guide_is_what_it_says():
    video_BT3YX = torch.rand(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    model = module()
    with torch.no_grad():
        for weight in model.guided.parameters():
            weight.add_(0.01)
    plain = [model.tokenizer.decode(model.tokenizer.encode(video_BT3YX[:, t])) for t in range(4)]

    def guides(shares: GuideShares | None) -> tuple[torch.Tensor, torch.Tensor]:
        model.guides = shares or model.guides
        made, guide, real, before = model.roll(video_BT3YX, None if shares is None else torch.Generator())
        assert made.requires_grad
        assert not guide.requires_grad
        assert torch.equal(real, torch.cat([video_BT3YX[:, t] for t in (1, 2, 3)]))
        assert torch.equal(before, torch.cat([video_BT3YX[:, t] for t in (0, 1, 2)]))
        return made.detach().clamp(-1, 1), guide

    assert torch.equal(guides(GuideShares(1, 0, 0))[1], torch.cat([video_BT3YX[:, t] for t in (0, 1, 2)]))
    torch.testing.assert_close(guides(GuideShares(0, 1, 0))[1], torch.cat(plain[:3]))
    for shares in (GuideShares(0, 0, 1), None):
        made, guide = guides(shares)
        torch.testing.assert_close(guide, torch.cat([plain[0], made[:4]]))
        # And what was made is what the decoder makes of that guide.
        tokens = torch.cat([model.tokenizer.encode(video_BT3YX[:, t]) for t in (1, 2, 3)])
        torch.testing.assert_close(model.guided.decode_next(tokens, guide), made, atol=1e-5, rtol=0)


def test_kinds_are_drawn_by_their_shares():
    model = module(guides=GuideShares(0.5, 0.5, 0))
    video_BT3YX = torch.rand(200, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    guide = model.roll(video_BT3YX, torch.Generator().manual_seed(0))[1]
    real = (guide == video_BT3YX[:, 0]).flatten(1).all(1).float().mean()
    assert 0.4 < real < 0.6


def test_the_loss_is_the_weighted_sum_of_its_terms(tmp_path):
    weights = dataclasses.replace(QUIET, pixel=0.5, squared=3.0, colour=0.25)
    run = trainer(tmp_path, max_steps=2)
    run.fit(module(loss=weights, change=2.0), loader(100))
    logged = {n: float(run.logged_metrics[f"train/{n}"]) for n in ("pixel", "squared", "colour", "change")}
    expected = 0.5 * logged["pixel"] + 3 * logged["squared"] + 0.25 * logged["colour"] + 2 * logged["change"]
    assert float(run.logged_metrics["train/loss"]) == pytest.approx(expected, rel=1e-5)


def test_slow_clips_are_windows_of_the_first_frame_at_one_speed():
    """Pixels tell where they come from: the place of each window is read off, not assumed."""
    place_YX = torch.arange(40.0)[:, None] * 40 + torch.arange(40.0)
    video_BT3YX = place_YX.expand(1, 4, 3, 40, 40)
    speeds = set()
    for seed in range(60):
        made = slowed(video_BT3YX, factor=8, generator=torch.Generator().manual_seed(seed))
        assert made.shape == (1, 4, 3, 32, 32)
        corners = [divmod(int(made[0, t, 0, 0, 0]), 40) for t in range(4)]
        for t, (y, x) in enumerate(corners):
            assert torch.equal(made[0, t, 0], place_YX[y : y + 32, x : x + 32])
        steps = {(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(corners)}
        assert len(steps) == 1
        speeds |= steps
    assert max(max(abs(y), abs(x)) for y, x in speeds) == 2
    assert {(0, 0)} < speeds


def test_slow_batches_are_drawn_by_their_share(tmp_path):
    # Nothing of a still clip of one colour gradient is alike where a window moves over it, hence another loss.
    losses = []
    for share in (0.0, 1.0):
        run = trainer(tmp_path, max_steps=1)
        run.fit(module(slow_share=share), loader(100, side=32))
        losses.append(float(run.logged_metrics["train/loss"]))
    assert losses[0] != losses[1]


def test_a_guide_that_is_real_makes_the_change_s_error_the_frame_s(tmp_path):
    run = trainer(tmp_path, max_steps=1)
    run.fit(module(guides=GuideShares(1, 0, 0)), loader(100))
    pixel, change = (float(run.logged_metrics[f"train/{n}"]) for n in ("pixel", "change"))
    assert change == pytest.approx(pixel, rel=1e-5)


def test_validation_compares_with_decoding_frame_by_frame(tmp_path):
    run = trainer(tmp_path)
    run.validate(module(), loader(2), verbose=False)
    # Untrained, both are the same decoder; nothing moves, so that it makes the same frame again and again.
    assert float(run.logged_metrics["val/psnr"]) == pytest.approx(float(run.logged_metrics["val/psnr_plain"]), abs=1e-4)
    for name in ("change", "change_plain", "change_real"):
        assert float(run.logged_metrics[f"val/{name}"]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("stop", [1, 4])
def test_resuming_equals_never_stopping_to_the_bit(tmp_path, stop):
    whole = module()
    trainer(tmp_path / "a").fit(whole, loader(2 * 8))

    def saving() -> dict[str, object]:
        keep = ModelCheckpoint(tmp_path / "c", every_n_train_steps=stop, save_top_k=-1, filename="{step}")
        return {"enable_checkpointing": True, "callbacks": [keep]}

    trainer(tmp_path / "b", **saving()).fit(module(), loader(2 * 8))
    resumed, checkpoint = module(), str(tmp_path / "c" / f"step={stop}.ckpt")
    rest = loader(2 * 8, first=2 * stop)
    trainer(tmp_path / "d", **saving()).fit(resumed, rest, ckpt_path=checkpoint, weights_only=True)
    assert whole.state_dict().keys() == resumed.state_dict().keys()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_averages_are_what_is_exported(tmp_path):
    model = module(average_decay=0.5)
    keep = ModelCheckpoint(tmp_path, save_last=True)
    trainer(tmp_path, enable_checkpointing=True, callbacks=[keep]).fit(model, loader(100))
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert all(name.startswith("guided.") for name in saved["state_dict"])
    name = "guided.guide.stem.weight"
    assert not torch.equal(saved["state_dict"][name], saved["current_model_state"][name])
    assert torch.equal(model.finished().guide.stem.weight, saved["state_dict"][name])


def test_more_blocks_change_nothing_at_first():
    model = module(attach=False, add_decoder_blocks=(0, 2))
    model.attach_tokenizer(tokenizer())
    assert model.guided.size.vqgan.decoder_blocks == (1, 3)
    tokens = torch.randint(4, (1, 3, 3))
    assert torch.equal(model.guided.decode_next(tokens, torch.zeros(1, 3, 24, 24)), model.tokenizer.decode(tokens))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr": 0.0}, "above 0"),
        ({"change": -1.0}, "from 0 up"),
        ({"slow_share": 1.5}, r"a share in \[0, 1\]"),
        ({"loss": dataclasses.replace(QUIET, adversarial=AdversarialTerm(weight=1.0))}, "not used here"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        module(**options)


def test_shares_and_blocks_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="add up to 1"):
        GuideShares(0.5, 0.5, 0.5)
    with pytest.raises(UsageError, match=r"model\.add_decoder_blocks"):
        module(add_decoder_blocks=(1,))
    with pytest.raises(UsageError, match=r"model\.guide_blocks"):
        PixelGuidedModule((1,), loss=QUIET).attach_tokenizer(tokenizer())
    with pytest.raises(RuntimeError, match="attach_tokenizer"):
        _ = module(attach=False).tokenizer


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({"image": torch.zeros(1, 3, 16, 16)}, "data: .*clips of videos are needed"),
        ({"video": torch.zeros(1, 1, 3, 16, 16)}, r"data\.clips\.frames: .*2 frames or more"),
        ({"video": torch.zeros(1, 3, 3, 16, 20)}, r"data\.size: .*multiple of 8"),
    ],
)
def test_batches_that_cannot_be_used_are_refused(batch, words):
    with pytest.raises(UsageError, match=words):
        module().training_step(batch, 0)


def test_checkpoint_of_another_kind_size_or_tokenizer_is_refused():
    model = module()
    with pytest.raises(UsageError, match="not of a PixelGuidedModule"):
        model.on_load_checkpoint({})
    good: dict[str, dict[str, object]] = {}
    model.on_save_checkpoint(good)
    model.on_load_checkpoint(good)
    with pytest.raises(UsageError, match=r"tokenizer\.path"):
        model.check_checkpoint({"pixel_guided": {**good["pixel_guided"], "tokenizer": "another"}})
    with pytest.raises(UsageError, match=r"model\.guide_blocks"):
        model.check_checkpoint({"pixel_guided": {**good["pixel_guided"], "size": {}}})
