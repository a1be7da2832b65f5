"""Photos: reading, fetching, splitting, views for training, and the cache of tokens.

Names are imported on first use, so that reading an image does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from nuwa_lightning.data.crops import CropSettings
    from nuwa_lightning.data.giant_image import GiantImage
    from nuwa_lightning.data.image_folder import (
        ImageFolderDataModule,
        LandscapeDataModule,
        PhotosDataModule,
    )
    from nuwa_lightning.data.iterable_photos import IterablePhotos
    from nuwa_lightning.data.landscape_clips import LandscapeClips
    from nuwa_lightning.data.landscape_photos import LandscapePhotos
    from nuwa_lightning.data.photos import FolderPhotos, Photo, PhotoSource
    from nuwa_lightning.data.reading import ImageReadError, list_images, read_image
    from nuwa_lightning.data.synthetic_landscapes import SyntheticLandscapes
    from nuwa_lightning.data.synthetic_videos import SyntheticVideos
    from nuwa_lightning.data.token_bank import TokenBank
    from nuwa_lightning.data.token_clips import TokenClipsDataModule
    from nuwa_lightning.data.token_data import TokenDataModule, build_token_bank
    from nuwa_lightning.data.video_data import LandscapeClipsDataModule, VideoFolderDataModule, VideosDataModule
    from nuwa_lightning.data.videos import FolderVideos, Video, VideoSource

__all__ = [
    "CropSettings",
    "FolderPhotos",
    "FolderVideos",
    "GiantImage",
    "ImageFolderDataModule",
    "ImageReadError",
    "IterablePhotos",
    "LandscapeClips",
    "LandscapeClipsDataModule",
    "LandscapeDataModule",
    "LandscapePhotos",
    "Photo",
    "PhotoSource",
    "PhotosDataModule",
    "SyntheticLandscapes",
    "SyntheticVideos",
    "TokenBank",
    "TokenClipsDataModule",
    "TokenDataModule",
    "Video",
    "VideoFolderDataModule",
    "VideoSource",
    "VideosDataModule",
    "build_token_bank",
    "list_images",
    "read_image",
]

_HOMES: Final = {
    "giant_image": ("GiantImage",),
    "image_folder": ("ImageFolderDataModule", "LandscapeDataModule", "PhotosDataModule"),
    "iterable_photos": ("IterablePhotos",),
    "landscape_clips": ("LandscapeClips",),
    "landscape_photos": ("LandscapePhotos",),
    "photos": ("FolderPhotos", "Photo", "PhotoSource"),
    "reading": ("ImageReadError", "list_images", "read_image"),
    "synthetic_videos": ("SyntheticVideos",),
    "synthetic_landscapes": ("SyntheticLandscapes",),
    "token_bank": ("TokenBank",),
    "token_clips": ("TokenClipsDataModule",),
    "token_data": ("TokenDataModule", "build_token_bank"),
    "video_data": ("LandscapeClipsDataModule", "VideoFolderDataModule", "VideosDataModule"),
    "videos": ("FolderVideos", "Video", "VideoSource"),
    "crops": ("CropSettings",),
}


def __getattr__(name: str) -> Any:
    """Import the module that ``name`` lives in."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"nuwa_lightning.data.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
