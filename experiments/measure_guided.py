"""Does the frame before help? Measure a pixel-guided decoder: the numbers of docs/results.md, "Videos".

    python experiments/measure_guided.py runs/landscape_pixel_guided --output measured_guided

Takes videos that training never saw (the validation videos of `LandscapeClips`; real ones, and a camera that moves over
photographs that were held out), encodes every frame by itself and decodes the tokens in three ways: frame by frame by
the tokenizer's own decoder, guided by the frame before with the tokenizer's first frame (as text to video does), and
guided with the real first frame (as animation does). For the real video and each of the three: frame difference and
flicker on 0..255 (evaluation/video/measures.py), their distance from the real video's, and PSNR over all frames and
over the last one, where errors have added up. Writes ``numbers.json`` and sheets of frames.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from evaluation.video.measures import flicker, frame_difference
from nuwa_lightning.atomic import write_json
from nuwa_lightning.canvas.decoding import to_uint8
from nuwa_lightning.data.clips import ClipSettings
from nuwa_lightning.data.video_data import LandscapeClipsDataModule
from nuwa_lightning.models.pixel_guided import PixelGuidedDecoder
from nuwa_lightning.models.vqgan import VQGAN
from nuwa_lightning.tokenizers.pretrained import load_pixel_guided, load_tokenizer

# Shape legend: T frames, Y/X rows and columns.

Clip = NDArray[np.uint8]
WAYS = ("frame by frame", "guided", "guided, real first frame")


def videos(clips: ClipSettings, *, cache: str | None, factor: int) -> Iterator[tuple[str, bool, Clip]]:
    """Yield name, whether its motion is made up, and the first clip of each held-out video, in whole tokens."""
    data = LandscapeClipsDataModule(clips=clips, size=factor, cache=cache)
    data.prepare_data()
    for entry in data.prepared("val").entries:
        frames_TYX3 = entry.array()
        start = entry.starts(clips.reach)[0]
        height, width = (side // factor * factor for side in frames_TYX3.shape[1:3])
        yield entry.sample.key, entry.sample.synthetic, frames_TYX3[start : start + clips.reach, :height, :width]


@torch.inference_mode()
def decode(clip_TYX3: Clip, tokenizer: VQGAN, guided: PixelGuidedDecoder) -> dict[str, Clip]:
    """Return the clip after the tokenizer, decoded in each way."""
    made: dict[str, list[Clip]] = {way: [] for way in WAYS}
    before: dict[str, torch.Tensor] = {}
    for frame_YX3 in clip_TYX3:
        image_B3YX = torch.from_numpy(frame_YX3.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        tokens_BYX = tokenizer.encode(image_B3YX)
        plain_B3YX = tokenizer.decode(tokens_BYX)
        first = {WAYS[1]: plain_B3YX, WAYS[2]: image_B3YX}
        for way in WAYS[1:]:
            before[way] = guided.decode_next(tokens_BYX, before[way]) if way in before else first[way]
        for way, frame_B3YX in {WAYS[0]: plain_B3YX, **before}.items():
            made[way].append(to_uint8(frame_B3YX[0]))
    return {way: np.stack(frames) for way, frames in made.items()}


def psnr(a_TYX3: Clip, b_TYX3: Clip) -> float:
    """Return the mean over frames, dB; at most 60."""
    error_T = np.square((a_TYX3.astype(np.float64) - b_TYX3) / 255).mean((1, 2, 3))
    return float(np.mean(-10 * np.log10(np.maximum(error_T, 1e-6))))


def measure(real_TYX3: Clip, made_TYX3: Clip) -> dict[str, float]:
    """Return the figures of one clip."""
    return {
        "difference": frame_difference(made_TYX3),
        "flicker": flicker(made_TYX3),
        "difference_error": abs(frame_difference(made_TYX3) - frame_difference(real_TYX3)),
        "flicker_error": abs(flicker(made_TYX3) - flicker(real_TYX3)),
        "psnr": psnr(real_TYX3[1:], made_TYX3[1:]),
        "psnr_last": psnr(real_TYX3[-1:], made_TYX3[-1:]),
    }


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="holds pixel_guided/")
    parser.add_argument("--tokenizer", type=Path, help="what decodes frame by frame; RUN/tokenizer, else the refined")
    parser.add_argument("--output", type=Path, default=Path("measured_guided"))
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--fps", type=float, default=8.0)
    parser.add_argument("--short_side", type=int, default=208)
    parser.add_argument("--cache", default=None)
    options = parser.parse_args()
    own = options.run / "tokenizer"
    tokenizer = load_tokenizer(options.tokenizer or (own if own.is_dir() else "runs/landscape_decoder/tokenizer"))
    guided = load_pixel_guided(options.run, tokenizer=tokenizer)
    clips = ClipSettings(options.fps, options.frames, short_side=options.short_side)
    options.output.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, dict[str, float]]]] = {"real": [], "synthetic": []}
    numbers: dict[str, object] = {}
    for key, synthetic, real_TYX3 in videos(clips, cache=options.cache, factor=tokenizer.downsample_factor):
        made = decode(real_TYX3, tokenizer, guided)
        found = {"real video": measure(real_TYX3, real_TYX3)}
        found |= {way: measure(real_TYX3, made_TYX3) for way, made_TYX3 in made.items()}
        rows["synthetic" if synthetic else "real"].append(found)
        numbers[key] = found
        times = [1, len(real_TYX3) // 2, len(real_TYX3) - 1]
        sheet = [np.concatenate(list(clip_TYX3[times]), 1) for clip_TYX3 in (real_TYX3, *made.values())]
        Image.fromarray(np.concatenate(sheet)).save(options.output / f"{key}.png")
        sys.stderr.write(f"{key}\n")
    for kind, measured in rows.items():
        for way in measured[0] if measured else ():
            means = {name: float(np.mean([row[way][name] for row in measured])) for name in measured[0][way]}
            numbers[f"mean of {len(measured)} {kind} videos, {way}"] = means
            sys.stdout.write(f"{kind} ({len(measured)}), {way}: " + ", ".join(f"{k} {v:.2f}" for k, v in means.items()))
            sys.stdout.write("\n")
    write_json(options.output / "numbers.json", numbers)


if __name__ == "__main__":
    main()
