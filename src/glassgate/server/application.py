"""From a request's path to what answers it."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, NamedTuple

from glassgate.errors import GlassgateError
from glassgate.server.answers import Answer, RefusedError, Stream
from glassgate.server.bodies import Body, BodyError, read_body
from glassgate.server.engine import BusyError, LateError
from glassgate.server.guard import Guard
from glassgate.server.metrics import Metrics

__all__ = ["Application", "Handler", "Request", "Route"]

Handler = Callable[[Any], Awaitable[Answer | Stream]]


class Route(NamedTuple):
    """One path: who answers, and what body a POST must have."""

    handler: Handler
    body: type[Body] | None = None  #: None: it is a GET
    summary: str = ""
    public: bool = False  #: whether it is answered without the token


@dataclass(slots=True)
class Request:
    """A request as it came."""

    method: str
    path: str
    headers: Mapping[bytes, bytes]
    body: bytes = b""


class Application:
    """Answers requests by a table of paths; whatever happens, the answer is one of the documented ones.

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

    def route(self, request: Request) -> Route:
        """Find who answers a request; its body is not needed for that.

        Raises
        ------
        RefusedError
            When it is not granted.
        """
        self.guard.check_site(request.headers, request.method)
        route = self.routes.get(request.path)
        if route is None:
            raise RefusedError(404, "the server: no such path")
        allowed = ("GET", "HEAD") if route.body is None else ("POST",)
        if request.method not in allowed:
            message = f"the method: must be {' or '.join(allowed)}"
            raise RefusedError(405, message, allow=", ".join(allowed))
        if not route.public:
            self.guard.check_token(request.headers)
        if route.body is not None:
            self.guard.check_body(request.headers)
        return route

    async def answer(self, route: Route, request: Request) -> Answer | Stream:
        """Answer a request; a stream is counted when it begins."""
        start = monotonic()
        answer: Answer | Stream
        try:
            body = None if route.body is None else read_body(route.body, request.body)
            answer = await route.handler(body)
        except RefusedError as refusal:
            answer = refusal.answer()
        except BusyError:
            message = "the server: is busy; ask again in a second"
            answer = RefusedError(429, message, retry_after="1").answer()
        except LateError:
            message = "the server: did not come to the end of it in time; ask again"
            answer = RefusedError(503, message, retry_after="1").answer()
        except BodyError as error:
            status = 400 if str(error).startswith("the body: invalid JSON") else 422
            answer = RefusedError(status, str(error)).answer()
        except GlassgateError as error:
            answer = RefusedError(422, str(error)).answer()
        except Exception:
            self.log_failure(request)
            answer = RefusedError(500, "the server: failed; its log tells more").answer()
        self.count(request, answer.status if isinstance(answer, Answer) else 200, monotonic() - start)
        return answer

    def count(self, request: Request, status: int, seconds: float = 0.0) -> None:
        """Count a request; paths that do not exist as one, so that who asks for many fills no memory."""
        self.metrics.count(request.path if request.path in self.routes else "other", status, seconds)

    def log_failure(self, request: Request) -> None:
        """Tell the log of the defect that is being handled."""
        logging.getLogger(__name__).exception("a request to %s failed", request.path)
