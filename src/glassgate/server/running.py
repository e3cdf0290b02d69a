"""The server as a process: socket, signals, start and end."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from signal import SIGINT, SIGTERM

import uvicorn

from glassgate.errors import GlassgateError
from glassgate.runtime import load
from glassgate.server.answers import Answer, as_json
from glassgate.server.application import Application, Handler, Route
from glassgate.server.bodies import Completion, Edited, Generate, Predict, Traced
from glassgate.server.completions import Completions
from glassgate.server.engine import Engine
from glassgate.server.guard import Guard
from glassgate.server.metrics import Metrics
from glassgate.server.openapi import document
from glassgate.server.protocol import Protocol
from glassgate.server.service import Service

__all__ = ["Server"]

SHUTDOWN_SECONDS = 10
PREFIXES = ("", "/compared")  # of the first model's paths, and of the second's
MEDIA = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
}


class Server:
    """A model folder behind HTTP.

    Parameters
    ----------
    folder
        The model.
    host, port
        Where to listen; port 0: any that is free.
    token
        What requests must bring; needed for another address than the loopback.
    compared
        A second model, which the page shows beside the first: under ``/compared`` it answers as the first
        does under ``/``.

    Attributes
    ----------
    url
        Where the server is found.

    Raises
    ------
    GlassgateError
        For a folder that is no model, an address that is not to be had, or a missing token.
    """

    def __init__(
        self,
        folder: Path,
        host: str = "127.0.0.1",
        port: int = 8000,
        token: str | None = None,
        compared: Path | None = None,
    ) -> None:
        guard = Guard(host, token)
        folders = [folder] if compared is None else [folder, compared]
        services = [_service(one, token is not None, one is not folders[-1]) for one in folders]
        engines = [service.engine for service in services]
        self.engine = engines[0]
        metrics = Metrics(engines)
        routes = _page()
        for service, at in zip(services, PREFIXES, strict=False):
            own = _routes(service) | ({} if at else _of_the_server(service, metrics))
            described = as_json(document(own, service.model, service.name, token is not None, at))
            own["/openapi.json"] = Route(_fixed(Answer(described)))
            routes |= {at + path: route for path, route in own.items()}
        self.application = Application(guard, routes, metrics)
        self._socket = _listen(host, port)
        name = f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self._socket.getsockname()[1]}"

        def refused() -> None:
            for engine in engines:
                engine.refuse()
            metrics.count_refused()

        config = uvicorn.Config(
            self.application,
            http=type("CountingProtocol", (Protocol,), {"refused": staticmethod(refused)}),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
        self._server = _Uvicorn(config, engines)

    def run(self, started: Callable[[str], None] | None = None) -> None:
        """Serve until the process is told to end, or `stop` is called; what runs is finished first.

        Parameters
        ----------
        started
            Called with `url` when requests are answered.
        """
        self._server.announce = lambda: started(self.url) if started is not None else None
        self._server.run([self._socket])

    def stop(self) -> None:
        """Let `run` come to its end; from any thread."""
        self._server.should_exit = True


class _Uvicorn(uvicorn.Server):
    """uvicorn's server, with the engines' life inside its own; a signal ends it without a second one."""

    def __init__(self, config: uvicorn.Config, engines: Sequence[Engine]) -> None:
        super().__init__(config)
        self.engines = engines
        self.announce: Callable[[], None] = lambda: None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        for engine in self.engines:
            engine.start()
        await super().startup(sockets)
        self.announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        await asyncio.gather(*(asyncio.to_thread(engine.stop) for engine in self.engines))

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for signal in (SIGINT, SIGTERM):
            loop.add_signal_handler(signal, self.handle_exit, signal, None)
        try:
            yield
        finally:
            for signal in (SIGINT, SIGTERM):
                loop.remove_signal_handler(signal)


def _service(folder: Path, needs_token: bool, compared: bool) -> Service:
    model = load(folder)
    return Service(model, folder, Engine(model.network, model.vocabulary.unk), needs_token, compared)


def _routes(service: Service) -> dict[str, Route]:
    """Return what is answered about one model."""
    completions = Completions(service)
    return {
        "/model": Route(service.about, summary="What the model is: configuration, counts, training"),
        "/predict": Route(service.predict, Predict, "The most probable next words"),
        "/generate": Route(service.generate, Generate, "Text written on, as server-sent events"),
        "/trace": Route(service.trace, Traced, "Every gate and state at every word"),
        "/edit": Route(service.edit, Edited, "The next words with edited gates beside those without"),
        "/v1/completions": Route(completions.complete, Completion, "Completions as in the OpenAI API"),
        "/v1/models": Route(completions.models, summary="The one model, as in the OpenAI API"),
        f"/v1/models/{service.name}": Route(completions.model),
    }


def _of_the_server(service: Service, metrics: Metrics) -> dict[str, Route]:
    """Return what is answered once, however many models there are."""

    async def counts(_: None) -> Answer:
        return Answer(metrics.text().encode(), "text/plain; version=0.0.4; charset=utf-8")

    return {
        "/health": Route(service.health, summary="Whether the server is there", public=True),
        "/metrics": Route(counts, summary="What the server counted, for Prometheus"),
    }


def _page() -> dict[str, Route]:
    """Read the page's files, once: a path in a request never becomes a path on disk."""
    routes = {}
    for file in files("glassgate.server").joinpath("page").iterdir():
        media = MEDIA.get(Path(file.name).suffix)
        if media is not None and file.is_file():
            path = "/" if file.name == "index.html" else f"/{file.name}"
            answer = Answer(file.read_bytes(), media, headers=((b"cache-control", b"no-cache"),))
            routes[path] = Route(_fixed(answer), public=True)
    return routes


def _fixed(answer: Answer) -> Handler:
    async def handler(_: None) -> Answer:
        return answer

    return handler


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise GlassgateError(f"--port: must be from 0 to 65535, got {port}")
    listening = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # asyncio sets TCP_NODELAY where the protocol is named; else each answer waits 40 ms for an ACK.
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(1024)
    except OSError as error:
        if listening is not None:
            listening.close()
        reason = error.strerror or error
        raise GlassgateError(f"--host {host} --port {port}: cannot be used: {reason}") from error
    return listening
