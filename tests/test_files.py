"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from onelook import files
from onelook.files import new_folder, open_replacing, remove_leftovers, replacing, write_bytes, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def through_text(path: Path) -> None:
    write_text(path, "new\n")


def through_bytes(path: Path) -> None:
    write_bytes(path, b"new\n")


def through_stream(path: Path) -> None:
    with open_replacing(path) as file:
        file.write("new\n")


def through_name(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(b"new\n")


def through_private_file(path: Path) -> None:
    """As libraries do that write to a file of their own and rename it."""
    with replacing(path) as temporary:
        if temporary.is_file():
            temporary.unlink()
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL, 0o600))
        temporary.write_bytes(b"new\n")


WAYS = pytest.mark.parametrize(
    "write", [through_text, through_bytes, through_stream, through_name, through_private_file]
)
Write = Callable[[Path], None]


@WAYS
def test_a_file_is_made_with_its_folders_or_replaced(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write(path)
    assert path.read_bytes() == b"new\n"
    path.write_text("something longer than the new content")
    write(path)
    assert path.read_bytes() == b"new\n" and names(path.parent) == ["b.txt"]


@WAYS
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_rights_of_any_new_file(write: Write, tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write(tmp_path / "a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~mask


@WAYS
def test_a_link_is_followed(write: Write, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "real", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write(link)
    assert link.is_symlink() and target.read_bytes() == b"new\n"
    target.unlink()  # a link to a file that does not exist yet
    write(link)
    assert link.is_symlink() and target.read_bytes() == b"new\n"


@WAYS
def test_what_cannot_be_replaced_is_an_error_of_the_system(write: Write, tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        write(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        write(tmp_path / "file" / "below")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OSError) as caught:
        write(tmp_path / "loop")
    assert caught.value.errno == errno.ELOOP
    assert names(tmp_path) == ["file", "loop"]


@WAYS
def test_a_pipe_is_written_to(write: Write, tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write(pipe)
    reader.join(10)
    assert read == [b"new\n"] and stat.S_ISFIFO(pipe.stat().st_mode)


@WAYS
def test_a_device_stays_a_device(write: Write) -> None:
    write(Path(os.devnull))
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_previous_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), open_replacing(path) as file:
        file.write("half")
        raise error
    with pytest.raises(error), replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_a_full_disk_leaves_the_previous_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "a.txt"
    path.write_text("old")
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError) as caught:
        write_text(path, "new")
    assert caught.value.errno == errno.ENOSPC and path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_content_is_on_the_disk_before_the_name_changes_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    sync, rename = os.fsync, os.replace

    def synced(handle: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else f"file of {os.fstat(handle).st_size}")
        sync(handle)

    def renamed(source: Path, target: Path) -> None:
        events.append("rename")
        rename(source, target)

    monkeypatch.setattr(files.os, "fsync", synced)
    monkeypatch.setattr(files.os, "replace", renamed)
    write_text(tmp_path / "a", "12345")
    assert events == ["file of 5", "rename", "folder"]
    events.clear()
    write_text(tmp_path / "a", "123456", durable=False)
    assert events == ["rename"]


def test_names_may_be_as_long_as_the_system_allows(tmp_path: Path) -> None:
    for name in ("n" * 255, "\N{SNOWMAN}" * 85):  # 255 bytes each
        write_text(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"


def test_a_temporary_name_ends_as_asked(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.mp4", suffix=".mp4") as temporary:
        assert temporary.suffix == ".mp4" and temporary.parent == tmp_path and temporary.name.startswith(".")
    assert names(tmp_path) == ["a.mp4"]


def test_line_ends_and_text_are_written_as_given(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "a\r\nb\n\u00e9")
    assert (tmp_path / "a").read_bytes() == b"a\r\nb\n\xc3\xa9"
    with open_replacing(tmp_path / "b", errors="backslashreplace", newline="") as file:
        file.write("a\r\n\udc80")
    assert (tmp_path / "b").read_bytes() == b"a\r\n\\udc80"


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path: Path) -> None:
    leftover: list[str] = []
    for name, suffix in (("state.pt", ""), ("clip.mp4", ".mp4")):
        with replacing(tmp_path / name, suffix=suffix) as temporary:
            os.link(temporary, tmp_path / (copied := temporary.name.replace(".part", "x.part")))
            leftover.append(copied)
    (tmp_path / "my.part").write_text("the user's")
    (tmp_path / ".part.d").mkdir()
    assert set(leftover) < set(names(tmp_path))
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".part.d", "clip.mp4", "my.part", "state.pt"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with new_folder(tmp_path / "deep" / "out") as work:
        (work / "a").write_text("a")
        assert not (tmp_path / "deep" / "out").exists()
    assert names(tmp_path / "deep") == ["out"] and names(tmp_path / "deep" / "out") == ["a"]
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "second") as work:
        (work / "a").write_text("a")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["deep"]


def test_a_folder_takes_the_place_of_an_empty_one_only(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as work:
        (work / "a").write_text("a")
    assert names(tmp_path / "empty") == ["a"]
    with pytest.raises(OSError), new_folder(tmp_path / "empty") as work:
        (work / "b").write_text("b")
    assert names(tmp_path) == ["empty"] and names(tmp_path / "empty") == ["a"]


PACKAGE = Path(files.__file__).parent
ELSEWHERE = {
    "data/shared_file.py": {"mkstemp"},  # files that processes share and that lose their names at once
}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_else_has_an_atomic_write_of_its_own(path: Path) -> None:
    text, name = path.read_text(encoding="utf-8"), path.relative_to(PACKAGE).as_posix()
    own = {word for word in ("mkstemp", "NamedTemporaryFile", "os.replace", "os.rename", "shutil.move") if word in text}
    assert name == "files.py" or own == ELSEWHERE.get(name, set())
