"""What the commands put off of torchmetrics is there when it is asked for."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
from nuwa_lightning.torchmetrics_later import import_torchmetrics_later
import_torchmetrics_later()
import nuwa_lightning.commands.training
found = {"torchvision", "transformers", "scipy"} & set(sys.modules)
assert not found, found
import torchmetrics, lightning.pytorch.core.module as module
from torchmetrics.classification import BinaryAccuracy
assert issubclass(torchmetrics.MeanMetric, torchmetrics.Metric) and issubclass(BinaryAccuracy, module.Metric)
assert torchmetrics.functional.accuracy and torchmetrics.MetricCollection is module.MetricCollection
assert type(torchmetrics) is type(sys)
import_torchmetrics_later()
assert type(sys.modules["torchmetrics"]) is type(sys)
"""


def test_training_imports_little_of_it_and_anybody_all_of_it(repository: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
