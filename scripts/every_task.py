"""Trains what scripts/every_task.yaml lists, task by task, and prints each task's methods side by side.

    python scripts/every_task.py --out runs/tasks --only stsb,snli sets=DATA/text
    python scripts/every_task.py --out runs/tasks sets=DATA/text images=DATA/images stories=MODEL t5=MODEL vit=MODEL

sets is a folder with NAME/train.jsonl.gz and NAME/validation.jsonl.gz for stsb, snli_10k, banking77, sst2, e2e_nlg,
wikisql_14k, scitldr_a and gsm8k; images holds fashion_mnist_900.tar.gz, a folder for each split and class. stories is a
small decoder, t5 what scripts/pretrain_t5.py --objective infilling made of such texts, vit and digits the folders base
and new that scripts/pretrain_vit.py made. What is finished already is kept; a task whose folders were not named is left
out.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
from pathlib import Path
from string import Template
from typing import Any

import yaml

LISTED = Path(__file__).with_suffix(".yaml")
LONGEST = 420  # characters of a question with its answer


def listed(folders: dict[str, str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the recipe of every method by task and name; of those tasks whose folders are known."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for task, entry in yaml.safe_load(LISTED.read_text(encoding="utf-8")).items():
        try:
            text = Template(json.dumps(entry["recipe"])).substitute(folders)
        except KeyError:
            continue
        recipe = json.loads(text)
        found[task] = {
            name: {**recipe, **{k: {**recipe.get(k, {}), **v} if k != "method" else v for k, v in own.items()}}
            for name, own in entry["methods"].items()
        }
    return found


def make_chats(sets: Path, out: Path) -> None:
    """Write the rows of GSM8K that are short enough, each also as messages."""
    for split in ("train", "validation"):
        with gzip.open(sets / "gsm8k" / f"{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        with (out / f"gsm8k-{split}.jsonl").open("w", encoding="utf-8") as file:
            for row in rows:
                if len(row["question"]) + len(row["answer"]) <= LONGEST:
                    roles = (("user", row["question"]), ("assistant", row["answer"]))
                    messages = [{"role": role, "content": content} for role, content in roles]
                    file.write(json.dumps({**row, "messages": messages}) + "\n")


def train(recipe: dict[str, Any], folder: Path) -> str | None:
    """Train into ``folder`` unless that is done; return why it was refused."""
    if (folder / "report.json").exists():
        return None
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump({"version": 1, **recipe}, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "peftcli", "train", str(path), "--out", str(folder), "--quiet", "--overwrite"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stderr.strip().partition("\n")[0].removeprefix("error: ")


def main() -> int:
    """Train, say what was refused, compare task by task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", help="sets=FOLDER, images=, digits=, stories=, t5=, vit=")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", help="names of tasks, with commas; default: all whose folders are named")
    options = parser.parse_intermixed_args()
    folders = {k: str(Path(v).resolve()) for k, _, v in (text.partition("=") for text in options.folders)}
    made = options.out.resolve() / "made"
    made.mkdir(parents=True, exist_ok=True)
    if "sets" in folders and (Path(folders["sets"]) / "gsm8k").is_dir():
        make_chats(Path(folders["sets"]), made)
    worst = 0
    for task, recipes in listed({**folders, "made": str(made)}).items():
        if options.only and task not in options.only.split(","):
            continue
        runs = []
        for name, recipe in recipes.items():
            refused = train(recipe, options.out / task / name)
            print(f"{task}, {name}: {refused or 'trained'}", file=sys.stderr, flush=True)
            runs += [] if refused else [str(options.out / task / name)]
            worst |= bool(refused)
        if runs:
            subprocess.run([sys.executable, "-m", "peftcli", "compare", *runs], check=False)
    return worst


if __name__ == "__main__":
    sys.exit(main())
