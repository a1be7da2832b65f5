"""Who may ask: hosts, origins, tokens, bodies; and what every answer says to the browser."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from nuwa_lightning.serve import guard
from nuwa_lightning.serve.library import UPLOAD_BYTES
from tests.canvas.editable import tiny
from tests.serve.served import Served, serving

JSON = {"content_type": "application/json"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    with serving(tiny(), tmp_path_factory.mktemp("canvases")) as served:
        yield served


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/api/state", "/nothing", "/api/canvases/0/tiles/0/0/0"])
def test_every_answer_binds_the_browser(server: Served, path: str) -> None:
    _, _, headers = server.ask("GET", path)
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers


def test_the_page_names_nothing_outside(server: Served) -> None:
    for path in ["/", *(f"/static/{file.name}" for file in Path(guard.__file__).with_name("static").iterdir())]:
        status, body, _ = server.ask("GET", path)
        text = body.decode().replace("http://www.w3.org/2000/svg", "")
        assert status == 200
        assert "http://" not in text
        assert "https://" not in text
        assert "innerHTML" not in text


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "localhost.evil.example", "", "[", "127.0.0.1@x"])
def test_another_name_is_refused(server: Served, host: str) -> None:
    assert server.ask("GET", "/api/state", host=host)[0] in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:9"])
def test_names_of_this_machine_are_taken(server: Served, host: str) -> None:
    assert server.ask("GET", "/api/state", host=host)[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1", "http://localhost:1", "x"])
def test_another_page_is_refused(server: Served, origin: str) -> None:
    status, body, _ = server.ask("POST", "/api/canvases", b"{}", origin=origin, **JSON)
    assert (status, body) == (403, b"origin: another page asked for this")
    assert server.ask("GET", "/api/state", sec_fetch_site="cross-site", sec_fetch_mode="cors")[0] == 403
    assert server.ask("POST", "/api/canvases", b"{}", sec_fetch_site="same-site", **JSON)[0] == 403


def test_its_own_page_is_taken(server: Served) -> None:
    own = f"http://127.0.0.1:{server.port}"
    assert server.ask("POST", "/api/canvases", b"{}", origin=own, **JSON)[0] == 400
    assert server.ask("GET", "/", sec_fetch_site="cross-site", sec_fetch_mode="navigate")[0] == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH"])
def test_other_methods_are_refused(server: Served, method: str) -> None:
    assert server.ask(method, "/api/canvases")[0] == 403


def test_changes_come_by_post_as_json_alone(server: Served) -> None:
    wish = json.dumps({"width": 8, "height": 8}).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        assert server.ask("POST", "/api/canvases", wish, content_type=kind)[0] == 415
    for path in ("/api/canvases", "/api/canvases/0/grow", "/api/jobs/1/stop", "/api/images"):
        assert server.ask("GET", path)[0] in (404, 405)
    assert server.get("/api/state")["canvases"] == []


@pytest.mark.parametrize("body", [b"{", b"[[" * 50_000, b"\xff\xfe", b'"x"', b"7", b'{"width": 1' + b"0" * 5000 + b"}"])
def test_strange_bodies_are_one_line(server: Served, body: bytes) -> None:
    status, answer, _ = server.ask("POST", "/api/canvases", body, **JSON)
    assert status in (400, 413)
    assert set(json.loads(answer)) == {"error"}


def test_uploads_have_limits(server: Served, tmp_path: Path) -> None:
    def sent(data: bytes, kind: str = "image/png", name: str = "x") -> tuple[int, str]:
        status, body, _ = server.ask("POST", f"/api/images?name={name}", data, content_type=kind)
        return status, json.loads(body).get("error", "")

    bomb = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(bomb, "PNG")
    assert sent(b"x" * 10, "text/plain")[0] == 415
    assert sent(b"GIF89a" + b"x" * 10) == (400, "image: x: is none that is taken here: give PNG, JPEG, WebP")
    assert sent(b"<svg/>", "image/svg+xml")[0] == 400
    status, line = sent(b"\x89PNG\r\n\x1a\n" + b"x" * 100, name="..%2F..%2Fa%0Ab")
    assert status == 400
    assert line.startswith("image: .._.._a_b: ")
    status, line = sent(bomb.getvalue())
    assert (status, "make it smaller" in line) == (400, True)
    assert sent(b"\x89PNG\r\n\x1a\n" + bytes(UPLOAD_BYTES))[0] == 413


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd", "/api/jobs/1/file",
        "/api/canvases/..%2f..%2fetc/tiles/0/0/0", "/api/canvases/%00", "/api/jobs/../file",
    ],
)  # fmt: skip
def test_no_path_leads_out(server: Served, path: str) -> None:
    status, body, _ = server.ask("GET", path)
    assert status in (400, 404)
    assert b"import" not in body
    assert b"root:" not in body


@pytest.mark.parametrize("tile", ["0/1e9/0", "99/0/0", "0/x/0", "0/0/99999999999", "-1/0/0", "0/0/0?t=1", "0/0/0?t=x"])
def test_tiles_that_cannot_be_are_one_line(server: Served, tile: str) -> None:
    canvas = server.new(width=8, height=8)
    status, body, _ = server.ask("GET", f"/api/canvases/{canvas}/tiles/{tile}")
    assert status == 400
    assert json.loads(body)["error"].count("\n") == 0


def test_elsewhere_a_token_is_asked_for(tmp_path: Path) -> None:
    with serving(tiny(), tmp_path, host="0.0.0.0", token="the-token") as server:
        assert server.ask("GET", "/")[0] == 403
        assert server.ask("GET", "/static/app.js")[0] == 403
        assert server.ask("GET", "/api/state?token=another")[0] == 403
        assert server.ask("GET", "/api/state", cookie="nuwa_token=another")[0] == 403
        assert server.ask("GET", "/api/state", cookie="nuwa_token=the-token")[0] == 200
        assert server.ask("GET", "/api/state?token=the-token", host="192.168.1.7:80")[0] == 200
        assert server.ask("GET", "/api/state?token=the-token", host="evil.example")[0] == 403
        status, _, headers = server.ask("GET", "/?token=the-token")
        assert (status, headers["location"]) == (303, "/")
        assert headers["set-cookie"] == "nuwa_token=the-token; HttpOnly; SameSite=Strict; Path=/"


@pytest.mark.parametrize(
    ("host", "here"), [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
                       ("192.168.1.1", False), ("localhost.x", False), ("", False)]
)  # fmt: skip
def test_loopback(host: str, here: bool) -> None:
    assert guard.is_loopback(host) is here
