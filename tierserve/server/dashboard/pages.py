"""The routes under /dashboard.

The page's own files are open: they are the same for every node and hold no data, and a browser that is sent to an
address can't send a key along. What they ask for afterwards, figures and examples, wants an admin's key where the node
has keys: the page asks for it once and sends it as every caller does.

They are not in /openapi.json: the page and the node that serves it are of one version, and nobody else's to build on.
"""

import asyncio
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from tierserve.core import Prompt
from tierserve.errors import RequestError, TierUnavailable
from tierserve.pipeline import Pipeline
from tierserve.router.router import Router
from tierserve.server.body import BodyReader
from tierserve.server.dashboard.feed import Feed
from tierserve.server.dashboard.window import Window
from tierserve.server.guard import not_yet
from tierserve.tiers.pair import TierPair

PAGE: Final = "/dashboard"

_STATIC = Path(__file__).with_name("static")
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_EVERY_S = 1.0
_EVENTS = 300  # then the page has to ask again, and a key that was taken away sees no more
_EXAMPLES = 3
# Nothing but the page's own files and this node: no inline script or style, no frame around it, no form that leaves it.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; frame-ancestors 'none'; form-action 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}
_DATA = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


class Dashboard:
    """`draining` is set when the node is to end, and the feeds with it; `cut_off` when they are given no more time.
    `wants_keys`: whether the page has to ask for one."""

    def __init__(
        self,
        window: Window,
        pipeline: Pipeline,
        router: Router,
        tiers: TierPair,
        bodies: BodyReader,
        draining: asyncio.Event,
        cut_off: asyncio.Event,
        wants_keys: bool,
    ) -> None:
        self.feed = Feed(window, pipeline, router, tiers)
        self._router, self._bodies = router, bodies
        self._draining, self._cut_off = draining, cut_off
        self._files = _files(wants_keys)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get(PAGE, self._page),
            web.get(f"{PAGE}/feed", self._watch),
            web.post(f"{PAGE}/nearest", self._nearest, expect_handler=not_yet),
            web.get(f"{PAGE}/static/{{file:.+}}", self._file),
        ]

    async def _page(self, request: web.Request) -> web.Response:
        return _response("index.html", self._files["index.html"])

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info["file"]
        if name not in self._files:
            raise web.HTTPNotFound
        return _response(name, self._files[name])

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        """Figures as server-sent events, the whole window first, then what is new each second."""
        if self._draining.is_set():
            raise TierUnavailable("the server is ending")
        response = web.StreamResponse(headers=_DATA | {"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        try:
            await response.write(self.feed.whole())
            for _ in range(_EVENTS):
                if await self._ending():
                    break
                await response.write(self.feed.news())
        except asyncio.CancelledError:
            if not self._cut_off.is_set():
                raise
        await response.write_eof()
        return response

    async def _ending(self) -> bool:
        try:
            await asyncio.wait_for(self._draining.wait(), _EVERY_S)
            return True
        except TimeoutError:
            return False

    async def _nearest(self, request: web.Request) -> web.Response:
        """The prompts that the router's head was fitted on and that are most like this one. An admin's, for a head may
        have been fitted to what callers asked."""
        text = (await self._bodies.read(request)).get("prompt")
        if not isinstance(text, str) or not text.strip():
            raise RequestError("`prompt` must be a text", "prompt")
        examples = await self._router.nearest(Prompt(text), _EXAMPLES)
        found: list[dict[str, Any]] = [
            {"prompt": each.text, "hard": bool(each.hard), "cosine": round(float(each.cosine), 3)} for each in examples
        ]
        return web.json_response({"nearest": found}, headers=_DATA)


def _files(wants_keys: bool) -> dict[str, bytes]:
    """By their path under static/. They are few and small, and stay in memory. The page is told here whether there are
    keys, or it would have to find that out by being refused."""
    files = {str(path.relative_to(_STATIC)): path.read_bytes() for path in _STATIC.rglob("*") if path.suffix in _TYPES}
    files["index.html"] = files["index.html"].replace(b'data-keys="no"', b'data-keys="%s"' % _yes_or_no(wants_keys))
    return files


def _yes_or_no(value: bool) -> bytes:
    return b"yes" if value else b"no"


def _response(name: str, body: bytes) -> web.Response:
    return web.Response(body=body, content_type=_TYPES[Path(name).suffix], charset="utf-8", headers=_HEADERS)
