"""Samples and what lies nearest to them, as one small image for a report."""

import base64
import io
from collections.abc import Sequence
from typing import Final

from evaluation.images import Pixels

_SIDE: Final = 128
_GAP: Final = 4


def two_rows(upper: Sequence[Pixels], lower: Sequence[Pixels]) -> str:
    """Return two rows of images, each brought into a square of 128 pixels, as a JPEG in base64."""
    from PIL import Image, ImageOps

    sheet = Image.new("RGB", (len(upper) * (_SIDE + _GAP) - _GAP, 2 * _SIDE + _GAP), "white")
    for row, images in enumerate((upper, lower)):
        for column, pixels in enumerate(images):
            small = ImageOps.pad(Image.fromarray(pixels), (_SIDE, _SIDE), color="white")
            sheet.paste(small, (column * (_SIDE + _GAP), row * (_SIDE + _GAP)))
    out = io.BytesIO()
    sheet.save(out, "JPEG", quality=85)
    return base64.b64encode(out.getvalue()).decode("ascii")
