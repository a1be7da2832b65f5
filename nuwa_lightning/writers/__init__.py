"""Writers of canvases that may be larger than the memory, and of videos that may be longer."""

from __future__ import annotations

from nuwa_lightning.writers.base import CanvasWriter, ImageSource, ImageWriter, Writer
from nuwa_lightning.writers.deep_zoom import DeepZoomWriter
from nuwa_lightning.writers.files import IMAGE_WRITERS, write_image, write_video
from nuwa_lightning.writers.frames import FramesWriter
from nuwa_lightning.writers.gif import GifWriter
from nuwa_lightning.writers.jpeg import JpegWriter
from nuwa_lightning.writers.metadata import read_metadata
from nuwa_lightning.writers.mp4 import Mp4Writer
from nuwa_lightning.writers.ome_zarr import OmeZarrWriter
from nuwa_lightning.writers.opening import (
    VIDEO_WRITERS,
    WRITERS,
    check_format,
    check_output,
    open_video_writer,
    open_writer,
)
from nuwa_lightning.writers.output import Output
from nuwa_lightning.writers.png import PngWriter
from nuwa_lightning.writers.tiff import TiffWriter
from nuwa_lightning.writers.video import VideoWriter
from nuwa_lightning.writers.webp import WebpWriter

__all__ = [
    "IMAGE_WRITERS",
    "VIDEO_WRITERS",
    "WRITERS",
    "CanvasWriter",
    "DeepZoomWriter",
    "FramesWriter",
    "GifWriter",
    "ImageSource",
    "ImageWriter",
    "JpegWriter",
    "Mp4Writer",
    "OmeZarrWriter",
    "Output",
    "PngWriter",
    "TiffWriter",
    "VideoWriter",
    "WebpWriter",
    "Writer",
    "check_format",
    "check_output",
    "open_video_writer",
    "open_writer",
    "read_metadata",
    "write_image",
    "write_video",
]
