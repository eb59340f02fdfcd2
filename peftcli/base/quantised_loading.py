"""Quantising while a checkpoint is read, a matrix at a time: nowhere is the whole network in full precision.

transformers has a door for quantisers of one's own: it asks which tensors they want and hands them over one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableSet
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from peftcli.base.anatomy import Anatomy
from peftcli.base.quantise import Form, quantised_paths
from peftcli.base.quantised_linear import quantised
from peftcli.base.source import check_weights

NAME = "peftcli"
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}


def read_quantised(auto: Any, folder: Path, anatomy: Anatomy, form: Form, **settings: Any) -> Any:  # noqa: ANN401
    """Return what ``from_pretrained`` returns, with the projections in quantised layers.

    transformers maps weights into memory, where a page stays as long as any of them is in use. Read piece by piece
    instead, a weight is gone when it is packed.

    Args:
        auto: The Auto class of the task.
        folder: It holds the config and safetensors files.
        anatomy: What the network is made of.
        form: How its projections are held.
        settings: For ``from_pretrained``: config, dtype, ...
    """
    slices: dict[str, Any] = {}
    for path in check_weights(folder):
        file: Any = safe_open(path, framework="pt", backend="pread")
        slices |= {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    if settings["dtype"] == "auto" and settings["config"].dtype is None:
        kinds = [kind for one in slices.values() if (kind := one.get_dtype()) in DTYPES]
        settings["dtype"] = DTYPES[kinds[0]] if kinds else torch.float32
    network_class = auto._model_mapping[type(settings["config"])]
    return network_class.from_pretrained(
        None, state_dict=slices, quantization_config=WhileLoading(anatomy, form), **settings
    )


class WhileLoading(QuantizationConfigMixin):  # type: ignore[misc]  # transformers is not typed
    """What ``from_pretrained`` is given: which parameters to quantise, by their names in the network, and how."""

    def __init__(self, anatomy: Anatomy, form: Form) -> None:
        self.quant_method = NAME
        self.form = form
        # The prefix is known when the network is: of all names that a weight may have, it has one.
        self.transposed = {
            f"{prefix}.{path}" if prefix else path: transposed
            for path, transposed in quantised_paths(anatomy).items()
            for prefix in anatomy.architecture.prefixes
        }


@register_quantizer(NAME)
class _Quantiser(HfQuantizer):  # type: ignore[misc]  # transformers is not typed
    def param_needs_quantization(self, model: nn.Module, param_name: str, **_: Any) -> bool:  # noqa: ANN401
        return param_name in self.quantization_config.transposed

    def get_quantize_ops(self) -> ConversionOps:
        return _Quantise(self.quantization_config)

    def postprocess_model(self, model: nn.Module, **_: Any) -> None:  # noqa: ANN401
        """Leave no trace: to the rest of transformers the network is as any other."""
        self.remove_quantization_config(model)

    def is_serializable(self) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return True


class _Quantise(ConversionOps):  # type: ignore[misc]  # transformers is not typed
    def __init__(self, wanted: WhileLoading) -> None:
        self.wanted = wanted

    def convert(
        self,
        input_dict: Mapping[str, Tensor | list[Tensor]],
        *,
        full_layer_name: str,
        model: nn.Module,
        missing_keys: MutableSet[str],
        **_: Any,  # noqa: ANN401
    ) -> dict[str, Tensor]:
        """Put a quantised layer in the place of the one whose weight was read; nothing is left to be set then."""
        (value,) = input_dict.values()
        weight = value[0] if isinstance(value, list) else value
        parent, _dot, own = full_layer_name.removesuffix(".weight").rpartition(".")
        holder = model.get_submodule(parent)
        layer: Any = getattr(holder, own)
        if weight.shape != layer.weight.shape:
            return {full_layer_name: weight}  # refused when the network is compared with its anatomy
        transposed = self.wanted.transposed[full_layer_name]
        setattr(holder, own, quantised(weight, self.wanted.form, bias=layer.bias, transposed=transposed))
        missing_keys.discard(full_layer_name)
        return {}
