"""The download, against a server on this machine that behaves in every way a mirror can."""

import gzip
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pytest

from nnbackend.datasets import download, write_idx
from nnbackend.datasets.download import FILES, cache_folder, cached_mnist, fetch_mnist
from nnbackend.errors import DataError

Answer = tuple[int, bytes, int]  # status, body, stated length
HTML = b"\n<!DOCTYPE html>\n<html><body>Please log in</body></html>"


class Mirrors:
    """Folders of one server: answers by path, and the paths that were asked for."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []

    def serve(self, folder: str, name: str, body: bytes, status: int = 200, length: int | None = None) -> None:
        self.answers[f"/{folder}/{name}.gz"] = (status, body, len(body) if length is None else length)

    def url(self, folder: str) -> str:
        return f"{self.address}/{folder}/"


@pytest.fixture
def mirrors(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirrors]:
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.path)
            status, body, length = served.answers.get(self.path, (404, b"nothing here", 12))
            self.send_response(status)
            if status == 302:
                self.send_header("Location", body.decode())
            if length >= 0:  # else the connection ends the answer
                self.send_header("Content-Length", str(length))
            self.end_headers()
            with suppress(ConnectionError):
                for _ in range(1 if length >= 0 else 10_000):
                    self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = Mirrors(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        server.shutdown()
        thread.join()


@pytest.fixture
def good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Four small files in the place of the real ones: gzip by name, with their checksums."""
    packed = {}
    for number, name in enumerate(FILES):
        write_idx(tmp_path / name, np.arange(number + 1, dtype="u1"))
        content = (tmp_path / name).read_bytes()
        monkeypatch.setitem(download._SHA256, name, sha256(content).hexdigest())
        packed[name] = gzip.compress(content)
    return packed


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NNBACKEND_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mnist"


def serve_all(mirrors: Mirrors, folder: str, files: dict[str, bytes]) -> None:
    for name, body in files.items():
        mirrors.serve(folder, name, body)


def check_complete(cache: Path, arrays: list[np.ndarray] | None) -> None:
    assert arrays is not None
    assert [array.tolist() for array in arrays] == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]
    assert sorted(path.name for path in cache.iterdir()) == sorted(f"{name}.gz" for name in FILES)


def test_download_then_no_network(mirrors: Mirrors, good: dict[str, bytes], cache: Path) -> None:
    serve_all(mirrors, "a", good)
    assert cached_mnist() is None
    check_complete(cache, fetch_mnist(mirrors=[mirrors.url("a")]))
    assert mirrors.asked == [f"/a/{name}.gz" for name in FILES]
    check_complete(cache, fetch_mnist(mirrors=[]))
    check_complete(cache, cached_mnist())


def test_a_mirror_may_pack_the_files_in_its_own_way(mirrors: Mirrors, good: dict[str, bytes], cache: Path) -> None:
    serve_all(mirrors, "a", {name: gzip.compress(gzip.decompress(good[name]), 1, mtime=9) for name in FILES[:2]})
    serve_all(mirrors, "a", {name: gzip.decompress(good[name]) for name in FILES[2:]})  # or not at all
    check_complete(cache, fetch_mnist(mirrors=[mirrors.url("a").rstrip("/")]))


def test_second_mirror_is_tried(mirrors: Mirrors, good: dict[str, bytes], cache: Path) -> None:
    with socket.socket() as unused:  # bound but not listening: connections are refused
        unused.bind(("127.0.0.1", 0))
        down = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        serve_all(mirrors, "b", good)
        check_complete(cache, fetch_mnist(mirrors=[down, mirrors.url("empty"), mirrors.url("b")]))


def test_every_failure_is_reported(mirrors: Mirrors, good: dict[str, bytes], cache: Path) -> None:
    name = FILES[0]
    other = gzip.compress(bytes.fromhex("00000801 00000001 07"))
    mirrors.serve("wrong", name, other)
    mirrors.serve("html", name, HTML)
    mirrors.serve("html-error", name, HTML, status=503)
    mirrors.serve("cut", name, good[name][:-4])
    mirrors.serve("interrupted", name, good[name][:-4], length=len(good[name]))
    mirrors.serve("empty", name, b"")
    folders = ["missing", "wrong", "html", "html-error", "cut", "interrupted", "empty"]
    with pytest.raises(DataError) as caught:
        fetch_mnist(mirrors=[*map(mirrors.url, folders), "no-address"])
    title, *reasons, help_ = str(caught.value).splitlines()
    assert title == f"no mirror gave {name}.gz:"
    expected = [
        "HTTPError: 404",
        "SHA-256 when decompressed is",
        "answered with an HTML page",
        "HTTPError: 503",
        "corrupt or truncated gzip data",
        "IncompleteRead",
        "truncated: 0 bytes",
        "No scheme supplied",
    ]
    for folder, reason, part in zip([*folders, "no-address"], reasons, expected, strict=True):
        assert f"{folder}/{name}.gz: " in reason
        assert part in reason
    assert ".download-" not in str(caught.value)
    assert str(cache) in help_
    assert all(f"{name}.gz" in help_ for name in FILES)
    assert "NNBACKEND_DATA" in help_
    assert list(cache.iterdir()) == []  # nothing of it stays


def test_a_silent_mirror_does_not_hold_the_rest(mirrors: Mirrors, good: dict[str, bytes], cache: Path) -> None:
    serve_all(mirrors, "b", good)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        check_complete(cache, fetch_mnist(mirrors=[address, mirrors.url("b")], timeout=0.1))


def test_a_mirror_that_stops_half_way_does_not_hold_the_rest(
    mirrors: Mirrors, good: dict[str, bytes], cache: Path
) -> None:
    serve_all(mirrors, "b", good)
    answered: list[socket.socket] = []
    with ThreadPoolExecutor(2) as pool, socket.create_server(("127.0.0.1", 0)) as slow:
        slow.settimeout(10)

        def answer() -> None:
            for _ in FILES:
                connection, _ = slow.accept()
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n\x1f\x8b")  # and no more
                answered.append(connection)

        pool.submit(answer)
        address = f"http://127.0.0.1:{slow.getsockname()[1]}/"
        call = pool.submit(fetch_mnist, mirrors=[address, mirrors.url("b")], timeout=0.1)
        try:
            check_complete(cache, call.result(timeout=4))
            assert len(answered) == len(FILES)
        finally:
            for connection in answered:
                connection.close()


def test_redirects_are_followed_and_loops_are_not(mirrors: Mirrors, good: dict[str, bytes], cache: Path) -> None:
    serve_all(mirrors, "b", good)
    for name in FILES:
        mirrors.serve("loop", name, f"/loop/{name}.gz".encode(), status=302)
        mirrors.serve("page", name, b"/login", status=302)  # as a hotel's network does
        mirrors.serve("a", name, f"/b/{name}.gz".encode(), status=302)
    mirrors.answers["/login"] = (200, HTML, len(HTML))
    with pytest.raises(DataError, match=r"(?s)TooManyRedirects.*answered with an HTML page"):
        fetch_mnist(mirrors=[mirrors.url("loop"), mirrors.url("page")])
    assert list(cache.iterdir()) == []
    check_complete(cache, fetch_mnist(mirrors=[mirrors.url("loop"), mirrors.url("a")]))


def test_a_mirror_that_sends_for_ever_does_not_fill_the_disk(
    mirrors: Mirrors, good: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_LARGEST", 2**20)
    mirrors.serve("endless", FILES[0], bytes(2**16), length=-1)
    with pytest.raises(DataError, match="it sends more than 1048576 bytes"):
        fetch_mnist(mirrors=[mirrors.url("endless")])
    assert list(cache.iterdir()) == []
    serve_all(mirrors, "b", good)
    check_complete(cache, fetch_mnist(mirrors=[mirrors.url("endless"), mirrors.url("b")]))


def test_many_at_once_fill_one_cache(mirrors: Mirrors, good: dict[str, bytes], cache: Path) -> None:
    serve_all(mirrors, "a", good)
    mirrors.serve("cut", FILES[0], good[FILES[0]][:-4])
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(fetch_mnist, mirrors=[mirrors.url("cut"), mirrors.url("a")]) for _ in range(24)]
    for call in calls:
        check_complete(cache, call.result())


PROCESS = """if True:
    import json, sys
    from pathlib import Path
    from nnbackend.datasets import download
    checksums, *mirrors = sys.argv[1:]
    download._SHA256.update(json.loads(checksums))
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps([array.tolist() for array in download.fetch_mnist(mirrors=mirrors)]))
"""


def test_processes_at_once_fill_one_cache(mirrors: Mirrors, good: dict[str, bytes], cache: Path) -> None:
    serve_all(mirrors, "a", good)
    cache.mkdir(parents=True)
    for name in FILES:
        (cache / f"{name}.gz").write_bytes(b"damaged")  # each of them may want to remove it
    command = [sys.executable, "-c", PROCESS, json.dumps(download._SHA256), mirrors.url("a")]
    processes = [subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        output, errors = process.communicate(timeout=60)
        assert json.loads(output or "null") == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]], errors
    check_complete(cache, cached_mnist())


def test_a_damaged_file_may_be_removed_by_another_process(
    mirrors: Mirrors, good: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_all(mirrors, "a", good)
    cache.mkdir(parents=True)
    damaged = cache / f"{FILES[0]}.gz"
    damaged.write_bytes(b"damaged")
    verified = download._verified

    def overtaken(path: Path) -> np.ndarray:
        try:
            return verified(path)
        except DataError:
            damaged.unlink()
            raise

    monkeypatch.setattr(download, "_verified", overtaken)
    check_complete(cache, fetch_mnist(mirrors=[mirrors.url("a")]))


def test_an_interrupted_call_is_resumed(mirrors: Mirrors, good: dict[str, bytes], cache: Path) -> None:
    serve_all(mirrors, "a", {name: good[name] for name in FILES[:2]})
    with pytest.raises(DataError, match=f"no mirror gave {FILES[2]}"):
        fetch_mnist(mirrors=[mirrors.url("a")])
    mirrors.asked.clear()
    serve_all(mirrors, "a", good)
    check_complete(cache, fetch_mnist(mirrors=[mirrors.url("a")]))
    assert mirrors.asked == [f"/a/{name}.gz" for name in FILES[2:]]


@pytest.mark.parametrize("damage", [b"", b"\x1f\x8b", HTML], ids=["empty", "cut", "html"])
def test_a_damaged_file_is_fetched_again(mirrors: Mirrors, good: dict[str, bytes], cache: Path, damage: bytes) -> None:
    serve_all(mirrors, "a", good)
    fetch_mnist(mirrors=[mirrors.url("a")])
    mirrors.asked.clear()
    (cache / f"{FILES[1]}.gz").write_bytes(damage)
    with pytest.raises(DataError, match=r'nn.datasets.mnist\("full"\) fetches it again'):
        cached_mnist()
    check_complete(cache, fetch_mnist(mirrors=[mirrors.url("a")]))
    assert mirrors.asked == [f"/a/{FILES[1]}.gz"]


def test_a_damaged_file_does_not_stay_when_there_is_no_other(good: dict[str, bytes], cache: Path) -> None:
    cache.mkdir(parents=True)
    for name in FILES:
        (cache / f"{name}.gz").write_bytes(b"damaged")
    with pytest.raises(DataError, match="there is none to try"):
        fetch_mnist(mirrors=[])
    assert cached_mnist() is None


def test_the_cache_cannot_be_made(good: dict[str, bytes], cache: Path) -> None:
    cache.parent.write_bytes(b"a file where the folder should be")
    with pytest.raises(DataError, match=r"cannot write train-images.* to the cache folder .*Set NNBACKEND_CACHE"):
        fetch_mnist(mirrors=[])
    assert cached_mnist() is None


def test_the_cache_refuses_a_write(good: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:  # what a read-only folder does to anyone but a superuser
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(download.tempfile, "TemporaryDirectory", refuse)
    with pytest.raises(DataError, match=r"cannot write .*\(Permission denied\)\. Set NNBACKEND_CACHE"):
        fetch_mnist(mirrors=[])


def test_a_complete_cache_need_not_be_written(
    mirrors: Mirrors, good: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_all(mirrors, "a", good)
    fetch_mnist(mirrors=[mirrors.url("a")])
    monkeypatch.delattr(Path, "mkdir")
    check_complete(cache, fetch_mnist(mirrors=[]))


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pooch

    monkeypatch.setenv("NNBACKEND_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path / "mnist"
    monkeypatch.delenv("NNBACKEND_CACHE")
    assert cache_folder() == Path(pooch.os_cache("nnbackend")) / "mnist"
