"""Options of commands that need no more than argparse: errors are one line."""

from __future__ import annotations

import argparse
import re
from typing import NoReturn

from nuwa_lightning.errors import UsageError


class PlainParser(argparse.ArgumentParser):
    """A parser whose errors are one line; arguments as argparse's."""

    def error(self, message: str) -> NoReturn:
        """Raise a UsageError."""
        command = self.prog.split()[3]
        found = re.match(r"argument ([^:]+): (.*)", message, re.DOTALL)
        option, what = found.groups() if found else (command, message)
        raise UsageError(option, "cannot be used so", f"{' '.join(what.split())}; see {command} --help")
