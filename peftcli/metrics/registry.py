"""Which metrics there are, which way is better, and what exactly a report's number is."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

NAMES: dict[str, tuple[str, ...]] = {
    "classes": ("accuracy", "f1", "f1_micro", "f1_weighted", "matthews"),
    "multilabel": ("accuracy", "f1", "f1_micro", "f1_weighted", "f1_samples", "hamming"),
    "numbers": ("pearson", "spearman", "mse", "mae"),
    "tags": ("f1", "precision", "recall", "accuracy"),
    "answers": ("exact_match", "f1"),
    "texts": (
        *("exact_match", "bleu", "bleu_lowercase", "chrf", "ter", "rouge1", "rouge2", "rougeL", "rouge_l_coco"),
        *("meteor", "nist", "cider"),
    ),
}
LOWER_IS_BETTER = frozenset({"mse", "mae", "hamming", "ter"})

OWN = {
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
    "answers": {"exact_match": "SQuAD 2.0, best reference", "f1": "SQuAD 2.0 words, best reference"},
    "texts": {
        "exact_match": "one of the references, surrounding spaces aside",
        "rouge_l_coco": "coco-caption ROUGE_L|beta:1.2|tok:treebank-lower",
        "nist": "mteval-v13a NIST|n:5|case:lc|weights:whole set",
        "cider": "CIDEr-D|n:4|sigma:6|tok:treebank-lower|df:whole set",
    },
}


def kind_of(name: str) -> str:
    """Return the first kind of data that has a metric of this name.

    Raises:
        KeyError: None has.
    """
    for kind, names in NAMES.items():
        if name in names:
            return kind
    raise KeyError(name)


def higher_is_better(name: str) -> bool:
    """Return whether more of a metric is better."""
    return name not in LOWER_IS_BETTER


def signature(name: str, kind: str | None = None) -> str:
    """Return the implementation of a metric, its version and options, so that a value can be had again elsewhere.

    Args:
        name: Of the metric.
        kind: A key of ``NAMES``; by default the first that has the name.
    """
    kind = kind or kind_of(name)
    if name in OWN[kind]:
        return f"{OWN[kind][name]}|peftcli:{version('peftcli')}"
    return LIBRARIES[name](name)


def _sacrebleu(name: str) -> str:
    from peftcli.metrics.texts import sacrebleu_metric

    metric = sacrebleu_metric(name)
    metric.num_refs = -1  # "var": the number of references may differ from example to example
    return f"{type(metric).__name__}|{metric.get_signature().format()}|sacrebleu:{version('sacrebleu')}"


def _rouge(name: str) -> str:
    return f"{name} F1|stem:porter|refs:best|rouge-score:{version('rouge-score')}"


def _meteor(name: str) -> str:
    from peftcli.metrics.meteor import has_synonyms

    stages = "exact,stem,synonym" if has_synonyms() else "exact,stem (without synonyms)"
    return f"METEOR 2007|stages:{stages}|alpha:0.9|beta:3|gamma:0.5|tok:treebank-lower|nltk:{version('nltk')}"


LIBRARIES: dict[str, Callable[[str], str]] = {
    **dict.fromkeys(("bleu", "bleu_lowercase", "chrf", "ter"), _sacrebleu),
    **dict.fromkeys(("rouge1", "rouge2", "rougeL"), _rouge),
    "meteor": _meteor,
}
