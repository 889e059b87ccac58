"""What every request to the page must pass, and every answer carries."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The page loads and runs what comes from this server only, and no other page may frame it or use its pictures.
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class Guard:
    """Refuses other names of this machine, requests that other sites make, and long bodies.

    A page on the internet may point a name of its own at 127.0.0.1 (DNS rebinding): its requests then carry that name.
    Addresses carry none, so they are answered, as are ``names``.

    Args:
        limit: bytes of a request's body. Said before the body is read where its length is declared.
    """

    def __init__(self, app: ASGIApp, names: Collection[str], limit: int) -> None:
        self.app, self.limit = app, limit
        self.names = {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refusal = self._refusal(scope["method"], Headers(scope=scope))
        await (refusal or self.app)(scope, receive, with_headers)

    def _refusal(self, method: str, headers: Headers) -> PlainTextResponse | None:
        host = headers.get("host", "")
        if not self._is_own(host):
            what = "this server answers to addresses, localhost and its machine's name; --allow-host adds another"
            return PlainTextResponse(f"Host {host[:100]!r}: {what}\n", 421)
        if method not in ("GET", "HEAD"):
            site, origin = headers.get("sec-fetch-site", "none"), headers.get("origin")
            if site not in ("same-origin", "none") or (origin is not None and urlsplit(origin).netloc != host):
                return PlainTextResponse("This request was made by another site.\n", 403)
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.limit:
            return PlainTextResponse(too_large(self.limit) + "\n", 413)
        return None

    def _is_own(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if name in self.names:
                return True
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def too_large(limit: int) -> str:
    return f"At most {limit // 2**20} MB are taken. A chip is one ship, cropped tightly."
