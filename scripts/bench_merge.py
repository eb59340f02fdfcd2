"""Merging against Hugging Face peft: seconds, CPU seconds, peak memory, and whether the outputs are the same.

    python scripts/bench_merge.py --gigabytes 1.3 --dtype bfloat16

Makes a GPT-2-shaped model of random numbers and a LoRA of rank 16 on every projection, then merges it in fresh
processes, ours and theirs in turn. peft knows GPT-2's W_q, W_k and W_v only as one fused module: there it gets one
LoRA of rank 48 that computes the same. Exit code 1: a goal is missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

PEAK_GOAL = 450  # MiB
TIME_GOAL = 0.5  # of theirs
WIDTH = 1536
VOCABULARY = 50257
POSITIONS = 1024
RANK = 16

OURS = """
import sys
from pathlib import Path
from peftcli.artifact.artifact import open_artifact
from peftcli.artifact.merging import MergeSettings, stream
run, base, out = map(Path, sys.argv[1:])
print(stream(open_artifact(run), base, out, MergeSettings()))
"""
OURS_COMMAND = """
import sys
from peftcli.cli.program import main
run, base, out = sys.argv[1:]
sys.argv = ["peft", "merge", run, "--out", out, "--no-check"]
main()
"""
THEIRS = """
import sys
from peft import PeftModel
from transformers import AutoModelForCausalLM
run, base, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
PeftModel.from_pretrained(model, run + "/delta").merge_and_unload().save_pretrained(out)
"""


@dataclass(frozen=True)
class Cost:
    """What one process took."""

    seconds: float
    cpu: float
    peak: float  # MiB


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.3)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the files go (default: the temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        apart(make, folder, options.gigabytes, options.dtype)
        size = (folder / "base" / "model.safetensors").stat().st_size
        print(f"base model: {size / 1e9:.2f} GB of {options.dtype}; LoRA of rank {RANK} on every projection")
        copying = copy_seconds(folder / "base" / "model.safetensors", folder / "copy")
        print(f"copying the file once: {copying:.1f} s")
        script = OURS_COMMAND if importlib.util.find_spec("peftcli.pipeline.merging") else OURS
        costs: dict[str, list[Cost]] = {"peftcli": [], "peft": []}
        for _ in range(options.rounds):
            for who, code in (("peftcli", script), ("peft", THEIRS)):
                shutil.rmtree(folder / who, ignore_errors=True)
                costs[who].append(measure(code, folder / "run", folder / "base", folder / who))
                print(f"{who:8} {describe(costs[who][-1])}")
        return judge(costs, *compare(folder / "peftcli", folder / "peft"))


def apart(work: Callable[..., None], *arguments: object) -> None:
    """Do ``work`` in a process of its own: a process starts with the peak memory of the one that starts it."""
    child = os.fork()
    if not child:
        work(*arguments)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise SystemExit("the model could not be made")


def make(folder: Path, gigabytes: float, dtype: str) -> None:
    """Write the base model and both forms of the delta."""
    import torch

    from peftcli.artifact.numbers import dtype_name, to_bytes
    from peftcli.artifact.tensor_file import TensorSpec, arranged, new_tensor_file
    from peftcli.base.anatomy import Anatomy
    from peftcli.files import write_json

    kind = getattr(torch, dtype)
    layers = max(1, round((gigabytes * 1e9 / kind.itemsize - (VOCABULARY + POSITIONS) * WIDTH) / (12 * WIDTH**2)))
    config = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": VOCABULARY,
        "n_embd": WIDTH,
        "n_layer": layers,
        "n_head": 16,
        "n_positions": POSITIONS,
        "dtype": dtype,
    }
    anatomy = Anatomy.of(config, task="causal-lm")
    specs = arranged([TensorSpec(f"transformer.{t.path}", dtype_name(kind), t.shape) for t in anatomy.tensors])
    (folder / "base").mkdir()
    write_json(folder / "base" / "config.json", config)
    generator = torch.Generator().manual_seed(0)
    with new_tensor_file(folder / "base" / "model.safetensors", specs) as writer:
        for spec in specs:
            writer.begin(spec)
            writer.write(to_bytes(torch.empty(spec.shape).normal_(std=0.02, generator=generator).to(kind)))
    make_delta(folder, config)


def make_delta(folder: Path, config: dict[str, object]) -> None:
    """Write the delta, in our form and in peft's."""
    import torch

    from peftcli.artifact.artifact import ArtifactContents, base_identity, save
    from peftcli.artifact.exports import export
    from peftcli.artifact.fingerprint import fingerprint
    from peftcli.base.loading import empty_base
    from peftcli.delta.delta import attach
    from peftcli.delta.registry import read_methods

    methods = read_methods({"name": "lora", "rank": RANK, "alpha": 2.0 * RANK, "target_modules": "all-linear"})
    base = str(folder / "base")
    delta = attach(methods, empty_base(config, task_class="AutoModelForCausalLM", settings={}), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in delta.parameters.values():
            parameter.normal_(std=0.02, generator=generator)
    contents = ArtifactContents(
        methods=methods,
        base=base_identity(
            delta.base,
            config,
            name=base,
            commit=None,
            fingerprint=fingerprint(folder / "base"),
            dtype=config["dtype"],
        ),
        tensors=delta.state(),
        task={"name": "causal-lm", "columns": {"prompt": "prompt", "completion": "completion"}, "max_length": 32},
        counts={"delta": delta.size},
        seed=0,
        export=export(delta, base=base, revision=None, task="causal-lm"),
    )
    save(folder / "run" / "delta", contents)


def copy_seconds(source: Path, target: Path) -> float:
    """Copy a file and return how long it took: how fast the disk is in this minute."""
    start = time.monotonic()
    shutil.copyfile(source, target)
    seconds = time.monotonic() - start
    target.unlink()
    return seconds


def measure(code: str, *arguments: Path) -> Cost:
    """Run ``code`` in a fresh process and return what it took."""
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONPATH": str(REPOSITORY),
    }
    command = [sys.executable, "-c", code, *map(str, arguments)]
    start = time.monotonic()
    with (arguments[-1].parent / "log").open("wb") as log:
        actions = [(os.POSIX_SPAWN_DUP2, log.fileno(), 1), (os.POSIX_SPAWN_DUP2, log.fileno(), 2)]
        child = os.posix_spawn(sys.executable, command, environment, file_actions=actions)
        _, status, used = os.wait4(child, 0)
    seconds = time.monotonic() - start
    if os.waitstatus_to_exitcode(status):
        raise SystemExit((arguments[-1].parent / "log").read_text())
    return Cost(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def compare(ours: Path, theirs: Path) -> tuple[int, int]:
    """Return how many numbers of the two merged models differ, and of how many."""
    import torch
    from safetensors import safe_open

    differing = numbers = 0
    with safe_open(ours / "model.safetensors", "pt") as one, safe_open(theirs / "model.safetensors", "pt") as other:
        if set(one.keys()) != set(other.keys()):
            raise SystemExit(f"other tensors: {sorted(set(one.keys()) ^ set(other.keys()))[:5]}")
        for name in one.keys():  # noqa: SIM118  # it is no mapping
            a, b = one.get_tensor(name), other.get_tensor(name)
            differing += int(torch.ne(a, b).sum())
            numbers += a.numel()
    return differing, numbers


def describe(cost: Cost) -> str:
    """Return one line about a process."""
    return f"{cost.seconds:6.1f} s   {cost.cpu:6.1f} CPU s   {cost.peak:6.0f} MiB"


def judge(costs: dict[str, list[Cost]], differing: int, numbers: int) -> int:
    """Print the ratios and return the exit code."""
    ours, theirs = (
        Cost(*(statistics.median(getattr(c, f) for c in costs[who]) for f in ("seconds", "cpu", "peak")))
        for who in ("peftcli", "peft")
    )
    time_ratio = ours.seconds / theirs.seconds
    print(f"ratio    {time_ratio:6.2f}     {ours.cpu / theirs.cpu:6.2f}         {ours.peak / theirs.peak:6.2f}")
    print(f"{differing} of {numbers} numbers differ")
    missed = []
    if ours.peak > PEAK_GOAL:
        missed.append(f"peak memory {ours.peak:.0f} MiB > {PEAK_GOAL} MiB")
    if time_ratio > TIME_GOAL:
        missed.append(f"time {time_ratio:.2f}x > {TIME_GOAL}x")
    print(f"missed: {'; '.join(missed)}" if missed else "every goal is met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
