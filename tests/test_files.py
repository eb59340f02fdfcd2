"""Files appear whole or not at all, whatever fails."""

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from peftcli import files
from peftcli.errors import ArtifactError, ResourceError


@pytest.fixture
def fail_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], list[str]]]:
    """Make the Nth file operation fail as if the disk were full; return the operations seen so far."""

    def install(number: int) -> list[str]:
        seen: list[str] = []

        def hook(name: str) -> None:
            seen.append(name)
            if len(seen) == number:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(files, "_operations", hook)
        return seen

    return install


def fill(folder: Path) -> None:
    files.write_text(folder / "a.txt", "first")
    (folder / "inner").mkdir()
    files.write_json(folder / "inner" / "b.json", {"x": [1, 2]})


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_full_disk_at_any_operation_leaves_the_old_file(tmp_path, fail_at):
    path = tmp_path / "report.json"
    files.write_text(path, "old")
    number = 0
    while True:
        number += 1
        seen = fail_at(number)
        try:
            files.write_text(path, "new")
        except ResourceError:
            # The rename is the moment; after it only the folder's own fsync can fail.
            assert path.read_text() == ("new" if seen[-1] == "fsync folder" else "old")
            assert names(tmp_path) == ["report.json"]
            files.write_text(path, "old") if seen[-1] == "fsync folder" else None
        else:
            break
        fail_at(0)
        files.write_text(path, "old")
    assert number == 6  # open, write, fsync, rename, fsync folder, and once without a fault
    assert path.read_text() == "new"


def test_a_full_disk_is_reported_with_what_is_needed_and_what_is_free(tmp_path, fail_at):
    fail_at(2)
    with pytest.raises(ResourceError, match=r"no space left on device\n  hint: 3 bytes are needed and \d+ are free"):
        files.write_text(tmp_path / "report.json", "new")


def test_a_full_disk_at_any_operation_leaves_no_half_folder(tmp_path, fail_at):
    for number in range(1, 100):
        final = tmp_path / f"step-{number}"
        seen = fail_at(number)
        try:
            files.commit_folder(final, fill)
        except ResourceError:
            if final.exists():
                assert seen[-2:] == ["rename", "fsync folder"]
                files.check_folder(final)
            assert not list(tmp_path.glob(".tmp-*"))
        else:
            assert number > 15
            return
    pytest.fail("it never succeeded")


def test_a_folder_is_not_replaced_without_being_told(tmp_path):
    files.commit_folder(tmp_path / "delta", fill)
    with pytest.raises(ResourceError, match="already exists"):
        files.commit_folder(tmp_path / "delta", fill)


def test_overwriting_keeps_the_old_folder_until_the_new_one_is_complete(tmp_path, fail_at):
    final = tmp_path / "delta"
    files.commit_folder(final, fill)
    for number in range(1, 100):
        seen = fail_at(number)
        try:
            files.commit_folder(final, lambda folder: files.write_text(folder / "c.txt", "new"), overwrite=True)
        except ResourceError:
            files.check_folder(final)
            if seen[-2:] != ["rename", "fsync folder"]:
                assert names(final) == ["a.txt", "inner", "manifest.json"]
            assert names(tmp_path) == ["delta"]
        else:
            assert names(final) == ["c.txt", "manifest.json"]
            assert names(tmp_path) == ["delta"]
            return


def test_an_exception_while_filling_leaves_nothing(tmp_path):
    def broken(folder: Path) -> None:
        fill(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.commit_folder(tmp_path / "delta", broken)
    assert names(tmp_path) == []


def test_every_file_of_a_folder_stands_in_its_manifest(tmp_path):
    files.commit_folder(tmp_path / "delta", fill)
    entries = files.read_manifest(tmp_path / "delta")
    assert set(entries) == {"a.txt", "inner/b.json"}
    assert entries["a.txt"] == files.FileEntry(5, files.sha256_file(tmp_path / "delta" / "a.txt"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "a.txt").write_text("First"), "SHA-256"),
        (lambda d: (d / "a.txt").write_text("firs"), "4 bytes, but the manifest says 5"),
        (lambda d: (d / "a.txt").unlink(), "missing"),
        (lambda d: (d / "manifest.json").unlink(), "not complete"),
        (lambda d: (d / "manifest.json").write_text("[]"), "format 1"),
        (lambda d: (d / "manifest.json").write_text('{"format": 1, "files": {"../x": {}}}'), "leaves the folder"),
        (lambda d: (d / "manifest.json").write_text('{"format": 1, "files": {"/etc/x": {}}}'), "leaves the folder"),
        (lambda d: (d / "manifest.json").write_text('{"format": 1, "format": 1}'), "twice"),
        (lambda d: (d / "manifest.json").write_text('{"format": NaN}'), "NaN"),
        (lambda d: (d / "manifest.json").write_text("{\n  oops"), r"manifest\.json:2:3"),
        (lambda d: ((d / "a.txt").rename(d / "z"), (d / "a.txt").symlink_to(d / "z")), "symbolic link"),
        (lambda d: ((d / "inner").rename(d / "z"), (d / "inner").symlink_to(d / "z")), "symbolic link"),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path, damage, message):
    files.commit_folder(tmp_path / "delta", fill)
    files.check_folder(tmp_path / "delta")
    damage(tmp_path / "delta")
    with pytest.raises(ArtifactError, match=message):
        files.check_folder(tmp_path / "delta")


def test_json_that_is_too_large_is_refused_unread(tmp_path):
    (tmp_path / "x.json").write_text("[" + "1," * 100 + "1]")
    with pytest.raises(ArtifactError, match="more than the 100 allowed"):
        files.read_json(tmp_path / "x.json", limit=100)


def test_deeply_nested_json_is_an_error_and_no_crash(tmp_path):
    (tmp_path / "x.json").write_text("[" * 100_000)
    with pytest.raises(ArtifactError, match="not JSON"):
        files.read_json(tmp_path / "x.json")


def test_the_same_object_gives_the_same_bytes(tmp_path):
    files.write_json(tmp_path / "a", {"b": 1, "a": "é"})
    files.write_json(tmp_path / "b", {"a": "é", "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == '{\n  "a": "é",\n  "b": 1\n}\n'.encode()


def test_nan_is_never_written_as_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a", {"loss": float("nan")})
    assert names(tmp_path) == []


def test_files_get_the_mode_that_the_umask_leaves(tmp_path):
    for mask, mode in ((0o022, 0o644), (0o077, 0o600)):
        old = os.umask(mask)
        try:
            files.write_text(tmp_path / "a", "x")
        finally:
            os.umask(old)
        assert (tmp_path / "a").stat().st_mode & 0o777 == mode


def test_nothing_is_written_through_a_symbolic_link(tmp_path):
    target = tmp_path / "elsewhere"
    target.write_text("mine")
    (tmp_path / "report.json").symlink_to(target)
    with pytest.raises(ResourceError, match="symbolic link"):
        files.write_text(tmp_path / "report.json", "x")
    with pytest.raises(ResourceError, match="symbolic links"):
        files.append_line(tmp_path / "report.json", "x")
    (tmp_path / "folder").symlink_to(tmp_path)
    with pytest.raises(ResourceError, match="symbolic link"):
        files.commit_folder(tmp_path / "folder", fill)
    assert target.read_text() == "mine"


def test_a_leftover_of_a_killed_process_with_our_number_is_no_obstacle(tmp_path):
    (tmp_path / f".tmp-a-{os.getpid()}").write_text("half")
    files.write_text(tmp_path / "a", "x")
    (tmp_path / f".tmp-b-{os.getpid()}").mkdir()
    files.commit_folder(tmp_path / "b", fill)
    assert names(tmp_path) == ["a", "b"]


@pytest.mark.parametrize(
    ("path", "message"),
    [("missing/x", "no such file"), ("file/x", "not a directory"), ("n" * 300, "file name too long")],
)
def test_a_place_that_cannot_be_written_is_named(tmp_path, path, message):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match=message):
        files.write_text(tmp_path / path, "x")


def test_a_file_of_the_longest_name_can_be_written(tmp_path):
    files.write_text(tmp_path / ("n" * 255), "x")
    files.write_text(tmp_path / ("é" * 127), "x")
    assert len(names(tmp_path)) == 2


def test_an_error_names_the_final_folder_and_not_the_temporary_one(tmp_path):
    def broken(folder: Path) -> None:
        files.write_text(folder / "no" / "a.txt", "x")

    with pytest.raises(ResourceError) as caught:
        files.commit_folder(tmp_path / "delta", broken)
    assert caught.value.problems[0].where == str(tmp_path / "delta" / "no" / "a.txt")


def test_a_file_larger_than_allowed_is_refused_and_leaves_nothing(tmp_path):
    code = (
        "import resource, pathlib, sys; from peftcli import files, errors\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: files.write_bytes(pathlib.Path(sys.argv[1]), b'x' * 5000)\n"
        "except errors.ResourceError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code, tmp_path / "a"], capture_output=True, text=True, check=True)
    assert "file too large" in run.stdout
    assert "5000 bytes are needed" in run.stdout
    assert names(tmp_path) == []


def test_lines_are_appended_whole(tmp_path):
    files.append_line(tmp_path / "log.jsonl", json.dumps({"step": 1}))
    files.append_line(tmp_path / "log.jsonl", json.dumps({"step": 2}))
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'


def test_copied_bytes_are_those_of_the_source(tmp_path, monkeypatch):
    content = os.urandom(3 * files.CHUNK + 17)
    (tmp_path / "source").write_bytes(content)
    for kernel in (True, False):
        if not kernel:
            monkeypatch.delattr(os, "copy_file_range", raising=False)
        with (tmp_path / "source").open("rb") as source, files.new_file(tmp_path / "copy") as file:
            file.write(b"head")
            file.copy(source.fileno(), 5, len(content) - 9)
        assert (tmp_path / "copy").read_bytes() == b"head" + content[5:-4]


def test_copying_from_a_file_that_is_too_short_fails(tmp_path):
    (tmp_path / "source").write_bytes(b"abc")
    with (
        pytest.raises(ResourceError, match="became shorter"),
        (tmp_path / "source").open("rb") as source,
        files.new_file(tmp_path / "copy") as file,
    ):
        file.copy(source.fileno(), 0, 4)
    assert names(tmp_path) == ["source"]


HOLD = (
    "import pathlib, sys, time; from peftcli import files\n"
    "with files.lock(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
)


def test_a_folder_is_held_by_one_process_and_taken_over_when_it_dies(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(ResourceError, match=rf"in use by pid {holder.pid} on host .+ since 20"),
            files.lock(tmp_path),
        ):
            pass
        with pytest.raises(ResourceError, match=rf"pid {holder.pid}"), files.lock(tmp_path):
            pass  # refusing did not erase the holder's name
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    (tmp_path / f".tmp-step-{holder.pid}").mkdir()
    with files.lock(tmp_path):
        assert names(tmp_path) == [".lock"]
    with files.lock(tmp_path):
        pass


def test_leftovers_of_living_processes_stay(tmp_path):
    (tmp_path / f".tmp-a-{os.getppid()}").write_text("")
    (tmp_path / ".tmp-other").write_text("")
    files.remove_leftovers(tmp_path)
    assert names(tmp_path) == sorted([f".tmp-a-{os.getppid()}", ".tmp-other"])


def test_room_is_checked_before_work_is_done(tmp_path):
    files.check_room(tmp_path / "new" / "folder", 1)
    with pytest.raises(ResourceError, match="no space left"):
        files.check_room(tmp_path / "new", 1 << 60)
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="not a directory"):
        files.check_room(tmp_path / "file" / "x")


def test_importing_files_is_cheap():
    code = "import sys, peftcli.files; print(sorted({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    start = time.monotonic()
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
    assert time.monotonic() - start < 5
