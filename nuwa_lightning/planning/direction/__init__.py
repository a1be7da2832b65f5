"""In which order are patches written? One file a strategy; pure Python."""

from nuwa_lightning.planning.direction.arbitrary import ArbitraryDirectionController
from nuwa_lightning.planning.direction.base import DirectionController, Step
from nuwa_lightning.planning.direction.outward import OutwardDirectionController
from nuwa_lightning.planning.direction.raster import RasterDirectionController
from nuwa_lightning.planning.direction.spiral import SpiralDirectionController

__all__ = [
    "ArbitraryDirectionController",
    "DirectionController",
    "OutwardDirectionController",
    "RasterDirectionController",
    "SpiralDirectionController",
    "Step",
]
