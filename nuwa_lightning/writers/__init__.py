"""Writers of images that may be larger than the memory, and of videos that may be longer."""

from nuwa_lightning.writers.base import ImageSource, ImageWriter, Pixels, VideoWriter, Writer
from nuwa_lightning.writers.files import (
    IMAGE_WRITERS,
    VIDEO_WRITERS,
    check_format,
    check_output,
    read_metadata,
    sweep,
    write_image,
    write_video,
)
from nuwa_lightning.writers.ome import OmeZarrWriter
from nuwa_lightning.writers.videos import FramesWriter, GifWriter, Mp4Writer, WebpVideoWriter
from nuwa_lightning.writers.vips import DeepZoomWriter, JpegWriter, PngWriter, TiffWriter, WebpWriter

__all__ = [
    "IMAGE_WRITERS",
    "VIDEO_WRITERS",
    "DeepZoomWriter",
    "FramesWriter",
    "GifWriter",
    "ImageSource",
    "ImageWriter",
    "JpegWriter",
    "Mp4Writer",
    "OmeZarrWriter",
    "Pixels",
    "PngWriter",
    "TiffWriter",
    "VideoWriter",
    "WebpVideoWriter",
    "WebpWriter",
    "Writer",
    "check_format",
    "check_output",
    "read_metadata",
    "sweep",
    "write_image",
    "write_video",
]
