"""Every count of trained parameters that a paper of the field prints, beside what its formula gives.

The rows are data for ``test_published_counts.py``, which holds us to them, and for ``scripts/published_counts.py``,
which prints them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from peftcli.base.anatomy import Anatomy
from peftcli.delta.count import Count, closed_form
from peftcli.delta.method import Method
from peftcli.methods.adapter_bias import AdapterBias
from peftcli.methods.adapter_drop import AdapterDrop
from peftcli.methods.adapter_l import AdapterL
from peftcli.methods.bitfit import Bitfit
from peftcli.methods.compacter import Compacter
from peftcli.methods.fact import Fact
from peftcli.methods.full import Full
from peftcli.methods.houlsby import Houlsby
from peftcli.methods.ia3 import Ia3
from peftcli.methods.intrinsic_dimension import IntrinsicDimension
from peftcli.methods.llama_adapter import LlamaAdapter
from peftcli.methods.llm_adapter import LlmAdapter
from peftcli.methods.lora import Lora
from peftcli.methods.low_rank_adapter import LowRankAdapter
from peftcli.methods.parallel import Parallel
from peftcli.methods.pfeiffer import Pfeiffer
from peftcli.methods.phm_adapter import PhmAdapter
from peftcli.methods.pre_embed import PreEmbed
from peftcli.methods.pre_layer import PreLayer
from peftcli.methods.prefix import Prefix
from peftcli.methods.prompt import Prompt
from peftcli.methods.top_layers import TopLayers
from peftcli.methods.unipelt import Unipelt

Verdict = Literal["equal", "truncated", "2^20", "truncated or 2^20", "differs"]
Unit = Literal["M", "%", ""]


def _shape(model_type: str, **config: Any) -> dict[str, Any]:
    return {"model_type": model_type, **config}


def _bert(model_type: str, width: int, layers: int, heads: int) -> dict[str, Any]:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    return _shape(model_type, **sizes, intermediate_size=4 * width)


ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
SHAPES: dict[str, dict[str, Any]] = {
    "GPT-3": _shape("gpt2", n_embd=12288, n_layer=96, n_head=96, n_positions=2048),
    "GPT-2 medium": _shape("gpt2", n_embd=1024, n_layer=24, n_head=16),
    "GPT-2 large": _shape("gpt2", n_embd=1280, n_layer=36, n_head=20),
    "BERT-base": _bert("bert", 768, 12, 12),
    "BERT-large": _bert("bert", 1024, 24, 16),
    "RoBERTa-base": _bert("roberta", 768, 12, 12) | ROBERTA,
    "RoBERTa-large": _bert("roberta", 1024, 24, 16) | ROBERTA,
    "DeBERTa-XXL": _bert("deberta-v2", 1536, 48, 24) | {"vocab_size": 128100},
    "T5-base": _shape("t5", d_model=768, d_ff=3072, num_layers=12, num_heads=12, vocab_size=32128),
    "T0-3B": _shape(
        "t5", d_model=2048, d_kv=64, d_ff=5120, num_layers=24, num_heads=32, vocab_size=32128,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False,
    ),
    "BART-large": _shape(
        "bart", d_model=1024, encoder_layers=12, decoder_layers=12, encoder_attention_heads=16,
        decoder_attention_heads=16, encoder_ffn_dim=4096, decoder_ffn_dim=4096,
    ),
    "LLaMA-7B": _shape(
        "llama", hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, intermediate_size=11008,
        vocab_size=32000,
    ),
    "ViT-B": _shape("vit", hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072),
}  # fmt: skip


def t5_biases(anatomy: Anatomy) -> int:
    """Count a bias for every output of a linear map and of a norm, which T5 has none of, and for the vocabulary."""
    linear = sum(s.d_out for s in anatomy.sites(anatomy.projections))
    return linear + sum(t.size for t in anatomy.norms) + anatomy.vocabulary


@dataclass(frozen=True, kw_only=True)
class Row:
    """A printed count.

    Attributes:
        printed: In ``unit``, with the decimals it is printed with; of the base model's size where the unit is %.
        where: The paper and the place in it.
        base: A key of SHAPES.
        method: One method, a stack, or a formula where no method of ours has this meaning.
        computed: What the closed form gives.
        task: What the base model is prepared for, where that decides what it consists of.
        head: Whether a head for two labels is counted as well.
        verdict: What of the printed figure it equals.
        reason: Why it does not.
    """

    printed: str
    unit: Unit = "M"
    where: str
    base: str
    method: Method | tuple[Method, ...] | Callable[[Anatomy], int]
    computed: int
    task: str | None = None
    head: bool = False
    verdict: Verdict = "equal"
    reason: str = ""

    @property
    def anatomy(self) -> Anatomy:
        """The base model."""
        return Anatomy.of(SHAPES[self.base], task=self.task, labels=2 if self.task == "classification" else None)

    def count(self) -> int:
        """Return what the closed form gives."""
        if callable(self.method):
            return self.method(self.anatomy)
        stack = self.method if isinstance(self.method, tuple) else (self.method,)
        found: Count = closed_form(stack, self.anatomy)
        return found.delta + found.head * self.head

    def judged(self) -> Verdict:
        """Return what of the printed figure the computed one equals."""
        decimals = len(self.printed.partition(".")[2])
        if self.unit == "%":
            exact, binary = 100 * self.computed / self.anatomy.size, math.nan
        else:
            exact, binary = self.computed / 1e6, self.computed / 2**20
        printed = float(self.printed)
        if round(exact, decimals) == printed:
            return "equal"
        truncated = math.floor(exact * 10**decimals) == round(printed * 10**decimals)
        if not math.isnan(binary) and round(binary, decimals) == printed:
            return "truncated or 2^20" if truncated else "2^20"
        return "truncated" if truncated else "differs"

    def settings(self) -> str:
        """Return the methods with what was set."""
        if callable(self.method):
            return self.method.__name__
        stack = self.method if isinstance(self.method, tuple) else (self.method,)
        return " + ".join(
            f"{m.name}({', '.join(f'{n}={getattr(m, n)}' for n in type(m).model_fields if n in m.model_fields_set)})"
            for m in stack
        )


QV, QKVO = ("W_q", "W_v"), ("W_q", "W_k", "W_v", "W_o")
LORA2, LORA3, LORA4 = "LoRA, table 2", "LoRA, table 3", "LoRA, table 4"
LORA5, LORA15 = "LoRA, table 5", "LoRA, table 15"
COMPACTER, MAM = "Compacter, table 1", "MAM, abstract"
UNSCALED = "printed is a tenth of a percent of the model, not a count"
PRINTED_PRE_LAYER = "the paper's own formula, L d (l_p + l_i), gives less than it prints in every row"
WEIGHTS_ALONE = "printed in units of 2^20, of which the matrices alone would be exactly as many"

ROWS: tuple[Row, ...] = (
    Row(printed="4.7", where=LORA4, base="GPT-3", method=Lora(rank=1), computed=4_718_592),
    Row(
        printed="4.7", where=LORA15, base="GPT-3", method=Lora(rank=2, target_modules=("W_v",)), computed=4_718_592
    ),
    Row(printed="37.7", where=LORA4, base="GPT-3", method=Lora(rank=8), computed=37_748_736),
    Row(
        printed="37.7", where="LoRA, appendix E.4", base="GPT-3", method=Lora(rank=4, target_modules=QKVO),
        computed=37_748_736,
    ),
    Row(
        printed="37.7", where="LoRA, appendix E.4", base="GPT-3", method=Lora(rank=2, target_modules=QKVO),
        computed=18_874_368, verdict="differs",
        reason="the appendix writes rank 2; 37.7M is rank 4, and table 15 has 18.8M for rank 2",
    ),
    *(
        Row(
            printed="18", where=LORA5, base="GPT-3", method=Lora(rank=rank, target_modules=sites), computed=18_874_368,
            verdict="truncated or 2^20", reason="a budget of 18M, not a count",
        )
        for rank, sites in ((8, ("W_q",)), (4, QV), (2, QKVO))
    ),
    Row(
        printed="18.8", where=LORA15, base="GPT-3", method=Lora(rank=2, target_modules=QKVO), computed=18_874_368,
        verdict="truncated", reason="printed without rounding up",
    ),
    Row(
        printed="301.9", where=LORA15, base="GPT-3", method=Lora(rank=64), computed=301_989_888, verdict="truncated",
        reason="printed without rounding up",
    ),
    Row(
        printed="603.8", where=LORA15, base="GPT-3", method=Lora(rank=64, target_modules=QKVO), computed=603_979_776,
        verdict="differs", reason="twice the truncated 301.9",
    ),
    Row(
        printed="14.2", where=LORA4, base="GPT-3", method=Bitfit(), computed=12_988_416, verdict="differs",
        reason="all biases are 11 d L + d; 12 d L would be 14.2M, and the origin of the twelfth d is unknown",
    ),
    *(
        Row(
            printed=printed, where=where, base="GPT-3", method=PreEmbed(prefix_length=prefix, infix_length=8),
            computed=12288 * (prefix + 8), verdict=verdict, reason=reason,
        )
        for prefix, printed, where, verdict, reason in (
            (256, "3.2", LORA4, "equal", ""),
            (32, "0.4", LORA15, "truncated", "printed without rounding up"),
            (64, "0.9", LORA15, "equal", ""),
            (128, "1.7", LORA15, "equal", ""),
            (512, "6.4", LORA15, "equal", ""),
        )
    ),
    *(
        Row(
            printed=printed, where=where, base="GPT-3", method=PreLayer(prefix_length=prefix, infix_length=infix),
            computed=96 * 12288 * (prefix + infix), verdict="differs", reason=PRINTED_PRE_LAYER,
        )
        for prefix, infix, printed, where in (
            (2, 2, "5.1", LORA15), (8, 0, "10.1", LORA15), (8, 8, "20.2", LORA4), (32, 4, "44.1", LORA15),
            (64, 0, "76.1", LORA15),
        )
    ),
    *(
        Row(
            printed=printed, where=where, base="GPT-3", method=Houlsby(bottleneck=bottleneck, train_norms=False),
            computed=2 * 96 * (2 * 12288 * bottleneck + bottleneck + 12288),
        )
        for bottleneck, printed, where in (
            (1, "7.1", LORA4), (4, "21.2", LORA15), (8, "40.1", LORA4), (16, "77.9", LORA15), (64, "304.4", LORA15),
        )
    ),
    Row(
        printed="37.8", where=LORA15, base="GPT-3", computed=37_896_192, verdict="truncated",
        method=(Lora(rank=8), PreEmbed(prefix_length=8, infix_length=4)), reason="printed without rounding up",
    ),
    Row(
        printed="52.8", where=LORA15, base="GPT-3", computed=51_904_512, verdict="differs",
        method=(Lora(rank=8), PreLayer(prefix_length=8, infix_length=4)), reason=PRINTED_PRE_LAYER,
    ),
    Row(
        printed="175255.8", where=LORA4, base="GPT-3", method=Full(), task="causal-lm", computed=174_604_259_328,
        verdict="differs", reason="with the embedding tied to the head; an untied one adds 617.6M, to 175,221.8M",
    ),
    Row(printed="0.3", where=LORA2, base="RoBERTa-base", method=Lora(rank=8), computed=294_912),
    Row(printed="0.3", where=LORA2, base="RoBERTa-base", method=Pfeiffer(bottleneck=16), computed=304_320),
    Row(
        printed="0.3", where=LORA2, base="RoBERTa-base", method=AdapterDrop(bottleneck=48, dropped=8),
        computed=298_176, reason="which of the two it is, the paper does not say",
    ),
    Row(
        printed="0.9", where=LORA2, base="RoBERTa-base", method=AdapterDrop(bottleneck=48, dropped=0),
        computed=894_528,
    ),
    Row(
        printed="0.1", where=LORA2, base="RoBERTa-base", method=Bitfit(), task="classification", computed=102_144
    ),
    Row(
        printed="0.8", where="LoRA, README of the code", base="RoBERTa-base", method=Lora(rank=8), head=True,
        task="classification", computed=887_042, verdict="truncated or 2^20",
        reason="the head, which is most of it, is counted here and nowhere else",
    ),
    Row(printed="0.8", where=LORA2, base="RoBERTa-large", method=Lora(rank=8), computed=786_432),
    Row(
        printed="3.0", where=LORA2, base="RoBERTa-large", method=Pfeiffer(bottleneck=64), computed=3_171_840,
        verdict="2^20", reason=WEIGHTS_ALONE,
    ),
    Row(printed="0.8", where=LORA2, base="RoBERTa-large", method=Pfeiffer(bottleneck=16), computed=811_392),
    Row(
        printed="6.0", where=LORA2, base="RoBERTa-large", method=Houlsby(bottleneck=64, train_norms=False),
        computed=6_343_680, verdict="2^20", reason=WEIGHTS_ALONE,
    ),
    Row(
        printed="0.8", where=LORA2, base="RoBERTa-large", method=Houlsby(bottleneck=8, train_norms=False),
        computed=835_968,
    ),
    Row(printed="4.7", where=LORA2, base="DeBERTa-XXL", method=Lora(rank=16), computed=4_718_592),
    Row(
        printed="4.7", where=LORA2, base="DeBERTa-XXL", method=Lora(rank=8), computed=2_359_296, verdict="differs",
        reason="the paper's settings say rank 8, its scripts and the size of its checkpoint rank 16",
    ),
    Row(
        printed="0.35", where=LORA3, base="GPT-2 medium", method=Lora(rank=4), computed=393_216, verdict="differs",
        reason=UNSCALED,
    ),
    Row(
        printed="0.77", where=LORA3, base="GPT-2 large", method=Lora(rank=4), computed=737_280, verdict="differs",
        reason=UNSCALED,
    ),
    *(
        Row(
            printed="0.1", unit="%", where="Prefix tuning, table 1", base="GPT-2 medium", task="causal-lm",
            method=Prefix(prefix_length=length), computed=length * 49_152,
        )
        for length in (5, 10)
    ),
    *(
        Row(
            printed=printed, unit=unit, where=where, base="GPT-2 medium", task="causal-lm",
            method=AdapterL(bottleneck=bottleneck), computed=computed,
        )
        for printed, unit, where, bottleneck, computed in (
            ("3", "%", "Prefix tuning, table 1", 224, 11_089_152), ("0.1", "%", "Prefix tuning, table 1", 6, 368_784),
            ("11.09", "M", LORA3, 224, 11_089_152), ("0.37", "M", LORA3, 6, 368_784),
        )
    ),
    *(
        Row(printed=p, where=LORA3, base="GPT-2 large", method=AdapterL(bottleneck=a), computed=c)
        for p, a, c in (("0.88", 8, 875_808), ("23.00", 248, 23_002_848))
    ),
    Row(
        printed="11.09", where=LORA3, base="GPT-2 medium", method=Houlsby(bottleneck=112, train_norms=False),
        computed=11_064_576, verdict="differs",
        reason="printed is 24,576 more, what Adapter-L adds for its norms: the figure of that row, repeated",
    ),
    Row(
        printed="25.19", where=LORA3, base="GPT-2 medium", method=TopLayers(count_layers=2), computed=25_192_448
    ),
    Row(
        printed="24", where="later tables that quote LoRA", base="GPT-2 medium", method=TopLayers(count_layers=2),
        computed=25_192_448, verdict="2^20", reason="the 25.19M that the paper itself prints, in units of 2^20",
    ),
    *(
        Row(
            printed=printed, unit="%", where="BitFit, results on GLUE", base=base, method=Bitfit(biases=biases),
            computed=computed, task="classification",
        )
        for printed, base, biases, computed in (
            ("0.09", "BERT-base", "all", 102_912), ("0.08", "BERT-large", "all", 272_384),
            ("0.04", "BERT-base", ("W_q", "W_up"), 46_080), ("0.04", "BERT-large", ("W_q", "W_up"), 122_880),
        )
    ),
    *(
        Row(printed=printed, unit="%", where=COMPACTER, base="T5-base", method=method, computed=computed)
        for printed, method, computed in (
            (".832", AdapterDrop(adapter="houlsby", bottleneck=24, dropped=0), 1_855_104),
            (".427", Pfeiffer(bottleneck=24, train_norms=True), 951_360),
            (".494", AdapterDrop(adapter="houlsby", bottleneck=24, dropped=5), 1_101_984),
            (".073", LowRankAdapter(bottleneck=24), 161_664),
            (".073", Compacter(bottleneck=24), 161_728),
            (".047", Compacter(bottleneck=24, placement=("after_ffn",)), 104_704),
            (".179", PhmAdapter(bottleneck=24, terms=12), 398_976),
            (".034", Prompt(prompt_length=100), 76_800),
            (".009", IntrinsicDimension(dimension=20_000), 20_000),
        )
    ),
    Row(
        printed=".126", unit="%", where=COMPACTER, base="T5-base", method=t5_biases, computed=282_496,
        verdict="truncated", reason="T5 has no biases: new ones on every linear map, norm and vocabulary entry",
    ),
    Row(printed="0.17", where="AdapterBias", base="BERT-large", method=AdapterBias(), computed=174_104),
    Row(
        printed="0.17", where="AdapterBias, as 2 d L in surveys", base="BERT-large", computed=49_152,
        method=AdapterBias(train_norms=False, input="residual"), verdict="differs",
        reason="what was published reads the inside of the FFN, and trains norms",
    ),
    Row(
        printed="1.2", where="LLaMA-Adapter, abstract", base="LLaMA-7B", computed=1_229_760,
        method=LlamaAdapter(prompt_length=10, layers="top:30"),
    ),
    *(
        Row(
            printed="200", where="LLM-Adapters, README of the code", base="LLaMA-7B", computed=computed,
            method=LlmAdapter(placement=placement), verdict="differs", reason=reason,
        )
        for placement, computed, reason in (
            ("series", 201_326_592, "a round figure"), ("parallel", 201_326_592, "a round figure"),
            ("behind_ffn", 67_108_864, "one figure for all three; this one is a third of the others"),
        )
    ),
    Row(
        printed="0.037", where="FacT, VTAB-1k", base="ViT-B", method=Fact(form="tt", rank=16), computed=61_440,
        verdict="differs", reason="a mean over 19 tasks, whose ranks differ",
    ),
    Row(
        printed="0.069", where="FacT, VTAB-1k", base="ViT-B", method=Fact(form="tk", rank=32), computed=86_528,
        verdict="differs", reason="a mean over 19 tasks, whose ranks differ",
    ),
    Row(
        printed="6.7", unit="%", where=MAM, base="BART-large", computed=27_414_528,
        method=(Prefix(prefix_length=30, hidden=800), Parallel(bottleneck=512)),
    ),
    Row(
        printed="0.5", unit="%", where=MAM, base="RoBERTa-base", computed=599_232,
        method=(Prefix(prefix_length=16), Parallel(bottleneck=16, scale=2.0)),
    ),
    Row(
        printed="1.26", unit="%", where="UniPELT", base="BERT-base", method=Unipelt(), computed=1_410_672,
        verdict="differs", reason="1.25 % without the gates, 1.29 % with all of ours",
    ),
    Row(printed="0.019", unit="%", where="T-Few", base="T0-3B", method=Ia3(), computed=540_672),
)  # fmt: skip
