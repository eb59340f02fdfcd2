"""A soft prompt: trained input vectors, found in the batch as ids beyond the vocabulary."""

from __future__ import annotations

from itertools import cycle, islice
from typing import Literal

import torch
from torch import nn

from peftcli.delta.block import Block
from peftcli.delta.delta import Delta
from peftcli.delta.method import PeftLayout

Start = Literal["vocabulary", "uniform", "normal"] | tuple[int, ...]


class SoftPrompt(Block):
    """Wraps the token embedding; rows without virtual tokens are embedded exactly as by the base.

    The prompt starts as rows of the embedding (drawn at random, or those of given tokens), or as random numbers.

    Shapes: prompt (prompt_length, embedding_width).
    """

    def __init__(
        self, wrapped: nn.Module, address: str, *, shape: tuple[int, int], vocabulary: int, start: Start
    ) -> None:
        super().__init__(wrapped, address)
        self.vocabulary = vocabulary
        self.start = start
        self.prompt = nn.Parameter(torch.empty(shape))
        self.prompt.no_decay = True  # type: ignore[attr-defined]

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        if self.start == "uniform":
            nn.init.uniform_(self.prompt, -0.5, 0.5, generator=generator)
            return
        if self.start == "normal":
            nn.init.normal_(self.prompt, std=0.02, generator=generator)
            return
        drawn = self.start == "vocabulary"
        ids = torch.randint(self.vocabulary, (len(self.prompt),), generator=generator) if drawn else self._given()
        # Through the module and not its weight: Gemma and BART scale inside their embedding's forward.
        self.prompt.copy_(self.wrapped(ids.to(self.prompt.device)))

    def _given(self) -> torch.Tensor:
        """Return the ids of the tokens to start from: repeated until there are enough, or cut."""
        return torch.tensor(list(islice(cycle(self.start), len(self.prompt))))

    def adapted(self, ids: torch.Tensor) -> torch.Tensor:
        virtual = ids >= self.vocabulary
        embedded: torch.Tensor = self.wrapped(ids.masked_fill(virtual, 0))
        trained = self.prompt[(ids - self.vocabulary).clamp(min=0, max=len(self.prompt) - 1)].to(embedded.dtype)
        return torch.where(virtual[..., None], trained, embedded)


def prompt_layout(delta: Delta) -> PeftLayout | str:
    """Return a prompt before the first token as Hugging Face peft's PROMPT_TUNING, where that computes the same."""
    anatomy = delta.base.anatomy
    if anatomy.arch not in ("decoder", "encoder") or (delta.head and anatomy.arch == "decoder"):
        return f"peft computes something else for prompts on {anatomy.family} here"
    block = next(b for _, b in delta.blocks() if isinstance(b, SoftPrompt))
    config = {
        "peft_type": "PROMPT_TUNING",
        "num_virtual_tokens": len(block.prompt),
        "token_dim": anatomy.embedding_width,
        "num_layers": sum(anatomy.layers.values()),
        "num_attention_heads": 1,
        "num_transformer_submodules": 1,
        "prompt_tuning_init": "RANDOM",
    }
    return PeftLayout(config=config, tensors={"prompt_embeddings": block.prompt.detach().cpu()}, exact=True)
