"""What a frozen base model makes of real tokens: the keys and values that prefixes may start as."""

from __future__ import annotations

from itertools import cycle, islice

import torch
from torch import Tensor, nn

from peftcli.base.base_model import BaseModel
from peftcli.blocks.attention_prefix import KEY, Attention, AttentionBlock, Sight
from peftcli.delta.block import Block, innermost


class Activations:
    """Keys and values of every attention that a prefix stands before, as the attention function sees them.

    They are computed once, when the first block asks, by the base model alone: other methods of a stack may not be
    filled yet. Keys carry the rotation of the positions from 0 on, so a decoder whose real tokens start behind the
    prefix (positions: shifted) begins as the base model with these tokens before its input.
    """

    def __init__(self, base: BaseModel, length: int, ids: tuple[int, ...]) -> None:
        self._base = base
        self._length = length
        self._ids = ids
        self._found: dict[nn.Module, _Recorder] = {}

    def of(self, attention: nn.Module, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return keys and values for one attention, each (key/value heads, prefix_length, head_width)."""
        if not self._found:
            self._compute(self._tokens(generator))
        return self._found[attention].seen

    def _tokens(self, generator: torch.Generator) -> Tensor:
        drawn = torch.randint(self._base.anatomy.vocabulary, (self._length,), generator=generator)
        return torch.tensor(list(islice(cycle(self._ids), self._length))) if self._ids else drawn

    @torch.no_grad()
    def _compute(self, tokens: Tensor) -> None:
        network = self._base.network
        ids = tokens[None].to(next(network.parameters()).device)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self._base.anatomy.arch == "encoder-decoder":
            inputs["decoder_input_ids"] = ids
        blocks = [m for m in network.modules() if isinstance(m, Block) and m.enabled]
        self._found = {innermost(b): _Recorder() for b in blocks if isinstance(b, AttentionBlock)}
        training = network.training
        _enable(blocks, False)
        for attention, recorder in self._found.items():
            attention.__dict__[KEY] = [recorder]
        try:
            network.eval().get_submodule(self._base.prefix)(**inputs)
        finally:
            for attention in self._found:
                del attention.__dict__[KEY]
            _enable(blocks, True)
            network.train(training)


class _Recorder:
    """Stands beside an attention, changes nothing, and notes what it sees."""

    seen: tuple[Tensor, Tensor]

    def widened(self, module: nn.Module, query: Tensor, sight: Sight) -> Sight:
        self.seen = sight.key[0].float(), sight.value[0].float()
        return sight

    def extended(self, attention: Attention, sight: Sight, attended: Tensor) -> Tensor:
        return attended


def _enable(blocks: list[Block], enabled: bool) -> None:
    for block in blocks:
        block.enabled = enabled
