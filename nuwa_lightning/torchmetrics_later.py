"""Lightning without most of torchmetrics: two classes of it, instead of metrics that bring SciPy, torchvision and more.

That takes a third of the time in which a command that trains would start.
"""

import importlib
import importlib.util
import logging
import sys
from importlib.metadata import version
from types import ModuleType
from typing import Any, Final

_NAME: Final = "torchmetrics"
_NEEDED: Final = {"Metric": "metric", "MetricCollection": "collections"}


class _Later(ModuleType):
    """Has what Lightning needs; the whole package is imported in its place when anything else is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name in _NEEDED:
            importlib.import_module(f"{_NAME}.utilities")  # it and the classes import each other: in this order
            return getattr(importlib.import_module(f"{_NAME}.{_NEEDED[name]}"), name)
        if self.__spec__ is None or self.__spec__.loader is None or name[:2] == "__":
            raise AttributeError(f"module {_NAME!r} has no attribute {name!r}")
        self.__class__ = ModuleType  # type: ignore[assignment]  # as importlib.util.LazyLoader ends
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def import_torchmetrics_later() -> None:
    """Let the next ``import torchmetrics`` cost little; it has no effect where that has happened."""
    spec = None if _NAME in sys.modules else importlib.util.find_spec(_NAME)
    if spec is not None:
        sys.modules[_NAME] = module = importlib.util.module_from_spec(spec)
        module.__class__ = _Later
        # Lightning looks at the version, and its own parts take the logger from here.
        vars(module).update(__version__=version(_NAME), _logger=logging.getLogger(_NAME))
