"""Texts that a network writes: greedily, drawn, or by beam search; a row's own, whatever stands in its batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from peftcli.data.examples import pad_examples

if TYPE_CHECKING:
    from torch import Tensor, nn

    from peftcli.data.examples import Example, Examples
    from peftcli.data.tasks.generating import Generating
    from peftcli.recipe.recipe import GenerationSection
    from peftcli.training.evaluation import EvaluationSettings


@dataclass(frozen=True, kw_only=True)
class Writer:
    """How texts are written.

    Attributes:
        section: The way, and when a text is at its end.
        tokenizer: From ids back to text.
        positions: Most tokens that the network can place; None where nothing limits it.
        seed: Of the draws, beside the row.
    """

    section: GenerationSection
    tokenizer: Any
    positions: int | None
    seed: int


def written(
    network: nn.Module, task: Generating, examples: Examples, settings: EvaluationSettings
) -> Iterator[tuple[int, str]]:
    """Yield the index of each of the process's share of the examples, and the text that the network answers with.

    The longest prompts come first. What is drawn for a row depends on the seed and the row alone, so that neither the
    size of the batches nor the number of processes changes it.

    Args:
        network: In evaluation mode, with its blocks.
        task: What the examples belong to.
        examples: What is answered.
        settings: With a writer.
    """
    writer, accelerator = settings.writer, settings.accelerator
    assert writer is not None, "whoever asks for texts says how they are written"
    prompts = [task.prompted(example) for example in examples]
    order = sorted(range(len(prompts)), key=lambda index: (-prompts[index].length, index))
    size = writer.section.batch_size
    for start in range(accelerator.process_index * size, len(order), accelerator.num_processes * size):
        indices = order[start : start + size]
        yield from zip(indices, _batch(network, [prompts[i] for i in indices], settings, writer), strict=True)


def _batch(network: Any, prompts: Sequence[Example], settings: EvaluationSettings, writer: Writer) -> list[str]:  # noqa: ANN401
    from transformers import LogitsProcessorList, StoppingCriteriaList

    section, encoded = writer.section, bool(network.config.is_encoder_decoder)
    # A decoder goes on at the right, so its prompts end there together.
    batch = pad_examples(prompts, settings.pad, settings.virtual, left=not encoded)
    given = {key: batch[key].to(settings.accelerator.device) for key in ("input_ids", "attention_mask")}
    start = 1 if encoded else given["input_ids"].shape[1]
    ends = _ends(network, writer.tokenizer)
    config = _config(network, section, pad=settings.pad, ends=ends, room=_room(writer, start))
    drawing = _drawing(section, [_seed(writer.seed, prompt.row) for prompt in prompts]) if section.sample else []
    stopping = [_Stops(writer.tokenizer, section.stop, start)] if section.stop else []
    with _configured(network, config):
        ids = network.generate(
            **given,
            **_cache(encoded),
            generation_config=config,
            logits_processor=LogitsProcessorList(drawing),
            stopping_criteria=StoppingCriteriaList(stopping),
        )
    return [_text(writer.tokenizer, row, ends, section.stop) for row in ids[:, start:].tolist()]


def _config(network: Any, section: GenerationSection, *, pad: int, ends: Sequence[int], room: int) -> Any:  # noqa: ANN401
    """Return transformers' configuration: the recipe's words, and the network's own for where a text starts."""
    from transformers import GenerationConfig

    own = network.generation_config
    return GenerationConfig(
        max_new_tokens=room,
        num_beams=section.num_beams,
        length_penalty=section.length_penalty,
        do_sample=False,  # draws are made by a processor, which knows the rows
        use_cache=True,
        pad_token_id=pad,
        bos_token_id=own.bos_token_id,
        eos_token_id=list(ends) or None,
        decoder_start_token_id=own.decoder_start_token_id,
        forced_bos_token_id=own.forced_bos_token_id,
    )


def _cache(encoded: bool) -> dict[str, Any]:
    """Return a cache that grows with the decoder: transformers' own has as many layers as the encoder."""
    if not encoded:
        return {}
    from transformers import DynamicCache, EncoderDecoderCache

    return {"past_key_values": EncoderDecoderCache(DynamicCache(), DynamicCache())}


@contextmanager
def _configured(network: Any, config: Any) -> Iterator[None]:  # noqa: ANN401
    """Let the checkpoint's own settings rest: transformers fills in from them whatever a configuration leaves out."""
    before = network.generation_config
    network.generation_config = config
    try:
        yield
    finally:
        network.generation_config = before


def _room(writer: Writer, start: int) -> int:
    """Return the most tokens that can be written after ``start`` others; what is learned always has a place more."""
    most = writer.section.max_new_tokens
    return most if writer.positions is None else max(1, min(most, writer.positions - start))


def _ends(network: Any, tokenizer: Any) -> list[int]:  # noqa: ANN401
    """Return the tokens that end a text: the tokenizer's, and those that the checkpoint names (an end of a turn)."""
    own = network.generation_config.eos_token_id
    named = own if isinstance(own, list) else [own]
    return sorted({int(token) for token in (tokenizer.eos_token_id, *named) if token is not None})


def _text(tokenizer: Any, ids: list[int], ends: Sequence[int], stop: Sequence[str]) -> str:  # noqa: ANN401
    end = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    text: str = tokenizer.decode(ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text[: min((at for one in stop if (at := text.find(one)) >= 0), default=len(text))]


def _seed(seed: int, row: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:written {row}".encode()).digest()[:8], "big") >> 1


def _drawing(section: GenerationSection, seeds: Sequence[int]) -> list[Any]:
    """Return what makes the likeliest token a drawn one, in the order in which it acts."""
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    warpers: list[Any] = []
    if section.temperature != 1:
        warpers.append(TemperatureLogitsWarper(section.temperature))
    if section.top_k:
        warpers.append(TopKLogitsWarper(section.top_k))
    if section.top_p < 1:
        warpers.append(TopPLogitsWarper(section.top_p))
    return [*warpers, _Draws(seeds)]


class _Draws:
    """Adds Gumbel noise to the logits: the largest sum is a draw from their softmax (Gumbel 1954).

    Each row has a generator of its own, so that its draws are the same in any batch.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Shapes: ids (batch, tokens); scores and the result (batch, vocabulary)."""
        del ids
        smallest = torch.finfo(torch.float32).tiny
        noise = torch.stack([torch.empty(scores.shape[1]).exponential_(generator=g) for g in self.generators])
        return scores.float() - noise.clamp_min(smallest).log().to(scores.device)


class _Stops:
    """Ends the rows in whose generated text a stop stands."""

    def __init__(self, tokenizer: Any, stop: Sequence[str], start: int) -> None:  # noqa: ANN401
        self.tokenizer = tokenizer
        self.stop = stop
        self.start = start

    def __call__(self, ids: Tensor, scores: object, **_: object) -> Tensor:
        """Shapes: ids (rows or beams, tokens); the result (rows or beams)."""
        del scores
        rows = ids[:, self.start :].tolist()
        texts = [self.tokenizer.decode(r, skip_special_tokens=True, clean_up_tokenization_spaces=False) for r in rows]
        found = [any(one in text for one in self.stop) for text in texts]
        return torch.tensor(found, dtype=torch.bool, device=ids.device)
