"""The base model: the pretrained network, frozen, with its anatomy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from peftcli.base.anatomy import OUTSIDE, Anatomy
from peftcli.base.layers import Layers
from peftcli.base.pooling import put_pooled
from peftcli.base.quantised_linear import QuantisedLinear
from peftcli.base.sites import Site
from peftcli.errors import BaseModelError, MethodError

if TYPE_CHECKING:
    from peftcli.recipe.recipe import Pooling

_WRAPPED = "wrapped"  # what a block calls the module it stands around


class BaseModel:
    """A pretrained network whose parameters are frozen.

    Strings that name a place are paths in ``network`` as they were before anything was attached; a Site is a place
    as well. Where blocks stand around a module, they are what is found there.

    Attributes:
        network: The network; methods put blocks into it.
        anatomy: What it is made of.
        prefix: Where the backbone sits in the network; empty for a bare backbone.
        parameters: The parameters by their names in the network before anything is attached; tied ones once.
        quantised: Beside them, the layers whose weight is no parameter because it is packed, by that weight's name.
        head: The names of those that the checkpoint did not hold or that only the task needs.
        pooling: Which of the last hidden states the head reads.
    """

    def __init__(
        self, network: nn.Module, anatomy: Anatomy, head: Iterable[str] = (), pooling: Pooling = "base"
    ) -> None:
        _untie_head(network, anatomy)
        network.requires_grad_(False)
        self.network = network
        self.anatomy = anatomy
        self.parameters = plain_parameters(network)
        self.quantised = {f"{n}.weight": m for n, m in network.named_modules() if isinstance(m, QuantisedLinear)}
        self.head = frozenset(head)
        self.prefix = find_prefix(self.parameters, anatomy)
        self.pooling = pooling
        put_pooled(network.get_submodule(self.prefix), pooling)
        self._check()
        if anatomy.task in anatomy.architecture.heads:
            for tensor in anatomy.tensors:
                if tensor.path.rpartition(".")[0] in anatomy.architecture.unread:
                    self.tensor(tensor.path).may_rest = True  # type: ignore[attr-defined]  # no gradient comes there

    @property
    def size(self) -> int:
        """How many numbers the base model holds, without the head and however they are packed: |Theta|."""
        packed = sum(math.prod(layer.weight_shape) for layer in self.quantised.values())
        return packed + sum(p.numel() for n, p in self.parameters.items() if n not in self.head)

    @property
    def bytes(self) -> int:
        """The memory that the base model's weights take, without the head."""
        packed = [p for layer in self.quantised.values() for p in layer.packed.parameters()]
        return sum(p.nbytes for p in (*packed, *(p for n, p in self.parameters.items() if n not in self.head)))

    @property
    def head_size(self) -> int:
        """How many numbers the head holds."""
        return sum(self.parameters[n].numel() for n in self.head)

    def sites(self, names: Sequence[str], layers: Layers = "all", cross: bool = True) -> list[Site]:
        """Return the sites of these names (see Anatomy.sites)."""
        return self.anatomy.sites(names, layers, cross)

    def path(self, site: Site) -> str:
        """Return the path of a site's module in the network."""
        return self._network_name(site.path)

    def sublayer_out(self, site: Site) -> str:
        """Return the path of the module whose output is a sublayer's result just before the residual add."""
        assert site.out, f"{site} is not a sublayer"
        return self._network_name(site.out)

    def norm(self, site: Site) -> str:
        """Return the path of a sublayer's norm: before it, or behind its residual add.

        Raises:
            MethodError: The norm is not known.
        """
        place = (site.stack, site.layer, site.cross, False)
        norms = self.sites((f"{site.name}_norm",))
        return self.path(next(n for n in norms if (n.stack, n.layer, n.cross, n.post) == place))

    def layer(self, site: Site) -> str:
        """Return the path of the whole layer that a site is in."""
        return self._network_name(self.anatomy.layer_path(site))

    def module(self, place: Site | str) -> nn.Module:
        """Return what sits at a place: the network's own module, or the outermost block around it."""
        parent, name = self._parent(place)
        return _child(parent, name)

    def replace(self, place: Site | str, module: nn.Module) -> None:
        """Put ``module`` at a place; inner paths stay valid if it holds what was there as ``wrapped``."""
        parent, name = self._parent(place)
        _child(parent, name)
        setattr(parent, name, module)

    def parameter(self, site: Site, name: str = "weight") -> nn.Parameter:
        """Return the weight or the bias of a site's module (of a fused projection: the whole of it).

        Raises:
            MethodError: The module has no such parameter, or holds it quantised.
        """
        self._refuse_quantised(f"{self.path(site)}.{name}")
        parameter = _inmost(self.module(site))._parameters.get(name)
        if parameter is None:
            raise MethodError(f"{site} of {self.anatomy.family} has no {name}")
        return parameter

    def weight(self, site: Site) -> Tensor:
        """Return the weight of a site's module, to be read: of a quantised one, the numbers it computes with."""
        weight = _inmost(self.module(site)).weight
        assert isinstance(weight, Tensor)
        return weight.detach()

    def tensor(self, path: str) -> nn.Parameter:
        """Return the base parameter that the anatomy calls ``path``.

        Raises:
            MethodError: It is held quantised.
        """
        self._refuse_quantised(self._network_name(path))
        return self.parameters[self._network_name(path)]

    def output_rows(self, site: Site) -> int:
        """Return how many outputs the module at a site has: of a fused projection, those of every part."""
        layer = self.quantised.get(f"{self.path(site)}.weight")
        shape = layer.weight_shape if layer else self.parameter(site).shape
        return shape[1 if site.transposed else 0]

    def layer_parameters(self, stack: str, layer: int) -> dict[str, nn.Parameter]:
        """Return the base parameters of one layer by their names in the network."""
        tensors = (t for t in self.anatomy.tensors if t.stack == stack and t.layer == layer)
        names = [self._network_name(t.path) for t in tensors]
        return {n: self.parameters[n] for n in names}

    def address(self, name: str) -> str:
        """Return the address of a parameter of the network: it outlives a renaming of modules in transformers."""
        return self.anatomy.address(self._anatomy_name(name))

    def name(self, address: str) -> str:
        """Return the parameter of the network that has an address."""
        return self._network_name(self.anatomy.path(address), among=self.parameters.keys() | self.quantised.keys())

    def _anatomy_name(self, name: str) -> str:
        start = f"{self.prefix}." if self.prefix else ""
        return name.removeprefix(start) if name.startswith(start) else OUTSIDE + name

    def _network_name(self, path: str, among: Iterable[str] | None = None) -> str:
        if path.startswith(OUTSIDE):
            return path.removeprefix(OUTSIDE)
        name = f"{self.prefix}.{path}" if self.prefix else path
        return name if among is None or name in among else path

    def _parent(self, place: Site | str) -> tuple[nn.Module, str]:
        *parents, name = (self.path(place) if isinstance(place, Site) else place).split(".")
        module = self.network
        for one in parents:
            module = _child(_inmost(module), one)
        return _inmost(module), name

    def _refuse_quantised(self, name: str) -> None:
        if name in self.quantised:
            raise MethodError(
                f"{self.address(name)} is held quantised: it can be neither trained nor changed",
                hint="Write base.quantise=none, or choose a method that adds to the weights, such as lora.",
            )

    def _check(self) -> None:
        """Refuse a network that its anatomy does not describe: sites and counts would be wrong."""
        names = {self._network_name(t.path): t for t in self.anatomy.tensors}
        shapes = {n: tuple(p.shape) for n, p in self.parameters.items()}
        shapes |= {n: layer.weight_shape for n, layer in self.quantised.items()}
        wrong = [n for n, t in names.items() if shapes.get(n) != t.shape]
        own = {self._network_name(t.path) for t in self.anatomy.head_tensors} | names.keys() | self.head
        extra = [n for n in shapes if n not in own]
        if wrong or extra:
            raise BaseModelError(
                f"this {self.anatomy.family} network is not as its config says: "
                f"{len(wrong)} parameters are missing or of another shape, {len(extra)} are not known "
                f"(for instance {', '.join((wrong + extra)[:5])})"
            )


def plain_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a network by name, without what quantised layers hold in place of their weights."""
    packed = {id(p) for m in network.modules() if isinstance(m, QuantisedLinear) for p in m.packed.parameters()}
    return {n: p for n, p in network.named_parameters() if id(p) not in packed}


def find_prefix(names: Iterable[str], anatomy: Anatomy) -> str:
    """Return where the backbone sits, given the names of a network's parameters.

    Raises:
        BaseModelError: It is not there.
    """
    names = set(names)
    first = anatomy.tensors[0].path
    for prefix in anatomy.architecture.prefixes:
        if (f"{prefix}.{first}" if prefix else first) in names:
            return prefix
    raise BaseModelError(f"the network has no {first}, as {anatomy.family} should")


def _untie_head(network: nn.Module, anatomy: Anatomy) -> None:
    """Give the output projection a weight of its own where the config says that it has one.

    transformers makes every T5 with a tied head, and only a checkpoint's own tensor parts the two.
    """
    head = anatomy.architecture.lm_head
    name = f"{head.path}.weight" if head else ""
    missing = name not in dict(network.named_parameters())
    if head and missing and hasattr(network, head.path) and any(t.path == OUTSIDE + name for t in anatomy.tensors):
        module = network.get_submodule(head.path)
        assert isinstance(module.weight, Tensor)
        module.weight = nn.Parameter(module.weight.detach().clone())


def _child(module: nn.Module, name: str) -> nn.Module:
    child = module._modules.get(name)
    assert child is not None, f"{type(module).__name__} has no module {name}"
    return child


def _inmost(module: nn.Module) -> nn.Module:
    """Return the network's own module inside the blocks around it."""
    while (inner := module._modules.get(_WRAPPED)) is not None:
        module = inner
    return module
