"""Firefox without a window, spoken to by its own protocol (Marionette), which needs no driver."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
_PREFERENCES = {
    "marionette.port": 0,  # any that is free
    "app.update.enabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "network.captive-portal-service.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "privacy.resistFingerprinting": False,
    "devtools.console.stdout.content": True,
}


class Firefox:
    """A window of it."""

    def __init__(self, port: int) -> None:
        self._socket, self._number = socket.create_connection(("127.0.0.1", port), timeout=600), 0
        self._file = self._socket.makefile("rb")
        self._read()  # it says who it is
        self.version = self("NewSession", {})["capabilities"]["browserVersion"]
        self("SetTimeouts", {"script": 600_000, "pageLoad": 600_000})

    def __call__(self, name: str, options: dict[str, Any]) -> Any:
        self._number += 1
        data = json.dumps([0, self._number, f"WebDriver:{name}", options]).encode()
        self._socket.sendall(b"%d:%s" % (len(data), data))
        _, number, error, result = self._read()
        assert number == self._number
        assert error is None, error
        return result

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def _read(self) -> Any:
        length = b""
        while not length.endswith(b":"):
            length += self._file.read(1)
        return json.loads(self._file.read(int(length[:-1])))

    def run(self, function: str, *given: Any) -> Any:
        """Return what a function of the page returns, or promises."""
        script = (
            f"const done = arguments[arguments.length - 1]; Promise.resolve(({function})(...arguments)).then(done);"
        )
        return self("ExecuteAsyncScript", {"script": script, "args": given, "sandbox": None})["value"]

    def until(self, condition: str, seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while not self.run(f"() => Boolean({condition})"):
            assert time.monotonic() < end, (condition, self.run("() => document.getElementById('say').textContent"))
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        self("ElementClick", {"id": self._element(selector)})

    def fill(self, selector: str, text: str) -> None:
        self("ElementClear", {"id": self._element(selector)})
        self("ElementSendKeys", {"id": self._element(selector), "text": text})

    def _element(self, selector: str) -> str:
        (found,) = self("FindElement", {"using": "css selector", "value": selector})["value"].values()
        return str(found)

    def keys(self, *names: str) -> None:
        """Press keys together, and let them go."""
        actions = [{"type": kind, "value": name} for kind in ("keyDown", "keyUp") for name in names]
        self("PerformActions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def drag(self, *points: tuple[float, float]) -> None:
        """Press at the first point of the window, go along the others, and let go."""
        moves = [{"type": "pointerMove", "x": round(x), "y": round(y), "duration": 20} for x, y in points]
        down, up = ({"type": kind, "button": 0} for kind in ("pointerDown", "pointerUp"))
        actions = [moves[0], down, *moves[1:], up]
        pointer = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": actions}
        self("PerformActions", {"actions": [pointer]})


@contextmanager
def firefox(width: int, height: int) -> Iterator[Firefox]:
    """Yield a window of a Firefox that has a profile of its own."""
    assert FIREFOX is not None
    with tempfile.TemporaryDirectory() as profile:
        lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in _PREFERENCES.items()]
        (Path(profile) / "user.js").write_text("\n".join(lines))
        words = [FIREFOX, "--headless", "--marionette", "--no-remote", "--profile", profile]
        size = [f"--width={width}", f"--height={height}"]
        with subprocess.Popen([*words, *size], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                port, end = Path(profile) / "MarionetteActivePort", time.monotonic() + 300
                while not (port.exists() and port.read_text()):
                    assert time.monotonic() < end
                    assert process.poll() is None
                    time.sleep(0.1)
                opened = Firefox(int(port.read_text()))
                opened("SetWindowRect", {"width": width, "height": height})
                yield opened
                opened.close()
            finally:
                process.terminate()
                process.wait(60)
