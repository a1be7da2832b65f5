"""How far an image is, how fast it goes, and how much memory it takes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nuwa_lightning.canvas.job import Progress


class GenerationBar:
    """One line: patches a second, megapixels, how many at once, how many alive, memory, time left.

    Nothing is shown before :meth:`begin`, so that what is refused until then is told in one line.
    """

    def __init__(self, patches: int | None, pixels: int, *, canvases: int) -> None:
        self._patches, self._share, self._canvases = patches, pixels / 1e6, canvases
        self._bar: Any = None

    def begin(self, patches: int) -> None:
        """Show the bar, from how many patches of each canvas an earlier run has left."""
        from tqdm import tqdm

        # In a log file a line now and then is enough.
        seconds = 0.1 if sys.stderr.isatty() else 10.0
        self._bar = tqdm(
            total=self._patches,
            initial=patches * self._canvases,
            unit="patch",
            desc="writing",
            dynamic_ncols=True,
            leave=False,
            mininterval=seconds,
        )

    def update(self, progress: Progress) -> None:
        """Show the progress after a wave; :meth:`begin` comes before."""
        done = progress.patches * self._canvases
        self._bar.set_postfix_str(
            f"{done * self._share:.2f} Mpx, {progress.wave} at once, {progress.live} alive, {memory_in_use() >> 20} MB",
            refresh=False,
        )
        self._bar.update(done - self._bar.n)

    def __enter__(self) -> GenerationBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take it away."""
        if self._bar is not None:
            self._bar.close()


@contextmanager
def export_bar(rows: int, *, unit: str = "row") -> Iterator[Callable[[int], None]]:
    """Show how many rows (frames) are written; yields what is told how many more there are."""
    from tqdm import tqdm

    seconds = 0.1 if sys.stderr.isatty() else 10.0
    with tqdm(total=rows, unit=unit, desc="export", dynamic_ncols=True, leave=False, mininterval=seconds) as bar:

        def update(count: int) -> None:
            bar.set_postfix_str(f"{memory_in_use() >> 20} MB", refresh=False)
            bar.update(count)

        yield update


def memory_in_use() -> int:
    """Return the bytes of memory that this process takes now; the most it ever took where that is not told."""
    try:
        import resource
    except ImportError:  # no such module on this system
        return 0
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
