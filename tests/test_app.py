"""HTTP: what an operator, Prometheus and a load balancer get, over a real socket."""

import io
import json
import socket
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import NamedTuple

import pytest
from example_status import running, with_module
from PIL import Image

from rmm_stream.config import Http
from rmm_stream.errors import ConfigError
from rmm_stream.live.app import HttpServer, module_png
from rmm_stream.storage.picture import colours


class Answer(NamedTuple):
    code: int
    body: bytes
    headers: dict

    @property
    def text(self) -> str:
        return self.body.decode()


@contextmanager
def serving(status):
    """A function (path, method) -> Answer, at t = 100 s. Follows no redirect, as urllib does not for 503 and 404."""
    server = HttpServer(Http(port=0), lambda: status, clock=lambda: 100.0)
    server.start()

    def ask(path: str, method: str = "GET") -> Answer:
        request = urllib.request.Request(server.url + path, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                assert answer.geturl() == server.url + path
                return Answer(answer.status, answer.read(), dict(answer.headers))
        except urllib.error.HTTPError as e:
            with e:
                return Answer(e.code, e.read(), dict(e.headers))

    try:
        yield ask
    finally:
        server.stop()


def test_healthz_is_200_while_frames_flow():
    with serving(running()) as ask:
        answer = ask("/healthz")
    assert (answer.code, answer.text) == (200, "ok\n")


def test_healthz_is_503_with_the_reason():
    with serving(with_module(fed_at=40.0)) as ask:
        answer = ask("/healthz")
    assert (answer.code, answer.text) == (503, "no frame for 60 s\n")


def test_metrics_are_a_plain_route_without_a_redirect():
    with serving(running()) as ask:
        answer = ask("/metrics")
    assert answer.code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'rmm_stream_frames_total{module="3"} 10.0' in answer.text


def test_the_page_says_what_is_wrong_and_escapes_it():
    with serving(running(state="failed", reason="<script>alert(1)</script>")) as ask:
        answer = ask("/")
    assert "Not healthy: failed: &lt;script&gt;" in answer.text
    assert "<script" not in answer.text


def test_the_page_asks_nothing_of_other_machines():
    with serving(running()) as ask:
        home, style = ask("/"), ask("/page.css")
    assert home.headers["content-security-policy"].startswith("default-src 'self'")
    assert home.headers["x-content-type-options"] == "nosniff"
    assert "http://" not in home.text + style.text
    assert "https://" not in home.text + style.text


def test_the_page_says_how_much_is_held_back_as_signal():
    with serving(with_module(suspected=486)) as ask:
        assert "<td>486 pixels</td>" in ask("/").text


def test_status_is_json():
    with serving(running()) as ask:
        found = json.loads(ask("/api/status").text)
    assert found["detector"] == "tiny"
    assert found["modules"][0]["maps"] == 4


def test_the_picture_of_a_module_is_its_collapsed_mask_pixel_by_pixel():
    status = running()
    with serving(status) as ask:
        found, missing = ask("/api/mask/3.png"), ask("/api/mask/4.png")
    assert found.headers["content-type"] == "image/png"
    (judged,) = status.changes[3].values()
    with Image.open(io.BytesIO(found.body)) as image:
        assert image.size == (3, 1)
        assert [image.getpixel((x, 0)) for x in range(3)] == [tuple(map(int, rgb)) for rgb in colours(judged.flags)[0]]
    assert missing.code == 404
    assert "known: 3" in missing.text


def test_the_picture_is_a_png():
    assert module_png(running().overlay[3]).startswith(b"\x89PNG")


def test_nothing_changes_by_http():
    with serving(running()) as ask:
        for path in ("/", "/metrics", "/healthz", "/api/status", "/api/mask/3.png"):
            assert ask(path, "POST").code == 405


def test_what_is_no_http_costs_no_line_in_the_log(caplog):
    server = HttpServer(Http(port=0), running)
    server.start()
    try:
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])), timeout=10) as stranger:
                stranger.sendall(b"\x16\x03\x01 not http\r\n\r\n")
                assert b" 400 " in stranger.recv(1000)
    finally:
        server.stop()
    assert caplog.records == []


def test_stopping_leaves_no_thread_behind():
    server = HttpServer(Http(port=0), running)
    server.start()
    server.stop()
    assert not server.alive
    assert not any(thread.name == "http" for thread in threading.enumerate())


def test_a_port_in_use_is_the_operators_to_solve():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"http.port = {port}: cannot listen"):
            HttpServer(Http(port=port), running)


def test_a_server_that_never_started_stops():
    HttpServer(Http(port=0), running).stop()
