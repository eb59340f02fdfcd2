import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from peftcli.cli.program import app, run
from peftcli.errors import PeftcliError

COMMANDS = (
    *("train", "eval", "merge", "params", "check", "data", "init", "methods", "schema", "verify", "unmerge", "compare"),
    *("predict", "export", "import"),
)
HEAVY = {
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "evaluate",
    "numpy",
    "pandas",
    "matplotlib",
    "jinja2",
    "rich",
}
REPOSITORY = Path(__file__).parents[2]


class Refusing(io.StringIO):
    """A stream on which nothing can be written."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error


def peft(*arguments, **options):
    path = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "-m", "peftcli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**path, **options.pop("env", {})},
        **options,
    )


def heavy_modules_after(*arguments):
    code = (
        "import sys; from peftcli.cli.program import run; run(sys.argv[1:]); "
        f"print(); print(*sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    return set(done.stdout.splitlines()[-1].split())


def test_every_command_is_listed_in_the_help(capsys):
    assert run(["--help"]) == 0
    listed = re.findall(r"^  (\w+)  ", capsys.readouterr().out, re.MULTILINE)
    assert set(COMMANDS) <= set(listed)


def test_the_help_documents_every_exit_code(capsys):
    run(["--help"])
    epilog = capsys.readouterr().out.split("Exit codes:")[1]
    assert {int(code) for code in re.findall(r"\b(\d+)(?= |/)", epilog)} == {
        0,
        1,
        130,
        143,
        *(kind.exit_code for kind in PeftcliError.__subclasses__()),
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_has_examples(command, capsys):
    assert run([command, "--help"]) == 0
    assert f"\n    peft {command}" in capsys.readouterr().out.split("Examples:")[1]


def test_the_summaries_of_the_commands_are_not_cut(capsys):
    run(["--help"])
    assert "..." not in capsys.readouterr().out.split("Commands:")[1]


def test_help_imports_nothing_heavy():
    assert heavy_modules_after("train", "--help") == set()


def test_listing_methods_imports_no_torch():
    assert heavy_modules_after("methods") <= {"rich"}


def test_the_schema_imports_no_torch():
    assert heavy_modules_after("schema") <= {"rich"}


def test_counting_in_closed_form_imports_no_torch(tmp_path):
    config = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 8, "vocab_size": 50}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert heavy_modules_after("params", "config.json", "--method", "all") <= {"rich"}


def test_checking_a_recipe_imports_no_torch():
    run(["init"])
    assert heavy_modules_after("check", "recipe.yaml") <= {"rich"}


def test_peft_alone_shows_the_help_and_is_a_usage_error(capsys):
    assert run([]) == 2
    assert "Exit codes" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["trian"], ["train"], ["train", "r.yaml", "--nproc", "0"], ["eval", "--nonsense"]]
)
def test_a_usage_error_is_shown_as_any_other_and_exits_with_2(arguments, capsys):
    assert run(arguments) == 2
    written = capsys.readouterr()
    assert re.match(r"error: .+\n  hint: See 'peft.* --help'\.\n", written.err)
    assert written.out == ""


def test_a_mistyped_command_gets_a_suggestion(capsys):
    run(["trian"])
    assert "Did you mean 'train'?" in capsys.readouterr().err


def test_a_mistake_of_the_user_has_a_hint_and_its_own_exit_code(capsys):
    assert run(["methods", "lroa"]) == 2
    assert capsys.readouterr().err == "error: no method is called 'lroa'\n  hint: Did you mean 'lora'?\n"


def test_a_mistake_of_the_user_is_followed_by_no_traceback_unless_debug(capsys):
    run(["methods", "lroa"])
    assert "Traceback" not in capsys.readouterr().err
    run(["methods", "lroa", "--debug"])
    assert "Traceback" in capsys.readouterr().err


def test_an_unforeseen_error_exits_with_1_and_leaves_a_report(monkeypatch, capsys, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Refusing(RuntimeError("the printer is on fire")))
        assert run(["methods"]) == 1
    (report,) = tmp_path.glob(".peftcli-crash-*.txt")
    said = capsys.readouterr().err
    assert "error: internal error: RuntimeError: the printer is on fire" in said
    assert report.name in said
    assert "Traceback" not in said
    assert {"command: peft methods", "Traceback (most recent call last):"} <= set(report.read_text().splitlines())


def test_a_crash_report_falls_back_to_the_temporary_folder(monkeypatch, capsys, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Refusing(RuntimeError("no")))
        assert run(["methods"]) == 1
    assert list(tmp_path.glob(".peftcli-crash-*.txt"))
    assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize("error", [MemoryError(), PermissionError(13, "Permission denied", "here")])
def test_memory_and_permission_exit_with_7(error, monkeypatch, capsys, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Refusing(error))
        assert run(["methods"]) == 7
    assert capsys.readouterr().err.startswith("error: ")
    assert not list(tmp_path.glob(".peftcli-crash-*.txt"))


def test_an_interruption_exits_with_130(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Refusing(KeyboardInterrupt()))
    assert run(["methods"]) == 130


def test_a_reader_that_stops_reading_is_no_failure():
    command = [sys.executable, "-m", "peftcli", "schema"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_output_in_ascii_is_no_failure():
    done = peft("methods", "lora", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0


@pytest.mark.parametrize("where", [["--offline", "methods"], ["methods", "--offline"]])
def test_offline_stands_anywhere_and_reaches_the_libraries(where, monkeypatch):
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    assert run(where) == 0
    assert os.environ["HF_HUB_OFFLINE"] == os.environ["TRANSFORMERS_OFFLINE"] == "1"


def test_threads_follow_the_cpus_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    run(["methods"])
    assert 1 <= int(os.environ["OMP_NUM_THREADS"]) <= len(os.sched_getaffinity(0))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    run(["methods"])
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_the_version_is_one_line(capsys):
    assert run(["--version"]) == 0
    assert re.fullmatch(r"peftcli \S.*\n", capsys.readouterr().out)


def test_the_module_runs_as_the_command_does():
    done = peft("methods", "lroa")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no method")


def test_the_app_has_no_command_that_the_help_of_this_test_does_not_know():
    assert {command.name for command in app.registered_commands} == set(COMMANDS)
