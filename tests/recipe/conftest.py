"""Two methods of the tests' own, so that the recipe floor stands without the floors above it."""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from peftcli.recipe.read import MethodReader, read_recipe
from peftcli.recipe.recipe import PositiveFloat, PositiveInt, Probability, Recipe
from peftcli.recipe.settings import Settings
from peftcli.recipe.stack import read_stack


class Lora(Settings):
    """W' = W + (alpha / rank) B A."""

    name: ClassVar[str] = "lora"
    size_setting: ClassVar[str | None] = "rank"
    rank: PositiveInt = 8
    """Of the update."""
    alpha: PositiveFloat = 16.0
    dropout: Probability = 0.0
    target_modules: Literal["all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)] = ("W_q", "W_v")
    layers: str | list[int] = "all"
    parts: PositiveInt = 1
    note: str | None = None

    @model_validator(mode="after")
    def _rank_and_note(self):
        if self.note is not None and "rank" in self.model_fields_set:
            raise PydanticCustomError(
                "both", "method.note {note} excludes method.rank", {"note": self.note, "hint": "Keep one."}
            )
        if self.rank % self.parts:
            what = f"rank is {self.rank}, which {self.parts} parts do not divide"
            raise PydanticCustomError("parts", "{what}", {"what": what, "hint": "Write a multiple."})
        return self


class Ladder(Settings):
    """A method inside whose settings others stand."""

    class Step(Settings):
        width: PositiveInt

    name: ClassVar[str] = "ladder"
    size_setting: ClassVar[str | None] = None
    steps: tuple[Step, ...]
    top: Step | None = None


METHODS: dict[str, type[Settings]] = {"lora": Lora, "ladder": Ladder}


def read_methods(value: Any) -> tuple[Settings, ...]:
    return read_stack(value, list(METHODS), METHODS.__getitem__)


@pytest.fixture(scope="session")
def methods() -> MethodReader:
    return read_methods


@pytest.fixture(scope="session")
def method_settings() -> dict[str, type[Settings]]:
    return METHODS


@pytest.fixture(scope="session")
def read(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Recipe]:
    """Read text (or bytes) as the recipe r.yaml."""
    path = tmp_path_factory.mktemp("recipes") / "r.yaml"

    def read(content: str | bytes, *overrides: str) -> Recipe:
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return read_recipe(path, overrides, read_methods)

    return read
