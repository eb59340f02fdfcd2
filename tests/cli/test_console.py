import json
import os
import subprocess
import sys
from pathlib import Path

from peftcli.cli import console
from peftcli.errors import DataError, Problem
from peftcli.report.tables import Table


def test_every_problem_is_shown_with_its_place_and_hint(capsys):
    console.error(DataError([Problem(what="x is 0", where="a.yaml:3", hint="Write 1."), Problem(what="no rows")]))
    assert capsys.readouterr().err == "error: a.yaml:3: x is 0\n  hint: Write 1.\nerror: no rows\n"


def test_a_long_message_is_not_folded(capsys):
    console.note("word " * 100)
    assert capsys.readouterr().err.count("\n") == 1


def test_brackets_are_not_markup(capsys):
    console.note("[bold]method[/bold] :smile: [0]")
    assert capsys.readouterr().err == "[bold]method[/bold] :smile: [0]\n"


def test_control_characters_do_not_reach_the_terminal(capsys):
    console.note("a\x1b[2Jb\x07")
    console.table(Table(("a\x1b[2J",), "l", (("b\x9b",),)))
    written = capsys.readouterr()
    assert written.err == "a\\x1b[2Jb\\x07\n"
    assert written.out == "a\\x1b[2J\nb\\x9b\n"


def test_json_has_null_for_what_is_not_finite(capsys):
    console.data_json({"loss": float("nan"), "best": [float("inf"), 0.5], "name": "ü"})
    written = capsys.readouterr().out
    assert json.loads(written) == {"loss": None, "best": [None, 0.5], "name": "ü"}
    assert "ü" in written


def test_the_next_command_is_quoted_for_a_shell(capsys):
    console.next_command("peft", "eval", "my runs/lora")
    assert capsys.readouterr().err == "next: peft eval 'my runs/lora'\n"


def test_only_the_first_process_of_a_run_speaks(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    console.data("data")
    console.data_json({})
    console.note("note")
    written = capsys.readouterr()
    assert (written.out, written.err) == ("", "")


def test_an_error_of_another_process_says_whose_it_is(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    console.error(DataError("no rows"))
    assert capsys.readouterr().err == "error: rank 1: no rows\n"


def test_a_closed_stderr_stops_nothing_and_leaves_the_data_alone(tmp_path):
    code = "from peftcli.cli import console\nfor _ in range(3): console.note('x' * 9999)\nconsole.data('result')"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout
        assert process.stderr
        process.stderr.close()
        assert process.stdout.read() == b"result\n"
    assert process.returncode == 0
