from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import signal
import sys
import time
from dataclasses import replace

import pytest
from safetensors.torch import save

from peftcli import files
from peftcli.errors import ArtifactError, ResourceError, Stopped
from peftcli.training.loop import fit

SECTION = {"checkpoint_every": 1, "epochs": 2.0}


class Killed(BaseException):
    """The process is gone."""


def digest(job, outcome, folder):
    """Everything that two equal runs have in common, in one number."""
    told = [outcome.losses, outcome.learning_rates, outcome.evaluations, outcome.best_step, outcome.best_metrics]
    told += [outcome.steps, outcome.examples, outcome.tokens, outcome.stopped_early, outcome.proofs]
    content = save(job.delta.state()) + json.dumps(told, sort_keys=True).encode() + (folder / "log.jsonl").read_bytes()
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def shared_memory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return folder


@pytest.fixture
def run(make_job):
    """Return what runs a job in a folder, or takes it up again, and returns its digest."""

    def one(folder, resume=False, **keys):
        job = make_job(folder=folder, resume=resume, **{"section": SECTION, **keys})
        return digest(job, fit(job), folder)

    return one


@pytest.fixture
def undisturbed(run, tmp_path):
    folder = tmp_path / "undisturbed"
    folder.mkdir()
    return run(folder)


def failing_at(number, failure):
    calls = iter(range(1, 10**6))

    def operation(name):
        if next(calls) == number:
            failure(name)

    return operation


def test_time(run, undisturbed, tmp_path, monkeypatch):
    count = []
    monkeypatch.setattr(files, "_operations", count.append)
    t = time.time()
    run(tmp_path)
    print(len(count), time.time() - t)
    assert 0
