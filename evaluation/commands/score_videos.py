"""``python -m evaluation score-videos``: one report on folders of clips."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nuwa_lightning.errors import check_range

ABOUT = """\
Score generated clips against real ones by a protocol, like images.
Clips are video files, animations, or sub-folders of frames."""
EXAMPLES = "  python -m evaluation score-videos --real CLIPS --generated MADE --protocol video"


@dataclass(frozen=True)
class Options:
    """What to score.

    Args:
        real: folder of real clips
        generated: folder of clips to score
        protocol: a YAML file, or the name of one in evaluation/protocols
        set: change a setting of the protocol, such as real.count=50; may be repeated
        features: import path of your own network, such as my_features.Clips
        weights: file of its weights
        clip: folder of a CLIP model; adds CLIP-SIM of captions (NAME.txt or captions.json beside the clips)
        device: where networks compute
        skip_corrupt: leave out clips that cannot be read, and count them
        max_pixels: read frames of at most so many pixels; raise it for clips that you trust
        output: file to write the report to as JSON
    """

    real: Path
    generated: Path
    protocol: str = "video"
    set: tuple[str, ...] = ()
    features: str | None = None
    weights: Path | None = None
    clip: Path | None = None
    device: str = "cpu"
    skip_corrupt: bool = False
    max_pixels: int = 200_000_000
    output: Path | None = None


def run(options: Options, command: str) -> int:
    """Score."""
    from tqdm import tqdm

    from evaluation.clip_score import ClipScore
    from evaluation.commands.score import check_output, tell
    from evaluation.score import check_device
    from evaluation.video.clips import ClipSet
    from evaluation.video.extractors import make_clip_extractor
    from evaluation.video.score import load_video_protocol, score_videos

    check_output(options.output)
    check_device(options.device)
    check_range("--max-pixels", options.max_pixels, 1)
    changes = [*options.set, *([f"features={options.features}"] if options.features else [])]
    protocol = load_video_protocol(options.protocol, changes)
    reading: dict[str, Any] = {"skip_corrupt": options.skip_corrupt, "max_pixels": options.max_pixels}
    sets = [
        ClipSet(getattr(options, name), spec, option=f"--{name}", **reading)
        for name, spec in (("real", protocol.real), ("generated", protocol.generated))
    ]
    extractor = make_clip_extractor(protocol.features, weights=options.weights, device=options.device)
    clip = ClipScore(options.clip, device=options.device) if options.clip else None
    with tqdm(desc="clips", unit="clip", disable=not sys.stderr.isatty(), leave=False) as bar:
        report = score_videos(
            protocol, sets[0], sets[1], extractor, clip=clip, progress=lambda name: bar.update(), device=options.device
        )
    report["run"]["command"] = command
    return tell(report, options.output)
