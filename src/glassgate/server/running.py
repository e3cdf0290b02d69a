"""The server as a process: socket, signals, start and end."""

import asyncio
import gc
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from signal import SIGINT, SIGTERM

from glassgate.errors import GlassgateError
from glassgate.runtime import load
from glassgate.server.answers import Answer, as_json
from glassgate.server.application import Application, Handler, Route
from glassgate.server.bodies import Completion, Edited, Generate, Predict, Traced
from glassgate.server.completions import Completions
from glassgate.server.connection import Connection
from glassgate.server.connections import Connections, Selector
from glassgate.server.engine import Engine
from glassgate.server.guard import Guard
from glassgate.server.metrics import Metrics
from glassgate.server.openapi import document
from glassgate.server.opening import opening
from glassgate.server.service import Service

__all__ = ["Server"]

SHUTDOWN_SECONDS = 10
WAITING = 1024  # connections that wait to be taken in
ACCEPTED = 8  # that are taken in before others have their turn
PREFIXES = ("", "/compared")  # of the first model's paths, and of the second's
MEDIA = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
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
    origin
        Where a proxy before this server offers the page, as ``https://glass.example.org``.

    Attributes
    ----------
    url
        Where the server is found.

    Raises
    ------
    GlassgateError
        For a folder that is no model, an address that is not to be had, a missing token, or a wrong origin.
    """

    def __init__(
        self,
        folder: Path,
        host: str = "127.0.0.1",
        port: int = 8000,
        token: str | None = None,
        compared: Path | None = None,
        origin: str | None = None,
    ) -> None:
        guard = Guard(host, token, origin)
        folders = [folder] if compared is None else [folder, compared]
        models = [load(one) for one in folders]
        services = [
            Service(
                model,
                one,
                Engine(model.network, model.vocabulary.unk),
                token is not None,
                {"opening": opening(models[place:]), "compared": place + 1 < len(models)},
            )
            for place, (model, one) in enumerate(zip(models, folders, strict=True))
        ]
        engines = [service.engine for service in services]
        self.engine = engines[0]
        self._services = services
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
        self._ending = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, started: Callable[[str], None] | None = None) -> None:
        """Serve until the process is told to end, or `stop` is called; what runs is finished first.

        Parameters
        ----------
        started
            Called with `url` when requests are answered.
        """
        selector = Selector()
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
            runner.run(self._run(started, selector))

    def stop(self) -> None:
        """Let `run` come to its end; from any thread."""
        assert self._loop is not None, "it does not run"
        with suppress(RuntimeError):  # it has come there already
            self._loop.call_soon_threadsafe(self._ending.set)

    async def _run(self, started: Callable[[str], None] | None, selector: Selector) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        shared = Connections(self.application, [service.engine for service in self._services], selector)
        for service in self._services:
            service.engine.start()
            await service.warm_up()
        # asyncio takes in as many connections at once as it lets wait: few, and then all others have to.
        listening = await loop.create_server(lambda: Connection(shared), sock=self._socket, backlog=ACCEPTED)
        self._socket.listen(WAITING)
        with _signals(loop, self._ending.set), _settled():
            if started is not None:
                started(self.url)
            await self._ending.wait()
        listening.close()
        await shared.finish(SHUTDOWN_SECONDS)
        await asyncio.gather(*(service.engine.stop() for service in self._services))


@contextmanager
def _settled() -> Iterator[None]:
    """Keep the collector from going through the model and the libraries while requests are answered."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _signals(loop: asyncio.AbstractEventLoop, end: Callable[[], None]) -> Iterator[None]:
    """Let a signal end the server; in another thread than the first there are none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    for signal in (SIGINT, SIGTERM):
        loop.add_signal_handler(signal, end)
    try:
        yield
    finally:
        for signal in (SIGINT, SIGTERM):
            loop.remove_signal_handler(signal)


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
        listening.listen(WAITING)
    except OSError as error:
        if listening is not None:
            listening.close()
        reason = error.strerror or error
        raise GlassgateError(f"--host {host} --port {port}: cannot be used: {reason}") from error
    return listening
