"""Pretrain a small T5 on texts of your own: an encoder-decoder that is worth adapting, without a hub.

    scripts/pretrain_t5.py TEXTS... --out FOLDER [--column target] [--minutes 8]

Span corruption as Raffel et al. 2020 (arXiv:1910.10683) describe it: 15 % of the tokens in spans of 3 on average are
each replaced by a sentinel, and the decoder writes the sentinels and what they stand for. With --objective infilling
it writes the whole text instead, as in BART (Lewis et al. 2020, arXiv:1910.13461): the longer target teaches it to
copy what the encoder reads, which tables and questions ask for, within minutes; span corruption takes far longer to.

The tokenizer (byte-level BPE, so that every text comes back letter by letter) is trained on the same texts. Minutes
of one core make something that a delta can build on; nothing of the quality of a published checkpoint.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

NOISE, SPAN, SENTINELS = 0.15, 3.0, 100
PAD, END = "<pad>", "</s>"
IGNORED = -100
AT_ONCE = 2000  # texts that are made into tokens together
DONE = "pretraining.json"


def read_texts(paths: list[Path], columns: list[str]) -> Iterator[str]:
    """Yield the texts of files: the named columns of .jsonl (also .gz), or the lines of anything else."""
    for path in paths:
        opened = gzip.open if path.suffix == ".gz" else open
        rows = ".jsonl" in path.suffixes
        with opened(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line) if rows else {"": line.strip()}
                yield from (row[c] for c in (columns if rows else [""]) if isinstance(row.get(c), str) and row[c])


def train_tokenizer(texts: list[str], size: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer with T5's special tokens: it ends every text and begins none."""
    sentinels = [f"<extra_id_{number}>" for number in range(SENTINELS)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - SENTINELS,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in sentinels])
    end = tokenizer.token_to_id(END)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, end)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)


def pack(tokenizer: PreTrainedTokenizerFast, texts: list[str], length: int, draw: random.Random) -> list[list[int]]:
    """Return the tokens of some texts, drawn and put one after the other, in pieces of ``length``."""
    stream = [token for ids in tokenizer(draw.choices(texts, k=AT_ONCE))["input_ids"] for token in ids]
    return [stream[start : start + length] for start in range(0, len(stream) - length + 1, length)]


def cuts(total: int, parts: int, draw: random.Random) -> list[int]:
    """Return ``parts`` lengths of at least 1 that make up ``total``, every division as likely as another."""
    places = sorted(draw.sample(range(1, total), parts - 1))
    return [after - before for before, after in zip([0, *places], [*places, total], strict=True)]


def corrupt(
    ids: list[int], first_sentinel: int, end: int, draw: random.Random, objective: str
) -> tuple[list[int], list[int]]:
    """Return what the encoder reads and what the decoder writes."""
    noise = min(max(round(len(ids) * NOISE), 1), len(ids) - 1)
    spans = min(max(round(noise / SPAN), 1), len(ids) - noise)
    source: list[int] = []
    target: list[int] = []
    at = 0
    for number, (kept, dropped) in enumerate(
        zip(cuts(len(ids) - noise, spans, draw), cuts(noise, spans, draw), strict=True)
    ):
        source += [*ids[at : at + kept], first_sentinel + number]
        target += [first_sentinel + number, *ids[at + kept : at + kept + dropped]]
        at += kept + dropped
    return [*source, end], [*target, first_sentinel + spans, end] if objective == "spans" else [*ids, end]


def batch_of(pieces: list[tuple[list[int], list[int]]], pad: int) -> dict[str, torch.Tensor]:
    """Return padded tensors. Shapes: each (batch, tokens)."""
    wide = max(len(source) for source, _ in pieces)
    long = max(len(target) for _, target in pieces)
    return {
        "input_ids": torch.tensor([source + [pad] * (wide - len(source)) for source, _ in pieces]),
        "attention_mask": torch.tensor([[1] * len(source) + [0] * (wide - len(source)) for source, _ in pieces]),
        "labels": torch.tensor([target + [IGNORED] * (long - len(target)) for _, target in pieces]),
    }


def make_network(options: argparse.Namespace, tokenizer: PreTrainedTokenizerFast) -> T5ForConditionalGeneration:
    """Return a T5 of the asked-for size with random numbers."""
    torch.manual_seed(options.seed)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=options.width,
        d_kv=options.width // options.heads,
        d_ff=4 * options.width,
        num_layers=options.layers,
        num_decoder_layers=options.layers,
        num_heads=options.heads,
        dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    return T5ForConditionalGeneration(config)


def pretrain(
    network: T5ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    texts: list[str],
    options: argparse.Namespace,
) -> float:
    """Train until the steps or the minutes are over, and return the mean loss of the last tenth."""
    draw = random.Random(options.seed)
    sentinel, end = tokenizer.convert_tokens_to_ids("<extra_id_0>"), tokenizer.eos_token_id
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=0.01)
    pieces: list[list[int]] = []
    losses: list[float] = []
    started = time.process_time()
    network.train()
    while (share := max(len(losses) / options.steps, (time.process_time() - started) / (60 * options.minutes))) < 1:
        while len(pieces) < options.batch_size:
            pieces += pack(tokenizer, texts, options.length, draw)
        some = [corrupt(pieces.pop(), sentinel, end, draw, options.objective) for _ in range(options.batch_size)]
        # Up within 50 steps, then along a cosine to a tenth.
        rate = min((len(losses) + 1) / 50, 0.55 + 0.45 * math.cos(math.pi * share))
        optimizer.param_groups[0]["lr"] = options.learning_rate * rate
        loss = network(**batch_of(some, tokenizer.pad_token_id)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if len(losses) % 50 == 0:
            seconds = time.process_time() - started
            print(f"step {len(losses):5d}  loss {sum(losses[-50:]) / 50:.3f}  {seconds:5.0f} s", flush=True)
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


def main() -> None:
    """Read the texts, make the tokenizer and the network, train, and save both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "texts", nargs="+", type=Path, help="files: .jsonl (also .gz) with --column, or one text a line"
    )
    parser.add_argument("--out", required=True, type=Path, help="folder for config, weights and tokenizer")
    parser.add_argument("--column", action="append", default=[], help="of .jsonl rows; may be given several times")
    parser.add_argument("--tokenizer", type=Path, help="folder of a tokenizer with T5's sentinels; default: train one")
    parser.add_argument("--objective", choices=("spans", "infilling"), default="spans", help="what the decoder writes")
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3, help="of the encoder, and of the decoder")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--length", type=int, default=96, help="tokens of a piece of text")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=8.0, help="of processor time")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    texts = list(read_texts(options.texts, options.column or ["text"]))
    asked = {key: value for key, value in sorted(vars(options).items()) if key not in ("out", "texts", "tokenizer")}
    asked["texts"] = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    done = options.out / DONE
    if done.exists() and (said := json.loads(done.read_text()))["asked"] == asked:
        print(f"{options.out} holds this network already (loss {said['loss']:.3f})")
        return
    tokenizer = (
        PreTrainedTokenizerFast.from_pretrained(options.tokenizer)
        if options.tokenizer
        else train_tokenizer(texts, options.vocabulary)
    )
    network = make_network(options, tokenizer)
    size = sum(parameter.numel() for parameter in network.parameters())
    print(f"{len(texts):,} texts, {len(tokenizer):,} tokens in the vocabulary, {size:,} parameters")
    loss = pretrain(network, tokenizer, texts, options)
    network.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    done.write_text(json.dumps({"asked": asked, "loss": loss, "parameters": size}, indent=2) + "\n")
    print(f"loss per token {loss:.3f}; saved to {options.out}")


if __name__ == "__main__":
    main()
