"""What may a patch look at? One file a strategy; pure Python."""

from nuwa_lightning.context.base import ContextPool
from nuwa_lightning.context.canvas import CanvasPool
from nuwa_lightning.context.empty import EmptyContextPool
from nuwa_lightning.context.full import FullContextPool
from nuwa_lightning.context.nearby import NearbyContextPool
from nuwa_lightning.context.recency import RecencyContextPool

__all__ = [
    "CanvasPool",
    "ContextPool",
    "EmptyContextPool",
    "FullContextPool",
    "NearbyContextPool",
    "RecencyContextPool",
]
