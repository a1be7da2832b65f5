"""What a run shows of itself: the sheet of samples and the progress bar."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from PIL import Image
from torch.utils.data import DataLoader

from nuwa_lightning.callbacks.reconstruction_sheet import ReconstructionSheet
from nuwa_lightning.callbacks.sample_sheet import SampleSheet, contact_sheet
from nuwa_lightning.callbacks.stage_bar import StageBar
from nuwa_lightning.canvas.decoding import SingleFrames, to_uint8
from nuwa_lightning.canvas.sample import sample_tokens
from nuwa_lightning.errors import UsageError
from nuwa_lightning.generation.pretrained import load_generator
from nuwa_lightning.generation.renderer import InfiniteRenderer
from nuwa_lightning.generation.sampling import Sampling
from nuwa_lightning.models.nuwa_infinity import TransformerConfig
from nuwa_lightning.models.vqgan import VQGAN, VQGANConfig
from nuwa_lightning.planning.context import NearbyContextPool
from nuwa_lightning.planning.geometry import PatchGrid
from nuwa_lightning.training.nuwa_module import NuwaInfinityModule


class Board:
    """Stands for TensorBoard."""

    def __init__(self) -> None:
        self.images: list[tuple[str, int, tuple[int, ...]]] = []

    def add_image(self, name: str, image: torch.Tensor, step: int) -> None:
        self.images.append((name, step, tuple(image.shape)))


def fake_trainer(folder, *, step: int = 3, fast: bool = False) -> SimpleNamespace:
    board = Board()
    board.add_image = lambda name, image, step, dataformats: board.images.append((name, step, tuple(image.shape)))  # type: ignore[method-assign]
    logger = SimpleNamespace(experiment=board)
    return SimpleNamespace(
        global_step=step,
        is_global_zero=True,
        fast_dev_run=fast,
        default_root_dir=str(folder),
        logger=logger,
        loggers=[logger],
        progress_bar_callback=None,
    )


@pytest.fixture(scope="module")
def module() -> NuwaInfinityModule:
    torch.manual_seed(0)
    made = NuwaInfinityModule(
        16,
        4,
        patch_size=(2, 2),
        transformer=TransformerConfig(dim=16, num_layers=1, num_heads=2, num_kv_heads=1),
        context_pool=NearbyContextPool((0, 1, 1)),
    )
    size = VQGANConfig(
        16, 4, encoder_channels=(8, 8), encoder_blocks=(0, 0), decoder_channels=(8, 8), decoder_blocks=(1, 1)
    )
    vqgan = VQGAN.build(size).eval()
    made.attach_tokenizer(vqgan)
    return made


def images(module, tokens_BYX):
    with torch.inference_mode():
        return [to_uint8(module.tokenizer.decode(tokens_YX[None])[0]) for tokens_YX in tokens_BYX]


def test_the_sheet_shows_what_the_exported_model_makes_from_the_same_seeds(tmp_path, module):
    trainer = fake_trainer(tmp_path)
    SampleSheet(count=3, size=(1, 2), temperature=0.9, top_k=5).draw(trainer, module)
    assert module.training
    loaded = load_generator(tmp_path / "model")
    renderer = InfiniteRenderer(loaded.model, loaded.pool, loaded.direction, loaded.token_order, Sampling(0.9, 5))
    expected = contact_sheet(images(module, sample_tokens(renderer, PatchGrid(1, 1, 2), seeds=range(3))))
    for path in (tmp_path / "samples.png", tmp_path / "samples" / "step_0000003.png"):
        with Image.open(path) as sheet:
            assert np.array_equal(np.asarray(sheet), expected)
    assert trainer.logger.experiment.images == [("samples", 3, expected.shape)]


def test_a_sheet_of_videos_has_a_row_of_frames_for_each(tmp_path, module):
    trainer = fake_trainer(tmp_path)
    SampleSheet(count=2, size=(1, 2), frames=3).draw(trainer, module)
    sheet = np.asarray(Image.open(tmp_path / "samples.png"))
    renderer = module.generator().renderer(Sampling(top_k=50))
    tokens_TBYX = sample_tokens(renderer, PatchGrid(3, 1, 2), seeds=range(2))
    alone = SingleFrames(module.tokenizer)
    videos = [[alone.decode(tokens_YX, None) for tokens_YX in tokens_TYX] for tokens_TYX in tokens_TBYX.transpose(0, 1)]
    height, width = videos[0][0].shape[:2]
    rows = [np.concatenate(frames, axis=1) for frames in videos]
    assert np.array_equal(sheet, contact_sheet(rows))
    assert sheet[:height, :width].tolist() == videos[0][0].tolist()
    for number, frames in enumerate(videos):
        (image,) = images(module, sample_tokens(renderer, PatchGrid(1, 1, 2), seeds=[number]))
        assert len(frames) == 3
        assert np.abs(frames[0].astype(int) - image).max() <= 1
    with pytest.raises(UsageError, match="at least 1"):
        SampleSheet(frames=0)


def test_it_is_drawn_first_early_and_then_now_and_again(tmp_path, module, monkeypatch):
    drawn = []
    monkeypatch.setattr(SampleSheet, "draw", lambda self, trainer, module: drawn.append(trainer.global_step))
    sheet = SampleSheet(every_n_steps=4, first_step=1)
    for step in range(1, 11):
        sheet.on_train_batch_end(fake_trainer(tmp_path, step=step), module, None, None, 0)  # type: ignore[arg-type]
    assert drawn == [1, 4, 8]


def test_it_draws_stage_2_only_and_leaves_trial_runs_alone(tmp_path, module):
    SampleSheet().draw(fake_trainer(tmp_path, fast=True), module)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="draws stage 2"):
        SampleSheet().draw(fake_trainer(tmp_path), torch.nn.Linear(1, 1))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at least 1"):
        SampleSheet(count=0)


@given(st.integers(1, 20), st.integers(1, 9), st.integers(1, 9), st.integers(0, 3))
def test_every_image_is_on_the_sheet_once(count, height, width, gap):
    images = [np.full((height, width, 3), n, np.uint8) for n in range(count)]
    sheet = contact_sheet(images, gap=gap)
    for n in range(count):
        assert (sheet[..., 0] == n).sum() == height * width
    assert ((sheet >= count) == (sheet == 255)).all()


class Steps(LightningModule):
    """Trains nothing, in steps."""

    title = "stage 0, nothing"

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.layer(batch).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Watch(Callback):
    """Notes what the bar has done and what is its end, when a batch begins, and what it says at the end."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []
        self.bars: list[Tqdm] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        bar = trainer.progress_bar_callback.train_progress_bar
        self.seen.append((bar.n, bar.total))
        if all(bar is not other for other in self.bars):
            self.bars.append(bar)


def train_with_bar(folder, *, module: LightningModule | None = None, ckpt_path=None, **options) -> Watch:
    watch = Watch()
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_model_summary=False,
        callbacks=[StageBar(refresh_rate=1), watch, ModelCheckpoint(folder, every_n_train_steps=4, filename="{step}")],
        **options,
    )
    trainer.fit(module or Steps(), DataLoader(torch.ones(4, 1)), ckpt_path=ckpt_path)
    return watch


def test_the_bar_counts_the_steps_of_the_whole_run(tmp_path, capsys):
    watch = train_with_bar(tmp_path, max_steps=10, max_epochs=-1)
    assert watch.seen == [(n, 10) for n in range(10)]
    (bar,) = watch.bars
    assert bar.n == 10
    last = capsys.readouterr().out.splitlines()[-1].split("\r")[-1]
    assert last.startswith("stage 0, nothing: 100%")
    assert " 10/10 " in last


def test_the_bar_of_a_resumed_run_begins_where_it_stands(tmp_path):
    train_with_bar(tmp_path, max_steps=4, max_epochs=-1)
    watch = train_with_bar(tmp_path, max_steps=10, max_epochs=-1, ckpt_path=tmp_path / "step=4.ckpt")
    assert watch.seen == [(n, 10) for n in range(4, 10)]
    # What was done before is not taken for quick.
    assert watch.bars[0].initial == 4


def test_the_bar_stops_with_the_epochs_if_they_end_first(tmp_path):
    assert train_with_bar(tmp_path, max_steps=10, max_epochs=2).seen == [(n, 8) for n in range(8)]


def test_without_a_number_of_steps_there_is_a_bar_for_each_epoch(tmp_path):
    watch = train_with_bar(tmp_path, max_epochs=2)
    assert watch.seen == [(n, 4) for n in range(4)] * 2
    assert [bar.desc for bar in watch.bars] == ["stage 0, nothing, epoch 0: ", "stage 0, nothing, epoch 1: "]


def test_a_module_without_a_title_is_called_by_its_class(tmp_path):
    class Untitled(Steps):
        title = property(lambda self: (_ for _ in ()).throw(AttributeError))  # type: ignore[assignment]

    assert train_with_bar(tmp_path, module=Untitled(), max_steps=1).bars[0].desc == "Untitled: "


def test_it_is_said_where_reconstructions_lie(tmp_path, capsys):
    trainer = fake_trainer(tmp_path)
    trainer.sanity_checking = False
    trainer.progress_bar_callback = SimpleNamespace(print=print)
    sheet = ReconstructionSheet(1)
    image = torch.zeros(1, 3, 8, 8)
    sheet.on_validation_batch_end(trainer, None, {"image": image, "reconstruction": image}, None, 0)  # type: ignore[arg-type]
    sheet.on_validation_epoch_end(trainer, None)  # type: ignore[arg-type]
    assert (tmp_path / "reconstructions.png").is_file()
    assert capsys.readouterr().err == f"step 3: reconstructions in {tmp_path / 'reconstructions.png'}\n"
