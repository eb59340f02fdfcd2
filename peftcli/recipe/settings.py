"""The one base of everything a recipe can say: strict, frozen, documented by attribute docstrings."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Unknown keys are errors, nothing is coerced, nothing changes after validation."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=False,
    )
