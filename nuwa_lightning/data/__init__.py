"""Photos: reading, fetching, splitting, views for training, and the cache of tokens.

Names are imported on first use, so that reading an image does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from nuwa_lightning.data.crops import CropSettings as CropSettings
    from nuwa_lightning.data.giant_image import GiantImage as GiantImage
    from nuwa_lightning.data.image_folder import ImageFolderDataModule as ImageFolderDataModule
    from nuwa_lightning.data.image_folder import LandscapeDataModule as LandscapeDataModule
    from nuwa_lightning.data.image_folder import PhotosDataModule as PhotosDataModule
    from nuwa_lightning.data.iterable_photos import IterablePhotos as IterablePhotos
    from nuwa_lightning.data.landscape_clips import LandscapeClips as LandscapeClips
    from nuwa_lightning.data.landscape_photos import LandscapePhotos as LandscapePhotos
    from nuwa_lightning.data.library_photos import HuggingFacePhotos as HuggingFacePhotos
    from nuwa_lightning.data.library_photos import LitdataPhotos as LitdataPhotos
    from nuwa_lightning.data.library_photos import WebDatasetPhotos as WebDatasetPhotos
    from nuwa_lightning.data.photos import FolderPhotos as FolderPhotos
    from nuwa_lightning.data.photos import Photo as Photo
    from nuwa_lightning.data.photos import PhotoSource as PhotoSource
    from nuwa_lightning.data.reading import ImageReadError as ImageReadError
    from nuwa_lightning.data.reading import list_images as list_images
    from nuwa_lightning.data.reading import read_image as read_image
    from nuwa_lightning.data.shard_data import TokenShardsDataModule as TokenShardsDataModule
    from nuwa_lightning.data.synthetic_landscapes import SyntheticLandscapes as SyntheticLandscapes
    from nuwa_lightning.data.synthetic_videos import SyntheticVideos as SyntheticVideos
    from nuwa_lightning.data.token_bank import TokenBank as TokenBank
    from nuwa_lightning.data.token_clips import TokenClipsDataModule as TokenClipsDataModule
    from nuwa_lightning.data.token_data import TokenDataModule as TokenDataModule
    from nuwa_lightning.data.token_data import build_token_bank as build_token_bank
    from nuwa_lightning.data.video_data import LandscapeClipsDataModule as LandscapeClipsDataModule
    from nuwa_lightning.data.video_data import VideoFolderDataModule as VideoFolderDataModule
    from nuwa_lightning.data.video_data import VideosDataModule as VideosDataModule
    from nuwa_lightning.data.videos import FolderVideos as FolderVideos
    from nuwa_lightning.data.videos import Video as Video
    from nuwa_lightning.data.videos import VideoSource as VideoSource

_HOMES: Final = {
    "giant_image": ("GiantImage",),
    "image_folder": ("ImageFolderDataModule", "LandscapeDataModule", "PhotosDataModule"),
    "iterable_photos": ("IterablePhotos",),
    "landscape_clips": ("LandscapeClips",),
    "landscape_photos": ("LandscapePhotos",),
    "library_photos": ("HuggingFacePhotos", "LitdataPhotos", "WebDatasetPhotos"),
    "photos": ("FolderPhotos", "Photo", "PhotoSource"),
    "reading": ("ImageReadError", "list_images", "read_image"),
    "shard_data": ("TokenShardsDataModule",),
    "synthetic_videos": ("SyntheticVideos",),
    "synthetic_landscapes": ("SyntheticLandscapes",),
    "token_bank": ("TokenBank",),
    "token_clips": ("TokenClipsDataModule",),
    "token_data": ("TokenDataModule", "build_token_bank"),
    "video_data": ("LandscapeClipsDataModule", "VideoFolderDataModule", "VideosDataModule"),
    "videos": ("FolderVideos", "Video", "VideoSource"),
    "crops": ("CropSettings",),
}


_HOME: Final = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    """Import the module that ``name`` lives in."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"nuwa_lightning.data.{_HOME[name]}"), name)
