"""Videos of drawn landscapes with captions, made on the spot; see `nuwa_lightning.data.scenes`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from nuwa_lightning.atomic import make_cache, write_json
from nuwa_lightning.data.folders import cache_folder
from nuwa_lightning.data.photos import Split
from nuwa_lightning.data.scenes import Scene, all_scenes, caption, draw
from nuwa_lightning.data.synthetic_landscapes import held_out_scenes
from nuwa_lightning.data.video_reading import Frame
from nuwa_lightning.data.videos import Movement, Video, VideoSource
from nuwa_lightning.errors import UsageError

_VERSION: Final = "2"


@final
@dataclass(frozen=True)
class Drawn(Movement):
    """A drawn landscape seen by a camera that stands still or moves."""

    scene: Scene
    seed: int
    size: tuple[int, int]
    count: int
    fps: int = 8

    def frames(self, path: Path) -> Iterator[tuple[float, Frame]]:
        """Draw frame after frame; the file tells nothing."""
        for number in range(self.count):
            yield number / self.fps, draw(self.scene, self.seed, self.size, frame=number)


@final
class SyntheticVideos(VideoSource):
    """Videos of drawn landscapes: what is seen and how the camera moves is known, and told by the caption.

    All 216 combinations of time of day, colour of the sky, mountains, water, snow and motion come up equally often. 36
    of them are held out for validation: each of their attributes is known from training, the combination is not.

    Args:
        count: videos in all.
        frames: of each video.
        size: height and width in pixels.
        seed: another seed, other videos.
        cache: the cache folder; default: see `nuwa_lightning.data.folders.cache_folder`.

    Raises:
        UsageError: if a number makes no sense.
    """

    def __init__(
        self,
        count: int = 432,
        *,
        frames: int = 10,
        size: tuple[int, int] = (192, 192),
        seed: int = 0,
        cache: str | None = None,
    ) -> None:
        scenes = len(all_scenes(motions=True))
        if count < scenes:
            raise UsageError("data.videos.count", count, f"give {scenes} or more, one for each combination")
        if min(size) < 16:
            raise UsageError("data.videos.size", list(size), "give 16 pixels or more on each side")
        if frames < 2:
            raise UsageError("data.videos.frames", frames, "give 2 or more")
        self.count, self.frames, self.size, self.seed = count, frames, size, seed
        self.file = cache_folder(cache) / "synthetic_videos" / f"{_VERSION}.json"

    def scene(self, number: int) -> Scene:
        """Return what video ``number`` shows."""
        scenes = all_scenes(motions=True)
        return scenes[number % len(scenes)]

    def prepare(self) -> None:
        """Make the file that stands for all videos; they are drawn when they are read."""
        if not self.file.is_file():
            make_cache(self.file.parent)
            write_json(self.file, {"drawn by": "nuwa_lightning.data.scenes", "version": _VERSION})

    def videos(self, split: Split) -> list[Video]:
        """Return the videos of ``split`` in the order of their numbers."""
        out = {scene.name for scene in held_out_scenes(motions=True)}
        return [
            self._video(number) for number in range(self.count) if (self.scene(number).name in out) == (split == "val")
        ]

    def option(self, split: Split) -> tuple[str, str]:
        return "cache", str(self.file)

    def record(self) -> dict[str, object]:
        """Return what was drawn."""
        size = [self.frames, *self.size]
        return {"source": "synthetic videos", "count": self.count, "size": size, "seed": self.seed}

    def _video(self, number: int) -> Video:
        scene, seed = self.scene(number), self.seed * 1_000_003 + number
        movement = Drawn(scene, seed, self.size, self.frames)
        return Video(self.file, f"{number:06d}", caption(scene, seed), scene.name, movement)
