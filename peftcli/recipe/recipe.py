"""The recipe language, version 1: one frozen object for everything a run is told."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from peftcli.recipe.settings import IsPath, Settings

VERSION = 1
SHARE_FORM = r"^\s*\d+(\.\d+)?\s*%$"
HUB_FORM = (
    r"(?P<id>([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*|[A-Za-z0-9][\w-]*))(:(?P<config>[\w.-]+))?(#(?P<split>[\w.-]+))?"
)
_FILE_FORM = r"\.(jsonl|json|csv|tsv|parquet|arrow)(\.gz)?$"
NAME_FORM = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[str, Field(pattern=SHARE_FORM)]
Pooling = Literal["base", "mean", "first", "last"]


def _is_folder(text: str, folder: Path) -> bool:
    try:
        return (folder / text).is_dir()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _is_file(text: str, folder: Path) -> bool:
    """Return whether a text names files, and not a data set of a hub; what is there wins."""
    if re.search(_FILE_FORM, text, re.IGNORECASE) or not re.fullmatch(HUB_FORM, text):
        return True
    try:
        return (folder / text).exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _is_no_share(text: str, folder: Path) -> bool:
    return not re.match(SHARE_FORM, text) and _is_file(text, folder)


def _is_module(text: str, _: Path) -> bool:
    return text.endswith(".py")


def _is_template(text: str, _: Path) -> bool:
    return text.endswith(".jinja")


class BaseSection(Settings):
    """The pretrained model that is adapted."""

    name: Annotated[str, Field(min_length=1), IsPath(_is_folder)]
    """A hub id (org/name), a directory, or demo:minilm."""
    revision: str | None = None
    """Branch, tag or commit of a hub id; the commit is recorded."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """How the frozen weights are held; auto keeps the checkpoint's own type."""
    quantise: Literal["none", "nf4", "int8"] = "none"
    """Hold the projections in 4 bits (nf4: QLoRA's, doubly quantised) or in 8; the rest stays as dtype says."""


class DataSection(Settings):
    """What is learned: a task, its rows, and which columns hold what."""

    task: Literal[
        "classification",
        "regression",
        "token-classification",
        "span-qa",
        "multiple-choice",
        "causal-lm",
        "seq2seq",
        "image-classification",
    ]
    """classification (one text or a pair), regression (a number for them), token-classification (a tag for every word),
    span-qa (a question's answer stands in a text), multiple-choice (the likeliest of several continuations),
    causal-lm (prompt and completion; the loss is on the completion), seq2seq (input and target, for an encoder-decoder)
    or image-classification (an image)."""
    train: Annotated[str | list[str], IsPath(_is_file)]
    """A path, a glob, demo:intents, org/name:config#split of a hub, a known name (glue/sst2, squad), or a list."""
    validation: Annotated[str | list[str] | None, IsPath(_is_no_share)] = None
    """Like train, or a share of the training rows such as 10%."""
    test: Annotated[str | list[str] | None, IsPath(_is_file)] = None
    """Like train."""
    revision: str | None = None
    """Branch, tag or commit of the hub's data sets."""
    columns: dict[str, str] = {}
    """What the task calls a column -> what the file calls it: text, label; prompt, completion; input, target."""
    multi_label: bool = False
    """classification: a row has any number of labels, as a list or as a text with ; between them."""
    pooling: Pooling = "base"
    """classification, regression: what the head reads of a text's last hidden states: what the base model's own class
    does (of an encoder the first, of a decoder the last), their mean, the first or the last."""
    labels: list[str] | None = None
    """The labels in order; default: those of the training rows, sorted."""
    max_length: PositiveInt | None = None
    """Longest input in tokens; default: what the model allows, at most 512."""
    limit: PositiveInt | None = None
    """Use this many training rows, drawn with the seed."""
    shots: PositiveInt | None = None
    """Use this many training rows of each class, drawn with the seed."""
    cache: bool = True
    """Keep what many rows (50,000 or more) become when they are tokenised, for later runs of the same rows."""
    streaming: bool = False
    """Read the training rows as training goes, for more of them than memory holds; needs training.steps."""
    shuffle_buffer: Annotated[int, Field(ge=1000)] = 10_000
    """With streaming, so many rows that follow each other in the files are shuffled together."""
    limit_validation: PositiveInt | None = None
    """Use this many validation rows, drawn with the seed."""
    source_prefix: str = ""
    """seq2seq: what stands before every input, such as 'summarize: '."""
    train_on: Literal["completion", "last", "all"] = "completion"
    """causal-lm: learn the completion (of a chat all that the assistant says), the last answer alone, or all tokens."""
    chat_template: Annotated[str | None, IsPath(_is_template)] = None
    """causal-lm: chatml, or the path of a .jinja file, in place of the tokenizer's own template for messages."""
    doc_stride: Annotated[int, Field(ge=0)] = 128
    """span-qa: how many tokens neighbouring windows of a long text share; half a window where that is less."""
    max_answer_length: PositiveInt = 30
    """span-qa: the longest answer that is predicted, in tokens."""
    null_threshold: float = 0.0
    """span-qa, where some questions have no answer: predict none if it scores higher than the best answer by more."""
    normalise: Literal["sum", "token", "character"] = "token"
    """multiple-choice: compare the choices' log-likelihoods as they are, per token, or per character."""
    forbid_overlap: bool = False
    """Refuse data whose validation or test rows also stand in train; otherwise they are counted and reported."""


class TrainingSection(Settings):
    """How the delta is trained."""

    epochs: PositiveFloat | None = None
    """Passes over the training rows (default 3, unless steps is given)."""
    steps: PositiveInt | None = None
    """Optimizer steps; excludes epochs."""
    batch_size: PositiveInt = 32
    """Examples per optimizer step, over all devices."""
    micro_batch_size: PositiveInt | None = None
    """Most examples one device computes at once; the rest of its share is accumulated."""
    learning_rate: Annotated[float, Field(gt=0, lt=10)] | None = None
    """Default: the method's own published rate (in a stack, each method's for its own tensors)."""
    head_learning_rate: Annotated[float, Field(gt=0, lt=10)] | None = None
    """For a new head; default: the delta's, or what the method's card says."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate goes to zero after the warm-up, or that it does not."""
    warmup: Share | Annotated[int, Field(ge=0)] = "6%"
    """Steps, or a share of them, during which the learning rate rises from zero."""
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """AdamW's; never on biases, norms and prompts."""
    clip: PositiveFloat | None = 1.0
    """Largest norm of the gradient of the whole delta; null to leave it alone."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """What is computed in; auto is bfloat16 on a GPU that has it and float32 elsewhere. The delta stays float32."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    base_dropout: Literal["keep", "off"] = "keep"
    """Whether the frozen model's own dropout acts in training."""
    early_stopping: PositiveInt | None = None
    """Stop after this many evaluations without a better score."""
    checkpoint_every: PositiveInt | None = None
    """Steps between checkpoints for resuming; default: at every evaluation, and when the run is asked to stop."""


class GenerationSection(Settings):
    """How texts are written, where a metric or `peft predict` asks for them."""

    max_new_tokens: PositiveInt = 64
    """Most tokens of one text; fewer where the base model has no positions left."""
    num_beams: PositiveInt = 1
    """1 takes the likeliest token at each step; more keep as many beginnings and take the likeliest whole."""
    length_penalty: float = 1.0
    """Of beam search: a text's log-likelihood is divided by its length to this power."""
    sample: bool = False
    """Draw every token instead; the draws depend on the recipe's seed and the row alone."""
    temperature: PositiveFloat = 1.0
    """Of sampling: below 1 prefers likely tokens."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of sampling: draw from the likeliest tokens that together have this probability."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Of sampling: draw from this many of the likeliest tokens; 0 from all."""
    stop: list[Annotated[str, Field(min_length=1)]] = []
    """Texts that end a generated one where they first occur; they are no part of it."""
    batch_size: PositiveInt = 16
    """Texts that are written at once."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        """Refuse settings of a way of writing that was not chosen: they would do nothing."""
        beams, draws = self.num_beams > 1, self.sample
        drawing = [name for name in ("temperature", "top_p", "top_k") if getattr(self, name) != _default(self, name)]
        if beams and draws:
            raise _two_ways("evaluation.generation has both num_beams and sample", "Leave one of them out.")
        if drawing and not draws:
            raise _two_ways(f"evaluation.generation.{drawing[0]} means nothing without sample", "Set sample too.")
        if self.length_penalty != 1 and not beams:
            what = "evaluation.generation.length_penalty means nothing without beams"
            raise _two_ways(what, "Set num_beams too, to 4 for instance.")
        return self


def _default(settings: Settings, name: str) -> object:
    return type(settings).model_fields[name].get_default()


def _two_ways(what: str, hint: str) -> PydanticCustomError:
    return PydanticCustomError("generation", "{what}", {"what": what, "hint": hint})


class EvaluationSection(Settings):
    """When the delta is measured, by what, and which checkpoint is kept."""

    every: Literal["epoch", "end"] | PositiveInt = "epoch"
    """epoch, end, or a number of steps."""
    metrics: Annotated[list[str] | None, IsPath(_is_module)] = None
    """Names of the task's metrics, or paths of your own metric modules (read by the evaluate library)."""
    select: str | None = None
    """The metric by which the best checkpoint is kept; default: the task's. `last` keeps the last one."""
    batch_size: PositiveInt = 64
    """Examples per forward pass."""
    base: bool = True
    """Whether the un-tuned base is measured too."""
    source: Annotated[str | list[str] | None, IsPath()] = None
    """Language models: text of what the base knew (.txt, or rows with `text`), to measure what training forgets."""
    generation: GenerationSection = GenerationSection()
    """How texts are written where a metric needs them."""


class Recipe(Settings):
    """Everything a run is told."""

    version: Literal[1] = 1
    """Of the recipe language."""
    name: Annotated[str, Field(pattern=NAME_FORM)] | None = None
    """Names the run's folder; default: the file's name."""
    base: BaseSection
    """The pretrained model that is adapted."""
    method: tuple[SerializeAsAny[Settings], ...]
    """The fine-tuning method: one mapping, or a list (a stack)."""
    data: DataSection
    """What is learned."""
    training: TrainingSection = TrainingSection()
    """How the delta is trained."""
    evaluation: EvaluationSection = EvaluationSection()
    """When and how the delta is measured."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """The run is a function of the recipe and this number."""

    @field_validator("method", mode="wrap")
    @classmethod
    def _methods(cls, value: Any, _: Any, info: ValidationInfo) -> tuple[Settings, ...]:  # noqa: ANN401
        """Let the method registry, which lives on a higher floor, read the section (see read.read_recipe)."""
        assert info.context, "a recipe is validated by read_recipe"
        methods: tuple[Settings, ...] = info.context["methods"](value)
        return methods
