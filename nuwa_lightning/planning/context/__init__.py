"""What may a patch look at? One file a strategy; pure Python."""

from nuwa_lightning.planning.context.base import CanvasPool, ContextPool
from nuwa_lightning.planning.context.empty import EmptyContextPool
from nuwa_lightning.planning.context.full import FullContextPool
from nuwa_lightning.planning.context.nearby import NearbyContextPool
from nuwa_lightning.planning.context.recency import RecencyContextPool

__all__ = [
    "CanvasPool",
    "ContextPool",
    "EmptyContextPool",
    "FullContextPool",
    "NearbyContextPool",
    "RecencyContextPool",
]
