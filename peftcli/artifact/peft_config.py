"""What the keys of an adapter_config.json mean for what is computed: nothing, something known, or something unknown.

Hugging Face peft takes a default for what is missing and warns of what it does not know; here both are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from peftcli.errors import ArtifactError

# Of no effect on a finished delta, whatever they say.
WITHOUT_EFFECT = frozenset(
    (
        *("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision"),
        "task_type",
    )
)
PROMPTS = frozenset(("num_attention_heads", "num_layers", "num_virtual_tokens", "token_dim", "modules_to_save"))
TARGETS = frozenset(("exclude_modules", "layers_pattern", "layers_to_transform", "modules_to_save", "target_modules"))
# By peft_type: keys that are read, keys of no effect beside those above, and what must be there.
KNOWN: dict[str, tuple[frozenset[str], frozenset[str], tuple[str, ...]]] = {
    "LORA": (
        TARGETS | {"alpha_pattern", "lora_alpha", "r", "rank_pattern", "use_dora", "use_rslora"},
        frozenset(("eva_config", "fan_in_fan_out", "lora_dropout", "megatron_core", "qalora_group_size")),
        ("lora_alpha", "r", "target_modules"),
    ),
    "IA3": (
        TARGETS | {"feedforward_modules"},
        frozenset(("fan_in_fan_out", "init_ia3_weights")),
        ("feedforward_modules", "target_modules"),
    ),
    "PROMPT_TUNING": (
        PROMPTS,
        frozenset(
            ("prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_kwargs", "tokenizer_name_or_path"),
        ),
        ("num_virtual_tokens",),
    ),
    "PREFIX_TUNING": (
        PROMPTS,
        frozenset(("encoder_hidden_size", "init_weights", "prefix_projection")),
        ("num_virtual_tokens",),
    ),
}
HARMLESS_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")  # others change the base model's own weights
TENSORS = {  # what a delta of a type consists of, beside a head
    "LORA": frozenset(("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")),
    "IA3": frozenset(("ia3_l",)),
    "PROMPT_TUNING": frozenset(("prompt_embeddings",)),
    "PREFIX_TUNING": frozenset(("prompt_embeddings",)),
}
NEUTRAL: tuple[Any, ...] = (None, False, {}, [], "none")


def check_config(config: Any, where: str) -> dict[str, Any]:  # noqa: ANN401  # whatever the file holds
    """Return an adapter_config.json of which every key is understood.

    Raises:
        ArtifactError: It is none, something is missing, or a key asks for what is not known here.
    """
    if not isinstance(config, dict):
        raise ArtifactError("is not a JSON object", where=where)
    kind = config.get("peft_type")
    if not isinstance(kind, str) or kind not in KNOWN:
        what = f"peft_type is {kind!r}" if "peft_type" in config else "peft_type is missing"
        raise ArtifactError(what, where=where, hint=f"Imported are {', '.join(KNOWN)}.")
    read, idle, needed = KNOWN[kind]
    for key in needed:
        if config.get(key) is None:
            hint = "Hugging Face peft takes a default there, which need not be what the delta was trained with."
            raise ArtifactError(f"{key} is missing", where=where, hint=hint)
    for key, value in sorted(config.items()):
        if not (key in read | idle | WITHOUT_EFFECT or _is_neutral(key, value)):
            what = f"{key} is {str(value)[:60]!r}: it changes what the delta computes in a way that is not known here"
            raise ArtifactError(what, where=where, hint="Load the delta with peft, or merge it there.")
    _check_numbers(config, where)
    return config


def tensor_names(config: Mapping[str, Any]) -> frozenset[str]:
    """Return what tensors of such a delta are called after the name of their module."""
    names = TENSORS[config["peft_type"]]
    return names if config.get("use_dora") else names - {"lora_magnitude_vector"}


def check_targets(config: Mapping[str, Any], adapted: Iterable[str], every: Iterable[str], where: str) -> None:
    """Check that the modules with tensors are those that the config asks for.

    Args:
        config: Checked by ``check_config``.
        adapted: Modules for which there are tensors, as the delta calls them.
        every: All projections of the base model, called alike.
        where: The folder.

    Raises:
        ArtifactError: Some are missing or too many: peft would leave them out with a warning.
    """
    found = set(adapted)
    asked = {name for name in {*every, *found} if _is_target(config, name, where)}
    lost, extra = sorted(asked - found), sorted(found - asked)
    if lost:
        what = f"target_modules asks for {len(asked)} modules, but {len(lost)} of them have no tensors"
        raise ArtifactError(f"{what} (for instance {', '.join(lost[:3])})", where=where, hint="Fetch the delta again.")
    if extra:
        what = f"{len(extra)} modules have tensors, but target_modules does not ask for them"
        raise ArtifactError(f"{what} (for instance {', '.join(extra[:3])})", where=where)


def _is_neutral(key: str, value: Any) -> bool:  # noqa: ANN401
    if key == "init_lora_weights":
        return any(value is start or value == start for start in HARMLESS_STARTS if type(value) is type(start))
    if key == "num_transformer_submodules":
        return value in (None, 1)
    return any(value == neutral and type(value) is type(neutral) for neutral in NEUTRAL)


def _check_numbers(config: Mapping[str, Any], where: str) -> None:
    """Check the numbers, also those of patterns."""
    whole, real = ["r", "num_virtual_tokens"], ["lora_alpha"]
    found = [(key, config[key], key in whole) for key in (*whole, *real) if config.get(key) is not None]
    for key, is_whole in (("rank_pattern", True), ("alpha_pattern", False)):
        pattern = config.get(key) or {}
        if not isinstance(pattern, dict):
            raise ArtifactError(f"{key} is {pattern!r}, not an object", where=where)
        found += [(f"{key}.{name}", value, is_whole) for name, value in pattern.items()]
    for key, value, is_whole in found:
        kinds = (int,) if is_whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not (0 < value < math.inf):
            raise ArtifactError(f"{key} is {value!r}, not a {'whole ' if is_whole else ''}number above 0", where=where)


def _is_target(config: Mapping[str, Any], name: str, where: str) -> bool:
    """Whether peft would adapt module ``name``."""
    wanted, left_out = config.get("target_modules"), config.get("exclude_modules")
    layers = config.get("layers_to_transform")
    if left_out and _names(left_out, name, where):
        return False
    if wanted == "all-linear":
        return True
    if not _names(wanted, name, where):
        return False
    if layers is None or isinstance(wanted, str):
        return True
    number = re.search(r"\.(\d+)\.", name)
    return number is not None and int(number[1]) in (layers if isinstance(layers, list) else [layers])


def _names(wanted: Any, name: str, where: str) -> bool:  # noqa: ANN401
    if isinstance(wanted, str):
        try:
            return re.fullmatch(wanted, name) is not None
        except re.error as error:
            raise ArtifactError(f"{wanted!r} is no regular expression: {error}", where=where) from None
    if not isinstance(wanted, list) or not all(isinstance(one, str) for one in wanted):
        raise ArtifactError(f"target_modules is {wanted!r}, neither a list of names nor a pattern", where=where)
    return any(name == one or name.endswith(f".{one}") for one in wanted)
