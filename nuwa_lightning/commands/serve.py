"""``serve``: a local page on which canvases are looked at, grown and made again in part."""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from nuwa_lightning.commands.plain_parser import PlainParser
from nuwa_lightning.errors import UsageError

_EPILOG = """\
The page shows the canvases of a folder (those that generate --canvas kept, and those that are begun on the page):
  python -m nuwa_lightning serve --checkpoint runs/landscape --canvases canvases
It listens on this machine only. On any other address whoever opens the page needs the token in the address that is
printed; nothing is encrypted, so keep to networks that you trust. It can be killed at any time: what was being made is
gone on with on the page, or by canvas grow --resume.
"""


def parser() -> argparse.ArgumentParser:
    """Return the options of ``serve``."""
    p = PlainParser(
        "python -m nuwa_lightning serve",
        description="Open a page on which canvases are looked at, grown and made again in part.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument("--checkpoint", metavar="RUN", required=True, help="as for generate")
    p.add_argument("--canvases", metavar="FOLDER", default="canvases", help="what holds them (default: canvases)")
    p.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1)")
    p.add_argument("--port", type=int, default=7000, help="0 for any that is free (default: 7000)")
    p.add_argument("--own", metavar="CLASS", action="append", default=[], help="as for generate")
    p.add_argument("--threads", type=int, default=1, help="as for generate")
    p.add_argument("--max_pixels", type=int, help="as for generate, of images that canvases hold")
    return p


def serve(arguments: Sequence[str]) -> int:
    """Run ``serve``; returns the exit status."""
    options = parser().parse_args(arguments)
    if not 0 <= options.port < 1 << 16:
        raise UsageError("--port", options.port, "give a number from 0 to 65535")
    folder = Path(options.canvases)
    if (folder / "canvas.json").is_file():
        raise UsageError("--canvases", folder, "is a canvas itself: name the folder that holds it")
    try:
        from nuwa_lightning.serve.app import Page, Server
    except ModuleNotFoundError as error:
        hint = "is needed for the page and not installed: pip install 'nuwa-lightning[serve]'"
        raise UsageError("serve", error.name, hint) from None
    import socket

    from nuwa_lightning.commands.generate import import_own
    from nuwa_lightning.hub import find_run
    from nuwa_lightning.pipeline import NuwaInfinityPipeline
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
        pipe = NuwaInfinityPipeline.from_folder(run, own=[import_own(p) for p in options.own], name=options.checkpoint)
        pipe.threads = options.threads
        token = None if is_loopback(options.host) else secrets.token_urlsafe(24)
        page = Page(pipe, folder, max_pixels=options.max_pixels)
        host = f"[{options.host}]" if ":" in options.host else options.host
        port = listening.getsockname()[1]
        sys.stderr.write(f"http://{host}:{port}/{f'?token={token}' if token else ''}\n")
        sys.stderr.flush()
        Server(page, host=options.host, token=token).run(sockets=[listening])
    return 0
