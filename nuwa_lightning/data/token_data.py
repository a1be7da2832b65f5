"""The data module of stage 2: random windows of the token grids of photos; see `nuwa_lightning.data.token_windows`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import final

from nuwa_lightning.data.folder_samples import SPLITS
from nuwa_lightning.data.folders import cache_folder
from nuwa_lightning.data.photos import Photo, PhotoSource
from nuwa_lightning.data.preparing import sizes_for
from nuwa_lightning.data.reading import MAX_PIXELS, ImageReadError, image_size
from nuwa_lightning.data.token_bank import Encode, TokenBank, TokenizerLike
from nuwa_lightning.data.token_cache import BankSettings, build_token_bank
from nuwa_lightning.data.token_windows import TokenWindowsModule, Window
from nuwa_lightning.errors import UsageError, some_of

_LOG = logging.getLogger(__name__)
_BANK = BankSettings()


@final
class TokenDataModule(TokenWindowsModule):
    """Windows of the token grids of photos: at random for training, fixed for validation; ``tokens`` have T = 1.

    Args:
        photos: where the photos come from.
        grid: (y, x) of a window in tokens.
        bank: what is encoded of each photo.
        batch_size: windows in a batch, per process.
        steps_per_epoch: batches in an epoch.
        num_workers: processes that cut windows ahead; 0, the default, is enough.
        seed: of the order and the windows.
        max_pixels: limit on the pixels of one photo.
        cache: cache folder; see `nuwa_lightning.data.folders.cache_folder`.

    Raises:
        UsageError: if an option makes no sense.
    """

    noun = "photo"

    def __init__(
        self,
        photos: PhotoSource,
        *,
        grid: tuple[int, int] = (32, 32),
        bank: BankSettings = _BANK,
        batch_size: int = 2,
        steps_per_epoch: int = 200,
        num_workers: int = 0,
        seed: int = 0,
        max_pixels: int = MAX_PIXELS,
        cache: str | None = None,
    ) -> None:
        bank.check()
        super().__init__(
            Window(1, *grid),
            batch_size=batch_size,
            steps_per_epoch=steps_per_epoch,
            num_workers=num_workers,
            seed=seed,
            cache=cache,
        )
        self.photos = photos
        self.settings = bank
        self.max_pixels = max_pixels

    def prepare_source(self) -> None:
        """Fetch the photos."""
        self.photos.prepare()

    def open_bank(self, tokenizer: TokenizerLike, encode: Encode | None) -> TokenBank:
        """See `TokenWindowsModule.open_bank`."""
        self._set_odd_aside(tokenizer.downsample_factor)
        return build_token_bank(
            {"train": self.photos.photos("train"), "val": self.photos.photos("val")},
            tokenizer,
            cache=cache_folder(self.cache),
            settings=self.settings,
            encode=encode,
            max_pixels=self.max_pixels,
            source=self.source_option(),
        )

    def check_sizes(self, factor: int) -> None:
        """Look at the headers of the photos, before there is a tokenizer of ``factor`` pixels a token.

        Raises:
            UsageError: if each that can be read is smaller than a window.
        """
        self._set_odd_aside(factor)
        smaller = False
        for split in SPLITS:
            for photo in self.photos.photos(split):
                fits = self._fits(photo, factor)
                if fits and split == "train":
                    return
                smaller |= fits is False
        if smaller:
            raise self.too_small(factor)

    def _fits(self, photo: Photo, factor: int) -> bool | None:
        """Say whether a window fits into a photo; None if its header cannot be read."""
        try:
            size = image_size(photo.path, max_pixels=self.max_pixels)
        except ImageReadError:
            return None
        shapes = sizes_for(size, self.settings.short_sides, 2 * factor)
        return any(y // factor >= self.window.y and x // factor >= self.window.x for y, x in shapes)

    def _set_odd_aside(self, factor: int) -> None:
        """Hold out other photos where none of those held out can be used, or none of the rest."""
        sides = [self.photos.photos(split) for split in SPLITS]
        if all(not side or any(self._fits(photo, factor) for photo in side) for side in sides):
            return
        total = sum(map(len, sides))
        odd = [photo.path for side in sides for photo in side if not self._fits(photo, factor)]
        if len(odd) < total and self.photos.set_aside(odd):
            named = some_of([str(path) for path in odd])
            _LOG.warning("leaving out %d of %d photos, damaged or too small: %s", len(odd), total, named)

    def captions_by_key(self) -> Mapping[str, str]:
        """Return the captions of the photos."""
        photos = [*self.photos.photos("train"), *self.photos.photos("val")]
        return {photo.key: photo.caption for photo in photos}

    def source_option(self) -> tuple[str, str]:
        """See `PhotoSource.option`."""
        return self.photos.option("train")

    def source_record(self) -> dict[str, object]:
        """See `PhotoSource.record`."""
        return self.photos.record()

    def too_small(self, factor: int) -> UsageError:
        """Return what to raise if no photo is as large as a window."""
        y, x = self.window.y, self.window.x
        return UsageError(
            "data.grid",
            [y, x],
            f"no photo is that large: a window needs {y * factor}x{x * factor} px (height x width) after shrinking to"
            f" one of {list(self.settings.short_sides)}; raise data.bank.short_sides, give larger photos or a smaller"
            " grid",
        )
