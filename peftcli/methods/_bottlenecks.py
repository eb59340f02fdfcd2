"""What adapters of one shape have in common wherever they stand: Houlsby's and Pfeiffer's, PHM's and Compacter's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from peftcli.delta.method import Method
from peftcli.delta.placements import (
    BOTH,
    Activation,
    Placements,
    check_terms,
    divided,
    norm_sizes,
    sublayers,
    train_norms,
)
from peftcli.delta.targets import Layers
from peftcli.recipe.recipe import PositiveInt

if TYPE_CHECKING:
    from peftcli.base.anatomy import Anatomy
    from peftcli.base.base_model import BaseModel
    from peftcli.base.sites import Site


class DenseAdapters(Method):
    """U act(D h + b_D) + b_U with matrices of full rank; a subclass says where it is added."""

    put: ClassVar[Literal["after_sublayers", "after_residual_adds"]]
    """The function of ``blocks.adapters`` that attaches them."""

    bottleneck: PositiveInt
    activation: Activation
    start: Literal["zero_up", "houlsby", "bert"]
    train_norms: bool

    @abstractmethod
    def sites(self, anatomy: Anatomy) -> list[Site]:
        """Return the sublayers that get adapters."""

    @property
    def starts_at_base(self) -> bool:
        """Only a zero second matrix makes the adapter nothing."""
        return self.start == "zero_up"

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        return self.sizes_at(anatomy, self.sites(anatomy))

    def sizes_at(self, anatomy: Anatomy, sites: Sequence[Site]) -> dict[str, int]:
        """Return the sizes with adapters at ``sites`` alone."""
        a = self.bottleneck
        adapters = {s.address: 2 * s.d_out * a + a + s.d_out for s in sites}
        return adapters | (norm_sizes(anatomy) if self.train_norms else {})

    def attach(self, base: BaseModel) -> None:
        self.attach_at(base, self.sites(base.anatomy))

    def attach_at(self, base: BaseModel, sites: Sequence[Site]) -> None:
        """Attach adapters at ``sites`` alone."""
        from peftcli.blocks import adapters, bottleneck  # torch only when something is computed

        getattr(adapters, self.put)(
            base,
            sites,
            lambda s: bottleneck.dense((self.bottleneck, s.d_out), activation=self.activation, start=self.start),
        )
        if self.train_norms:
            train_norms(base)


class KroneckerAdapters(Method):
    """Series adapters whose D and U are sums of Kronecker products."""

    shares_rule: ClassVar[bool]
    """Whether all adapters have the same small matrices C_i."""

    bottleneck: PositiveInt = 24
    """Width inside the adapter, a multiple of terms; a thirty-second of the model's width is published."""
    terms: PositiveInt = 4
    """How many Kronecker products are summed, n in the paper, 4 or 12; must divide the model's width too."""
    activation: Activation = "gelu"
    """gelu is published."""
    placement: Placements = BOTH
    """Where adapters stand; of Compacter, [after_ffn] is Compacter++."""
    train_norms: bool = True
    """Whether every norm trains too, as published."""
    layers: Layers = "all"
    """The layers that get adapters: all, 8-11, [0, 5] or top:4."""

    @model_validator(mode="after")
    def _terms_divide(self) -> Self:
        check_terms(self.bottleneck, self.terms)
        return self

    @property
    def size_step(self) -> int:
        """The sums of products cut the bottleneck into ``terms`` parts."""
        return self.terms

    @property
    def factor_rank(self) -> int | None:
        """Of the large matrices of the products; None: full."""
        return None

    @abstractmethod
    def matrices_size(self, site: Site) -> int:
        """Return how many numbers make D and U of the adapter at ``site``, shared ones left out."""

    def sizes(self, anatomy: Anatomy) -> dict[str, int]:
        rule = {"shared.C": self.terms**3} if self.shares_rule else {}
        sites = self._sites(anatomy)
        adapters = {s.address: self.matrices_size(s) + self.bottleneck + s.d_out for s in sites}
        return rule | adapters | (norm_sizes(anatomy) if self.train_norms else {})

    def attach(self, base: BaseModel) -> None:
        from peftcli.blocks.adapters import after_sublayers  # torch only when something is computed
        from peftcli.blocks.bottleneck import Bottleneck
        from peftcli.blocks.kronecker import Kronecker, Rule

        shared = Rule(self.terms) if self.shares_rule else None

        def matrix(d_in: int, d_out: int) -> Kronecker:
            rule = Rule(self.terms) if shared is None else shared
            return Kronecker(d_in, d_out, rule=rule, rank=self.factor_rank)

        def make(site: Site) -> Bottleneck:
            a, d = self.bottleneck, site.d_out
            return Bottleneck(matrix(d, a), matrix(a, d), activation=self.activation)

        after_sublayers(base, self._sites(base.anatomy), make, shared=shared)
        if self.train_norms:
            train_norms(base)

    def _sites(self, anatomy: Anatomy) -> list[Site]:
        return divided(sublayers(anatomy, self.placement, self.layers), self.terms)
