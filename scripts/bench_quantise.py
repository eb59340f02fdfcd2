"""What a quantised base saves: memory and seconds of LoRA on a random LLaMA, held in float32, bfloat16, int8 and nf4.

    python scripts/bench_quantise.py --millions 300 --steps 3

Every variant trains in a process of its own; on a CUDA device where there is one. The peak is that of the process, on a
device that of its memory. "start" is the largest difference of a logit between the adapted network and its base before
the first step. Exit code 1: a delta does not start at its base, or nf4 needs as much memory as bfloat16.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

VARIANTS = {  # how a base is held: base.dtype, base.quantise
    "float32": ("float32", "none"),
    "bfloat16": ("bfloat16", "none"),
    "int8": ("bfloat16", "int8"),
    "nf4": ("bfloat16", "nf4"),
}
WIDTH = 1024
INSIDE = 2816
VOCABULARY = 32_000
TOKENS = (2, 128)  # rows, tokens a row


def main() -> int:
    """Run the benchmark, or one variant of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=float, default=300, help="parameters of the base model")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--folder", type=Path, help="where the model goes (default: the temporary folder)")
    parser.add_argument("--train", nargs=2, metavar=("VARIANT", "MODEL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        print(json.dumps(train(options.train[0], Path(options.train[1]), options.steps, options.rank)))
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        base = Path(name) / "base"
        apart(base, options.millions)
        size = (base / "model.safetensors").stat().st_size
        print(f"base model: {size / 2 / 1e6:.0f} M parameters, {size / 1e9:.2f} GB of bfloat16 on disk")
        print(f"{'':9} {'base held':>10} {'peak':>10} {'load':>8} {'step':>8}  start     loss")
        costs = {variant: measure(variant, base, options) for variant in VARIANTS}
    return judge(costs)


def apart(base: Path, millions: float) -> None:
    """Write the model in a process of its own: a process starts with the peak memory of the one that starts it."""
    child = os.fork()
    if not child:
        make(base, millions)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise SystemExit("the model could not be made")


def make(base: Path, millions: float) -> None:
    """Write a LLaMA of random numbers in bfloat16."""
    import torch

    from peftcli.artifact.numbers import to_bytes
    from peftcli.artifact.tensor_file import TensorSpec, arranged, new_tensor_file
    from peftcli.base.anatomy import Anatomy
    from peftcli.files import write_json

    layer = 4 * WIDTH**2 + 3 * WIDTH * INSIDE
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": INSIDE,
        "num_hidden_layers": max(1, round((millions * 1e6 - 2 * VOCABULARY * WIDTH) / layer)),
        "num_attention_heads": 16,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    tensors = Anatomy.of(config, task="causal-lm").tensors
    names = {t.path[1:] if t.path.startswith("^") else f"model.{t.path}": t for t in tensors}
    specs = arranged([TensorSpec(n, "BF16", t.shape) for n, t in names.items()])
    base.mkdir()
    write_json(base / "config.json", config)
    generator = torch.Generator().manual_seed(0)
    with new_tensor_file(base / "model.safetensors", specs) as writer:
        for spec in specs:
            numbers = torch.empty(spec.shape).normal_(std=0.02, generator=generator)
            writer.begin(spec)
            writer.write(to_bytes((numbers + names[spec.name].norm).bfloat16()))


def measure(variant: str, base: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train one variant in a fresh process and print what it took."""
    command = [sys.executable, __file__, "--steps", str(options.steps), "--rank", str(options.rank)]
    done = subprocess.run([*command, "--train", variant, str(base)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    cost: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{variant:9} {cost['held'] / 2**20:6.0f} MiB {cost['peak'] / 2**20:6.0f} MiB {cost['load']:6.1f} s "
        f"{cost['step']:6.1f} s  {cost['start']:.1e}  {cost['losses'][0]:.3f} to {cost['losses'][-1]:.3f}",
        flush=True,
    )
    return cost


def train(variant: str, folder: Path, steps: int, rank: int) -> dict[str, Any]:
    """Load, attach LoRA to every projection, and take some steps on one random batch."""
    import torch

    from peftcli.base.loading import load_base
    from peftcli.base.source import find_source
    from peftcli.delta.delta import attach
    from peftcli.methods.lora import Lora
    from peftcli.training.memory import peak_memory_bytes

    dtype, form = VARIANTS[variant]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clock = time.monotonic()
    base = load_base(
        find_source(str(folder)),
        task_class="AutoModelForCausalLM",
        settings={},
        dtype=dtype,
        new_head=False,
        seed=0,
        quantise=form,
    )
    base.network.to(device)
    loaded = time.monotonic() - clock
    delta = attach((Lora(rank=rank, target_modules="all-linear"),), base, seed=0)
    ids = torch.randint(VOCABULARY, TOKENS, generator=torch.Generator().manual_seed(0)).to(device)
    low = torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16")
    with torch.no_grad(), low:
        adapted = base.network(input_ids=ids[:1]).logits
        with delta.disabled():
            start = float((base.network(input_ids=ids[:1]).logits - adapted).abs().max())
    del adapted
    optimizer = torch.optim.AdamW(delta.parameters.values(), lr=2e-4)
    base.network.train()
    clock, losses = time.monotonic(), []
    for _ in range(steps):
        with low:
            loss = base.network(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return {
        "held": base.bytes,
        "peak": peak_memory_bytes(device),
        "load": loaded,
        "step": (time.monotonic() - clock) / steps,
        "start": start,
        "losses": losses,
    }


def judge(costs: dict[str, dict[str, Any]]) -> int:
    """Print what was missed and return the exit code."""
    missed = [f"{variant} does not start at its base" for variant, cost in costs.items() if cost["start"] > 0]
    if costs["nf4"]["peak"] >= costs["bfloat16"]["peak"]:
        missed.append("nf4 needs as much memory as bfloat16")
    print(f"missed: {'; '.join(missed)}" if missed else "every goal is met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
