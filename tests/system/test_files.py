"""One way to write: whole or not at all, in place of a plain file and of nothing else; lines of many processes."""

import ast
import errno
import fcntl
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dit_eval.results.lines import read_lines
from dit_eval.system import files
from dit_eval.system.files import append_line, atomic_file, check_folder, check_target, open_log, remove_left

PACKAGE = Path(__file__).parents[2] / "dit_eval"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(path, data=b"new", meanwhile=lambda: None):
    with atomic_file(Path(path)) as file:
        file.write(data)
        meanwhile()


def left_over():
    return [*Path().rglob("*.part")]


def writes(node):
    """How a call writes into a file by its name; nothing if it does not."""
    if not isinstance(node, ast.Call):
        return None
    called = ast.unparse(node.func)
    modes = [*node.args[1:2], *(each.value for each in node.keywords if each.arg == "mode")]
    if called in ("open", "io.open") and any(set(ast.unparse(mode)) & set("wax+") for mode in modes):
        return "open"
    if called.rpartition(".")[2] in ("write_text", "write_bytes", "save_file", "savez", "savez_compressed", "touch"):
        return called
    return called if called in ("np.save", "os.replace", "os.rename", "shutil.move", "shutil.copy") else None


def test_all_write_the_one_way():
    found = {
        (str(path.relative_to(PACKAGE)), how)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (how := writes(node))
    }
    assert {("system/files.py", "open"), ("system/files.py", "os.replace")} <= found
    assert found <= {
        *{("system/files.py", how) for how in ("open", "os.replace")},
        *{("system/assets.py", how) for how in ("open", "os.replace")},  # a download goes on where it stopped
        ("system/download.py", "open"),  # its part, without following links
        ("encoding.py", "os.replace"),  # of a folder
    }


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o755, 0o444])
def test_who_may_read_a_file_stays_so(mode):
    Path("a.json").write_text("old")
    Path("a.json").chmod(mode)
    write("a.json")
    assert Path("a.json").read_text() == "new"
    assert stat.S_IMODE(Path("a.json").stat().st_mode) == mode


def test_what_is_being_written_is_as_private_as_the_file():
    Path("a.json").write_text("old")
    Path("a.json").chmod(0o600)
    with atomic_file(Path("a.json")) as file:
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600


def test_a_new_file_has_the_mode_of_new_files():
    Path("plain").write_text("")
    write("a.json")
    assert Path("a.json").stat().st_mode == Path("plain").stat().st_mode


def test_links_are_followed():
    Path("there").mkdir()
    Path("there/a.json").write_text("old")
    Path("there/a.json").chmod(0o600)
    Path("one").symlink_to("there/a.json")
    Path("two").symlink_to("one")
    Path("to_nothing").symlink_to("there/b.json")
    write("two")
    write("to_nothing")
    assert [path.is_symlink() for path in map(Path, ("one", "two", "to_nothing"))] == [True] * 3
    assert Path("there/a.json").read_text() == Path("there/b.json").read_text() == "new"
    assert stat.S_IMODE(Path("there/a.json").stat().st_mode) == 0o600


def a_folder():
    Path("a").mkdir()


def a_link_to_a_folder():
    Path("folder").mkdir()
    Path("a").symlink_to("folder")


def a_link_to_itself():
    Path("a").symlink_to("a")


def links_in_a_circle():
    Path("a").symlink_to("b")
    Path("b").symlink_to("a")


def a_socket():
    with socket.socket(socket.AF_UNIX) as there:
        there.bind("a")


def below_a_file():
    Path("file").write_text("")
    Path("a").symlink_to("file/a")


REFUSED = {
    "a folder": (a_folder, errno.EISDIR),
    "a link to a folder": (a_link_to_a_folder, errno.EISDIR),
    "a link to itself": (a_link_to_itself, errno.ELOOP),
    "links in a circle": (links_in_a_circle, errno.ELOOP),
    "a socket": (a_socket, errno.ENXIO),
    "below a file": (below_a_file, errno.ENOTDIR),
}


@pytest.mark.parametrize("form", REFUSED)
def test_nothing_but_a_plain_file_is_replaced(form):
    make, code = REFUSED[form]
    make()
    before = os.lstat("a")
    with pytest.raises(OSError) as error:
        write("a")
    assert error.value.errno == code
    with pytest.raises(OSError):
        append_line(Path("a"), b"line\n")
    assert os.path.samestat(os.lstat("a"), before)
    assert left_over() == []
    if form != "a socket":  # which, as a pipe, is tried only when there is something to write
        with pytest.raises(OSError, match=r"^a cannot be written: "):
            check_target(Path("a"))


LATER = {
    "a folder": (a_folder, stat.S_ISDIR, errno.EISDIR),
    "a pipe": (lambda: os.mkfifo("a"), stat.S_ISFIFO, errno.EEXIST),
    "a socket": (a_socket, stat.S_ISSOCK, errno.EEXIST),
    "a link": (lambda: Path("a").symlink_to("elsewhere"), stat.S_ISLNK, errno.ELOOP),
}


@pytest.mark.parametrize("form", LATER)
def test_nor_what_came_in_the_meantime(form):
    make, is_it, code = LATER[form]
    with pytest.raises(OSError) as error:
        write("a", meanwhile=make)
    assert error.value.errno == code
    assert is_it(os.lstat("a").st_mode)
    assert left_over() == []


def test_a_pipe_stays_a_pipe():
    os.mkfifo("a")
    told = []
    reader = threading.Thread(target=lambda: told.append(Path("a").read_bytes()))
    reader.start()
    write("a")
    reader.join()
    reader = threading.Thread(target=lambda: told.append(Path("a").read_bytes()))
    reader.start()
    append_line(Path("a"), b"line\n")
    reader.join()
    assert told == [b"new", b"line\n"]
    assert stat.S_ISFIFO(os.lstat("a").st_mode)


def fail_to(name, error, monkeypatch, place=os):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(place, name, fails)


ERRORS = [KeyboardInterrupt(), SystemExit(1), ValueError("in between"), OSError(errno.ENOSPC, "full"), MemoryError()]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("when", ["while it is written", "fsync", "replace"])
def test_nothing_half_written_stays(when, error, monkeypatch):
    Path("a").write_text("old")

    def meanwhile():
        if when == "while it is written":
            raise error
        fail_to(when, error, monkeypatch)

    with pytest.raises(type(error)):
        write("a", meanwhile=meanwhile)
    assert Path("a").read_text() == "old"
    assert left_over() == []


def killed_while_writing(name):
    """A process that is killed in the middle of a file; there are `left_over()` files of it then."""
    code = f"""
import os, signal
from pathlib import Path
from dit_eval.system.files import atomic_file
with atomic_file(Path({name!r})) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL


def test_what_a_killed_process_left_is_removed_by_the_next():
    killed_while_writing("a.json")
    killed_while_writing("trial")
    killed_while_writing("b.json")
    names = {path.name.split(".")[1] for path in left_over()}
    assert (len(left_over()), names) == (3, {"a", "trial", "b"})
    write("a.json")
    check_folder(Path())
    assert [path.name.split(".")[1] for path in left_over()] == ["b"], "that of another file is its next writer's"
    remove_left(Path("b.json"))
    assert left_over() == []


def test_what_another_one_writes_stays():
    Path("a.json").write_text("old")

    def another():
        (own,) = left_over()
        remove_left(Path("a.json"))
        assert left_over() == [own]
        write("a.json", b"the other's")
        assert left_over() == [own]

    write("a.json", b"new", meanwhile=another)
    assert (Path("a.json").read_text(), left_over()) == ("new", [])


@pytest.mark.parametrize("seconds", [0.0, 0.2])
def test_a_part_that_was_taken_for_left_before_it_was_locked_is_made_again(monkeypatch, seconds):
    real, taken = files._try_lock, []

    def remove(part, file):
        part.unlink()
        file.close()

    def late(file, **patience):
        if not taken:
            taken.extend(left_over())
            theirs = taken[0].open("rb")  # as `remove_left` of another process, which locks it first
            assert real(theirs)
            threading.Timer(seconds, remove, (taken[0], theirs)).start()
        return real(file, **patience)

    monkeypatch.setattr(files, "_try_lock", late)
    write("a.json")
    assert (Path("a.json").read_text(), left_over(), len(taken)) == ("new", [], 1)


@pytest.mark.parametrize("kind", ["pipe", "link", "folder", "socket"])
def test_what_is_called_like_a_part_and_is_none_stays(kind):
    name = Path(".a.json.1.part")
    Path("elsewhere").write_text("theirs")
    if kind == "pipe":
        os.mkfifo(name)
    elif kind == "link":
        name.symlink_to("elsewhere")
    elif kind == "folder":
        name.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as own:
            own.bind(str(name))
    write("a.json")
    assert (left_over(), Path("elsewhere").read_text(), Path("a.json").read_text()) == ([name], "theirs", "new")


def test_a_folder_that_is_gone_hides_no_error():
    def meanwhile():
        os.rename("out", "moved")
        Path("out").write_text("")
        raise ValueError("mine")

    Path("out").mkdir()
    with pytest.raises(ValueError, match="mine"):
        write("out/a", meanwhile=meanwhile)


# ---- lines of many processes

APPENDS = """
import json, sys
from pathlib import Path
from dit_eval.system.files import append_line
for i in range(30):
    append_line(Path("r.jsonl"), json.dumps({"who": sys.argv[1], "line": i, "text": "x" * 9000}).encode() + b"\\n")
"""


def test_ten_processes_lose_no_line_and_leave_no_empty_one():
    Path("r.jsonl").write_text('{"cut of')  # by a crash
    children = [subprocess.Popen([sys.executable, "-c", APPENDS, str(who)]) for who in range(10)]
    assert [child.wait() for child in children] == [0] * 10
    first, *lines = Path("r.jsonl").read_text().split("\n")[:-1]
    assert first == '{"cut of'
    found = sorted((json.loads(line)["who"], json.loads(line)["line"]) for line in lines)
    assert found == sorted((str(who), i) for who in range(10) for i in range(30))


def test_a_file_that_is_replaced_while_one_waits_is_added_to_as_it_is_now(monkeypatch):
    Path("r.jsonl").write_text("old\n")
    real, calls = files._lock, []

    def lock(*request, patience):
        if not calls:
            write("r.jsonl", b"new\n")
        calls.append(request)
        return real(*request, patience=patience)

    monkeypatch.setattr(files, "_lock", lock)
    append_line(Path("r.jsonl"), b"line\n")
    assert Path("r.jsonl").read_text() == "new\nline\n"
    assert len(calls) == 2


def test_who_holds_a_lock_for_long_is_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(files, "_PATIENCE", 0.05)
    Path("r.jsonl").write_text("old\n")
    with open("r.jsonl") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        check_target(Path("r.jsonl"), append=True)  # it will be free again
        with pytest.raises(TimeoutError, match=r"another process has kept it locked .*r\.jsonl"):
            append_line(Path("r.jsonl"), b"line\n")
    append_line(Path("r.jsonl"), b"line\n")
    assert Path("r.jsonl").read_text() == "old\nline\n"


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told(code, there, monkeypatch):
    fail_to("flock", OSError(code, os.strerror(code)), monkeypatch, fcntl)
    if there:
        Path("r.jsonl").write_text("old\n")
    with pytest.raises(OSError, match=rf"r\.jsonl cannot be written: .*cannot lock files \({os.strerror(code)}\)"):
        check_target(Path("r.jsonl"), append=True)
    with pytest.raises(OSError, match=r"cannot lock files .*; name a file on another one"):
        append_line(Path("r.jsonl"), b"line\n")
    assert not there or Path("r.jsonl").read_text() == "old\n"
    assert left_over() == []


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("before", ["", "old\n", "cut o"])
def test_a_line_that_is_interrupted_is_taken_back(error, before, monkeypatch):
    Path("r.jsonl").write_text(before)
    fail_to("fsync", error, monkeypatch)
    with pytest.raises(type(error)):
        append_line(Path("r.jsonl"), b"line\n")
    assert Path("r.jsonl").read_text() == before


def test_a_line_of_somebody_who_knows_no_lock_is_left(monkeypatch):
    def fails(_):
        with open("r.jsonl", "a") as other:
            other.write("theirs\n")
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="broken"):
        append_line(Path("r.jsonl"), b"mine\n")
    assert Path("r.jsonl").read_text() == "mine\ntheirs\n"


def test_no_other_file_lies_about():
    append_line(Path("there/r.jsonl"), b"line\n")
    assert [path.name for path in Path("there").iterdir()] == ["r.jsonl"]


def test_empty_lines_are_read_as_nothing():
    Path("r.jsonl").write_text('\n\n{"a": 1}\n \t\r\n{"a": 2}\n\n\n{"a": 3}')
    said = []
    assert read_lines("r.jsonl", json.loads, on_bad_line=said.append) == [(3, {"a": 1}), (5, {"a": 2}), (8, {"a": 3})]
    assert said == []
    Path("r.jsonl").write_text("")
    assert read_lines("r.jsonl", json.loads) == []


@pytest.mark.parametrize("form", ["a folder", "a link to itself", "a pipe"])
def test_a_log_is_a_plain_file(form):
    {"a folder": a_folder, "a link to itself": a_link_to_itself, "a pipe": lambda: os.mkfifo("a")}[form]()
    signal.alarm(5)  # to open a pipe waits for a reader
    try:
        with pytest.raises(OSError):
            open_log(Path("a"))
    finally:
        signal.alarm(0)


def test_a_log_goes_on():
    for text in (b"one\n", b"two\n"):
        with open_log(Path("new/log")) as file:
            file.write(text)
    assert Path("new/log").read_text() == "one\ntwo\n"
