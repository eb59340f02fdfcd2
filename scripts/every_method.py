"""Trains the method of every recipe on one base and one data set, and prints them side by side.

    python scripts/every_method.py TASK.yaml --out runs/sst2 [--only lora,dora] [key=value ...] [NAME:key=value ...]

The base, data, training and evaluation sections are TASK.yaml's; the method and its learning rates are those of each
recipe in recipes/, which suit the demo model; ``prefix:training.learning_rate=3e-3`` changes them for one. A
combination that is finished already is kept; one that is refused is listed with its reason.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "recipes"
RATES = ("learning_rate", "head_learning_rate", "weight_decay")


def methods() -> dict[str, tuple[str, list[str]]]:
    """Return the method of every recipe as an override, and its rates; recipes of one method and rate count once."""
    found: dict[str, tuple[str, list[str]]] = {}
    for path in sorted(RECIPES.glob("*.yaml")):
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
        training = recipe.get("training", {})
        rates = [f"training.{key}={training[key]}" for key in RATES if key in training]
        entry = (f"method={json.dumps(recipe['method'])}", rates)
        if entry not in found.values():
            found[path.stem] = entry
    return found


def overrides(given: list[str], name: str) -> list[str]:
    """Return those of the given overrides that hold for the recipe called ``name``."""
    parts = [(text.partition("=")[0].rpartition(":")[0], text) for text in given]
    return [text.removeprefix(f"{whose}:") for whose, text in parts if whose in ("", name)]


def train(task: Path, folder: Path, overrides: list[str]) -> str | None:
    """Train into ``folder`` unless that is done; return why it was refused."""
    if (folder / "report.json").exists():
        return None
    command = [sys.executable, "-m", "peftcli", "train", str(task), *overrides, "--out", str(folder), "--quiet"]
    # From there, so that the paths in a recipe's method mean what they mean in the recipe.
    done = subprocess.run([*command, "--overwrite"], capture_output=True, text=True, check=False, cwd=RECIPES)
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[0].removeprefix("error: ")


def main() -> int:
    """Train, say what was refused, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=Path)
    parser.add_argument("overrides", nargs="*", help="recipe keys, for every method or with NAME: for one")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", help="names of recipes, with commas; default: all")
    options = parser.parse_intermixed_args()
    wanted = options.only.split(",") if options.only else None
    task, out = options.task.resolve(), options.out.resolve()
    finished: list[str] = []
    for name, (method, rates) in methods().items():
        if wanted is None or name in wanted:
            refused = train(task, out / name, [f"name={name}", method, *rates, *overrides(options.overrides, name)])
            print(f"{name}: {refused or 'trained'}", file=sys.stderr, flush=True)
            finished += [] if refused else [str(out / name)]
    if not finished:
        return 1
    return subprocess.run([sys.executable, "-m", "peftcli", "compare", *finished], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
