"""The commented recipe that ``peft init`` writes: complete, and it runs as it is."""

from __future__ import annotations

from collections.abc import Mapping

_HEAD = """\
# LoRA on a demo: W_q and W_v of every layer of a small sentence encoder move by a product of rank 8.
# peft train recipe.yaml
"""

_BODY = """\
version: 1                     # of this language

base:
  name: demo:minilm            # or a hub id such as FacebookAI/roberta-base, or a directory
  dtype: auto                  # the frozen weights as the checkpoint holds them; bfloat16 halves their memory

method:                        # `peft methods` lists them; a list of mappings is a stack
  name: lora
  rank: 8                      # parameters grow in proportion; 1 to 4 often suffice, more helps far from the base
                               # (or `budget: 0.1%` in its place: the largest rank within this share of the base)
  alpha: 16                    # the update is scaled by alpha / rank: double both and only the capacity changes
  target_modules: [W_q, W_v]   # W_q W_k W_v W_o W_up W_gate W_down; more matrices at a lower rank cost the same

data:
  task: classification         # or causal-lm
  train: demo:intents          # or a path, a glob or a list of them: jsonl, json, csv, tsv, parquet, also .gz
  validation: 10%              # a share of train, or files of its own, which measure more honestly
  max_length: 64               # tokens; longer rows are cut, and attention costs the square of it
  # columns: {text: sentence, label: intent}   # when your files call them something else

training:
  epochs: 3                    # or steps: 500
  batch_size: 32               # examples per step, over all devices
  # micro_batch_size: 8        # what one device holds at once; same gradient, less memory, more time
  # learning_rate: 5e-4        # left out, it is the method's published one
  schedule: linear             # or cosine, constant
  warmup: 6%                   # of the steps; helps when the learning rate is high

evaluation:
  every: epoch                 # or end, or a number of steps; measuring more often finds a better checkpoint
  select: accuracy             # the metric by which the best checkpoint is kept

seed: 0                        # same recipe and same seed: same numbers
"""


_EXAMPLE = """\
# {title}, on a demo.
# peft train recipe.yaml
base:
  name: {base}
method:
  name: {name}
{settings}data:
  task: classification
  train: demo:intents
  validation: 10%
"""
_RATE = """\
training:
  learning_rate: {rate}  # its default
"""


def example(title: str, base: str, name: str, settings: Mapping[str, str], rate: float | None) -> str:
    """Return a recipe for one method, with the settings that it should name, as they are written in YAML.

    Args:
        title: Of the method.
        base: What it is shown on.
        name: Of the method.
        settings: As YAML.
        rate: The learning rate; None where nothing trains.
    """
    lines = "".join(f"  {key}: {value}\n" for key, value in settings.items())
    shown = _EXAMPLE.format(title=title, base=base, name=name, settings=lines)
    return shown if rate is None else shown + _RATE.format(rate=rate)


def template(schema: str | None = None) -> str:
    """Return a recipe to start from.

    Args:
        schema: Path or URL of the recipe's JSON Schema, for editors that check while one types.
    """
    return _HEAD + (f"# yaml-language-server: $schema={schema}\n" if schema else "") + "\n" + _BODY
