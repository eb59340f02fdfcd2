"""Our metrics beside the implementations that published values come from, on the sets of tests/metrics/golden.json.

    python scripts/golden_metrics.py [--write] [--pymteval e2e-metrics/metrics/pymteval.py]

Needs an environment of its own (and Java, for Stanford's tokenizer and METEOR 1.5):
    pip install numpy sacrebleu rouge-score nltk pycocoevalcap seqeval scikit-learn scipy "transformers<5"
NIST as E2E NLG's organisers compute it is a file of github.com/tuetschek/e2e-metrics; without it, NIST is left as it
is. ``--write`` puts the references' values into the golden file. Exit code 1: the sides differ by more than 1e-4.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pycocoevalcap.meteor.meteor import Meteor

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))
GOLDEN = REPOSITORY / "tests/metrics/golden.json"
TOLERANCE = 1e-4
# Recorded for comparison only: what ours is not.
FOREIGN = frozenset({"meteor_1.5"})
Values = dict[str, float]


def texts(golden: dict[str, Any], pymteval: Path | None) -> list[Values]:
    """Return the values of every set of texts."""
    examples = golden["texts"]["examples"]
    cut = stanford_words([text for one in examples for text in (one["prediction"], *one["references"])])
    found = []
    for chosen in golden["texts"]["sets"]:
        picked = [examples[number] for number in chosen["examples"]]
        predictions = [one["prediction"] for one in picked]
        references = [one["references"] for one in picked]
        values = from_sacrebleu(predictions, references) | from_rouge_score(predictions, references)
        values |= from_coco(predictions, references, cut) | from_nltk(predictions, references, cut)
        if pymteval:
            values |= from_pymteval(pymteval, predictions, references)
        found.append({**chosen.get("values", {}), **values})
    return found


def stanford_words(sentences: list[str]) -> dict[str, str]:
    """Return coco-caption's form of every text."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    captions = {number: [{"caption": text}] for number, text in enumerate(sentences)}
    tokens = PTBTokenizer().tokenize(captions)
    return {text: tokens[number][0] for number, text in enumerate(sentences)}


def from_sacrebleu(predictions: list[str], references: list[list[str]]) -> Values:
    """Return BLEU, chrF and TER."""
    from sacrebleu.metrics import BLEU, CHRF, TER

    most = max(map(len, references))
    columns = [[known[k] if k < len(known) else None for known in references] for k in range(most)]
    metrics = {"bleu": BLEU(), "bleu_lowercase": BLEU(lowercase=True), "chrf": CHRF(), "ter": TER()}
    return {name: metric.corpus_score(predictions, columns).score for name, metric in metrics.items()}


def from_rouge_score(predictions: list[str], references: list[list[str]]) -> Values:
    """Return ROUGE."""
    from rouge_score.rouge_scorer import RougeScorer

    names = ["rouge1", "rouge2", "rougeL"]
    scorer = RougeScorer(names, use_stemmer=True)
    scores = [scorer.score_multi(known, text) for text, known in zip(predictions, references, strict=True)]
    return {name: float(np.mean([score[name].fmeasure for score in scores])) for name in names}


def from_coco(predictions: list[str], references: list[list[str]], cut: dict[str, str]) -> Values:
    """Return coco-caption's CIDEr, ROUGE_L and METEOR 1.5."""
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    known = {number: [cut[text] for text in group] for number, group in enumerate(references)}
    said = {number: [cut[text]] for number, text in enumerate(predictions)}
    metrics = {"cider": Cider(), "rouge_l_coco": Rouge(), "meteor_1.5": meteor_java()}
    return {name: float(metric.compute_score(known, said)[0]) for name, metric in metrics.items()}


@cache
def meteor_java() -> Meteor:
    """Return the process of METEOR 1.5, which takes half a minute to start."""
    from pycocoevalcap.meteor.meteor import Meteor

    return Meteor()


def from_nltk(predictions: list[str], references: list[list[str]], cut: dict[str, str]) -> Values:
    """Return METEOR without synonyms, on Stanford's words."""
    from nltk.translate.meteor_score import meteor_score

    from peftcli.metrics.meteor import NoSynonyms

    scores = [
        meteor_score([cut[one].split() for one in known], cut[text].split(), wordnet=NoSynonyms())
        for text, known in zip(predictions, references, strict=True)
    ]
    return {"meteor": float(np.mean(scores))}


def from_pymteval(path: Path, predictions: list[str], references: list[list[str]]) -> Values:
    """Return NIST by the file of E2E NLG's organisers.

    It counts -1 five-grams and so on for texts shorter than five words, where mteval-v13a counts none; such sets say
    nothing about us.
    """
    spec = importlib.util.spec_from_file_location("pymteval", path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    nist = module.NISTScore()
    if min(len(nist.tokenize(text)) for text in predictions) < nist.max_ngram - 1:
        return {}
    for text, known in zip(predictions, references, strict=True):
        nist.append(text, known)
    return {"nist": float(nist.score())}


def answers(one: dict[str, Any]) -> Values:
    """Return SQuAD 2.0's scores."""
    from transformers.data.metrics.squad_metrics import compute_exact, compute_f1, normalize_answer

    def best(score: Callable[[str, str], float]) -> float:
        scores = []
        for text, known in zip(one["predictions"], one["references"], strict=True):
            known = [answer for answer in known if normalize_answer(answer)] or [""]
            scores.append(max(score(answer, text) for answer in known))
        return float(np.mean(scores))

    return {"exact_match": best(compute_exact), "f1": best(compute_f1)}


def classes(one: dict[str, Any]) -> Values:
    """Return scikit-learn's scores of classes."""
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    pair = one["labels"], one["predictions"]
    means = {"f1": "macro", "f1_micro": "micro", "f1_weighted": "weighted"}
    values = {name: f1_score(*pair, average=mean, zero_division=0) for name, mean in means.items()}
    return values | {"accuracy": accuracy_score(*pair), "matthews": matthews_corrcoef(*pair)}


def multilabel(one: dict[str, Any]) -> Values:
    """Return scikit-learn's scores of sets of labels."""
    from sklearn.metrics import accuracy_score, f1_score, hamming_loss

    pair = np.array(one["labels"]), np.array(one["predictions"])
    means = {"f1": "macro", "f1_micro": "micro", "f1_weighted": "weighted", "f1_samples": "samples"}
    values = {name: f1_score(*pair, average=mean, zero_division=1) for name, mean in means.items()}
    return values | {"accuracy": accuracy_score(*pair), "hamming": hamming_loss(*pair)}


def numbers(one: dict[str, Any]) -> Values:
    """Return scipy's correlations and scikit-learn's errors."""
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import mean_absolute_error, mean_squared_error

    pair = one["targets"], one["predictions"]
    values = {"pearson": pearsonr(*pair)[0], "spearman": spearmanr(*pair)[0]}
    return values | {"mse": mean_squared_error(*pair), "mae": mean_absolute_error(*pair)}


def tags(one: dict[str, Any]) -> Values:
    """Return seqeval's scores."""
    from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score

    scores = {"f1": f1_score, "precision": precision_score, "recall": recall_score, "accuracy": accuracy_score}
    return {name: score(one["tags"], one["predictions"]) for name, score in scores.items()}


def ours(kind: str, one: dict[str, Any]) -> Values:
    """Return peftcli's values for one set."""
    from peftcli.metrics import registry
    from peftcli.metrics.modules import scored

    said = one["predictions"]
    known = next(one[key] for key in ("references", "labels", "targets", "tags") if key in one)
    return {name: scored(kind, name, said, known).value for name in registry.NAMES[kind]}


def implementations(old: dict[str, str], pymteval: Path | None) -> dict[str, str]:
    """Return what computed the values."""
    names = {
        "bleu, bleu_lowercase, chrf, ter": "sacrebleu",
        "rouge1, rouge2, rougeL": "rouge-score",
        "cider, rouge_l_coco, meteor_1.5": "pycocoevalcap",
        "meteor": "nltk",
        "answers": "transformers",
        "classes, multilabel, mse, mae": "scikit-learn",
        "pearson, spearman": "scipy",
        "tags": "seqeval",
    }
    found = {what: f"{package} {version(package)}" for what, package in names.items()}
    return {**old, **found, **({"nist": "pymteval of e2e-metrics (mteval-v13a)"} if pymteval else {})}


def compare(golden: dict[str, Any]) -> float:
    """Print both sides and return the largest difference."""
    worst = 0.0
    examples = golden["texts"]["examples"]
    picked = [[examples[number] for number in one["examples"]] for one in golden["texts"]["sets"]]
    joined = [
        {"predictions": [p["prediction"] for p in some], "references": [p["references"] for p in some]}
        for some in picked
    ]
    sets = [("texts", *pair) for pair in zip(joined, golden["texts"]["sets"], strict=True)]
    sets += [(kind, one, one) for kind in KINDS for one in golden[kind]]
    for kind, inputs, one in sets:
        found = ours(kind, inputs)
        for name, value in sorted(one["values"].items()):
            if name in FOREIGN:
                print(f"{kind:10} {name:14} {value:9.4f}  (METEOR here: {found['meteor']:.4f})")
            else:
                worst = max(worst, abs(found[name] - value))
                print(f"{kind:10} {name:14} {value:9.4f} {found[name]:9.4f}")
    return worst


KINDS: dict[str, Callable[[dict[str, Any]], Values]] = {
    "answers": answers,
    "classes": classes,
    "multilabel": multilabel,
    "numbers": numbers,
    "tags": tags,
}


def main() -> int:
    """Compare and, if asked, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--pymteval", type=Path)
    options = parser.parse_args()
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    for one, values in zip(golden["texts"]["sets"], texts(golden, options.pymteval), strict=True):
        one["values"] = values
    for kind, reference in KINDS.items():
        for one in golden[kind]:
            one["values"] = reference(one)
    worst = compare(golden)
    print(f"largest difference: {worst:.2e}")
    if options.write:
        golden["implementations"] = implementations(golden["implementations"], options.pymteval)
        for one in (*golden["texts"]["sets"], *(one for kind in KINDS for one in golden[kind])):
            one["values"] = {name: round(float(value), 6) for name, value in sorted(one["values"].items())}
        GOLDEN.write_text(laid_out(golden), encoding="utf-8")
    return int(worst > TOLERANCE)


def laid_out(golden: dict[str, Any]) -> str:
    """Return the file's text: one line for each example and set."""

    def rows(items: list[Any]) -> str:
        return "[\n" + ",\n".join(f"  {json.dumps(item, ensure_ascii=False)}" for item in items) + "\n]"

    parts = {
        "implementations": json.dumps(golden["implementations"], indent=2),
        "texts": f'{{"examples": {rows(golden["texts"]["examples"])}, "sets": {rows(golden["texts"]["sets"])}}}',
        **{kind: rows(golden[kind]) for kind in KINDS},
    }
    return "{\n" + ",\n".join(f"{json.dumps(name)}: {text}" for name, text in parts.items()) + "\n}\n"


if __name__ == "__main__":
    sys.exit(main())
