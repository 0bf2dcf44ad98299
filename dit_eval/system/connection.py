"""Requests to a web server that cannot keep us waiting, nor send us where we do not want to go.

Redirects are followed by whoever asks; there is no way to `file:` or `ftp:` from here.
"""

from __future__ import annotations

import functools
import http.client
import math
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Self

from dit_eval.system.text import reason


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How far a server is trusted.

    Attributes
    ----------
    size : bytes that a file may have
    silence : seconds without a byte
    stretch, least : so many seconds of waiting must bring so many bytes of the file; headers count as none
    redirects : how often another address may be named
    """

    size: int = 8 << 30
    silence: float = 30
    stretch: float = 60
    least: int = 1 << 16
    redirects: int = 5


class Watchdog:
    """Hangs up on a server that sends too little for too long: headers, chunk lines, trailers or content.

    The timeout of a socket ends a silence only, and a byte now and then is none.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._changed = threading.Condition()
        self._socket: socket.socket | None = None
        self._left, self._due = limits.stretch, math.inf
        self._fed, self._late, self._done = 0, False, False
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._done = True
            self._changed.notify()
        self._thread.join()
        if self._socket:
            self._socket.close()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While we wait for the server. All that urllib, http.client, ssl and socket raise is one ConnectionError."""
        with self._changed:
            self._due = time.monotonic() + self._left
        fault: Exception | None = None
        try:
            yield
        except (OSError, http.client.HTTPException, ValueError) as error:
            fault = error
        finally:
            with self._changed:
                self._left, self._due = self._due - time.monotonic(), math.inf
        if self._late:
            raise ConnectionError(
                f"the server is too slow: fewer than {self.limits.least:,} bytes in {self.limits.stretch:g} s"
            )
        if fault is not None:
            raise ConnectionError(self._words(fault))

    def fed(self, count: int) -> None:
        """So many bytes of the file came."""
        self._fed += count
        if self._fed >= self.limits.least:
            self._fed, self._left = 0, self.limits.stretch

    def hold(self, connection: socket.socket) -> None:
        """The connection to hang up on."""
        with self._changed:
            if self._socket:
                self._socket.close()
            self._socket = connection.dup()  # one of TLS takes the original away from us
            if self._late:
                self._hang_up()

    def _watch(self) -> None:
        with self._changed:
            while not self._done:
                left = self._due - time.monotonic()
                if left <= 0:
                    self._late = True
                    self._hang_up()
                    return
                self._changed.wait(min(left, self.limits.stretch / 4))

    def _hang_up(self) -> None:
        if self._socket:
            with suppress(OSError):  # the server was quicker
                self._socket.shutdown(socket.SHUT_RDWR)

    def _words(self, error: Exception) -> str:
        if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
            error = error.reason
        if isinstance(error, TimeoutError):
            return f"no answer for {self.limits.silence:g} s"
        if isinstance(error, http.client.IncompleteRead):
            return "the connection closed in the middle of a chunk, or a chunk is broken"
        if isinstance(error, http.client.HTTPException) and not isinstance(error, OSError):
            return f"the answer is no proper HTTP: {type(error).__name__}: {reason(error)}"
        return reason(error)


def ask(url: str, headers: dict[str, str], watch: Watchdog) -> http.client.HTTPResponse:
    """The answer to one request, whatever its status is; through a proxy, if the environment names one."""
    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler(), _HttpHandler(watch), _HttpsHandler(watch)):
        opener.add_handler(handler)
    response: http.client.HTTPResponse | None = None
    try:
        with watch.waiting():
            response = opener.open(urllib.request.Request(url, headers=headers), timeout=watch.limits.silence)
            if response is None:
                raise ValueError("no address of http or https")
    except ConnectionError:
        if response is not None:  # of headers that ended because we hung up
            response.close()
        raise
    return response


class _Http(http.client.HTTPConnection):
    watch: Watchdog

    def connect(self) -> None:
        super().connect()
        self.watch.hold(self.sock)


class _Https(http.client.HTTPSConnection, _Http):
    """Held once it is connected, before TLS begins: `HTTPSConnection.connect` calls the one above first."""


def _made(kind: type[_Http], watch: Watchdog, host: str, **options: float) -> _Http:
    connection = kind(host, **options)  # type: ignore[arg-type]  # timeout, which urllib passes
    connection.watch = watch
    return connection


class _HttpHandler(urllib.request.HTTPHandler):
    def __init__(self, watch: Watchdog) -> None:
        super().__init__()
        self._watch = watch

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(functools.partial(_made, _Http, self._watch), req)


class _HttpsHandler(urllib.request.HTTPSHandler):
    def __init__(self, watch: Watchdog) -> None:
        super().__init__()
        self._watch = watch

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(functools.partial(_made, _Https, self._watch), req)
