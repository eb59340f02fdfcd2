"""The lines a run says about itself before it starts: base, method, counts, data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftcli.pipeline.data_facts import data_facts, data_line

if TYPE_CHECKING:
    from peftcli.delta.delta import Delta
    from peftcli.pipeline.training import Run


def tell_base(run: Run) -> None:
    """Say which base model was loaded, from where."""
    prepared = run.prepared
    commit = f" @ {prepared.source.commit[:7]}" if prepared.source.commit else ""
    form = run.recipe.base.quantise
    held = "" if form == "none" else f", projections held in {form}: {prepared.base.bytes / 2**20:,.1f} MiB"
    run.progress.note(
        f"base     {prepared.source.label}{commit} ({prepared.base.anatomy.family}), "
        f"{prepared.base.size:,} parameters{held}"
    )
    for note in prepared.notes:
        run.progress.note(f"note     {note}")


def tell_data(run: Run) -> None:
    """Say how many rows there are, how long they are, and what is odd about them."""
    facts = data_facts(run.splits, run.examples)
    run.progress.note(f"data     {data_line(facts, run.prepared.task.told(run.examples['train']))}")


def tell_delta(run: Run, delta: Delta) -> None:
    """Say what a budget came to, and what trains."""
    for solved in run.budgets:
        run.progress.note(f"budget   {solved.sentence}")
    names = " + ".join(m.name for m in delta.methods)
    head = f", and a head of {delta.head_size:,}" if delta.head_size else ""
    share = 100 * delta.size / delta.base.size
    run.progress.note(f"method   {names}: {delta.size:,} trainable parameters, {share:.4g} % of the base{head}")
