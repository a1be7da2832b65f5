"""A process that has everything imported and forks a child for each command, so that killing one costs little.

Each line of standard input is a JSON object: ``arguments`` of the command line, ``at`` None or the number of the call
of ``fsync``, ``replace`` or ``unlink`` at which the child gets a signal, and ``number``, which one. The answer is the
child's process id. With ``full`` the disk is full from that call on instead; with ``room`` no file grows beyond so many
bytes; ``program`` is ``evaluation`` for its commands. When "wait" comes instead, the answer is its exit status
(negative: the signal).
"""

from __future__ import annotations

import errno
import importlib
import itertools
import json
import os
import resource
import sys
import warnings
from collections.abc import Callable
from typing import Any


def armed(function: Callable[..., Any], calls: itertools.count[int], at: int, number: int) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == at:
            os.kill(os.getpid(), number)
        return function(*args, **kwargs)

    return call


def filled(function: Callable[..., Any], calls: itertools.count[int], at: int) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if next(calls) >= at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return function(*args, **kwargs)

    return call


def child(
    arguments: list[str],
    at: int | None,
    number: int,
    full: bool = False,
    room: int | None = None,
    program: str = "nuwa_lightning",
) -> int:
    main = importlib.import_module({"evaluation": "evaluation.__main__"}.get(program, f"{program}.cli")).main

    if room is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    if full and at is not None:
        calls = itertools.count()
        for name in ("fsync", "mkdir"):
            setattr(os, name, filled(getattr(os, name), calls, at))
    elif at is not None:
        calls = itertools.count()
        for name in ("fsync", "replace", "unlink"):
            setattr(os, name, armed(getattr(os, name), calls, at, number))
    return int(main(arguments))


def serve() -> None:
    warnings.simplefilter("ignore")
    sys.path.append(os.getcwd())  # as ``python -m`` has it
    import tifffile  # noqa: F401
    import torch
    import torch._dynamo  # building a model without memory imports it: once here, not in every child

    import nuwa_lightning.commands.making
    import nuwa_lightning.generation.pretrained
    import nuwa_lightning.tokenizers.pretrained

    if "train" in sys.argv:
        import nuwa_lightning.commands.training  # noqa: F401

    torch.set_num_threads(1)
    pid = 0
    for line in sys.stdin:
        if line.strip() == "wait":
            answer = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        else:
            request = json.loads(line)
            pid = os.fork()
            if not pid:
                status = 1
                os.dup2(2, 1)  # answers go to standard output
                try:
                    status = child(**request)
                finally:
                    sys.stderr.flush()
                    os._exit(status)
            answer = pid
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
