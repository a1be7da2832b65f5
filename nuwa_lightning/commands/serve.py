"""``serve``: a local page on which canvases are looked at, grown and made again in part."""

import functools
import secrets
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nuwa_lightning.commands.options import ModelOptions, parse
from nuwa_lightning.errors import UsageError
from nuwa_lightning.hub import find_run

_EPILOG: Final = """\
The page shows the canvases of a folder (those that generate --canvas kept, and those that are begun on the page):
  python -m nuwa_lightning serve --checkpoint runs/landscape --canvases canvases
  python -m nuwa_lightning serve --demo
It listens on this machine only. On any other address whoever opens the page needs the token in the address that is
printed; nothing is encrypted, so keep to networks that you trust. It can be killed at any time: what was being made is
gone on with on the page, or by canvas grow --resume.
"""


@dataclass(frozen=True, kw_only=True)
class Options(ModelOptions):
    """The page.

    Args:
        canvases: folder that holds them
        demo: begin a canvas, in a folder that is gone at the end
        host: the address to listen on
        port: 0 for any that is free
    """

    canvases: Path = Path("canvases")
    demo: bool = False
    host: str = "127.0.0.1"
    port: int = 7000


def serve(arguments: Sequence[str]) -> int:
    """Run ``serve``; returns the exit status."""
    about = "Open a page on which canvases are looked at, grown and made again in part."
    options = parse(Options, "python -m nuwa_lightning serve", arguments, about=about, epilog=_EPILOG)
    if not 0 <= options.port < 1 << 16:
        raise UsageError("--port", options.port, "give a number from 0 to 65535")
    with tempfile.TemporaryDirectory(prefix="canvases-") as temporary:
        return _serve(options, Path(temporary) if options.demo else options.canvases)


def _serve(options: Options, folder: Path) -> int:
    if (folder / "canvas.json").is_file():
        raise UsageError("--canvases", folder, "is a canvas itself: name the folder that holds it")
    try:
        from nuwa_lightning.serve.app import Page, Server
    except ModuleNotFoundError as error:
        hint = "is needed for the page and not installed: pip install 'nuwa-lightning[serve]'"
        raise UsageError("serve", error.name, hint) from None
    import socket

    from nuwa_lightning.commands.generate import load
    from nuwa_lightning.request import GenerationRequest
    from nuwa_lightning.request_fields import Size
    from nuwa_lightning.serve.guard import is_loopback

    run = find_run(options.checkpoint)
    try:
        folder.mkdir(exist_ok=True)
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        listening = socket.create_server((options.host, options.port), family=family)
    except OSError as error:
        there = isinstance(error.filename, str)
        option, value = ("--canvases", folder) if there else ("--port", f"{options.host}:{options.port}")
        hint = f"cannot be used ({error.strerror or error}): name another"
        raise UsageError(option, value, hint) from None
    with listening:
        token = None if is_loopback(options.host) else secrets.token_urlsafe(24)
        first = GenerationRequest(size=Size(1024, 512), unprompted=True) if options.demo else None
        page = Page(functools.partial(load, options, run), folder, max_pixels=options.max_pixels, first=first)
        host = f"[{options.host}]" if ":" in options.host else options.host
        port = listening.getsockname()[1]
        sys.stderr.write(f"http://{host}:{port}/{f'?token={token}' if token else ''}\n")
        sys.stderr.flush()
        Server(page, host=options.host, token=token).run(sockets=[listening])
    return 0
