"""How the blocks of a stack of methods stand around one module, whichever method was attached first."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

from torch import nn

from peftcli.delta.block import Block, Order
from peftcli.errors import MethodError


def compose(network: nn.Module) -> None:
    """Bring the blocks around every module into their order (see ``Order``).

    Raises:
        MethodError: Two of them cannot change one weight together.
    """
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    chains: dict[int, list[Block]] = {}
    for parent in network.modules():
        if isinstance(parent, Block):
            continue
        for name, child in parent._modules.items():
            if isinstance(child, Block):
                # Two places may hold one chain: an encoder and a decoder share their token embedding.
                places.setdefault(id(child), []).append((parent, name))
                chains[id(child)] = _chain(child)
    for key, chain in chains.items():
        _refuse_company(chain)
        module = chain[0].wrapped
        for block in sorted(chain, key=lambda b: b.order):  # stable: as attached within one order
            block.wrapped = module
            module = block
        for parent, name in places[key]:
            setattr(parent, name, module)


def check_parting(leaving: Iterable[Block]) -> None:
    """Refuse to fold blocks into the weights where one that stays computes inside them.

    A change of a weight or a bias is a summand, wherever it stands; a scale multiplies all that it encloses.

    Raises:
        MethodError: Without its scale, a block that stays would compute something else.
    """
    folded = {id(block): block for block in leaving}
    for block in folded.values():
        inner = block.wrapped
        while block.order > Order.BIAS and isinstance(inner, Block):
            if id(inner) not in folded and _meet(block, inner):
                outer, name = (b.address.partition(".")[0] for b in (block, inner))
                raise MethodError(
                    f"{outer} cannot be folded without {name}: at {block.site} it multiplies what {name} computes",
                    hint="Keep the whole delta beside the base model.",
                )
            inner = inner.wrapped


def _chain(block: Block) -> list[Block]:
    """Return the blocks around one module, innermost first."""
    found = [block]
    while isinstance(found[-1].wrapped, Block):
        found.append(found[-1].wrapped)
    return found[::-1]


def _refuse_company(chain: list[Block]) -> None:
    for one, other in combinations([b for b in chain if b.order == Order.WEIGHT], 2):
        if (one.alone or other.alone) and _meet(one, other):
            names = " and ".join(b.address.partition(".")[0] for b in (one, other))
            raise MethodError(
                f"{names} both change {_place(one, other)}, and one of them needs the weight for itself",
                hint="Give them different target_modules or layers.",
            )


def _place(one: Block, other: Block) -> str:
    return str(one.site or other.site or one.address.partition(".")[2])


def _meet(one: Block, other: Block) -> bool:
    """Whether two changes of one module touch the same rows: W_q and W_v of a fused projection do not."""
    if one.site is None or other.site is None or one.site.rows is None or other.site.rows is None:
        return True
    return any(a < d and c < b for a, b in one.site.rows for c, d in other.site.rows)
