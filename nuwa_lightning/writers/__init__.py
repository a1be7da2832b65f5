"""Writers of canvases that may be larger than the memory."""

from __future__ import annotations

from nuwa_lightning.writers.base import CanvasWriter
from nuwa_lightning.writers.deep_zoom import DeepZoomWriter
from nuwa_lightning.writers.jpeg import JpegWriter
from nuwa_lightning.writers.metadata import read_metadata
from nuwa_lightning.writers.ome_zarr import OmeZarrWriter
from nuwa_lightning.writers.opening import WRITERS, check_output, open_writer
from nuwa_lightning.writers.png import PngWriter
from nuwa_lightning.writers.tiff import TiffWriter

__all__ = [
    "WRITERS",
    "CanvasWriter",
    "DeepZoomWriter",
    "JpegWriter",
    "OmeZarrWriter",
    "PngWriter",
    "TiffWriter",
    "check_output",
    "open_writer",
    "read_metadata",
]
