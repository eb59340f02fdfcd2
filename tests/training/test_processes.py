from __future__ import annotations

import json
import os
import signal
import socket
import sys
import traceback

import pytest
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState

from peftcli.delta.registry import find
from peftcli.errors import DistributedError, Stopped
from peftcli.training.loop import fit
from peftcli.training.processes import check_agreement, prepared

SECTION = {"epochs": 2.0, "base_dropout": "off", "checkpoint_every": 2}


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def on_two_processes(folder, work):
    """Run ``work(accelerator)`` in two forked processes, and return what each of them returned."""
    port = free_port()
    children = [os.fork() or _child(rank, port, folder, work) for rank in range(2)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0, 0], "".join(p.read_text() for p in folder.glob("error-*"))
    return [json.loads((folder / f"result-{rank}.json").read_text()) for rank in range(2)]


def _child(rank, port, folder, work):
    code = 1
    try:
        AcceleratorState._reset_state(True)
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
        os.environ.update(address, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
        accelerator = Accelerator(
            cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)]
        )
        assert accelerator.num_processes == 2
        (folder / f"result-{rank}.json").write_text(json.dumps(work(accelerator)))
        torch.distributed.destroy_process_group()
        code = 0
    except:
        (folder / f"error-{rank}").write_text(traceback.format_exc())
        raise
    finally:
        sys.stdout.flush()
        os._exit(code)


def job_of(make_job, **keys):
    return make_job(**{"methods": (find("lora")(rank=2),), "section": SECTION, "micro_batch_size": 2, **keys})


def told(job, outcome):
    sums = {address: float(tensor.double().sum()) for address, tensor in job.delta.state().items()}
    return {"losses": outcome.losses, "evaluations": outcome.evaluations, "resumed": outcome.resumed, "sums": sums}


def assert_close(one, other):
    for key in ("losses", "evaluations"):
        a, b = json.loads(json.dumps(one[key])), json.loads(json.dumps(other[key]))
        assert [step for step, _ in a] == [step for step, _ in b]
        for (_, x), (_, y) in zip(a, b, strict=True):
            assert x == pytest.approx(y, rel=1e-4, abs=1e-5)
    assert one["sums"] == pytest.approx(other["sums"], rel=1e-3, abs=1e-4)


def test_two_processes_learn_what_one_does(make_job, tmp_path):
    def work(accelerator):
        # 11 rows: the last batch of an epoch has 3 of them, and with batches of 5, one: a process goes without.
        job = job_of(make_job, accelerator=accelerator, rows=11, batch_size=5)
        return told(job, fit(job))

    first, second = on_two_processes(tmp_path, work)
    assert first == second
    (tmp_path / "alone").mkdir()
    job = job_of(make_job, rows=11, batch_size=5, folder=tmp_path / "alone")
    assert_close(first, told(job, fit(job)))
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 8


def test_a_signal_to_one_process_stops_all_and_any_number_of_them_goes_on(make_job, tmp_path):
    def work(accelerator):
        job = job_of(make_job, accelerator=accelerator)
        loss, calls = type(job.task).loss, []

        class Signalled(type(job.task)):
            def loss(self, network, batch):
                calls.append(1)
                if accelerator.process_index == 1 and len(calls) == 3:
                    os.kill(os.getpid(), signal.SIGTERM)
                return loss(self, network, batch)

        object.__setattr__(job, "task", Signalled(**vars(job.task)))
        with pytest.raises(Stopped, match="after step 3"):
            fit(job)

    on_two_processes(tmp_path, work)
    state = json.loads((tmp_path / "checkpoints" / "step-000003" / "state.json").read_text())["state"]
    assert state["step"] == 3
    resumed = job_of(make_job, resume=True)
    outcome = told(resumed, fit(resumed))
    assert any("written by 2 processes" in note for note in resumed.progress.notes)
    (tmp_path / "alone").mkdir()
    alone = job_of(make_job, folder=tmp_path / "alone")
    assert_close(outcome, told(alone, fit(alone)))


def test_two_processes_resume_bit_for_bit_with_their_own_dropout(make_job, tmp_path):
    def work(accelerator):
        job = make_job(accelerator=accelerator, folder=tmp_path / "whole", section={"checkpoint_every": 2})
        whole = told(job, fit(job))
        folder = tmp_path / "again"
        if accelerator.is_main_process:
            (tmp_path / "whole").rename(folder)
            for later in (folder / "checkpoints").glob("*-000006"):
                later.rename(tmp_path / later.name)
        accelerator.wait_for_everyone()
        job = make_job(accelerator=accelerator, folder=folder, section={"checkpoint_every": 2}, resume=True)
        again = told(job, fit(job))
        return [whole, again]

    (tmp_path / "whole").mkdir()
    for whole, again in on_two_processes(tmp_path, work):
        assert again.pop("resumed") == 1
        assert whole.pop("resumed") == 0
        assert again == whole


def test_processes_that_disagree_are_named(tmp_path):
    def work(accelerator):
        facts = {"data": "1", "recipe": str(accelerator.process_index)}
        with pytest.raises(DistributedError, match="process 1 disagrees with process 0 about recipe\n"):
            check_agreement(accelerator, facts)
        check_agreement(accelerator, {"data": "1"})

    on_two_processes(tmp_path, work)


def test_more_processes_than_examples_in_a_batch_are_refused(make_job, tmp_path):
    def work(accelerator):
        with pytest.raises(DistributedError, match="a batch of 1 examples cannot be shared by 2 processes"):
            fit(job_of(make_job, accelerator=accelerator, batch_size=1))

    on_two_processes(tmp_path, work)


def test_preparing_leaves_no_trace_under_mixed_precision(make_job):
    AcceleratorState._reset_state(True)
    try:
        accelerator = Accelerator(cpu=True, mixed_precision="bf16")
        network = make_job().delta.base.network
        before = set(vars(network))
        with prepared(accelerator, network) as wrapped:
            assert wrapped is network
            assert "forward" in vars(network)
        assert set(vars(network)) == before
    finally:
        AcceleratorState._reset_state(True)


@pytest.mark.parametrize("name", ["lt_sft", "diff_pruning"])
def test_two_processes_agree_on_a_mask_and_go_on_to_the_second_phase(make_job, tmp_path, name):
    method = find(name)(entries=60)

    def work(accelerator):
        job = job_of(make_job, accelerator=accelerator, methods=(method,))
        return told(job, fit(job)) | {"masks": {a: b.tolist() for a, b in job.delta.buffers.items()}}

    first, second = on_two_processes(tmp_path, work)
    assert first == second
    assert sum(len(indices) for indices in first["masks"].values()) == 60
