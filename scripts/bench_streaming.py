"""How much memory a run takes whose training rows are streamed, beside the same run with 1,000 rows in memory.

    python scripts/bench_streaming.py [--rows 5000000] [--steps 100] [--gzip] [--base demo:minilm]

Writes so many generated rows into a temporary folder (5 million are some 0.5 GB), trains LoRA on them with
data.streaming, and prints the peak resident memory and the seconds of both processes. Each is a process of its own, so
both hold the same model, libraries and batches: what the first has more is what streaming holds.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = [
    "the",
    "a",
    "film",
    "book",
    "room",
    "staff",
    "story",
    "plot",
    "bed",
    "view",
    "actor",
    "pool",
    "scene",
    "cast",
    "food",
    "light",
    "was",
    "is",
    "felt",
    "seemed",
]
FEELINGS = {"good": ("fine", "warm", "bright", "lovely"), "bad": ("dull", "cold", "poor", "dirty")}
FEW = 1000
MIB = 2**20


def write_rows(path: Path, count: int) -> None:
    """Write rows of some ten words, no two alike by intent, with a label that the words tell."""
    draw = random.Random(0)
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8") as file:
        for number in range(count):
            label = "good" if number % 2 else "bad"
            text = " ".join([*draw.choices(WORDS, k=9), draw.choice(FEELINGS[label]), str(number)])
            file.write(json.dumps({"text": text, "label": label}) + "\n")


def train(folder: Path, rows: Path, options: argparse.Namespace, *, streaming: bool) -> tuple[float, float]:
    """Return the peak memory in MiB and the seconds of one run."""
    recipe = {
        "base": {"name": options.base},
        "method": {"name": "lora"},
        "data": {
            "task": "classification",
            "train": str(rows),
            "validation": str(folder / "validation.jsonl"),
            "labels": ["bad", "good"],
            "streaming": streaming,
        },
        "training": {"steps": options.steps, "batch_size": 32},
        "evaluation": {"every": "end", "base": False},
    }
    path = folder / f"{rows.stem}-{streaming}.yaml"
    path.write_text(json.dumps(recipe))
    started = time.perf_counter()
    command = [sys.executable, "-m", "peftcli", "train", str(path), "--out", str(folder / path.stem), "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"peft train ended with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / MIB, time.perf_counter() - started


def main() -> int:
    """Generate, train twice, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--gzip", action="store_true", help="stream a .jsonl.gz")
    parser.add_argument("--base", default="demo:minilm")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        many = folder / ("many.jsonl.gz" if options.gzip else "many.jsonl")
        few = folder / "few.jsonl"
        for path, count in ((many, options.rows), (few, FEW), (folder / "validation.jsonl", 100)):
            write_rows(path, count)
        print(f"{options.rows:,} rows, {many.stat().st_size / MIB:,.0f} MiB, {options.steps} steps of 32", flush=True)
        streamed, seconds = train(folder, many, options, streaming=True)
        print(f"streamed          peak {streamed:6,.0f} MiB  {seconds:6.1f} s", flush=True)
        held, seconds = train(folder, few, options, streaming=False)
        print(f"{FEW:,} in memory   peak {held:6,.0f} MiB  {seconds:6.1f} s")
        print(f"streaming takes {streamed - held:+,.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
