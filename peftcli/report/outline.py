"""What a report says, in order: the page and the Markdown show the same sections."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

import yaml

from peftcli.report.data_table import TOLD, data_table, splits_of
from peftcli.report.measured import detail_tables, forgetting_table, metrics_table, signature_table
from peftcli.report.record import Report
from peftcli.report.tables import (
    NONE,
    Table,
    count,
    difference,
    duration,
    facts,
    file_size,
    mapping_table,
    parameter_table,
    per_layer,
    per_site,
    percent,
    plain,
    score,
)

INTERVALS = (
    "An interval holds 95 % of the values that as many rows drawn again from these give (bootstrap): what other rows "
    "of the same kind might have shown. It says nothing of another seed of training."
)
FORGETTING = (
    "Loss and perplexity per token of text that the base model knew, before anything was attached and with the trained "
    "delta. A delta that is switched off forgets nothing: the base is there again, bit for bit."
)
RECIPE_ORDER = ("version", "name", "base", "method", "data", "training", "evaluation", "seed")


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of a report.

    Attributes:
        key: Names it in links, and names its plot.
        details: Titles and tables that are folded away on the page.
        code: Text to be shown as it is, in the language `language`.
    """

    key: str
    title: str
    tables: tuple[Table, ...] = ()
    details: tuple[tuple[str, Table], ...] = ()
    note: str | None = None
    code: str | None = None
    language: str = ""


@dataclass(frozen=True)
class KeyFigure:
    """One number that a reader looks for first."""

    value: str
    name: str


def headline(report: Report) -> str:
    """Return the result in one or two sentences."""
    counts = report.parameters
    head = f" (and a head of {count(counts.head)})" if counts.head else ""
    trained = f"{count(counts.delta)} trainable parameters{head}, {percent(counts.fraction)} of the base"
    method, metric = plain(report.method), plain(report.select)
    if report.score is None:
        return f"{method} has no {metric} on validation rows. It has {trained}."
    rows = (report.metrics.validation or {}).get("n")
    on = f"on {count(rows)} validation rows" if rows else "on the validation rows"
    return f"{method} reaches {metric} {score(report.score)} {on}{_against_base(report)}, with {trained}."


def _against_base(report: Report) -> str:
    own, base = report.score, report.base_score
    if own is None or base is None:
        return ""
    if own == base:
        return ", the same as the un-tuned base"
    side = "above" if own > base else "below"
    return f", {difference(own, base).lstrip('+-')} {side} the un-tuned base ({score(base)})"


def key_figures(report: Report) -> tuple[KeyFigure, ...]:
    """Return the numbers that stand at the top of the page."""
    gain = difference(report.score, report.base_score)
    return (
        KeyFigure(score(report.score), f"validation {plain(report.select)}"),
        KeyFigure(gain, "against the un-tuned base"),
        KeyFigure(count(report.parameters.delta), "trainable parameters |Φ|"),
        KeyFigure(percent(report.parameters.fraction), "of the base |Φ|/|Θ|"),
        KeyFigure(file_size(report.cost.artifact_bytes), "stored delta"),
        KeyFigure(duration(report.cost.seconds), "wall time"),
    )


def outline(report: Report) -> tuple[Section, ...]:
    """Return the sections that have something to say."""
    sections = (
        Section(
            key="metrics",
            title="Metrics",
            tables=(metrics_table(report),),
            details=(("how each metric is computed", signature_table(report)), *detail_tables(report)),
            note=INTERVALS if report.intervals else None,
        ),
        Section(key="forgetting", title="Forgetting", tables=(forgetting_table(report),), note=FORGETTING),
        _parameters(report),
        Section(key="training", title="Training", tables=(_training_table(report),)),
        Section(key="cost", title="Cost", tables=(_cost_table(report),)),
        Section(key="proofs", title="Proofs", tables=(mapping_table("proof", report.proofs),)),
        _data(report),
        Section(key="recipe", title="Recipe", code=recipe_text(report), language="yaml"),
        Section(key="environment", title="Environment", tables=(_environment_table(report),)),
        Section(
            key="next",
            title="What to type next",
            code=_next_commands(report),
            language="sh",
            note="In the folder that holds this report:",
        ),
    )
    return tuple(s for s in sections if s.code or any(table.rows for table in s.tables) or s.details)


def recipe_text(report: Report) -> str:
    """Return the resolved recipe as YAML, its sections in the order people write them."""
    known = {key: report.recipe[key] for key in RECIPE_ORDER if key in report.recipe}
    rest = {key: report.recipe[key] for key in sorted(report.recipe.keys() - known.keys())}
    ordered = {key: _name_first(value) for key, value in {**known, **rest}.items()}
    return yaml.safe_dump(ordered, sort_keys=False, allow_unicode=True, width=120)


def _name_first(value: Any) -> Any:  # noqa: ANN401  # any JSON
    """Return ``value`` with the keys of every mapping in one order: `name` first, then the alphabet's."""
    if isinstance(value, list):
        return [_name_first(v) for v in value]
    if isinstance(value, dict):
        return {k: _name_first(value[k]) for k in sorted(value, key=lambda k: (k != "name", k))}
    return value


def _parameters(report: Report) -> Section:
    details = [
        (f"trainable parameters per {title}", facts(title, [(name, count(number)) for name, number in counts.items()]))
        for title, counts in (("site", per_site(report)), ("layer", per_layer(report)))
    ]
    return Section(
        key="parameters",
        title="Parameters",
        tables=(parameter_table(report),),
        details=tuple(details),
    )


def _data(report: Report) -> Section:
    """Return what the splits hold side by side; counts of names (labels, columns) are folded away."""
    splits = splits_of(report.data)
    told = data_table(report.data)
    rows, details, rest = list(told.rows), [], {}
    for key, value in report.data.items():
        if key in TOLD and isinstance(value, dict):
            continue
        name = plain(key).replace("_", " ")
        by_split = [value.get(s) for s in splits] if isinstance(value, dict) and value.keys() <= set(splits) else []
        if by_split and all(isinstance(v, dict | None) for v in by_split):
            names = list(dict.fromkeys(n for v in by_split for n in v or {}))
            cells = tuple((plain(n), *(plain((v or {}).get(n)) for v in by_split)) for n in names)
            details.append((f"{name} per split", Table((name, *splits), "l" + "r" * len(splits), cells)))
        elif by_split and not any(isinstance(v, dict | list) for v in by_split):
            rows.append((name, *map(plain, by_split)))
        else:
            rest[key] = value
    counts = Table(told.columns, told.align, tuple(rows))
    return Section(key="data", title="Data", tables=(counts, mapping_table("data", rest)), details=tuple(details))


def _training_table(report: Report) -> Table:
    training = report.training
    epochs = NONE if training.epochs is None else f"{training.epochs:g}"
    pairs = [
        ("steps", count(training.steps)),
        ("epochs", epochs),
        ("examples seen", count(training.examples)),
        ("tokens seen", count(training.tokens)),
        ("step that was kept", count(training.best_step)),
        ("learning rate", plain(training.learning_rate)),
        ("batch size", count(training.batch_size)),
        ("seed", str(training.seed)),
        ("processes", count(training.processes)),
        ("stopped early", plain(training.stopped_early)),
        ("resumed, times", count(report.resumed)),
    ]
    return facts("training", [(name, value) for name, value in pairs if value != NONE])


def _cost_table(report: Report) -> Table:
    cost = report.cost
    share = cost.artifact_bytes / cost.base_bytes if cost.artifact_bytes is not None and cost.base_bytes else None
    pairs = [
        ("wall time", duration(cost.seconds)),
        ("tokens per second", count(cost.tokens_per_second)),
        ("peak memory", file_size(cost.peak_memory_bytes)),
        ("stored delta", file_size(cost.artifact_bytes)),
        ("base model in memory", file_size(cost.base_bytes)),
        ("stored delta / base", percent(share)),
    ]
    return facts("cost", [(name, value) for name, value in pairs if value != NONE])


def _environment_table(report: Report) -> Table:
    base = {f"base {key}": value for key, value in report.base.model_dump().items()}
    rows = mapping_table("environment", {**base, **report.environment}).rows
    return Table(("environment", "value"), "ll", rows)


def _next_commands(report: Report) -> str:
    data = report.recipe.get("data")
    has_test = isinstance(data, dict) and data.get("test")
    split = "test" if has_test and not report.metrics.test else "validation"
    merged = shlex.quote(f"../{plain(report.name)}-merged")
    return f"peft eval . --split {split}\npeft merge . --out {merged}\npeft compare ../*\n"
