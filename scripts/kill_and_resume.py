"""Kills a real training run at random moments, resumes it, and compares the delta with an undisturbed run.

    python scripts/kill_and_resume.py [--kills 20] [RECIPE] [key=value ...]

Every run is a process of its own (``python -m peftcli train``), killed with SIGKILL. The delta and the log of each
resumed run must be byte for byte those of the undisturbed one. Exit code 1: some were not.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes/quickstart.yaml"
SMALL = ["data.limit=192", "data.limit_validation=48", "training.epochs=3", "training.checkpoint_every=2"]


def command(recipe: Path, overrides: list[str], folder: Path, *flags: str) -> list[str]:
    """Return the command that trains into ``folder``."""
    return [sys.executable, "-m", "peftcli", "train", str(recipe), *overrides, "--out", str(folder), "--quiet", *flags]


def finish(recipe: Path, overrides: list[str], folder: Path, *flags: str) -> None:
    """Train to the end."""
    subprocess.run(command(recipe, overrides, folder, *flags), check=True, capture_output=True, cwd=ROOT)


def kill(recipe: Path, overrides: list[str], folder: Path, seconds: float) -> bool:
    """Train, resuming if there is something, and kill the process after ``seconds``; return whether it still ran."""
    process = subprocess.Popen(
        command(recipe, overrides, folder, "--resume"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    time.sleep(seconds)
    running = process.poll() is None
    process.kill()
    process.wait()
    return running


def equal(one: Path, other: Path) -> bool:
    """Return whether two runs ended in the same bytes."""
    names = ("delta/delta.safetensors", "log.jsonl")
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def main() -> int:
    """Kill, resume, compare, and print one line per kill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", type=Path, default=RECIPE)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    overrides = options.overrides or SMALL
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        reference = Path(temporary) / "undisturbed"
        start = time.monotonic()
        finish(options.recipe, overrides, reference)
        whole = time.monotonic() - start
        print(f"undisturbed run: {whole:.1f} s")
        same = kills = 0
        while kills < options.kills:
            folder = Path(temporary) / "killed"
            shutil.rmtree(folder, ignore_errors=True)
            moment = moments.uniform(0.2, 0.98) * whole
            if not kill(options.recipe, overrides, folder, moment):
                continue
            kills += 1
            steps = sorted(p.name for p in folder.glob("checkpoints/step-*"))
            finish(options.recipe, overrides, folder, "--resume")
            good = equal(folder, reference)
            same += good
            found = steps[-1] if steps else "no checkpoint yet"
            verdict = "identical" if good else "DIFFERENT"
            print(f"kill {kills:2d} after {moment:5.1f} s ({found}): {verdict}", flush=True)
    print(f"{same}/{kills} resumed runs are bit-identical to the undisturbed one")
    return 0 if same == kills else 1


if __name__ == "__main__":
    sys.exit(main())
