"""``peft train``: recipe -> base -> method -> delta -> training -> artifact -> report."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftcli import files
from peftcli.base.quantise import engine_of, require_engine
from peftcli.data.datasets import Splits, load_data
from peftcli.errors import MethodError, ResourceError
from peftcli.pipeline.adapting import Prepared, methods_of, prepare, solve_budgets
from peftcli.pipeline.answering import answered, reframed, untrained
from peftcli.pipeline.building import build, open_sources
from peftcli.pipeline.devices import is_main, make_accelerator, precision
from peftcli.pipeline.folders import CHECKPOINTS, REPORT, clear, run_folder
from peftcli.pipeline.forgetting import Source, forgetting, read_for, source_scores
from peftcli.pipeline.measuring import measure_base, measure_delta, quick_scores, writer_of
from peftcli.pipeline.progress import Progress
from peftcli.pipeline.rates import learning_rates
from peftcli.recipe.read import to_yaml
from peftcli.recipe.recipe import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator

    from peftcli.artifact.artifact import Artifact
    from peftcli.data.batches import BatchSource
    from peftcli.data.examples import Examples
    from peftcli.delta.budget import Solved
    from peftcli.delta.delta import Delta
    from peftcli.training.evaluation import EvaluationSettings, Precision
    from peftcli.training.loop import Job, Outcome

RUNS = Path("runs")
RECIPE = "recipe.yaml"
MEASURED_SPLITS = ("validation", "test")
CPU_MICRO_BATCH = 8  # examples: pieces of equal lengths carry less padding, and a CPU loses nothing by small ones


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What the command line adds to a recipe.

    Attributes:
        out: The run's folder; default runs/NAME under the working directory.
        resume: Continue from the newest whole checkpoint.
        overwrite: Replace an existing run.
    """

    out: Path | None = None
    resume: bool = False
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished run: its folder and its report."""

    folder: Path
    report: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Run:
    """The parts of one run, as they pass from stage to stage.

    Attributes:
        recipe: With sizes in place of budgets.
        budgets: What these were.
        sources: The trained deltas that its methods are built on, by folder.
        source: Text that the base model knew before, where the recipe names some.
    """

    recipe: Recipe
    budgets: tuple[Solved, ...]
    sources: dict[str, Artifact]
    folder: Path
    splits: Splits
    prepared: Prepared
    fingerprint: dict[str, Any]
    examples: dict[str, Examples]
    accelerator: Accelerator
    progress: Progress
    source: Source | None = None

    @property
    def settings(self) -> EvaluationSettings:
        """How rows are measured."""
        from peftcli.training.evaluation import EvaluationSettings

        return EvaluationSettings(
            batch_size=self.recipe.evaluation.batch_size,
            pad=self.prepared.pad,
            virtual=self.prepared.virtual,
            precision=self.precision,
            accelerator=self.accelerator,
            writer=writer_of(self.prepared, self.recipe.evaluation.generation, self.recipe.seed),
        )

    @property
    def metrics(self) -> list[str]:
        """What is measured: the task's metrics or those that the recipe names, and the one to select by."""
        named = list(self.recipe.evaluation.metrics or self.prepared.task.metric_names)
        return named if self.select in ("last", *named) else [*named, self.select]

    @property
    def precision(self) -> Precision:
        """What is computed in."""
        return precision(self.recipe.training, self.prepared.dtype)

    @property
    def select(self) -> str:
        """The metric by which the best checkpoint is kept, or `last`."""
        return self.recipe.evaluation.select or self.prepared.task.select


def train(recipe: Recipe, options: TrainOptions, progress: Progress) -> Finished:
    """Train the delta that ``recipe`` describes and write its run folder.

    Raises:
        PeftcliError: Of the kind of what went wrong; nothing that was saved before is lost.
    """
    recipe, budgets = solve_budgets(recipe)
    folder = options.out or RUNS / str(recipe.name)
    with run_folder(folder, resume=options.resume, overwrite=options.overwrite, main=is_main()):
        if options.resume and (folder / REPORT).exists():
            return _finished_before(recipe, folder, progress)
        run = _prepare(recipe, budgets, folder, progress)
        if is_main() and not options.resume:
            clear(folder)
        return _train(run, resume=options.resume)


def _finished_before(recipe: Recipe, folder: Path, progress: Progress) -> Finished:
    """Return a run that has nothing left to do: its report is the last thing that was written."""
    if (folder / RECIPE).read_text(encoding="utf-8") != to_yaml(recipe):
        raise ResourceError(
            "holds a finished run of another recipe",
            where=str(folder),
            hint="Choose another folder with --out, or write --overwrite.",
        )
    progress.note("the run is finished already; there is nothing to resume")
    return Finished(folder=folder, report=files.read_json(folder / REPORT))


def _prepare(recipe: Recipe, budgets: tuple[Solved, ...], folder: Path, progress: Progress) -> Run:
    from peftcli.artifact.fingerprint import fingerprint
    from peftcli.pipeline import telling

    methods = methods_of(recipe)
    require_engine(recipe.base.quantise)
    sources = open_sources(methods)
    splits = load_data(recipe.data, recipe.seed)
    splits.task.check_metrics(list(recipe.evaluation.metrics or ()))
    prepared = prepare(recipe.base, reframed(methods, splits.task), methods, seed=recipe.seed)
    found = fingerprint(prepared.source.folder)
    prepared = replace(prepared, methods=build(prepared.methods, sources, found, prepared.source.label))
    tables = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    encode = partial(prepared.encode_once, note=progress.note) if recipe.data.cache else prepared.encode
    run = Run(
        recipe=recipe,
        budgets=budgets,
        sources=sources,
        folder=folder,
        splits=splits,
        prepared=prepared,
        fingerprint=found,
        examples={split: encode(table) for split, table in tables.items() if table is not None},
        accelerator=make_accelerator(recipe.training, prepared.dtype),
        progress=progress,
        source=read_for(recipe, prepared),
    )
    telling.tell_base(run)
    telling.tell_data(run)
    return run


def _train(run: Run, *, resume: bool) -> Finished:
    from peftcli.pipeline import reporting

    run.prepared.base.network.to(run.accelerator.device)
    before = source_scores(run, adapted=False)
    if method := untrained(run.prepared.methods):
        base = None  # nothing is tuned: the base itself is what is measured
        run, delta, outcome = answered(run, method)
    else:
        base = measure_base(run, resume=resume)
        delta, outcome = _fitted(run, resume=resume)
    packed = delta.pack()
    measured = {"base": base} | {s: measure_delta(run, packed, s) for s in MEASURED_SPLITS if s in run.examples}
    report = reporting.build(run, packed, outcome, measured)
    report["forgetting"] = forgetting(run, before, source_scores(run, adapted=True))
    if run.accelerator.is_main_process:
        _write(run, packed, report)
    run.accelerator.wait_for_everyone()
    return Finished(folder=run.folder, report=report)


def _fitted(run: Run, *, resume: bool) -> tuple[Delta, Outcome]:
    from peftcli.delta.delta import attach
    from peftcli.pipeline import telling
    from peftcli.training.loop import fit
    from peftcli.training.randomness import seed_all

    delta = attach(run.prepared.methods, run.prepared.base, seed=run.recipe.seed)
    if not delta.trained():
        names = " + ".join(m.name for m in delta.methods)
        what = f"{names} has nothing to train: {run.prepared.task.name} brings no head of its own"
        raise MethodError(what, hint="Choose a method that changes the base model (see 'peft methods').")
    telling.tell_delta(run, delta)
    seed_all(run.recipe.seed + run.accelerator.process_index)
    return delta, fit(_job(run, delta, resume=resume))


def _job(run: Run, delta: Delta, *, resume: bool) -> Job:
    from peftcli.training.loop import Job

    recipe, task, accelerator = run.recipe, run.prepared.task, run.accelerator
    measured = "validation" in run.examples
    select = run.select if measured else "last"
    return Job(
        delta=delta,
        task=task,
        batches=_batches(run),
        training=recipe.training,
        rates=lambda delta: learning_rates(recipe.training, delta, run.progress),
        evaluate=(lambda: quick_scores(run, delta)) if measured else dict,
        every=recipe.evaluation.every,
        select=select,
        higher_is_better=select != "last" and task.higher_is_better(select),
        accelerator=accelerator,
        folder=run.folder,
        identity=_identity(run),
        resume=resume,
        progress=run.progress,
        precision=run.precision,
    )


def _batches(run: Run) -> BatchSource:
    from peftcli.data.batches import Batches, Share
    from peftcli.data.streaming import StreamedBatches

    section, accelerator, seed = run.recipe.training, run.accelerator, run.recipe.seed
    share = Share(
        task=run.prepared.task,
        micro_batch_size=section.micro_batch_size
        or (CPU_MICRO_BATCH if accelerator.device.type == "cpu" else section.batch_size),
        pad=run.prepared.pad,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        virtual=run.prepared.virtual,
    )
    if stream := run.splits.stream:
        buffer = run.recipe.data.shuffle_buffer
        return StreamedBatches(
            stream, run.prepared.encode, share, batch_size=section.batch_size, buffer=buffer, seed=seed
        )
    return Batches(examples=run.examples["train"], share=share, batch_size=section.batch_size, seed=seed)


def _identity(run: Run) -> dict[str, str]:
    """Return what must be equal for a checkpoint to be continued."""
    import hashlib
    import json

    from peftcli.artifact.manifest import versions

    data = [f["sha256"] for split in run.splits.summary["files"].values() for f in split]
    return {
        "recipe": hashlib.sha256(to_yaml(run.recipe).encode()).hexdigest(),
        "data": hashlib.sha256(" ".join(data).encode()).hexdigest(),
        "task": hashlib.sha256(json.dumps(run.splits.task.manifest(), sort_keys=True).encode()).hexdigest(),
        "base": run.fingerprint["sample"],
        **{f"the trained delta {folder}": artifact.sha256 for folder, artifact in run.sources.items()},
        **{f"version of {name}": version for name, version in versions().items()},
        **({"what quantised the base": engine} if (engine := engine_of(run.recipe.base.quantise)) else {}),
    }


def _write(run: Run, delta: Delta, report: dict[str, Any]) -> None:
    """Write the artifact, then what refers to it; only then are the checkpoints needed no longer."""
    from peftcli.artifact.artifact import DELTA_FOLDER, save
    from peftcli.pipeline import reporting
    from peftcli.report.report import write_report

    folder = run.folder / DELTA_FOLDER
    save(folder, reporting.artifact_contents(run, delta), overwrite=True)
    files.write_text(run.folder / RECIPE, to_yaml(run.recipe))
    report["cost"]["artifact_bytes"] = reporting.artifact_bytes(folder)
    write_report(run.folder, report)
    shutil.rmtree(run.folder / CHECKPOINTS, ignore_errors=True)
