"""Classification of a text or a pair of texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from peftcli.data.tasks.labels import OneLabel
from peftcli.data.tasks.multi_label import MultiLabel
from peftcli.data.tasks.whole_texts import WholeTexts

if TYPE_CHECKING:
    from peftcli.data.tables import Table
    from peftcli.data.tasks.task import Task
    from peftcli.recipe.recipe import DataSection


@dataclass(frozen=True, kw_only=True)
class Classification(OneLabel, WholeTexts):
    """One label for each row, or with ``data.multi_label`` any number of them (see MultiLabel).

    The columns are ``text`` (default: the file's ``text``, or ``sentence`` where that is missing), ``text_pair`` if
    the files have it or the recipe names it, and ``label``.
    """

    name: ClassVar[str] = "classification"
    settings: ClassVar[tuple[str, ...]] = ("labels", "multi_label", "pooling")

    @classmethod
    def variant(cls, section: DataSection) -> type[Task]:
        """Return the task of rows with any number of labels where the recipe asks for it."""
        return MultiLabel if section.multi_label else cls

    @classmethod
    def from_section(cls, section: DataSection, train: Table) -> Self:
        """Return the task of a recipe; the labels are those it lists, or those of the training rows, sorted."""
        task = cls(column_names=cls.columns_of(section, train), max_length=section.max_length, pooling=section.pooling)
        return task.with_labels(section.labels, train)
