import signal
import subprocess
import sys

import pytest

from peftcli.cli import launch
from peftcli.errors import DataError, DistributedError, DivergedError, PeftcliError, Problem, Stopped


def failure(rank, exit_code, what, time=0.0):
    return launch.Failure(rank=rank, time=time, exit_code=exit_code, problems=(Problem(what=what),))


def test_the_command_starts_peft_under_torchs_launcher():
    assert launch.command(3, ["train", "r.yaml", "seed=1"]) == [
        *(sys.executable, "-m", "peftcli.cli.ranks", "--standalone", "--nproc-per-node=3"),
        *("-m", "peftcli", "train", "r.yaml", "seed=1"),
    ]


def test_the_processes_share_the_cpus(monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    threads = int(launch.environment(2, tmp_path)["OMP_NUM_THREADS"])
    assert threads == max(1, launch.available_cpus() // 2)


def test_a_launched_process_does_not_launch_again(monkeypatch):
    assert launch.should_launch(2)
    assert not launch.should_launch(1)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not launch.should_launch(2)


def test_a_stop_with_a_checkpoint_is_75():
    failures = [failure(1, 8, "peer gone", 1.0), failure(0, 75, "stopped at step 3", 2.0)]
    ended = launch.outcome(failures, {0: 75, 1: 8}, stopping=True)
    assert isinstance(ended, Stopped)
    assert ended.problems[0].what == "stopped at step 3"


def test_being_stopped_because_another_failed_is_not_the_cause():
    failures = [failure(1, 6, "loss is nan", 1.0), failure(0, 75, "stopped at step 3", 2.0)]
    assert type(launch.outcome(failures, {1: 6})) is DivergedError
    killed = launch.outcome(failures[1:], {1: -signal.SIGKILL})
    assert type(killed) is DistributedError
    assert "--resume" in str(killed)


def test_a_mistake_of_the_user_keeps_its_exit_code():
    ended = launch.outcome([failure(0, 8, "peer gone", 2.0), failure(1, 3, "no rows", 1.0)], {0: 8, 1: 3})
    assert type(ended) is DataError
    assert str(ended) == "no rows"


def test_of_several_mistakes_the_first_is_told():
    ended = launch.outcome([failure(0, 3, "later", 2.0), failure(1, 6, "loss is nan", 1.0)], {0: 3, 1: 6})
    assert type(ended) is DivergedError


def test_a_killed_process_is_named_whatever_the_others_say():
    ended = launch.outcome([failure(0, 1, "internal error: connection closed")], {0: 1, 1: -signal.SIGKILL})
    assert isinstance(ended, DistributedError)
    assert str(ended).startswith("rank 1 was killed by SIGKILL")


def test_a_crash_of_a_process_is_8_with_its_message():
    ended = launch.outcome([failure(1, 1, "internal error: KeyError: 'x'")], {1: 1})
    assert isinstance(ended, DistributedError)
    assert str(ended) == "rank 1: internal error: KeyError: 'x'"


def test_a_wordless_end_is_8():
    assert "rank 0 ended with exit status 3" in str(launch.outcome([], {0: 3}))
    assert isinstance(launch.outcome([], {}), DistributedError)


@pytest.mark.parametrize("kind", [k for k in PeftcliError.__subclasses__() if k is not Stopped])
def test_every_kind_of_error_survives_the_way_to_the_launching_process(kind, monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(launch.FOLDER, str(tmp_path))
    assert launch.record_failure(kind("a sentence", where="f:1", hint="Do it."))
    ended = launch.outcome(launch._failures(tmp_path), {})
    assert type(ended) is kind
    assert ended.exit_code == kind.exit_code


def test_nobody_is_told_where_nobody_waits(monkeypatch, tmp_path):
    monkeypatch.setenv(launch.FOLDER, str(tmp_path))
    assert not launch.record_failure(DataError("no rows"))


def test_two_processes_end_as_one(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(launch.Path(__file__).parents[2]))
    launch.launch(2, ["schema"])
    with pytest.raises(PeftcliError, match="no method is called 'lroa'") as ended:
        launch.launch(2, ["methods", "lroa"])
    assert ended.value.exit_code == 2


def test_a_signal_reaches_the_processes_and_stops_the_launch(tmp_path):
    code = "import time, pathlib; pathlib.Path('up').touch(); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, cwd=tmp_path)
    with child, launch._forwarded_signals(child) as received:
        while not (tmp_path / "up").exists():
            assert child.poll() is None
        signal.raise_signal(signal.SIGTERM)
        assert child.wait(20) == -signal.SIGTERM
    assert received == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
