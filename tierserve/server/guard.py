"""The node's door: before anything of a request's body is read, it is clear who asks, and that they may."""

from collections.abc import Awaitable, Callable

from aiohttp import HttpVersion11, web

from tierserve.server.access import Access, Ticket

ACCESS = web.AppKey("access", Access)
TICKET = web.RequestKey("ticket", Ticket)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Gives the request its ticket. Raises Unauthorized, Forbidden and RateLimited."""
    resource = request.match_info.route.resource
    path = resource.canonical if resource is not None else None
    ticket = request[TICKET] = request.app[ACCESS].ticket(path, request.headers.getall("authorization", ()))
    if request.method != "POST":  # looking is free
        return await handler(request)
    with ticket.entered():
        await _continue(request)
        return await handler(request)


async def not_yet(request: web.Request) -> None:
    """Of a caller that waits for `100 Continue` before it sends the body: the guard says so, and not before."""


async def _continue(request: web.Request) -> None:
    expected = request.headers.get("expect")
    if expected is None or request.version != HttpVersion11:
        return
    if expected.lower() != "100-continue":
        raise web.HTTPExpectationFailed(text="`expect` can only be `100-continue`")
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # the answer itself has yet to begin
