"""Who may ask: this machine, or whoever has the token; no other page (ours).

A page of somebody else that is open in the same browser can send requests here. It cannot name this host in ``Host``
after DNS rebinding, has an ``Origin`` of its own, and cannot send JSON without asking first, which is never granted.
"""

import ipaddress
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final, final
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE: Final = "nuwa_token"
HEADERS: Final = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Say whether an address is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@final
class Guard:
    """Refuses requests before anything reads them."""

    def __init__(self, app: App, *, host: str, token: str | None) -> None:
        self._app, self._host, self._token = app, host, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}

        async def marked(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                more = [(n.encode(), v.encode()) for n, v in HEADERS.items() if n.encode() not in there]
                message["headers"] = [*message["headers"], *more]
            await send(message)

        query = parse_qs(scope["query_string"].decode("latin-1"))
        refused = self._refused(scope["method"], headers, query)
        if refused:
            await _answer(marked, 403, refused)
        elif self._token and "token" in query and scope["method"] == "GET" and scope["path"] == "/":
            cookie = f"{COOKIE}={self._token}; HttpOnly; SameSite=Strict; Path=/"
            await _answer(marked, 303, "", [(b"location", b"/"), (b"set-cookie", cookie.encode())])
        else:
            await self._app(scope, receive, marked)

    def _refused(self, method: str, headers: dict[str, str], query: dict[str, list[str]]) -> str | None:
        """Return why a request is refused; None if it is not."""
        host = headers.get("host", "")
        name = (urlsplit(f"//{host}").hostname or "") if _sound(host) else ""
        if not self._is_own(name):
            return "host: this server goes by another name: open the address that it printed"
        if method not in ("GET", "HEAD", "POST"):
            return "method: only GET and POST are there"
        origin = headers.get("origin")
        if origin is not None and (not _sound(origin) or urlsplit(origin).netloc != host):
            return "origin: another page asked for this"
        opened = method == "GET" and headers.get("sec-fetch-mode") == "navigate"  # by a link of another page
        if not opened and headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return "origin: another page asked for this"
        if self._token is not None:
            shown = [*query.get("token", ()), _cookie(headers.get("cookie", ""))]
            if not any(secrets.compare_digest(each.encode(), self._token.encode()) for each in shown):
                return "token: open the address that the server printed, its token included"
        return None

    def _is_own(self, name: str) -> bool:
        if is_loopback(name):
            return is_loopback(self._host) or self._host in ("0.0.0.0", "::")
        if self._host in ("0.0.0.0", "::"):
            try:
                return bool(ipaddress.ip_address(name))
            except ValueError:
                return False
        return name == self._host.lower()


def _sound(address: str) -> bool:
    try:
        return urlsplit(address if "//" in address else f"//{address}").hostname is not None
    except ValueError:
        return False


def _cookie(header: str) -> str:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


async def _answer(send: Send, status: int, line: str, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    body = line.encode()
    head = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*head, *(headers or [])]})
    await send({"type": "http.response.body", "body": body})
