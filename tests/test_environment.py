"""Records name what is installed and what is not."""

from __future__ import annotations

import importlib.metadata
import os
import platform

from nuwa_lightning.environment import machine, versions


def test_versions_of_what_is_there() -> None:
    found = versions(["torch", "no-such-package"])
    assert found == {
        "python": platform.python_version(), "torch": importlib.metadata.version("torch"), "no-such-package": "absent"
    }  # fmt: skip


def test_machine() -> None:
    found = machine()
    assert found["cores"] == os.cpu_count()
    assert found["cpu"] not in ("", "unknown")
    assert platform.release() in found["system"]
