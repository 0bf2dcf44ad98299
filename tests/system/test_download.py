"""Bad servers, each as the bytes that it sends: one clear message, and nothing that a good server cannot complete."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import random
import re
import resource
import shutil
import socketserver
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dit_eval.system.assets import Asset, asset, assets, fetch, fetch_aloud
from dit_eval.system.connection import Limits
from dit_eval.system.download import download, redirected

CONTENT = bytes(range(256)) * 1200  # 307,200 bytes
OTHER = bytes(reversed(CONTENT))
LIMITS = Limits(size=1_000_000, redirects=3)
SILENCE = dataclasses.replace(LIMITS, silence=0.2)
SLOWNESS = dataclasses.replace(LIMITS, stretch=0.4, least=1000)
OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: 307200\r\n"
CHUNKS = b"Transfer-Encoding: chunked\r\n"
END = b"\r\n"
A_CHUNK = b"%x\r\n%b\r\n" % (1000, CONTENT[:1000])
PARTIAL = b"HTTP/1.1 206 Partial Content\r\n"
REST = b'ETag: "one"\r\nContent-Range: bytes 100000-307199/307200\r\nContent-Length: 207200\r\n'


def drops(text, seconds=0.05):
    """A byte now and then."""
    for byte in itertools.cycle(text):
        yield bytes([byte])
        yield seconds


def forever(text):
    return itertools.repeat(text)


def then(head, more, text):
    return lambda _: itertools.chain([head], more(text))


def sound(content=CONTENT, etag=b'"one"', cut=None, ranges=True):
    """A server as they should be, which may hang up after so many bytes."""

    def answer(headers):
        begin = int(headers["range"][6:-1]) if "range" in headers and ranges else 0
        if headers.get("if-range", etag.decode()) != etag.decode():
            begin = 0
        if begin >= len(content):
            yield b"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */%d\r\nContent-Length: 0\r\n\r\n" % (
                len(content)
            )
            return
        yield PARTIAL if begin else OK
        if begin:
            yield b"Content-Range: bytes %d-%d/%d\r\n" % (begin, len(content) - 1, len(content))
        yield b"ETag: %b\r\nContent-Length: %d\r\n\r\n" % (etag, len(content) - begin)
        yield content[begin:cut]

    return answer


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        if self.rfile.peek(1)[:1] == b"\x16":  # the beginning of TLS
            self.wfile.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            return
        request = iter(self.rfile.readline, b"\r\n")
        next(request, None)
        headers = {}
        for line in request:
            if not line:
                return
            name, _, value = line.decode("latin-1").strip().partition(": ")
            headers[name.lower()] = value
        self.server.seen.append(headers)
        answer = self.server.answer
        pieces = answer(headers) if callable(answer) else [answer] if isinstance(answer, bytes) else answer
        with contextlib.suppress(OSError):
            for piece in pieces:
                if isinstance(piece, float):
                    if self.server.stop.wait(piece):
                        return
                else:
                    self.wfile.write(piece)


class Loopback(socketserver.ThreadingTCPServer):
    daemon_threads = True


@pytest.fixture
def server():
    with Loopback(("127.0.0.1", 0), Handler) as loopback:
        loopback.seen, loopback.stop, loopback.answer = [], threading.Event(), sound()
        loopback.url = f"http://127.0.0.1:{loopback.server_address[1]}/file"
        thread = threading.Thread(target=loopback.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield loopback
        loopback.stop.set()
        loopback.shutdown()
        thread.join()


@pytest.fixture
def item(server, tmp_path, monkeypatch):
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path / "cache"))
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    return Asset(name="thing", kind="weights", filename="thing.bin", url=server.url, sha256=sha256, note="")


def part_of(item):
    return item.path.with_name("thing.bin.part")


def note_of(item):
    return item.path.with_name("thing.bin.part.json")


def begun(server, item, size=100_000, **kind):
    """Leave the part that a good server leaves that hangs up."""
    server.answer = sound(cut=size, **kind)
    with pytest.raises(ConnectionError, match=rf"the connection closed after {size:,} of 307,200 bytes; run it again"):
        fetch(item, limits=LIMITS)
    assert part_of(item).read_bytes() == CONTENT[:size]
    server.seen.clear()


SILENT = [2.0]
BAD = {
    "closes at once": (b"", "Remote end closed connection"),
    "zeros and bytes": (b"\x00\xff" * 50 + END, "no proper HTTP: BadStatusLine"),
    "no status line": (CONTENT, "no proper HTTP: BadStatusLine"),
    "a status of letters": (b"HTTP/1.1 abc OK\r\n\r\n", "no proper HTTP: BadStatusLine"),
    "a status of five digits": (b"HTTP/1.1 20000 OK\r\n\r\n", "no proper HTTP: BadStatusLine"),
    "another protocol": (b"SSH-2.0-OpenSSH_9.6\r\n", "no proper HTTP: BadStatusLine"),
    "a header of 70,000 bytes": (OK + b"X: " + b"y" * 70_000 + END + END, "no proper HTTP: LineTooLong"),
    "200 headers": (OK + b"X: y\r\n" * 200 + END, "no proper HTTP: HTTPException: got more than 100 headers"),
    "headers without end": (then(OK, forever, b"X: y\r\n"), "more than 100 headers"),
    "continue without end": (forever(b"HTTP/1.1 100 Continue\r\n\r\n"), "too slow: fewer than 1,000 bytes in 0.4 s"),
    "103": (b"HTTP/1.1 103 Early Hints\r\n\r\n", "answered 103 Early Hints, expected 200"),
    "201": (b"HTTP/1.1 201 Created\r\n" + LENGTH + END + CONTENT, "answered 201 Created"),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", "answered 204 No Content, expected 200 and the file"),
    "206 unasked": (PARTIAL + REST + END + CONTENT[100_000:], r"a part of the file \(206\), expected all"),
    "300": (b"HTTP/1.1 300 Multiple Choices\r\nContent-Length: 0\r\n\r\n", "answered 300"),
    "304": (b"HTTP/1.1 304 Not Modified\r\n\r\n", "answered 304 Not Modified"),
    "401": (b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\n\r\n", "answered 401 Unauthorized"),
    "404 that moves the cursor": (b"HTTP/1.1 404 \x1b[2J\x9bgone\r\n\r\n", r"answered 404 \\x1b\[2J\\u009bgone"),
    "416 unasked": (b"HTTP/1.1 416 No\r\nContent-Range: bytes */307200\r\n\r\n", "answered 416 No"),
    "500 with 60,000 words": (b"HTTP/1.1 500 " + b"word " * 12_000 + END + END, r"answered 500 word .{190,200}\.\.\."),
    "503": (b"HTTP/1.1 503 Busy\r\nRetry-After: 3600\r\n\r\n", "answered 503 Busy"),
    "empty": (OK + b"Content-Length: 0\r\n\r\n", "sent an empty file"),
    "empty in chunks": (OK + CHUNKS + END + b"0\r\n\r\n", "sent an empty file"),
    "nowhere to go": (b"HTTP/1.1 302 Found\r\n\r\n", "redirects to no address"),
    "to a file": (b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n", "redirects to file:///etc/passwd"),
    "to ftp": (b"HTTP/1.1 301 Moved\r\nLocation: ftp://127.0.0.1/x\r\n\r\n", "redirects to ftp://"),
    "to data": (b"HTTP/1.1 302 Found\r\nLocation: data:text/plain,hello\r\n\r\n", "redirects to data:"),
    "to half an address": (b"HTTP/1.1 302 Found\r\nLocation: http://[::1/x\r\n\r\n", "redirects to no address"),
    "to port 99999": (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:99999/\r\n\r\n", "redirects to http://127"),
    "in a circle": (b"HTTP/1.1 307 Again\r\nLocation: /file\r\n\r\n", "redirects more than 3 times"),
    "to nobody": (b"HTTP/1.1 308 There\r\nLocation: http://127.0.0.1:9/x\r\n\r\n", "[Cc]onnection refused"),
    "a length below zero": (OK + b"Content-Length: -5\r\n\r\n" + CONTENT, "Content-Length -5, expected a number"),
    "a length of letters": (OK + b"Content-Length: 12abc\r\n\r\n" + CONTENT, "Content-Length 12abc"),
    "a length with a sign": (OK + b"Content-Length: +307200\r\n\r\n" + CONTENT, r"Content-Length \+307200"),
    "a length as in Python": (OK + b"Content-Length: 307_200\r\n\r\n" + CONTENT, "Content-Length 307_200"),
    "a length of 5,000 digits": (OK + b"Content-Length: " + b"9" * 5000 + END + END, r"Content-Length 9{200}\.\.\."),
    "two lengths": (OK + LENGTH + b"Content-Length: 7\r\n\r\n" + CONTENT, "Content-Length 307200, 7"),
    "a length of a petabyte": (OK + b"Content-Length: %d\r\n\r\n" % 10**15, "more than the 1,000,000 bytes"),
    "hangs up half-way": (OK + LENGTH + END + CONTENT[:5000], "closed after 5,000 of 307,200 bytes; run it again"),
    "hangs up after headers": (OK + LENGTH + END, "sent an empty file|closed after 0"),
    "no length, no end": (then(OK + END, forever, CONTENT), "neither how long|more than the 1,000,000"),
    "no length, and cut": (OK + END + CONTENT[:5000], "neither how long the file is nor where it ends|is not thing"),
    "a chunk of zz bytes": (OK + CHUNKS + END + A_CHUNK + b"zz\r\n" + CONTENT, "a chunk is broken"),
    "a chunk of -5 bytes": (OK + CHUNKS + END + A_CHUNK + b"-5\r\n" + CONTENT[:999], "a chunk is broken"),
    "a chunk of 2^64 bytes": (OK + CHUNKS + END + b"f" * 16 + END + CONTENT, "a chunk is broken"),
    "a chunk line of 70,000": (OK + CHUNKS + END + b"1" * 70_000 + END, "no proper HTTP|a chunk is broken"),
    "cut in a chunk": (OK + CHUNKS + END + A_CHUNK + A_CHUNK[:500], "a chunk is broken"),
    "no last chunk": (OK + CHUNKS + END + A_CHUNK, "a chunk is broken"),
    "chunks without end": (then(OK + CHUNKS + END, forever, A_CHUNK), "sent more than the 1,000,000"),
    "trailers without end": (
        then(OK + CHUNKS + END + A_CHUNK + b"0\r\n", forever, b"X: y\r\n" * 1000),
        "too slow: fewer than 1,000 bytes in 0.4 s",
    ),
    "gzip": (OK + LENGTH + b"Content-Encoding: gzip\r\n\r\n" + CONTENT, "Content-Encoding gzip, expected the file as"),
    "gzip on the way": (OK + LENGTH + b"Transfer-Encoding: gzip\r\n\r\n" + CONTENT, "Transfer-Encoding gzip"),
    "a login page": (OK + LENGTH + b"Content-Type: text/html; charset=utf-8\r\n\r\n" + CONTENT, "sent a web page"),
    "silence": (SILENT, "no answer for 0.2 s"),
    "silence after a line": ([OK, *SILENT], "no answer for 0.2 s"),
    "silence half-way": ([OK + LENGTH + END + CONTENT[:5000], *SILENT], "no answer for 0.2 s"),
    "headers by drops": (lambda _: drops(OK + b"X: y\r\n" * 90), "too slow: fewer than 1,000 bytes in 0.4 s"),
    "content by drops": (then(OK + LENGTH + END, drops, CONTENT), "too slow: fewer than 1,000 bytes"),
    "a chunk line by drops": (then(OK + CHUNKS + END, drops, b"0"), "too slow: fewer than 1,000 bytes"),
}  # fmt: skip


def refused(item, said):
    """The message of a fetch that fails in time, leaves nothing under the name of the file, and no empty part."""
    limits = SLOWNESS if "too slow" in said else SILENCE if "no answer" in said else LIMITS
    began = time.monotonic()
    with pytest.raises((ConnectionError, ValueError), match=said) as caught:
        fetch(item, limits=limits)
    assert time.monotonic() - began < 5
    assert str(caught.value).isprintable()
    assert "Traceback" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert not item.path.exists()
    assert not part_of(item).exists() or part_of(item).stat().st_size
    return str(caught.value)


@pytest.mark.parametrize("pinned", [True, False], ids=["pinned", "unpinned"])
@pytest.mark.parametrize("case", BAD)
def test_a_bad_download_is_one_message_and_a_good_server_completes_it(server, item, case, pinned):
    item = item if pinned else dataclasses.replace(item, sha256=None)
    answer, said = BAD[case]
    server.answer = answer
    assert ("could not be downloaded" in refused(item, said)) != ("is not thing" in said and pinned)
    server.answer = sound()
    assert fetch(item, limits=LIMITS).read_bytes() == CONTENT
    left = {"thing.bin", "thing.bin.lock"} | (set() if pinned else {"thing.bin.fetched.json"})
    assert {path.name for path in item.path.parent.iterdir()} == left


AGAIN = "answered with a part of the file"
BAD_RESTS = {
    "no range": (PARTIAL + b'ETag: "one"\r\nContent-Length: 207200\r\n\r\n' + CONTENT[100_000:], AGAIN),
    "another start": (PARTIAL + REST.replace(b"100000-", b"99999-") + END + CONTENT[99_999:], AGAIN),
    "from the start": (PARTIAL + REST.replace(b"100000-", b"0-") + END + CONTENT, AGAIN),
    "another total": (PARTIAL + REST.replace(b"/307200", b"/307201") + END + CONTENT[100_000:], AGAIN),
    "a total below its end": (PARTIAL + REST.replace(b"/307200", b"/200000") + END + CONTENT[100_000:], AGAIN),
    "ends before it begins": (PARTIAL + REST.replace(b"-307199", b"-99999") + END + CONTENT[100_000:], AGAIN),
    "another length": (PARTIAL + REST.replace(b"207200", b"207201") + END + CONTENT[100_000:], AGAIN),
    "a range of letters": (PARTIAL + REST.replace(b"100000-307199", b"all") + END + CONTENT[100_000:], AGAIN),
    "a range of 5,000 digits": (PARTIAL + REST.replace(b"-307199", b"-" + b"3" * 5000) + END + CONTENT, AGAIN),
    "in another unit": (PARTIAL + REST.replace(b"bytes", b"lines") + END + CONTENT[100_000:], AGAIN),
    "several parts": (PARTIAL + b"Content-Type: multipart/byteranges; boundary=x\r\n\r\n--x\r\n\r\n", AGAIN),
    "of another file": (PARTIAL + REST.replace(b"one", b"two") + END + OTHER[100_000:], AGAIN),
    "of no known file": (PARTIAL + REST.replace(b'ETag: "one"\r\n', b"") + END + OTHER[100_000:], AGAIN),
    "of a like file": (PARTIAL + REST.replace(b'"one"', b'W/"one"') + END + OTHER[100_000:], AGAIN),
    "gzip": (PARTIAL + REST + b"Content-Encoding: gzip\r\n\r\n" + CONTENT[100_000:], "Content-Encoding gzip"),
    "a login page": (PARTIAL + REST + b"Content-Type: text/html\r\n\r\n" + CONTENT[100_000:], "sent a web page"),
    "hangs up": (PARTIAL + REST + END + CONTENT[100_000:150_000], "closed after 150,000 of 307,200 bytes; run it"),
    "hangs up at once": (PARTIAL + REST + END, "closed after 100,000 of 307,200 bytes"),
    "less than the rest": (
        PARTIAL + REST.replace(b"-307199", b"-149999").replace(b"207200", b"50000") + END + CONTENT[100_000:150_000],
        "closed after 150,000 of 307,200 bytes",
    ),
    "a broken chunk": (
        PARTIAL + REST.replace(b"Content-Length: 207200\r\n", CHUNKS) + END + b"-5\r\n" + OTHER,
        "closed after|a chunk is broken|answered",
    ),
    "416, of a shorter file": (b"HTTP/1.1 416 No\r\nContent-Range: bytes */50\r\n\r\n", "answered 416"),
    "416, of a longer file": (b"HTTP/1.1 416 No\r\nContent-Range: bytes */307200\r\n\r\n", "answered 416"),
    "503": (b"HTTP/1.1 503 Busy\r\n\r\n", "answered 503 Busy"),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", "answered 204"),
    "empty": (OK + b"Content-Length: 0\r\n\r\n", "sent an empty file"),
    "silence": (SILENT, "no answer for 0.2 s"),
    "drops": (then(PARTIAL + REST + END, drops, CONTENT[100_000 % 256 :]), "too slow"),
}  # fmt: skip


@pytest.mark.parametrize("pinned", [True, False], ids=["pinned", "unpinned"])
@pytest.mark.parametrize("case", BAD_RESTS)
def test_a_bad_rest_is_not_joined_to_what_is_here(server, item, case, pinned):
    item = item if pinned else dataclasses.replace(item, sha256=None)
    begun(server, item)
    server.answer, said = BAD_RESTS[case]
    refused(item, said)
    assert part_of(item).stat().st_size >= 100_000, "what was here is kept"
    server.answer = sound()
    assert fetch(item, limits=LIMITS).read_bytes() == CONTENT
    assert server.seen[-1]["range"].startswith("bytes=1"), "and gone on with"


@pytest.mark.parametrize("case", [name for name, (_, said) in BAD_RESTS.items() if said in (AGAIN, "answered 416")])
def test_a_server_that_cannot_send_the_rest_sends_the_whole(server, item, case):
    item = dataclasses.replace(item, sha256=None)
    begun(server, item)
    rest = BAD_RESTS[case][0]
    server.answer = lambda headers: [rest] if "range" in headers else sound()(headers)
    assert fetch(item, limits=LIMITS).read_bytes() == CONTENT


# A file that changed, a part of another


@pytest.mark.parametrize("pinned", [True, False], ids=["pinned", "unpinned"])
def test_the_rest_is_asked_for_by_its_etag(server, item, pinned):
    item = item if pinned else dataclasses.replace(item, sha256=None)
    begun(server, item)
    assert json.loads(note_of(item).read_text()) == {
        "url": server.url,
        "etag": '"one"',
        "modified": None,
        "total": 307200,
    }
    server.answer = sound()
    fetch(item, limits=LIMITS)
    (asked,) = server.seen
    assert (asked["range"], asked["if-range"]) == ("bytes=100000-", '"one"')
    assert asked["accept-encoding"] == "identity"


def test_a_file_that_changed_begins_anew(server, item):
    item = dataclasses.replace(item, sha256=None)
    begun(server, item)
    server.answer = sound(OTHER, b'"two"')
    assert fetch(item, limits=LIMITS).read_bytes() == OTHER


@pytest.mark.parametrize(
    ("header", "asked"),
    [
        (b"Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n", "Wed, 21 Oct 2015 07:28:00 GMT"),
        (b'ETag: W/"one"\r\nLast-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n', "Wed, 21 Oct 2015 07:28:00 GMT"),
        (b'ETag: W/"one"\r\n', None),
        (b'ETag: "o\xe9e"\r\n', None),
        (b"ETag: one\r\n", None),
        (b"", None),
    ],
)
def test_without_a_proof_of_the_same_file_a_part_begins_anew(server, item, header, asked):
    """Where a checksum is pinned it is the proof."""
    for pinned in (False, True):
        one = dataclasses.replace(item, sha256=item.sha256 if pinned else None)
        server.answer = OK + header + LENGTH + END + CONTENT[:100_000]
        refused(one, "closed after 100,000")
        server.seen.clear()
        server.answer = sound(ranges=False)
        fetch(one, limits=LIMITS).unlink()
        assert server.seen[0].get("if-range") == asked
        assert server.seen[0].get("range") == ("bytes=100000-" if pinned or asked else None)


def test_a_part_of_another_address_begins_anew(server, item):
    item = dataclasses.replace(item, sha256=None)
    begun(server, item)
    moved = dataclasses.replace(item, url=server.url.replace("/file", "/other"))
    server.answer = sound()
    fetch(moved, limits=LIMITS)
    assert "range" not in server.seen[0]


NOTES = {
    "cut": b'{"url": "http',
    "empty": b"",
    "a list": b"[1, 2]",
    "bytes": bytes(range(256)),
    "deep": b"[" * 10_000,
    "long": b" " * 10_000_000,
    "of other types": b'{"url": 1, "etag": ["x"], "modified": {}, "total": "7"}',
    "with another header": b'{"url": "URL", "etag": "\\"a\\"\\r\\nX: y", "modified": "a\\r\\nX: y", "total": 307200}',
    "of a shorter file": b'{"url": "URL", "etag": "\\"one\\"", "modified": null, "total": 5}',
    "numbers of 5,000 digits": b'{"total": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("case", NOTES)
def test_a_damaged_note_proves_nothing(server, item, case):
    item = dataclasses.replace(item, sha256=None)
    begun(server, item)
    note_of(item).write_bytes(NOTES[case].replace(b"URL", server.url.encode()))
    server.answer = sound()
    assert fetch(item, limits=LIMITS).read_bytes() == CONTENT
    assert "range" not in server.seen[0]


def test_a_wrong_part_costs_a_second_download(server, item, capsys):
    item.path.parent.mkdir(parents=True)
    for wrong in (OTHER[:100_000], OTHER, CONTENT + b"more"):
        part_of(item).write_bytes(wrong)
        server.answer = sound()
        assert fetch_aloud(item).read_bytes() == CONTENT
        item.path.unlink()
    told = capsys.readouterr().err
    assert "0.31 MB of 0.31 MB" in told
    assert "-" not in told


def test_a_whole_part_is_the_file(server, item):
    item = dataclasses.replace(item, sha256=None)
    begun(server, item)
    part_of(item).write_bytes(CONTENT)  # killed before it took its name
    server.answer = sound()
    assert fetch(item, limits=LIMITS).read_bytes() == CONTENT
    assert [asked["range"] for asked in server.seen] == ["bytes=307200-"]


def test_the_size_in_the_manifest_bounds_what_a_server_may_send(server, item):
    assert asset("inception").limits.size == 119_500_000
    assert asset("imagenet256").limits.size == 8 << 30
    assert all(10**8 < each.limits.size <= 8 << 30 for each in assets())
    server.answer = sound()
    with pytest.raises(ConnectionError, match=r"sends 307,200 bytes, more than the 250,000 bytes that are allowed"):
        fetch(dataclasses.replace(item, size="0.2 MB"))


# Addresses


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("https://example.org/b", "https://example.org/b"),
        ("/b c\xe9", "https://example.com/b%20c%E9"),
        ("HTTPS://example.org/b", "https://example.org/b"),
        ("//example.org/b", "https://example.org/b"),
        ("http://example.com/a", None),
        ("HTTP://example.com/a", None),
        ("file:///etc/passwd", None),
        ("javascript:alert(1)", None),
        ("https://[", None),
        ("", None),
        (None, None),
    ],
)
def test_redirects_stay_encrypted_and_on_the_web(location, expected):
    if expected:
        assert redirected("https://example.com/a", location).lower() == expected.lower()
    else:
        with pytest.raises(ConnectionError, match="redirects"):
            redirected("https://example.com/a", location)
    assert redirected("http://example.com/a", "http://example.com/b") == "http://example.com/b"


def test_a_redirect_is_followed_with_the_range(server, item):
    begun(server, item)
    whole = sound()
    server.answer = lambda headers: (
        [b"HTTP/1.1 302 Found\r\nLocation: /there\r\n\r\n"] if len(server.seen) < 2 else whole(headers)
    )
    assert fetch(item, limits=LIMITS).read_bytes() == CONTENT
    assert [asked["range"] for asked in server.seen] == ["bytes=100000-"] * 2


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/y", "thing.bin", "", "http://", "http://[", "data:,x"])
def test_an_address_is_of_the_web(item, url):
    with pytest.raises(ValueError, match=r"`url` .*(expected an address that begins with https://|Invalid IPv6)"):
        download(url, item.path, pinned=True)


def test_a_server_without_tls_is_told(server, item):
    item = dataclasses.replace(item, url=server.url.replace("http:", "https:"))
    refused(item, r"could not be downloaded from https://.*(SSL|EOF)")


# The disk


@pytest.mark.parametrize("kind", ["link", "link to nothing", "hard link", "folder", "pipe"])
def test_a_part_is_never_written_through_a_link(server, item, tmp_path, kind):
    item.path.parent.mkdir(parents=True)
    victim = tmp_path / "victim"
    if kind != "link to nothing":
        victim.write_bytes(b"precious")
    if kind.startswith("link"):
        part_of(item).symlink_to(victim)
    elif kind == "hard link":
        part_of(item).hardlink_to(victim)
    elif kind == "folder":
        part_of(item).mkdir()
    else:
        os.mkfifo(part_of(item))
    with pytest.raises(OSError, match=r"thing\.bin\.part cannot be written: .*(link|directory|plain file)\. Remove it"):
        fetch(item, limits=LIMITS)
    assert not server.seen, "before anything is asked for"
    assert (victim.read_bytes() if victim.exists() else None) == (None if kind == "link to nothing" else b"precious")


def test_a_note_is_never_written_through_a_link(server, item, tmp_path):
    item.path.parent.mkdir(parents=True)
    (tmp_path / "victim").write_bytes(b"precious")
    note_of(item).symlink_to(tmp_path / "victim")
    fetch(item, limits=LIMITS)
    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_what_lies_under_the_name_of_the_file_is_not_replaced(server, item, tmp_path):
    item.path.parent.mkdir(parents=True)
    item.path.symlink_to(tmp_path / "not mounted")
    with pytest.raises(OSError, match=r"thing\.bin is a link to nothing\. Remove it"):
        fetch(item, limits=LIMITS)
    item.path.unlink()
    item.path.mkdir()
    with pytest.raises(OSError, match=r"thing\.bin is no plain file\. Remove it"):
        fetch(item, limits=LIMITS)
    assert not server.seen


def test_a_full_disk_is_told_before(server, item, monkeypatch):
    begun(server, item)
    server.answer = sound()
    usage = shutil.disk_usage(item.path.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=200_000))
    with pytest.raises(
        OSError, match=r"207,200 bytes are to come, 200,000 are free\. Make room, or set DIT_EVAL_CACHE"
    ):
        fetch(item, limits=LIMITS)
    assert part_of(item).stat().st_size == 100_000


def test_a_disk_that_fills_keeps_what_came(server, item):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    server.answer = sound()
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
    try:
        with pytest.raises(
            OSError, match=r"cannot be written after 150,000 bytes: .*Make room, or set DIT_EVAL_CACHE"
        ) as e:
            fetch(item, limits=LIMITS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not isinstance(e.value, ConnectionError)
    assert fetch(item, limits=LIMITS).read_bytes() == CONTENT
    assert server.seen[-1]["range"] == "bytes=150000-"


# Kills

FETCH = """
import sys
from dit_eval.system.assets import Asset, fetch
item = Asset(name="thing", kind="weights", filename="thing.bin", url=sys.argv[1], sha256=sys.argv[2] or None, note="")
print("ready", flush=True)
fetch(item)
"""


@pytest.mark.slow
@pytest.mark.parametrize("pinned", [True, False], ids=["pinned", "changes under way"])
def test_ten_kills_end_in_the_right_bytes(server, item, pinned):
    """Where nothing is pinned, the file changes after the tenth: nothing of the old one is left in the new one."""
    item = item if pinned else dataclasses.replace(item, sha256=None)
    content = CONTENT

    def slowly(headers):
        *head, body = sound(content, b'"%d"' % content[0])(headers)
        yield from head
        for begin in range(0, len(body), 2000):
            yield body[begin : begin + 2000]
            yield 0.02

    server.answer = slowly
    wait, killed, sizes = random.Random(16), 0, []
    while killed < 10:
        command = [sys.executable, "-c", FETCH, server.url, item.sha256 or ""]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            process.stdout.readline()
            time.sleep(wait.uniform(0, 0.15))
            assert process.poll() is None
            process.kill()
        killed += 1
        sizes.append(part_of(item).stat().st_size if part_of(item).exists() else 0)
        if killed == 4 and not pinned:
            content = OTHER
    assert max(sizes) > 20_000
    server.answer = sound(content, b'"%d"' % content[0])
    assert fetch(item, limits=LIMITS).read_bytes() == content
    assert re.fullmatch(r"bytes=[1-9]\d+-", server.seen[-1]["range"]), "the last went on, too"
    assert not [path for path in Path(item.path.parent).iterdir() if ".part" in path.name]
