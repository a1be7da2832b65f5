"""Our own classes by option, for help and suggestions."""

from typing import Any

from nuwa_lightning.callbacks.reconstruction_sheet import ReconstructionSheet
from nuwa_lightning.callbacks.sample_sheet import SampleSheet
from nuwa_lightning.commands.tokenizer import CoarseSource, TokenizerSource
from nuwa_lightning.data.giant_image import GiantImage
from nuwa_lightning.data.image_folder import ImageFolderDataModule, LandscapeDataModule, PhotosDataModule
from nuwa_lightning.data.landscape_clips import LandscapeClips
from nuwa_lightning.data.landscape_photos import LandscapePhotos
from nuwa_lightning.data.library_photos import HuggingFacePhotos, LitdataPhotos, WebDatasetPhotos
from nuwa_lightning.data.photos import FolderPhotos
from nuwa_lightning.data.shard_data import TokenShardsDataModule
from nuwa_lightning.data.synthetic_landscapes import SyntheticLandscapes
from nuwa_lightning.data.synthetic_videos import SyntheticVideos
from nuwa_lightning.data.token_clips import TokenClipsDataModule
from nuwa_lightning.data.token_data import TokenDataModule
from nuwa_lightning.data.video_data import LandscapeClipsDataModule, VideoFolderDataModule, VideosDataModule
from nuwa_lightning.data.videos import FolderVideos
from nuwa_lightning.text import ClipTextEncoder, HuggingFaceTextEncoder, MiniLMTextEncoder
from nuwa_lightning.training.nuwa_module import NuwaInfinityModule
from nuwa_lightning.training.pixel_guided_module import PixelGuidedModule
from nuwa_lightning.training.vqgan_module import VQGANModule


def known_classes() -> dict[str, list[type[Any]]]:
    """Return our own classes by option, for help and suggestions."""
    return {
        "model": [NuwaInfinityModule, VQGANModule, PixelGuidedModule],
        "data": [
            TokenDataModule,
            TokenClipsDataModule,
            TokenShardsDataModule,
            LandscapeDataModule,
            ImageFolderDataModule,
            PhotosDataModule,
            VideoFolderDataModule,
            LandscapeClipsDataModule,
            VideosDataModule,
        ],
        "data.photos": [
            FolderPhotos,
            LandscapePhotos,
            SyntheticLandscapes,
            GiantImage,
            HuggingFacePhotos,
            WebDatasetPhotos,
            LitdataPhotos,
        ],
        "data.videos": [FolderVideos, LandscapeClips, SyntheticVideos],
        "model.conditions.text_encoder": [MiniLMTextEncoder, ClipTextEncoder, HuggingFaceTextEncoder],
        "tokenizer": [TokenizerSource],
        "coarse": [CoarseSource],
        "trainer.callbacks": [SampleSheet, ReconstructionSheet],
    }
