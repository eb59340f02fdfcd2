"""Which metrics there are, which way is better, and what exactly a report's number is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.metadata import version


def _sacrebleu(name: str) -> str:
    from peftcli.metrics.texts import sacrebleu_metric

    metric = sacrebleu_metric(name)
    metric.num_refs = -1  # "var": examples may have different numbers of references
    return f"sacrebleu {type(metric).__name__}|{metric.get_signature().format()}"


def _rouge(name: str) -> str:
    return f"{name} F1|stem:porter|refs:best|rouge-score:{version('rouge-score')}"


def _meteor() -> str:
    from peftcli.metrics.meteor import has_synonyms

    stages = "exact,stem,synonym" if has_synonyms() else "exact,stem (without synonyms)"
    return f"METEOR 2007|stages:{stages}|alpha:0.9|beta:3|gamma:0.5|tok:treebank-lower|nltk:{version('nltk')}"


# By kind of data: what our own code computes, or where a library's signature comes from.
METRICS: dict[str, dict[str, str | Callable[[], str]]] = {
    "classes": {
        "accuracy": "fraction of right predictions",
        "f1": "macro F1 over classes that occur or are predicted",
        "f1_micro": "micro F1, the accuracy",
        "f1_weighted": "F1 weighted by how often a class occurs",
        "matthews": "correlation, 0 if one side is constant",
    },
    "multilabel": {
        "accuracy": "fraction of examples with every label right",
        "f1": "macro F1 over labels that occur or are predicted",
        "f1_micro": "micro F1",
        "f1_weighted": "F1 weighted by how often a label occurs",
        "f1_samples": "mean F1 over examples, 1 where there are no labels",
        "hamming": "fraction of wrong decisions",
    },
    "numbers": {
        "pearson": "correlation, 0 if one side is constant",
        "spearman": "correlation of ranks, 0 if one side is constant",
        "mse": "mean squared error",
        "mae": "mean absolute error",
    },
    "tags": {
        "f1": "micro F1 over entities in IOB2, as seqeval's default",
        "precision": "micro precision over entities in IOB2, as seqeval's default",
        "recall": "micro recall over entities in IOB2, as seqeval's default",
        "accuracy": "fraction of right tokens",
    },
    "answers": {"exact_match": "SQuAD 2.0|refs:best", "f1": "SQuAD 2.0 words|refs:best"},
    "texts": {
        "exact_match": "is one of the references, surrounding spaces aside",
        **{name: partial(_sacrebleu, name) for name in ("bleu", "bleu_lowercase", "chrf", "ter")},
        **{name: partial(_rouge, name) for name in ("rouge1", "rouge2", "rougeL")},
        "rouge_l_coco": "coco-caption ROUGE_L|beta:1.2|tok:treebank-lower",
        "meteor": _meteor,
        "meteor_1.5": "METEOR 1.5 in Java|en, -norm|tok:treebank-lower|score of the summed counts",
        "nist": "mteval-v13a NIST|n:5|case:lc|weights:whole set",
        "cider": "CIDEr-D|n:4|sigma:6|tok:treebank-lower|df:whole set",
    },
}
NAMES: dict[str, tuple[str, ...]] = {kind: tuple(metrics) for kind, metrics in METRICS.items()}
ELSEWHERE = frozenset({"meteor_1.5"})
"""Those that a program computes which is not installed with peftcli."""
LOWER_IS_BETTER = frozenset({"mse", "mae", "hamming", "ter"})


def kind_of(name: str) -> str:
    """Return the first kind of data that has a metric of this name.

    Raises:
        KeyError: None has.
    """
    for kind, names in NAMES.items():
        if name in names:
            return kind
    raise KeyError(name)


def missing(name: str) -> str:
    """Return what must be installed before a metric can be computed; nothing where all is there."""
    from peftcli.metrics.meteor_java import find_program

    return "Java and pycocoevalcap" if name in ELSEWHERE and find_program() is None else ""


def higher_is_better(name: str) -> bool:
    """Return whether more of a metric is better."""
    return name not in LOWER_IS_BETTER


def signature(name: str, kind: str | None = None) -> str:
    """Return the implementation of a metric, its version and options, so that a value can be had again elsewhere.

    Args:
        name: Of the metric.
        kind: A key of ``NAMES``; by default the first that has the name.

    Raises:
        KeyError: There is no such metric.
    """
    described = METRICS[kind or kind_of(name)][name]
    return described() if callable(described) else f"{described}|peftcli:{version('peftcli')}"
