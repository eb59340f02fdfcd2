"""Training speed beside Hugging Face Trainer + peft: the same rows, batches, precision and delta, A B A B.

    python scripts/bench_training.py [--rows 1024] [--epochs 2] [--data FILE.jsonl[.gz]] [--dropout off]

Every variant runs in a fresh process, in turn. Seconds are those of the training loop alone, without imports, loading
and tokenisation; the first epoch of a process warms the caches of both sides alike. Exit code 1: ours was slower.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peftcli.data.batches import Batches
    from peftcli.pipeline.adapting import Prepared

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "peftcli/data/demo/intents/train.jsonl"
SETTINGS = {"rank": 8, "alpha": 16.0, "batch": 32, "rate": 5e-4, "seed": 0}


def recipe(options: argparse.Namespace, folder: Path) -> Path:
    """Write the recipe that both sides follow and return its path."""
    text = f"""version: 1
name: bench
base: {{name: demo:minilm}}
method: {{name: lora, rank: {SETTINGS["rank"]}, alpha: {SETTINGS["alpha"]}}}
data: {{task: classification, train: {json.dumps(str(options.data))}, limit: {options.rows}, max_length: 128}}
training: {{epochs: {options.epochs}, batch_size: {SETTINGS["batch"]}, learning_rate: {SETTINGS["rate"]}, warmup: 0,
  precision: float32, base_dropout: "{options.dropout}"}}
evaluation: {{every: end, base: false}}
seed: {SETTINGS["seed"]}
"""
    path = folder / "bench.yaml"
    path.write_text(text)
    return path


def ours(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train with peftcli."""
    from peftcli.pipeline.progress import Silent
    from peftcli.pipeline.reading import read
    from peftcli.pipeline.training import TrainOptions, train

    report = train(read(recipe(options, folder)), TrainOptions(out=folder / "run"), Silent()).report
    losses = [loss for _, loss in report["training"]["losses"]]
    return {"seconds": report["cost"]["seconds"], "tokens": report["training"]["tokens"], "losses": losses}


class InOrder:
    """A sampler that gives the examples of one epoch after the other in peftcli's order."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.batches.examples)

    def __iter__(self) -> Iterator[int]:
        self.epoch += 1
        return iter(self.batches.order(self.epoch - 1))


def load(options: argparse.Namespace, folder: Path) -> tuple[Prepared, Batches]:
    """Return the base model and the batches as peftcli makes them."""
    from peftcli.data.batches import Batches, Share
    from peftcli.data.datasets import load_data
    from peftcli.pipeline.adapting import prepare
    from peftcli.pipeline.reading import read

    plan = read(recipe(options, folder))
    splits = load_data(plan.data, plan.seed)
    prepared = prepare(plan.base, splits.task, (), seed=plan.seed)
    share = Share(task=prepared.task, micro_batch_size=SETTINGS["batch"], pad=prepared.pad)
    return prepared, Batches(prepared.encode(splits.train), share, batch_size=SETTINGS["batch"], seed=plan.seed)


def arguments(options: argparse.Namespace, folder: Path) -> Any:  # noqa: ANN401  # TrainingArguments
    """Return what the recipe says, in the words of Trainer."""
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(folder / "trainer"),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=SETTINGS["batch"],
        learning_rate=SETTINGS["rate"],
        weight_decay=0.01,
        warmup_steps=0,
        lr_scheduler_type="linear",
        max_grad_norm=1.0,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        seed=SETTINGS["seed"],
    )


def theirs(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train with transformers' Trainer and peft on the same batches in the same order."""
    import torch
    import transformers
    from peft import LoraConfig, TaskType, get_peft_model

    transformers.logging.set_verbosity_error()
    prepared, batches = load(options, folder)
    for module in prepared.base.network.modules():
        if options.dropout == "off" and isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    torch.manual_seed(SETTINGS["seed"])
    size = {"r": SETTINGS["rank"], "lora_alpha": SETTINGS["alpha"]}
    config = LoraConfig(task_type=TaskType.SEQ_CLS, target_modules=["query", "value"], **size)

    class InOurOrder(transformers.Trainer):
        """Takes the batches in peftcli's order."""

        def _get_train_sampler(self, *_: object) -> InOrder:
            return InOrder(batches)

    trainer = InOurOrder(
        model=get_peft_model(prepared.base.network, config),
        args=arguments(options, folder),
        train_dataset=[{**e.ids, "labels": e.label} for e in batches.examples],
        data_collator=transformers.DataCollatorWithPadding(prepared.tokenizer),
    )
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    tokens = options.epochs * sum(e.length for e in batches.examples)
    return {"seconds": seconds, "tokens": tokens, "losses": [float(loss) for loss in losses]}


def one(options: argparse.Namespace) -> None:
    """Run one variant in this process and print what was measured."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        found = {"ours": ours, "theirs": theirs}[options.variant](options, Path(folder))
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("RESULT " + json.dumps(found))


def turn(variant: str, arguments: list[str]) -> dict[str, Any]:
    """Run one variant in a fresh process."""
    command = [sys.executable, __file__, "--variant", variant, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    found: dict[str, Any] = json.loads(done.stdout.split("RESULT ", 1)[1])
    mean = statistics.mean(found["losses"])
    rate = found["tokens"] / found["seconds"]
    speed = f"{found['seconds']:7.2f} s  {rate:7.0f} tokens/s"
    print(f"{variant:7s} {speed}  peak {found['peak_mib']:6.0f} MiB  mean loss {mean:.5f}")
    return found


def main() -> int:
    """Run A B A B and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--data", type=Path, default=DEMO)
    parser.add_argument("--dropout", choices=["keep", "off"], default="keep")
    parser.add_argument("--variant", choices=["ours", "theirs"])
    options = parser.parse_args()
    options.data = options.data.absolute()
    if options.variant:
        one(options)
        return 0
    print("Hugging Face Trainer + peft beside peftcli: MiniLM-L6, LoRA r=8 on W_q and W_v, batch 32, float32, CPU")
    seconds: dict[str, list[float]] = {"theirs": [], "ours": []}
    for _ in range(options.repeats):
        for variant in seconds:
            seconds[variant].append(turn(variant, sys.argv[1:])["seconds"])
    ratio = statistics.median(seconds["theirs"]) / statistics.median(seconds["ours"])
    print(f"peftcli takes 1/{ratio:.2f} of the time of Trainer + peft (medians of {options.repeats})")
    return 0 if ratio >= 1 else 1


if __name__ == "__main__":
    sys.exit(main())
