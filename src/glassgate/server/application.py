"""The server as an ASGI application: from a path to what answers it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from time import monotonic
from typing import Any, NamedTuple

from glassgate.errors import GlassgateError
from glassgate.server.answers import SECURITY, Answer, RefusedError, Stream
from glassgate.server.bodies import Body, BodyError, read_body
from glassgate.server.engine import BusyError, LateError
from glassgate.server.guard import Guard, receive_body
from glassgate.server.metrics import Metrics

__all__ = ["Application", "Handler", "Route"]

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Handler = Callable[[Any], Awaitable[Answer | Stream]]
STREAM_SECONDS = 60.0


class Route(NamedTuple):
    """One path: who answers, and what body a POST must have."""

    handler: Handler
    body: type[Body] | None = None  #: None: it is a GET
    summary: str = ""
    public: bool = False  #: whether it is answered without the token


class Application:
    """Answers HTTP requests by a table of paths; whatever happens, the answer is one of the documented ones.

    Parameters
    ----------
    guard
        Who may ask.
    routes
        The paths.
    metrics
        Where requests are counted.
    """

    def __init__(self, guard: Guard, routes: Mapping[str, Route], metrics: Metrics) -> None:
        self.guard = guard
        self.routes = routes
        self.metrics = metrics

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        start = monotonic()
        path = scope["path"]
        try:
            answer = await self._answer(scope, path, receive)
        except RefusedError as refusal:
            answer = refusal.answer()
        except BusyError:
            message = "the server: is busy; ask again in a second"
            answer = RefusedError(429, message, retry_after="1").answer()
        except LateError:
            message = "the server: did not come to the end of it in time; ask again"
            answer = RefusedError(503, message, retry_after="1").answer()
        except BodyError as error:
            answer = RefusedError(
                400 if str(error).startswith("the body: invalid JSON") else 422, str(error)
            ).answer()
        except GlassgateError as error:
            answer = RefusedError(422, str(error)).answer()
        except Exception:
            logging.getLogger(__name__).exception("a request to %s failed", path)
            answer = RefusedError(500, "the server: failed; its log tells more").answer()
        status = answer.status if isinstance(answer, Answer) else 200
        if isinstance(answer, Answer):
            await _send_whole(answer, send)
        else:
            await _send_stream(answer, receive, send)
        self.metrics.count(path if path in self.routes else "other", status, monotonic() - start)

    async def _answer(self, scope: Mapping[str, Any], path: str, receive: Receive) -> Answer | Stream:
        headers = dict(scope["headers"])
        method = scope["method"]
        self.guard.check_site(headers, method)
        route = self.routes.get(path)
        if route is None:
            raise RefusedError(404, "the server: no such path", connection="close")
        allowed = ("GET", "HEAD") if route.body is None else ("POST",)
        if method not in allowed:
            message = f"the method: must be {' or '.join(allowed)}"
            raise RefusedError(405, message, allow=", ".join(allowed), connection="close")
        if not route.public:
            self.guard.check_token(headers)
        if route.body is None:
            return await route.handler(None)
        return await route.handler(read_body(route.body, await receive_body(headers, receive)))


async def _send_whole(answer: Answer, send: Send) -> None:
    headers = [
        (b"content-type", answer.media.encode()),
        (b"content-length", b"%d" % len(answer.body)),
        *SECURITY,
        *answer.headers,
    ]
    if not any(name == b"cache-control" for name, _ in answer.headers):
        headers.append((b"cache-control", b"no-store"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


async def _send_stream(answer: Stream, receive: Receive, send: Send) -> None:
    """Send events until there are no more, the client goes away, or time is over."""
    headers = [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-store"),
        *SECURITY,
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def forward() -> None:
        async with aclosing(answer.events) as events:
            async for event in events:
                await send(
                    {"type": "http.response.body", "body": f"data: {event}\n\n".encode(), "more_body": True}
                )

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.create_task(forward()), asyncio.create_task(watch())]
    try:
        await asyncio.wait(tasks, timeout=STREAM_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    if isinstance(results[0], Exception):
        logging.getLogger(__name__).error("a stream failed", exc_info=results[0])
    await send({"type": "http.response.body", "body": b""})
