"""The README.md of an exported delta: what hubs and people read first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from peftcli.artifact.artifact import Artifact
from peftcli.artifact.exports import Export
from peftcli.data.tasks import network_of

CARD = "README.md"
PIPELINES = {
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
    "CAUSAL_LM": "text-generation",
}
LOADING = """\
```python
from peft import PeftModel
from transformers import {auto}

base = {auto}.from_pretrained({base!r}{labels})
model = PeftModel.from_pretrained(base, {folder!r})
```
"""


def model_card(artifact: Artifact, export: Export, name: str, report: Mapping[str, Any] | None) -> str:
    """Return the card: front matter for hubs, then words, scores and how to load it.

    Args:
        artifact: The delta.
        export: The form of it that lies beside the card.
        name: What the delta is called.
        report: The run's report.json, where there is one.
    """
    base = export.config.get("base_model_name_or_path")  # a hub id, or nothing: a path is private and means nothing
    task_type = export.config.get("task_type") or ""
    methods = [m.name for m in artifact.methods]
    scores = _scores(report)
    front = {
        "base_model": base,
        "library_name": "peft",
        "pipeline_tag": PIPELINES.get(task_type),
        "tags": [*([f"base_model:adapter:{base}"] if base else []), *methods, "transformers"],
        "metrics": sorted({metric for metric, _, _ in scores}) or None,
    }
    matter = yaml.safe_dump({k: v for k, v in front.items() if v}, sort_keys=False, allow_unicode=True)
    counts = artifact.manifest.counts
    told = (
        f"A {' + '.join(methods)} delta of {counts.get('delta', 0):,} numbers"
        f"{' and a head of ' + format(counts['head'], ',') if counts.get('head') else ''}"
        f" for {base or 'a ' + artifact.manifest.base.family + ' model'}, made with peftcli."
    )
    parts = [f"---\n{matter}---\n\n# {name}\n", f"{told}\n", _table(scores), _loading(artifact, export, name)]
    return "\n".join(part for part in parts if part)


def _scores(report: Mapping[str, Any] | None) -> list[tuple[str, str, float]]:
    """Return metric, split and value of everything a report measured."""
    metrics = report.get("metrics") if report else None
    found = []
    for split, values in (metrics or {}).items():
        for metric, value in (values or {}).items():
            if metric != "n" and isinstance(value, int | float):
                found.append((metric, split, float(value)))
    return found


def _table(scores: list[tuple[str, str, float]]) -> str:
    splits = list(dict.fromkeys(split for _, split, _ in scores))
    values = {(metric, split): value for metric, split, value in scores}
    rows = [
        f"| {metric} | {' | '.join(f'{values[metric, s]:.4g}' if (metric, s) in values else '' for s in splits)} |"
        for metric in dict.fromkeys(metric for metric, _, _ in scores)
    ]
    head = [f"| metric | {' | '.join('un-tuned base' if s == 'base' else s for s in splits)} |"]
    return "\n".join([*head, f"|---|{'---:|' * len(splits)}", *rows]) + "\n" if rows else ""


def _loading(artifact: Artifact, export: Export, name: str) -> str:
    auto, labels = network_of(artifact.manifest.task)
    base = export.config.get("base_model_name_or_path") or "PATH/TO/BASE"
    return LOADING.format(auto=auto, base=base, folder=name, labels=f", num_labels={labels}" if labels else "")
