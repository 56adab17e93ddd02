"""Files that are replaced as a whole."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from nnbackend import files
from nnbackend.files import replace, stem, write_atomically


@pytest.mark.parametrize("content", [b"", b"new", b"\r\n\0" * 10**5])
def test_the_file_holds_the_content_and_nothing_else_is_left(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    write_atomically(path, content)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_the_new_file_is_complete_before_it_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    found: list[bytes] = []

    def look() -> None:
        (temporary,) = set(tmp_path.iterdir()) - {path}
        found.extend([path.read_bytes(), temporary.read_bytes()])

    write_atomically(path, b"new", before=look)
    assert found == [b"old", b"new"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_before_the_replacement_leaves_the_old_file(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fail() -> None:
        raise error

    with pytest.raises(error):
        write_atomically(path, b"new", before=fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="permissions of a group: this system has none")
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_others_may_read_it_if_the_umask_says_so(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~mask


@pytest.mark.skipif(os.name == "nt", reason="permissions of a group: this system has none")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_a_file_keeps_its_permissions(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    path.chmod(mode)
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with a name: this system has none")
def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomically(pipe, b"new")
        assert os.read(reader, 9) == b"new"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_where_no_file_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="it is a folder, a file name is needed"):
        write_atomically(tmp_path, b"")
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*none: '.*a'$"):
        write_atomically(tmp_path / "none" / "a", b"")


def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError) as caught:
        write_atomically(tmp_path / "a", b"")
    assert caught.value.filename == str(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("length", [120, 121, 255])
def test_a_long_name_leaves_room_for_what_is_added(length: int) -> None:
    path = Path("a" * length)
    begins = stem(path)
    assert len(begins) <= 120
    assert (begins == path.name) == (length <= 120)
    assert begins != stem(Path("b" * length))


def test_on_windows_a_replacement_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"new")
    slept, moved = list[float](), Path.replace

    def hold(self: Path, target: Path) -> Path:
        if len(slept) < 3:
            raise PermissionError(13, "Access is denied")
        return moved(self, target)

    monkeypatch.setattr(Path, "replace", hold)
    monkeypatch.setattr(files.time, "sleep", slept.append)
    with pytest.raises(PermissionError):
        replace(tmp_path / "a", tmp_path / "b")
    assert slept == []
    monkeypatch.setattr(files, "WINDOWS", True)
    replace(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"new"
    assert slept == sorted(slept) == [0.02, 0.05, 0.1]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege")
def test_a_link_to_a_file_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kept" / "file")
    for content in (b"one", b"two"):  # the file is not there at first
        write_atomically(tmp_path / "link", content)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "kept" / "file").read_bytes() == content
    assert len([*tmp_path.iterdir(), *(tmp_path / "kept").iterdir()]) == 3
