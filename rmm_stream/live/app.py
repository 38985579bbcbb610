"""HTTP: status page, /metrics, /healthz and what the page reads. The only file that knows asyncio.

uvicorn runs in a thread of its own and reads Status only; nothing here can slow or change the service.
"""

import io
import socket
import threading
import time
from collections.abc import Callable

import uvicorn
from numpy.typing import NDArray
from PIL import Image
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ..config import Http
from ..errors import ConfigError
from ..storage.picture import colours
from .metrics import CONTENT_TYPE, CollapsedCache, exposition
from .page import POLICY, STYLE, page
from .status import Status, describe, health

GUARDS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
]


class Guards:
    """ASGI middleware: the same protective headers on every answer."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def guarded(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *GUARDS]
            await send(message)

        await self.app(scope, receive, guarded)


def app(status: Callable[[], Status], stall_s: float, clock: Callable[[], float]) -> Starlette:
    """The routes over a function that gives the present Status."""
    metrics = exposition(status)
    pictures = CollapsedCache()

    async def home(request: Request) -> Response:
        return HTMLResponse(page(status(), clock(), stall_s))

    async def style(request: Request) -> Response:
        return Response(STYLE, media_type="text/css")

    async def scrape(request: Request) -> Response:
        return Response(metrics(), headers={"content-type": CONTENT_TYPE})

    async def healthz(request: Request) -> Response:
        reason = health(status(), clock(), stall_s)
        return PlainTextResponse(f"{reason or 'ok'}\n", 503 if reason else 200)

    async def api_status(request: Request) -> Response:
        return JSONResponse(describe(status(), clock(), stall_s))

    async def picture(request: Request) -> Response:
        now, module = status(), request.path_params["module"]
        if module not in now.overlay:
            known = ", ".join(map(str, now.overlay))
            return PlainTextResponse(f"no module {module} here; known: {known}\n", 404)
        version = {"x-mask-serial": str(now.modules[module].serial)}
        return Response(module_png(pictures.get(now, module)), media_type="image/png", headers=version)

    routes = [
        Route("/", home),
        Route("/page.css", style),
        Route("/metrics", scrape),
        Route("/healthz", healthz),
        Route("/api/status", api_status),
        Route("/api/mask/{module:int}.png", picture),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guards)])


def module_png(flags: NDArray) -> bytes:
    """A PNG of one collapsed mask, one picture pixel per detector pixel. flags: (ss, fs) uint8."""
    out = io.BytesIO()
    Image.fromarray(colours(flags)).save(out, "PNG")
    return out.getvalue()


class HttpServer:
    """The app on a socket, in a thread. `url` is known as soon as the server is made."""

    def __init__(self, settings: Http, status: Callable[[], Status], clock: Callable[[], float] = time.time):
        """Binds the port. Raises ConfigError where it is taken."""
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((settings.host, settings.port))
            self._socket.listen(128)  # a request that comes before the thread turns waits, and is answered
        except OSError as e:
            self._socket.close()
            raise ConfigError(
                f"http.port = {settings.port}: cannot listen on {settings.host}: {e.strerror}; "
                "another service may have it; 0 takes any free port"
            ) from None
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self.url = f"http://{host}:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            app(status, settings.stall_s, clock),
            log_config=None,
            log_level="error",  # its warnings are one line for each bad request, as many as a stranger likes
            access_log=False,
            ws="none",
            lifespan="off",
            server_header=False,
            limit_concurrency=64,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop and join; also right for a server that was never started."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(5)
        self._socket.close()
