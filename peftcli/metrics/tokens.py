"""The words of a text, as the scripts behind published values cut it.

``mteval_words`` are those of NIST's mteval-v13a, ``treebank_words`` those of the coco-caption scripts: Stanford's
Penn Treebank tokens in lower case without punctuation, here by one regular expression instead of Stanford's Java. On
the 45,272 different texts of the E2E NLG data set, 5 come out otherwise; rarer shapes elsewhere may as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

# Stanford's tokenizer writes every currency as a dollar or a number sign; quotes are dropped in any form.
PLAIN = str.maketrans({"£": "#", "€": "$", "“": '"', "”": '"', "‘": "'", "’": "'", "–": "—", "…": " ", "`": " "})
BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
# What coco-caption drops; it means to drop brackets too, but looks for them in capitals.
PUNCTUATION = frozenset((*".?!,:;'\"—-", "--", "..."))
TOKEN = re.compile(
    r"""
      https?://\S*\w | [\w.+-]+@[\w-]+(?:\.[\w-]+)+ | @\w+    # addresses
    | (?:mr|mrs|ms|dr|st|rd|vs|jr|sr|inc|ltd|co|corp|prof|etc|jan|feb|aug|sept|oct|nov|dec)\.(?!\w)
    | (?:[^\W\d_]\.)+(?:[^\W\d_](?![\w.]))?                   # u.s., i.e.
    | \d+(?:[.,:/]\d+)*(?:-\d+(?:[.,:/]\d+)*)+\w* | (?<![\w-])-\d+ # 20-25
    | \d+(?:[.,:/]\d+)+(?:-[^\W_]+)* | (?<!\w)\.\d+           # 3.5, 10,000, 7:30
    | n't\b | '(?:s|re|ve|ll|d|m)\b                           # what a word was joined with
    | [^\W_](?:\w|-(?=\w)|[./&](?=[^\W\d_])|'(?!(?:s|re|ve|ll|d|m)\b)(?=[^\W\d_]))*(?:\.(?=,))?
    | [?!]+ | -{2,} | [^\s\w] | _
    """,
    re.VERBOSE,
)
NEGATION = re.compile(r"(?<=\w)(?=n't\b)")
JOINED = {"cannot": "can not", "gonna": "gon na", "gotta": "got ta", "wanna": "wan na"}
JOINED_WORDS = re.compile(rf"\b(?:{'|'.join(JOINED)})\b")


def treebank_words(text: str) -> list[str]:
    """Return the words that coco-caption compares."""
    plain = JOINED_WORDS.sub(lambda found: JOINED[found[0]], text.lower().translate(PLAIN))
    tokens = TOKEN.findall(NEGATION.sub(" ", plain))
    return [BRACKETS.get(token, token) for token in tokens if token not in PUNCTUATION]


@cache
def _tokenizer_13a() -> Callable[[str], str]:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    return Tokenizer13a()  # type: ignore[no-untyped-call]


def mteval_words(text: str) -> list[str]:
    """Return the words that mteval-v13a compares when it is not told to mind the case."""
    return _tokenizer_13a()(text).lower().split()
