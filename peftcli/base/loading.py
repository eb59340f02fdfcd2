"""Loading a base model with transformers: quietly, from safetensors alone, and never with a tensor made up."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from peftcli.base.anatomy import OUTSIDE, Anatomy
from peftcli.base.base_model import BaseModel, find_prefix, plain_parameters
from peftcli.base.calls import explained, quiet
from peftcli.base.networks import anatomy_for
from peftcli.base.pooling import check_pooling
from peftcli.base.quantise import Form, quantised_paths, require_engine
from peftcli.base.source import Source, read_config
from peftcli.errors import BaseModelError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

    from peftcli.recipe.recipe import Pooling

_SHOWN = 5  # names in a message
_TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model")  # what a vocabulary is kept in


def load_base(  # noqa: PLR0913  # all of them by name
    source: Source,
    *,
    task_class: str,
    settings: Mapping[str, Any],
    dtype: str,
    new_head: bool,
    seed: int,
    quantise: Form = "none",
    pooling: Pooling = "base",
) -> BaseModel:
    """Load a base model, frozen.

    The head is what the checkpoint does not hold and, under ``new_head``, everything outside the backbone; a
    classifier for another number of labels is made anew. Any other tensor must be in the checkpoint.

    Args:
        source: Where it is.
        task_class: Name of the transformers Auto class, such as AutoModelForCausalLM.
        settings: Put on the config: num_labels, id2label, ...
        dtype: How the weights are held; ``auto`` keeps the checkpoint's own type.
        new_head: Whether the task brings a head of its own.
        seed: For what the head starts from.
        quantise: In which form the projections are held; always packed on the CPU, so that every machine gets the same.
        pooling: Which of the last hidden states the head reads.

    Raises:
        BaseModelError: The checkpoint does not fit its config, or the family cannot do the task.
        MethodError: There is nothing to pool.
        ResourceError: The memory is too small, or what packs the weights is not installed.
    """
    require_engine(quantise)
    given = read_config(str(source.folder))
    if "quantization_config" in given:
        raise BaseModelError("the checkpoint is quantised", where=source.label, hint="Use the model in full precision.")
    anatomy = anatomy_for(given, task_class, settings.get("num_labels"))
    check_pooling(anatomy, pooling)
    torch.manual_seed(seed)
    with quiet(), explained(source.label):
        network, info = _reader(task_class, source, anatomy, quantise)(
            config=_config(source, settings),
            dtype=dtype,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    new = _check_loaded(info, network, anatomy, new_head=new_head, label=source.label)
    outside = _outside(network, anatomy) if new_head else set()
    base = BaseModel(network, anatomy, new | outside, pooling)
    assert quantise == "none" or len(base.quantised) == len(quantised_paths(anatomy))
    _check_finite(base, source.label)
    _set_padding(base, source)
    return base


def empty_base(config: Mapping[str, Any], *, task_class: str, settings: Mapping[str, Any]) -> BaseModel:
    """Return a base model whose parameters have shapes but no values, as transformers builds it.

    Args:
        config: What config.json holds.
        task_class: Name of the transformers Auto class.
        settings: Put on the config: num_labels, ...

    Raises:
        BaseModelError: The config does not describe a network, or the family cannot do the task.
    """
    from transformers import AutoConfig

    anatomy = anatomy_for(config, task_class, settings.get("num_labels"))
    given = dict(config)
    with quiet(), explained(anatomy.family), torch.device("meta"):
        made = AutoConfig.for_model(given.pop("model_type"), **given)
        network = _auto_class(task_class).from_config(_with(made, settings))
    return BaseModel(network, anatomy, _outside(network, anatomy) if anatomy.task in anatomy.architecture.heads else ())


@functools.lru_cache(maxsize=2)
def load_tokenizer(source: Source) -> tuple[PreTrainedTokenizerFast, int, tuple[str, ...]]:
    """Return the tokenizer, the id that rows are padded with, and what people should know about them.

    Raises:
        BaseModelError: There is no fast tokenizer, or it knows more tokens than the base model.
    """
    from transformers import AutoTokenizer

    where = str(source.folder)
    if not _has_tokenizer(source):
        # transformers makes up a tokenizer that knows five tokens.
        raise BaseModelError("there is no tokenizer", where=where, hint="Put the model's tokenizer.json there.")
    with quiet(), explained(source.label):
        tokenizer = AutoTokenizer.from_pretrained(
            source.folder, use_fast=True, trust_remote_code=False, local_files_only=True
        )
    if not tokenizer.is_fast:
        raise BaseModelError("has no fast tokenizer", where=where, hint="Save it with a tokenizer.json.")
    rows = Anatomy.of(read_config(where)).vocabulary
    most = max(tokenizer.get_vocab().values(), default=-1) + 1
    if not 0 < most <= rows:
        raise BaseModelError(
            f"the tokenizer has {most} tokens, but the base model's embedding has {rows} rows",
            where=where,
            hint="Use the tokenizer that belongs to the base model.",
        )
    if tokenizer.pad_token_id is not None:
        return tokenizer, tokenizer.pad_token_id, ()
    if tokenizer.eos_token_id is None:
        raise BaseModelError("the tokenizer has neither a padding nor an end-of-sequence token", where=where)
    note = f"the tokenizer has no padding token: rows are padded with {tokenizer.eos_token}, which the mask hides"
    return tokenizer, tokenizer.eos_token_id, (note,)


def _reader(task_class: str, source: Source, anatomy: Anatomy, form: Form) -> Callable[..., Any]:
    if form == "none":
        return functools.partial(_auto_class(task_class).from_pretrained, source.folder, use_safetensors=True)
    from peftcli.base.quantised_loading import read_quantised  # imports what transformers quantises with

    return functools.partial(read_quantised, _auto_class(task_class), source.folder, anatomy, form)


def _auto_class(name: str) -> Any:  # noqa: ANN401  # a class that transformers makes up
    import transformers

    return getattr(transformers, name)


def _config(source: Source, settings: Mapping[str, Any]) -> PreTrainedConfig:
    from transformers import AutoConfig

    return _with(AutoConfig.from_pretrained(source.folder, trust_remote_code=False, local_files_only=True), settings)


def _with(config: PreTrainedConfig, settings: Mapping[str, Any]) -> PreTrainedConfig:
    # The number of labels first: setting it makes up names, which the names in the settings replace.
    for name in sorted(settings, key=lambda n: n != "num_labels"):
        setattr(config, name, settings[name])
    config.architectures = config.architectures or []  # transformers looks through it where a task has two classes
    return config


def _outside(network: nn.Module, anatomy: Anatomy) -> set[str]:
    """Return the names of the parameters outside the backbone."""
    names = plain_parameters(network)
    prefix = find_prefix(names, anatomy)
    own = {f"{prefix}.{t.path}" if prefix else t.path for t in anatomy.tensors if not t.path.startswith(OUTSIDE)}
    return set(names) - own


def _check_loaded(
    info: Mapping[str, Any], network: nn.Module, anatomy: Anatomy, *, new_head: bool, label: str
) -> set[str]:
    """Return the parameters that were made anew; refuse a checkpoint where those are not all the head's."""
    missing, misfit = set(info["missing_keys"]), {entry[0] for entry in info["mismatched_keys"]}
    names = {n for n, _ in network.named_parameters()}
    outside = _outside(network, anatomy) if new_head else set()
    prefix = find_prefix(names, anatomy)
    optional = {f"{prefix}.{t.path}" if prefix else t.path for t in anatomy.tensors if t.optional}
    lost = sorted((missing & names) - outside - optional)
    wrong = sorted(misfit - outside)
    dropped = _dropped(info["unexpected_keys"], anatomy)
    found = ((lost, "missing"), (wrong, "of another shape"), (dropped, "of no use to this config"))
    problems = [f"{len(n)} {what} (for instance {', '.join(n[:_SHOWN])})" for n, what in found if n]
    if problems or info.get("error_msgs"):
        raise BaseModelError(
            f"the checkpoint does not fit its config: tensors {'; '.join(problems) or info['error_msgs'][0]}",
            where=label,
            hint="Nothing is made up for a base model: fetch it again, or mend its config.json.",
        )
    return (missing | misfit) & names


def _dropped(unexpected: set[str], anatomy: Anatomy) -> list[str]:
    """Return those tensors that the network ignored although they are parameters of some layer."""
    starts = [plan.block.split("{i}")[0] for plan in anatomy.architecture.stacks]
    places = {p.path for plan in anatomy.architecture.stacks for p in plan.pieces}
    found = []
    for name in sorted(unexpected):
        for prefix in anatomy.architecture.prefixes:
            path = name.removeprefix(f"{prefix}.") if prefix else name
            start = next((s for s in starts if path.startswith(s)), None)
            # Old checkpoints also keep masks and rotary tables in their layers; those are no parameters.
            if start and path.removeprefix(start).partition(".")[2].rpartition(".")[0] in places:
                found.append(name)
                break
    return found


def _check_finite(base: BaseModel, label: str) -> None:
    broken = [n for n, p in base.parameters.items() if n not in base.head and not bool(torch.isfinite(p).all())]
    # A number that is not finite makes the statistics of its block so.
    broken += [n for n, m in base.quantised.items() if not all(torch.isfinite(p).all() for p in m.packed.parameters())]
    if broken:
        raise BaseModelError(
            f"{len(broken)} tensors hold numbers that are not finite (for instance {', '.join(broken[:_SHOWN])})",
            where=label,
            hint="The checkpoint is damaged, or base.dtype is too narrow for it.",
        )


def _set_padding(base: BaseModel, source: Source) -> None:
    """Tell a decoder that classifies which id pads: it reads the last token that is not one."""
    config: Any = base.network.config
    if base.anatomy.arch == "decoder" and base.anatomy.task == "classification" and _has_tokenizer(source):
        config.pad_token_id = load_tokenizer(source)[1]


def _has_tokenizer(source: Source) -> bool:
    return any(next(source.folder.glob(pattern), None) for pattern in _TOKENIZERS)
