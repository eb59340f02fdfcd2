"""METEOR 1.5 (Denkowski and Lavie 2014), whose values papers on E2E NLG report: by its authors' Java program.

The program comes with the package pycocoevalcap and needs Java; neither is installed with peftcli. It matches the words
of each text with those of each reference, by itself, stem, WordNet and a table of paraphrases, and counts; the score is
that of the counts summed over all examples, as in the paper, with its weights for English. Words are cut as
coco-caption cuts them.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from peftcli.errors import ResourceError
from peftcli.metrics.scored import Scored, ratio, summed
from peftcli.metrics.tokens import treebank_words

if TYPE_CHECKING:
    import numpy as np

ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
WEIGHTS = (1.0, 0.6, 0.8, 0.6)  # of a match by itself, by stem, by synonym, by paraphrase
CHUNKS = 20  # where they stand among the counts
_BETWEEN = " ||| "


def find_program() -> Path | None:
    """Return the program, or None where it or Java is not installed."""
    spec = find_spec("pycocoevalcap")
    places = spec.submodule_search_locations if spec else None
    program = Path(places[0]) / "meteor" / "meteor-1.5.jar" if places else None
    return program if program and program.is_file() and shutil.which("java") else None


def scored(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Scored:
    """Return METEOR 1.5 on texts.

    Raises:
        ResourceError: The program is not there, or fails.
    """
    program = find_program()
    if program is None:
        raise ResourceError("meteor_1.5 needs Java and pycocoevalcap", hint="Install them, or measure meteor.")
    asked = [
        _BETWEEN.join(["SCORE", *map(_words, known), _words(text)])
        for text, known in zip(predictions, references, strict=True)
    ]
    if not asked:
        return summed((), _score)
    command = ["java", "-Xmx2G", "-jar", str(program), "-", "-", "-stdio", "-l", "en", "-norm"]
    done = subprocess.run(command, input="".join(f"{line}\n" for line in asked), capture_output=True, text=True)
    counts = [line.split() for line in done.stdout.splitlines()]
    if done.returncode or len(counts) != len(asked):
        said = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise ResourceError(f"METEOR 1.5 failed: {said[0]}", where=str(program))
    return summed((_ordered([float(count) for count in row]) for row in counts), _score)


def _words(text: str) -> str:
    return " ".join(word for word in treebank_words(text) if set(word) != {"|"})


def _ordered(counts: list[float]) -> list[float]:
    """Return the counts of an example, with no chunk where all words of both sides match in order: no disorder."""
    words, reference_words, chunks, matched, reference_matched = *counts[:2], *counts[CHUNKS:]
    whole = chunks == 1 and words == matched and reference_words == reference_matched
    return [*counts[:CHUNKS], 0.0, *counts[CHUNKS + 1 :]] if whole else counts


def _score(counts: np.ndarray) -> float:
    """Return the score of summed counts, in the program's order (equations 1 to 4 of the paper).

    They are the words and the function words of text and reference; for each kind of match its content words in the
    text and in the reference, then its function words in both; chunks; and the words matched in either.
    """
    words, reference_words, function_words, reference_function_words = counts[:4]
    chunks, matched, reference_matched = counts[CHUNKS:]
    stages = counts[4:CHUNKS].reshape(4, 4)

    def share(content: int, function: int, length: float, functions: float) -> float:
        weighed = DELTA * stages[:, content] + (1 - DELTA) * stages[:, function]
        return ratio(float(weighed @ WEIGHTS), DELTA * (length - functions) + (1 - DELTA) * functions)

    precision = share(0, 2, words, function_words)
    recall = share(1, 3, reference_words, reference_function_words)
    mean = ratio(precision * recall, ALPHA * precision + (1 - ALPHA) * recall)
    return float(mean * (1 - GAMMA * ratio(chunks, (matched + reference_matched) / 2) ** BETA))
