"""Metrics of generated texts against any number of references each.

What the names mean, since the field uses each for several things:

- ``exact_match``: the text without surrounding spaces is one of the references; 0 to 1.
- ``bleu``, ``chrf``, ``ter``: sacrebleu's corpus scores with its defaults (13a tokens, letter case counts), 0 to 100;
  less TER is better, and it is slow: a fifth of a second for an example with
  seven references. ``bleu_lowercase`` ignores case, as mteval-v13a does in the evaluation of E2E NLG.
- ``rouge1``, ``rouge2``, ``rougeL``: rouge-score's F1 with Porter's stemmer, as papers on summarisation report it
  (ROUGE-1.5.5 -m); the best reference counts for each example; mean over examples, 0 to 1. ``rougeL`` takes a text as
  one sentence.
- ``rouge_l_coco``: ROUGE_L of coco-caption, which E2E NLG reports: Treebank words, the best precision and the best
  recall over references, in an F with beta 1.2; 0 to 1.
- ``meteor``, ``meteor_1.5``, ``nist``, ``cider``: see meteor.py, meteor_java.py, nist.py and cider.py.

E2E NLG's table is bleu_lowercase, nist, meteor_1.5, rouge_l_coco and cider.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from peftcli.errors import DataError
from peftcli.metrics import cider, meteor, meteor_java, nist
from peftcli.metrics.scored import Scored, averaged, summed
from peftcli.metrics.tokens import treebank_words

if TYPE_CHECKING:
    import numpy as np
    from sacrebleu.metrics.base import Metric

References = Sequence[Sequence[str]]
ROUGE_L_BETA = 1.2


def scored(name: str, predictions: Sequence[str], references: References) -> Scored:
    """Return a metric on texts.

    Args:
        name: Of the metric.
        predictions: One text per example.
        references: One or more texts per example; examples may have different numbers of them.

    Raises:
        DataError: An example has no reference, or the numbers of examples differ.
    """
    if len(predictions) != len(references):
        raise DataError(f"there are {len(predictions)} texts and references for {len(references)}")
    missing = [number for number, known in enumerate(references, 1) if not known]
    if missing:
        raise DataError(f"example {missing[0]} has no reference", hint="Each text is compared with at least one.")
    return SCORES[name](predictions, references)


def _exact_match(predictions: Sequence[str], references: References) -> Scored:
    pairs = zip(predictions, references, strict=True)
    return averaged(text.strip() in {reference.strip() for reference in known} for text, known in pairs)


def sacrebleu_metric(name: str) -> Metric:
    """Return sacrebleu's metric of a name."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF
    from sacrebleu.metrics.ter import TER

    # force: text that ends in " ." is the user's own business, not worth a warning.
    made: dict[str, Callable[[], Metric]] = {
        "bleu": lambda: BLEU(force=True),
        "bleu_lowercase": lambda: BLEU(force=True, lowercase=True),
        "chrf": CHRF,
        "ter": TER,
    }
    return made[name]()


def _sacrebleu(name: str) -> Callable[[Sequence[str], References], Scored]:
    def corpus(predictions: Sequence[str], references: References) -> Scored:
        metric = sacrebleu_metric(name)

        # The way of sacrebleu's own bootstrap: each sentence's statistics once, then scores of their sums.
        def score(sums: np.ndarray) -> float:
            return float(metric._compute_score_from_stats(sums.tolist()).score)

        if not predictions:
            return summed([], score)
        most = max(map(len, references))
        # None, which sacrebleu takes although its types do not say so, is a reference that an example does not have.
        columns: list[Any] = [[known[k] if k < len(known) else None for known in references] for k in range(most)]
        return summed(metric._extract_corpus_statistics(list(predictions), columns), score)

    return corpus


def _rouge(name: str) -> Callable[[Sequence[str], References], Scored]:
    def per_example(predictions: Sequence[str], references: References) -> Scored:
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer([name], use_stemmer=True)
        pairs = zip(predictions, references, strict=True)
        return averaged(scorer.score_multi(list(known), text)[name].fmeasure for text, known in pairs)

    return per_example


def _rouge_l_coco(predictions: Sequence[str], references: References) -> Scored:
    pairs = zip(predictions, references, strict=True)
    return averaged(
        _best_f(treebank_words(text), [treebank_words(reference) for reference in known]) for text, known in pairs
    )


def _best_f(prediction: list[str], references: list[list[str]]) -> float:
    common = [_longest_common(prediction, reference) for reference in references]
    precision = max(common) / max(len(prediction), 1)
    recall = max(length / max(len(reference), 1) for length, reference in zip(common, references, strict=True))
    beta = ROUGE_L_BETA**2
    return (1 + beta) * precision * recall / (recall + beta * precision) if precision else 0.0


def _longest_common(one: list[str], other: list[str]) -> int:
    """Return the length of the longest common subsequence."""
    lengths = [0] * (len(other) + 1)
    for word in one:
        diagonal = 0
        for place, against in enumerate(other, 1):
            above = lengths[place]
            lengths[place] = diagonal + 1 if word == against else max(above, lengths[place - 1])
            diagonal = above
    return lengths[-1]


SCORES: dict[str, Callable[[Sequence[str], References], Scored]] = {
    "exact_match": _exact_match,
    **{name: _sacrebleu(name) for name in ("bleu", "bleu_lowercase", "chrf", "ter")},
    **{name: _rouge(name) for name in ("rouge1", "rouge2", "rougeL")},
    "rouge_l_coco": _rouge_l_coco,
    "meteor": meteor.scored,
    "meteor_1.5": meteor_java.scored,
    "nist": nist.scored,
    "cider": cider.scored,
}
