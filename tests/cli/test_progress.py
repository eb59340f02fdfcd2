import contextlib
import io
import re

import pytest
from rich.console import Console

from peftcli.cli.progress import Bar, Lines, progress
from peftcli.pipeline.progress import Silent


def watch(watcher, steps):
    watcher.note("lora: 294,912 parameters")
    watcher.start(steps)
    for step in range(1, steps + 1):
        watcher.step(step, 1 / step, 5e-4, 12.5)
    watcher.evaluation(steps, {"accuracy": 0.5, "n": 4}, best=True)
    watcher.finish()


def test_without_a_terminal_progress_is_about_twenty_lines(capsys):
    watch(Lines(), 400)
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith("step ") and "loss" in line]) == 20
    assert re.fullmatch(r"step 20/400  5%  loss 0\.05  lr 5\.00e-04  12\.5 ex/s  eta \d+:\d\d", lines[1])


def test_a_short_run_shows_its_last_step(capsys):
    watch(Lines(), 3)
    assert "step 3/3" in capsys.readouterr().err


def test_an_evaluation_is_one_line_that_marks_the_best(capsys):
    watch(Lines(), 1)
    assert capsys.readouterr().err.splitlines()[-1] == "step 1  accuracy 0.5000  (best so far)"


def test_a_resumed_run_counts_on(capsys):
    lines = Lines()
    lines.start(100)
    lines.step(95, 0.1, 1e-3, 10.0)
    lines.step(100, 0.1, 1e-3, 10.0)
    assert capsys.readouterr().err.count("step ") == 2


def test_a_terminal_gets_a_bar():
    screen = io.StringIO()
    watch(Bar(Console(file=screen, force_terminal=True, width=120)), 5)
    assert "5/5" in screen.getvalue()
    assert "loss 0.2" in screen.getvalue()
    assert "[bold]" not in screen.getvalue()


def test_finishing_without_a_start_is_no_failure_and_shows_nothing(capsys):
    screen = io.StringIO()
    Bar(Console(file=screen, force_terminal=True)).finish()
    Lines().finish()
    assert screen.getvalue() == "".join(capsys.readouterr()) == ""


def test_quiet_and_other_processes_show_nothing(monkeypatch):
    with progress(quiet=True) as watcher:
        assert isinstance(watcher, Silent)
    monkeypatch.setenv("RANK", "1")
    with progress(quiet=False) as watcher:
        assert isinstance(watcher, Silent)


@pytest.mark.parametrize("dumb", [True, False])
def test_a_pipe_and_a_dumb_terminal_get_lines(dumb, monkeypatch):
    if dumb:
        monkeypatch.setenv("TERM", "dumb")
        monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with progress(quiet=False) as watcher:
        assert isinstance(watcher, Lines)


def test_the_terminal_is_restored_however_the_work_ends(monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", screen)
    with contextlib.suppress(KeyError), progress(quiet=False) as watcher:
        watcher.start(3)
        raise KeyError
    assert screen.getvalue().rfind("\x1b[?25h") > screen.getvalue().rfind("\x1b[?25l") >= 0
