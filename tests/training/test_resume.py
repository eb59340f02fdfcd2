from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest
from safetensors.torch import save

from peftcli import files
from peftcli.delta.registry import find
from peftcli.errors import ArtifactError, DivergedError, ResourceError, Stopped
from peftcli.training.loop import fit

SECTION = {"checkpoint_every": 1, "epochs": 2.0}
DIFF = find("diff_pruning")(entries="5%", l0_penalty=1e-3)
TICKET = find("winning_ticket")(rounds=2, score="movement", rewind="50%")


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture
def folder():
    """A folder in memory where there is one: thousands of fsyncs are not what is tested."""
    memory = Path("/dev/shm")
    made = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def run(make_job, folder):
    """Return what runs a job in a folder, or takes it up again, and returns its digest."""

    def one(name, resume=False, **keys):
        (folder / name).mkdir(exist_ok=True)
        job = make_job(
            folder=folder / name, resume=resume, micro_batch_size=4, held_out=4, **{"section": SECTION, **keys}
        )
        outcome = fit(job)
        assert outcome.resumed == 0 or resume
        return digest(job, outcome)

    return one


def digest(job, outcome):
    """Return, in one number, everything that two equal runs have in common."""
    told = [outcome.losses, outcome.learning_rates, outcome.evaluations, outcome.best_step, outcome.best_metrics]
    told += [outcome.steps, outcome.examples, outcome.tokens, outcome.stopped_early, outcome.proofs]
    told += [sorted(p.name for p in (job.folder / "checkpoints").iterdir())]
    log = (job.folder / "log.jsonl").read_bytes()
    return hashlib.sha256(save(job.delta.state()) + json.dumps(told, sort_keys=True).encode() + log).hexdigest()


def failing_at(number, fail):
    calls = iter(range(1, 10**6))

    def operation(name):
        if next(calls) == number:
            fail(name)

    return operation


def die(_):
    raise Killed


def disk_full(name):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)


def operations(run, monkeypatch, **keys):
    """Return how many file operations an undisturbed run has, and its digest."""
    names = []
    monkeypatch.setattr(files, "_operations", names.append)
    expected = run("undisturbed", **keys)
    monkeypatch.setattr(files, "_operations", None)
    return len(names), expected


def step_checkpoints(folder):
    return sorted((folder / "checkpoints").glob("step-*"))


# One phase; and two that train other tensors each, with checkpoints at their border and, sampled, inside of them.
KILLED = {
    "lora": (1, {"section": {"epochs": 2.0, "checkpoint_every": 2}}),
    "lt_sft": (1, {"section": {"epochs": 2.0, "checkpoint_every": 2}, "rows": 8, "methods": (find("lt_sft")(),)}),
    "winning_ticket": (13, {"section": {"epochs": 3.0, "checkpoint_every": 1}, "rows": 8, "methods": (TICKET,)}),
    "diff_pruning": (9, {"section": {"epochs": 2.0, "checkpoint_every": 1}, "rows": 8, "methods": (DIFF,)}),
}


@pytest.mark.parametrize(("stride", "keys"), KILLED.values(), ids=KILLED)
def test_a_run_killed_at_any_file_operation_resumes_to_the_same_bits(run, folder, monkeypatch, stride, keys):
    count, expected = operations(run, monkeypatch, **keys)
    assert count > 70
    for number in range(1, count + 1, stride):
        monkeypatch.setattr(files, "_operations", failing_at(number, die))
        with pytest.raises(Killed):
            run("killed", **keys)
        monkeypatch.setattr(files, "_operations", None)
        assert run("killed", resume=True, **keys) == expected, f"killed at operation {number}"
        shutil.rmtree(folder / "killed")


def test_a_full_disk_ends_the_run_politely_and_leaves_whole_checkpoints(run, folder, monkeypatch):
    count, expected = operations(run, monkeypatch)
    for number in range(1, count + 1, 13):
        monkeypatch.setattr(files, "_operations", failing_at(number, disk_full))
        with pytest.raises(ResourceError, match="no space left"):
            run("full")
        monkeypatch.setattr(files, "_operations", None)
        for checkpoint in step_checkpoints(folder / "full"):
            files.check_folder(checkpoint)
        assert not list((folder / "full").rglob(".tmp-*"))
        assert run("full", resume=True) == expected, f"failed at operation {number}"
        shutil.rmtree(folder / "full")


def in_a_child(work):
    """Start ``work`` in a forked child and return its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def test_a_run_killed_at_random_instants_resumes_to_the_same_bits(run, folder):
    expected = run("undisturbed")
    begun = time.monotonic()
    run("timed")
    duration = time.monotonic() - begun
    draw, kills, runs = random.Random(0), 0, 0
    while kills < 30:
        name = f"run-{runs}"
        runs += 1
        for _ in range(4):
            child = in_a_child(lambda: run(name, resume=True))  # noqa: B023
            time.sleep(draw.uniform(0, 1.2 * duration))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if not os.WIFSIGNALED(status):
                assert status == 0
                break
            kills += 1
        assert run(name, resume=True) == expected


@pytest.mark.parametrize("every", [None, 2, 4])
def test_a_checkpoint_is_whole_wherever_evaluations_fall(run, folder, monkeypatch, every):
    keys = {"section": {"epochs": 2.0, "checkpoint_every": every}, "every": 2}
    count, expected = operations(run, monkeypatch, **keys)
    for number in range(3, count + 1, 11):
        monkeypatch.setattr(files, "_operations", failing_at(number, die))
        with pytest.raises(Killed):
            run("killed", **keys)
        monkeypatch.setattr(files, "_operations", None)
        assert run("killed", resume=True, **keys) == expected, f"killed at operation {number}"
        shutil.rmtree(folder / "killed")


def interrupted(run, folder, monkeypatch, count=130):
    monkeypatch.setattr(files, "_operations", failing_at(count, die))
    with pytest.raises(Killed):
        run("run")
    monkeypatch.setattr(files, "_operations", None)
    found = step_checkpoints(folder / "run")
    assert len(found) == 2
    return found


def damage(checkpoint):
    path = checkpoint / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_note(make_job, run, folder, monkeypatch):
    expected = run("undisturbed")
    _, newest = interrupted(run, folder, monkeypatch)
    damage(newest)
    job = make_job(folder=folder / "run", resume=True, micro_batch_size=4, held_out=4, section=SECTION)
    assert digest(job, fit(job)) == expected
    assert any("is damaged and passed over" in note for note in job.progress.notes)


def test_without_a_whole_checkpoint_a_run_does_not_start_from_zero_by_itself(run, folder, monkeypatch):
    for checkpoint in interrupted(run, folder, monkeypatch):
        damage(checkpoint)
    with pytest.raises(ArtifactError, match="no checkpoint is whole"):
        run("run", resume=True)


def test_a_checkpoint_whose_best_delta_is_damaged_is_not_whole(run, folder, monkeypatch):
    interrupted(run, folder, monkeypatch)
    for best in (folder / "run" / "checkpoints").glob("best-*"):
        damage(best)
    with pytest.raises(ArtifactError, match="no checkpoint is whole"):
        run("run", resume=True)


def test_nothing_to_resume_from_means_from_the_start(run):
    assert run("fresh", resume=True) == run("undisturbed")


def test_without_resume_an_earlier_run_in_the_folder_is_forgotten(run, folder, monkeypatch):
    expected = run("undisturbed")
    interrupted(run, folder, monkeypatch)
    assert run("run") == expected


def test_a_checkpoint_of_another_run_is_refused_and_what_differs_is_named(run, folder, monkeypatch):
    interrupted(run, folder, monkeypatch)
    with pytest.raises(ArtifactError, match="another run: data, versions differ") as error:
        run("run", resume=True, identity={"recipe": "1", "data": "3", "versions": "4"})
    assert "--overwrite" in error.value.problems[0].hint


def test_a_finished_run_is_taken_up_without_a_step(make_job, run, folder):
    expected = run("run")
    job = make_job(folder=folder / "run", resume=True, micro_batch_size=4, held_out=4, section=SECTION)
    assert digest(job, fit(job)) == expected
    assert job.progress.steps == []


def test_the_time_of_all_attempts_is_summed(make_job, run, folder, monkeypatch):
    interrupted(run, folder, monkeypatch)
    newest = step_checkpoints(folder / "run")[-1]
    before = json.loads((newest / "state.json").read_text())["state"]["seconds"]
    job = make_job(folder=folder / "run", resume=True, micro_batch_size=4, held_out=4, section=SECTION)
    outcome = fit(job)
    assert outcome.seconds > before > 0
    assert outcome.resumed == 1


def test_only_the_two_newest_checkpoints_and_the_best_remain(run, folder):
    run("run")
    names = sorted(p.name for p in (folder / "run" / "checkpoints").iterdir())
    assert names[-2:] == ["step-000005", "step-000006"]
    assert [n for n in names if n.startswith("best-")] == names[:-2]


def test_half_written_folders_of_dead_processes_vanish(run, folder, monkeypatch):
    interrupted(run, folder, monkeypatch)
    (folder / "run" / "checkpoints" / ".tmp-step-000009-1").mkdir()
    run("run", resume=True)
    assert not list((folder / "run").rglob(".tmp-*"))


def test_a_diverged_run_keeps_its_last_finite_checkpoint(make_job, folder):
    (folder / "run").mkdir()
    job = make_job(folder=folder / "run", section={"checkpoint_every": 2})
    weight = next(iter(job.delta.parameters.values()))

    def poison(step):
        if step >= 2:
            weight.data.fill_(float("nan"))

    job.progress.at_step = poison
    with pytest.raises(DivergedError):
        fit(job)
    assert next(p.name for p in step_checkpoints(folder / "run")) == "step-000002"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_saves_and_says_how_to_go_on(make_job, run, folder, number):
    expected = run("undisturbed")
    before = signal.getsignal(number)
    (folder / "run").mkdir()
    job = make_job(folder=folder / "run", micro_batch_size=4, held_out=4, section=SECTION)
    job.progress.at_step = lambda step: os.kill(os.getpid(), number) if step == 4 else None
    with pytest.raises(Stopped, match="after step 4 of 6") as error:
        fit(job)
    assert "--resume" in error.value.problems[0].hint
    assert job.progress.finished == 1
    assert signal.getsignal(number) is before
    assert run("run", resume=True) == expected


def test_a_stop_before_the_last_evaluation_leaves_it_to_the_resumed_run(make_job, run, folder):
    expected = run("undisturbed", section={"epochs": 2.0})
    (folder / "run").mkdir()
    job = make_job(folder=folder / "run", micro_batch_size=4, held_out=4)
    job.progress.at_step = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 6 else None
    with pytest.raises(Stopped, match="after step 6 of 6"):
        fit(job)
    assert [step for step, _, _ in job.progress.evaluations] == [3]
    assert run("run", resume=True, section={"epochs": 2.0}) == expected


def test_a_second_signal_leaves_at_once_with_the_code_of_shells(make_job, folder):
    job = make_job(folder=folder, micro_batch_size=4, held_out=4)

    def twice(_):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    job.progress.at_step = twice
    with pytest.raises(SystemExit) as left:
        fit(job)
    assert left.value.code == 143
