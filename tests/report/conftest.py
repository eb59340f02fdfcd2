"""Reports that look like those of real runs; every number in them is made up."""

import copy
import math
import random

import pytest

from peftcli.report.record import parse

BASE_SIZE = 124_055_040
HEAD = 592_130
# method: settings, trainable parameters, validation accuracy, seconds, peak memory
MADE_UP_METHODS = {
    "full": ({}, BASE_SIZE, 0.9427, 2470.4, 3_912_000_000),
    "bitfit": ({}, 102_912, 0.9243, 631.2, 1_904_000_000),
    "lora": ({"alpha": 16.0, "rank": 8, "target_modules": ["W_q", "W_v"]}, 294_912, 0.9404, 724.9, 2_102_000_000),
    "ia3": ({}, 55_296, 0.9151, 702.0, 2_040_000_000),
    "adapter": ({"bottleneck": 48}, 1_788_288, 0.9415, 803.7, 2_301_000_000),
    "prefix": ({"prefix_length": 20}, 368_640, 0.9266, 811.0, 2_410_000_000),
    "prompt": ({"prompt_length": 20}, 15_360, 0.8876, 790.3, 2_380_000_000),
    "top2": ({}, 14_175_744, 0.9323, 512.5, 1_650_000_000),
}


def made_up_report(method="lora", *, seed=0, shift=0.0, name=None, validation_sha="d" * 64):
    """Return the content of a report.json as SST-2 on RoBERTa might give it."""
    settings, size, accuracy, seconds, memory = MADE_UP_METHODS[method]
    noise = random.Random(f"{method}{seed}")
    steps = 2100
    losses = [[s, 0.12 + 0.58 * math.exp(-s / 300) + noise.gauss(0, 0.05)] for s in range(1, steps + 1)]
    evaluations = [
        [s, {"accuracy": accuracy + shift - abs(s - 1680) ** 1.5 / 2e6, "loss": 0.15 + 90 / (s + 300)}]
        for s in range(210, steps + 1, 210)
    ]
    return copy.deepcopy(
        {
            "format": 1,
            "intervals": {"validation": {"accuracy": [0.9227, 0.9543]}},
            "signatures": {"accuracy": "fraction of right predictions"},
            "details": {
                "validation": {
                    "classes": [
                        {"label": "negative", "n": 428, "precision": 0.94, "recall": 0.93, "f1": 0.935},
                        {"label": "positive", "n": 444, "precision": 0.93, "recall": 0.95, "f1": 0.94},
                    ],
                    "confusion": [[398, 30], [22, 422]],
                }
            },
            "name": name or f"sst2-{method}-{seed}",
            "method": method,
            "recipe": {
                "version": 1,
                "name": name or f"sst2-{method}-{seed}",
                "base": {"name": "FacebookAI/roberta-base", "revision": None, "dtype": "auto"},
                "method": {"name": method, **settings},
                "data": {
                    "task": "classification",
                    "train": "data/train.jsonl",
                    "validation": "data/dev.jsonl",
                    "test": "data/test.jsonl",
                    "columns": {"text": "sentence", "label": "label"},
                    "max_length": 128,
                },
                "training": {"epochs": 1.0, "batch_size": 32, "learning_rate": 5e-4, "schedule": "linear"},
                "evaluation": {"every": 210, "select": "accuracy"},
                "seed": seed,
            },
            "base": {
                "name": "FacebookAI/roberta-base",
                "commit": "e2da8e2f811d1448a5b465c236feacd80ffbac7b",
                "family": "roberta",
                "fingerprint": "5f1c" * 16,
                "dtype": "float32",
            },
            "parameters": {
                "base": BASE_SIZE,
                "delta": size,
                "head": HEAD,
                "fraction": size / BASE_SIZE,
                "fraction_of_all": size / (BASE_SIZE + size),
                "method": method,
                "trained_during_training": size,
                "per_layer": {str(i): size // 12 for i in range(12)},
                "per_site": {"W_v": size // 2, "W_q": size - size // 2},
            },
            "metrics": {
                "base": {"accuracy": 0.5092, "f1": 0.3374, "loss": 0.6961, "n": 872},
                "validation": {"accuracy": accuracy + shift, "f1": accuracy + shift - 0.0003, "loss": 0.1934, "n": 872},
                "test": None,
            },
            "select": "accuracy",
            "higher_is_better": True,
            "training": {
                "steps": steps,
                "epochs": 1.0,
                "examples": 67_349,
                "tokens": 895_131,
                "best_step": 1680,
                "learning_rate": 5e-4,
                "batch_size": 32,
                "seed": seed,
                "processes": 1,
                "stopped_early": False,
                "losses": losses,
                "evaluations": evaluations,
                "learning_rates": [[1, 5e-6], [126, 5e-4], [2100, 0.0]],
            },
            "cost": {
                "seconds": seconds,
                "tokens_per_second": 1234.9,
                "peak_memory_bytes": memory,
                "artifact_bytes": 4 * (size + HEAD) + 5000,
                "base_bytes": 498_818_054,
            },
            "data": {
                "task": {"name": "classification", "labels": ["negative", "positive"], "max_length": 128},
                "rows": {"train": 67_349, "validation": 872},
                "files": {
                    "train": [{"path": "data/train.jsonl", "sha256": "a" * 64, "rows": 67_349}],
                    "validation": [{"path": "data/dev.jsonl", "sha256": validation_sha, "rows": 872}],
                },
                "labels": {
                    "train": {"negative": 29_780, "positive": 37_569},
                    "validation": {"negative": 428, "positive": 444},
                },
                "duplicates": {"train": 38, "validation": 0},
                "overlap": {"validation": 0},
                "empty_cells": {"train": {}, "validation": {}},
            },
            "proofs": {
                "starts_at_base": True,
                "tensors_with_a_gradient": "50 of 50",
                "tensors_that_moved": "50 of 50",
                "frozen_tensors_that_moved": 0,
            },
            "environment": {
                "python": "3.11.9",
                "torch": "2.13.0",
                "transformers": "5.23.0",
                "peftcli": "0.1.0",
                "platform": "Linux x86_64",
                "cpu": "a made-up processor",
                "threads": 8,
                "precision": "float32",
                "device": "cpu",
            },
            "resumed": 0,
        }
    )


@pytest.fixture(name="made_up")
def made_up_fixture():
    """Return the function that makes the content of a report.json."""
    return made_up_report


@pytest.fixture(name="make")
def make_fixture():
    """Return a function that makes a Report from the content of a report.json."""
    import json

    return lambda document: parse(json.dumps(document), "report.json")


@pytest.fixture(name="all_methods")
def all_methods_fixture():
    """Return a function that gives the names of the made-up methods."""
    return tuple(MADE_UP_METHODS)
