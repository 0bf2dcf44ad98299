"""Downloads from a real HTTP server on this machine: resuming, checking, failing clearly."""

import dataclasses
import hashlib
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest
from kill_points import fail_once

from dit_eval.system.assets import Asset, asset, assets, cache_dir, fetch, find_reference, recorded_sha256, verify

CONTENT = bytes(range(256)) * 5000


class Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT at /file; honours Range unless told not to; can hang up half-way."""

    ranges = True
    hang_up_after: int | None = None
    seen: list[str | None] = []  # noqa: RUF012 (the handler class is the server's state)

    def do_GET(self):
        cls = type(self)
        if self.path != "/file":
            self.send_error(404)
            return
        wanted = self.headers.get("Range")
        cls.seen.append(wanted)
        begin = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and cls.ranges else 0
        if begin >= len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[begin:]
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: cls.hang_up_after])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    handler = type("Handler", (Server,), {"seen": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        handler.url = f"http://127.0.0.1:{httpd.server_port}/file"
        yield handler
        httpd.shutdown()
        thread.join()


@pytest.fixture
def item(server, tmp_path, monkeypatch):
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path / "cache"))
    return Asset(
        name="thing",
        kind="weights",
        filename="thing.bin",
        url=server.url,
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        note="",
    )


def test_a_download_is_checked_and_kept(server, item):
    progress = []
    path = fetch(item, on_progress=lambda done, total: progress.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert progress[-1] == (len(CONTENT), len(CONTENT))
    assert fetch(item) == path
    assert len(server.seen) == 1, "a file that is here is not fetched again"
    assert verify(item) == item.sha256
    assert sorted(p.name for p in path.parent.iterdir()) == ["thing.bin", "thing.bin.lock"]


def test_a_broken_download_goes_on_where_it_stopped(server, item):
    server.hang_up_after = 300_000
    with pytest.raises(ConnectionError, match=r"300,000 of 1,280,000 bytes; run it again to go on"):
        fetch(item)
    assert not item.path.exists()
    server.hang_up_after = None
    assert fetch(item).read_bytes() == CONTENT
    assert server.seen == [None, "bytes=300000-"]


def test_a_server_without_ranges_starts_anew(server, item):
    server.ranges = False
    server.hang_up_after = 1000
    with pytest.raises(ConnectionError):
        fetch(item)
    server.hang_up_after = None
    assert fetch(item).read_bytes() == CONTENT


def test_a_complete_part_file_is_used_as_it_is(server, item):
    item.path.parent.mkdir(parents=True)
    item.path.with_name("thing.bin.part").write_bytes(CONTENT)
    assert fetch(item).read_bytes() == CONTENT


def test_the_wrong_file_is_refused_and_deleted(item):
    wrong = dataclasses.replace(item, sha256="0" * 64)
    with pytest.raises(ValueError, match="is not thing: its SHA-256 is"):
        fetch(wrong)
    assert not list(item.path.parent.glob("thing.bin*[!k]")), "neither the file nor its part stays"


def test_a_file_that_changed_on_disk_is_named(item):
    fetch(item).write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"Delete it and run `dit-eval weights fetch thing`"):
        fetch(item)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/file", "{server}/missing"])
def test_an_unreachable_address_says_how_to_go_on(server, item, url):
    with pytest.raises(ConnectionError, match=r"download it elsewhere and put it at .*thing\.bin"):
        fetch(item, url=url.format(server=server.url))


def test_an_address_is_fetched_into_the_cache_and_noted(server, item):
    progress = []

    def bring(found):
        return fetch(found, on_progress=lambda done, total: progress.append((done, total)))

    path = find_reference(server.url, bring=bring)
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(cache_dir())
    assert path.name == "file"
    assert progress[-1] == (len(CONTENT), len(CONTENT))
    noted = json.loads(path.with_name("file.fetched.json").read_text())
    assert (noted["url"], noted["sha256"]) == (server.url, item.sha256)
    assert find_reference(server.url, bring=bring) == path
    assert len(server.seen) == 1
    assert find_reference(f"{server.url}#{item.sha256}") == path
    assert find_reference(f"{server.url}#fid") == path.with_name("file#fid")
    with pytest.raises(ValueError, match=r"file is not http://.*: its SHA-256 is .*, needed 0000.* and run it again\."):
        find_reference(f"{server.url}#{'0' * 64}")
    shutil.rmtree(path.parent)
    with pytest.raises(ValueError, match=r"What http://.* sent is not http://.*, needed 0000"):
        find_reference(f"{server.url}#{'0' * 64}")
    with pytest.raises(
        ConnectionError, match=r"missing could not be downloaded .*\. On a machine without network, .* at"
    ):
        find_reference(server.url.replace("/file", "/missing"))


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("hf://o/r/data/x.pkl", "https://huggingface.co/o/r/resolve/main/data/x.pkl"),
        ("hf://datasets/o/r@v1.0/a b.npz", "https://huggingface.co/datasets/o/r/resolve/v1.0/a%20b.npz"),
        ("https://x.org/a/../..%2f?q=/evil", "https://x.org/a/../..%2f?q=/evil"),
        ("https://x.org", "https://x.org"),
        ("hf://o/x.npz", None),
        ("hf:///o/r/x.npz", None),
    ],
)
def test_addresses_mean_one_file_each(address, url, item):
    asked = []
    if url is None:
        with pytest.raises(ValueError, match=r"expected hf://OWNER/REPOSITORY/FILE"):
            find_reference(address)
        return
    find_reference(address, bring=lambda found: asked.append(found) or found.path)
    (found,) = asked
    assert found.url == url
    assert found.path.parent.parent == cache_dir() / "references", "no name leads out of the cache"


def test_processes_that_fetch_at_once_download_once(server, item):
    threads = [threading.Thread(target=fetch, args=(item,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert item.path.read_bytes() == CONTENT
    assert len(server.seen) == 1


TEN = """\
import hashlib
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

import dit_eval.flops.kept as kept
from dit_eval.flops.counts import FlopCount
from dit_eval.features.cache import cache_entry, cached_features
from dit_eval.features.network import FeatureBatch
from dit_eval.images.npz import open_batch, write_batch
from dit_eval.system.assets import Asset, cache_dir, fetch


class Network:
    name, backend, device, precision, weights_sha256 = "test", "torch", "cpu", "fp32", "0" * 64
    pool_dim, spatial_dim = 12, None

    def __call__(self, images):
        time.sleep(0.002)
        return FeatureBatch(pool=images.reshape(len(images), -1).astype(np.float32), spatial=None, class_probs=None)


def counted(macs):
    return FlopCount(macs=macs, params=1, by_operator={}, by_module={}, negligible={})


def work(item, images, number):
    notes = []
    entry = cache_entry(images, Network(), images_sha256="1" * 64, cache=cache_dir(), on_note=notes.append)
    summary, _ = cached_features(images, Network(), entry=entry, batch_size=20)
    again, cached = cached_features(images, Network(), entry=entry, batch_size=20)
    kept._keep(str(number), counted(1000 + number))
    kept._keep("all", counted(7))
    seen = [summary.pool.sigma, summary.pool_features, again.pool.sigma, again.pool_features]
    said = [hashlib.sha256(each.tobytes()).hexdigest() for each in seen]
    assert cached and kept._kept()["all"] == counted(7) and not notes, notes
    return json.dumps([said, hashlib.sha256(fetch(item).read_bytes()).hexdigest()])


item = Asset(name="thing", kind="weights", filename="thing.bin", url=sys.argv[1], sha256=None, note="")
pixels = np.arange(200 * 12).astype(np.uint8).reshape(200, 2, 2, 3)
write_batch("images.npz", images=[pixels], shape=pixels.shape)
images = open_batch("images.npz", role="gen")
starts, go = os.pipe()
children = []
for number in range(10):
    if not (pid := os.fork()):
        os.close(go)
        os.read(starts, 1)  # until all are there
        Path(f"said-{number}").write_text(work(item, images, number))
        os._exit(0)
    children.append(pid)
os.close(go)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children))
"""


@pytest.mark.parametrize("begun", [False, True])
def test_ten_processes_share_a_cache(server, item, tmp_path, begun):
    if begun:  # a part that a killed process has left
        server.hang_up_after = 1000
        with pytest.raises(ConnectionError):
            fetch(dataclasses.replace(item, sha256=None))
        server.hang_up_after = None
        server.seen.clear()
    done = subprocess.run(
        [sys.executable, "-c", TEN, server.url], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    said = {path.read_text() for path in tmp_path.glob("said-*")}
    assert len(list(tmp_path.glob("said-*"))) == 10
    ((features, fetched),) = map(json.loads, said)
    assert features[:2] == features[2:], "made and kept are the same bits"
    assert fetched == hashlib.sha256(CONTENT).hexdigest()
    assert len(server.seen) == 1, "one download"
    assert not [*(tmp_path / "cache").glob(".*.part")]
    assert len([*(tmp_path / "cache").glob("features-*.npz")]) == 1


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path / "a"))
    assert cache_dir() == tmp_path / "a"
    monkeypatch.delenv("DIT_EVAL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_dir() == tmp_path / "b" / "dit_eval"


def test_the_manifest_pins_what_can_be_pinned():
    names = [item.name for item in assets()]
    assert len(names) == len(set(names))
    inception = asset("inception", "weights")
    # torch-fidelity puts the first eight digits of the SHA-256 into the file's name.
    assert inception.sha256.startswith(inception.filename.removesuffix(".pth").rsplit("-", 1)[1])
    for item in assets():
        assert item.url is None or item.url.startswith("https://")
        assert item.url is not None or item.path.is_file(), "an embedded file is part of the package"
    with pytest.raises(ValueError, match=r"known: .*imagenet256"):
        asset("imagenet257")


def test_embedded_files_are_in_the_wheel():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    needed = {"manifest.toml", "anchors.toml", "references.toml", "verify.toml", "verify.npz", "effects.json"} | {
        item.filename for item in assets() if item.url is None
    }
    assert included == {f"reference_stats/{name}": f"dit_eval/reference_stats/{name}" for name in needed}


def test_what_the_official_address_sent_is_noted_where_nothing_is_pinned(server, item):
    unpinned = dataclasses.replace(item, sha256=None)
    assert recorded_sha256(unpinned) is None
    path = fetch(unpinned)
    record = json.loads(path.with_name("thing.bin.fetched.json").read_text())
    assert record.pop("time").startswith("20")
    assert record == {"url": server.url, "size": 1_280_000, "sha256": hashlib.sha256(CONTENT).hexdigest()}
    assert recorded_sha256(unpinned) == hashlib.sha256(CONTENT).hexdigest()
    path.write_bytes(b"another file")
    assert recorded_sha256(unpinned) != verify(unpinned)


def test_a_note_that_cannot_be_written_is_not_missing_for_ever(server, item, monkeypatch):
    unpinned = dataclasses.replace(item, sha256=None)
    with monkeypatch.context() as patch:
        fail_once(patch, item.record_path.name)
        with pytest.raises(OSError, match=r"No space left on device: '.*fetched\.json'"):
            fetch(unpinned)
        assert not item.path.exists(), "nobody would note later what a file is that is there"
    fetch(unpinned)
    assert recorded_sha256(unpinned) == verify(unpinned) == hashlib.sha256(CONTENT).hexdigest()


def test_a_mirror_is_not_the_official_address(server, item):
    unpinned = dataclasses.replace(item, sha256=None, url="https://example.org/thing.bin")
    server.hang_up_after = 1000
    with pytest.raises(ConnectionError):
        fetch(unpinned, url=server.url)
    assert [p.name for p in unpinned.path.parent.glob("*.part")] == ["thing.bin.mirror.part"]
    server.hang_up_after = None
    assert fetch(unpinned, url=server.url).read_bytes() == CONTENT
    assert recorded_sha256(unpinned) is None
    # Named with the option, the official address is what it is.
    official = dataclasses.replace(unpinned, url=server.url)
    official.path.unlink()
    fetch(official, url=server.url)
    assert recorded_sha256(official) == hashlib.sha256(CONTENT).hexdigest()
