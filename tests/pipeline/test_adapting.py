"""What a run prepares before it attaches."""

from __future__ import annotations

import json
import shutil

import pytest
from tiny import save_tiny

from peftcli.data.tasks import Classification
from peftcli.delta.delta import attach
from peftcli.errors import MethodError, RecipeError
from peftcli.methods.pre_embed import PreEmbed
from peftcli.methods.prefix import Prefix
from peftcli.methods.prompt import Prompt
from peftcli.pipeline.adapting import prepare
from peftcli.recipe.recipe import BaseSection

TASK = Classification(column_names={"text": "text", "label": "label"}, labels=("no", "yes"))
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "lost", "book", "late"]


@pytest.fixture(scope="module")
def section(tmp_path_factory) -> BaseSection:
    """A tiny BERT with a tokenizer that puts special tokens around a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    folder = save_tiny(tmp_path_factory.mktemp("base"), "bert")
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return BaseSection(name=str(folder))


def test_a_start_text_is_read_with_the_base_model_s_tokenizer_and_without_special_tokens(section):
    method = Prompt(prompt_length=3, start="text", start_text="late book")
    prepared = prepare(section, TASK, (method,), seed=0)
    table = prepared.base.parameters["bert.embeddings.word_embeddings.weight"]
    ((_, block),) = attach(prepared.methods, prepared.base, seed=0).blocks()
    assert block.prompt.tolist() == table[[6, 5, 6]].tolist()


def test_methods_that_need_no_tokenizer_are_prepared_as_they_are(section):
    method = Prefix(prefix_length=3)
    assert prepare(section, TASK, (method,), seed=0).methods[0] is method


def test_a_start_text_without_a_token_is_refused(section):
    method = Prefix(reparameterise=False, start="activations", start_text=" ")
    with pytest.raises(MethodError, match="start_text is ' '"):
        prepare(section, TASK, (method,), seed=0)


def test_virtual_tokens_and_text_share_the_positions(section):
    prepared = prepare(section, TASK, (PreEmbed(prefix_length=30),), seed=0)
    assert prepared.virtual.count == 30
    assert prepared.task.max_length == 10
    with pytest.raises(RecipeError, match="of which the prompt takes 30"):
        prepare(section, Classification(**{**vars(TASK), "max_length": 11}), (PreEmbed(prefix_length=30),), seed=0)


@pytest.mark.parametrize(
    ("names", "told"), [(("no", "yes"), False), (("yes", "no"), True), (("LABEL_0", "LABEL_1"), True), (None, False)]
)
def test_a_classifier_of_other_labels_is_kept_and_told_of(section, tmp_path, names, told):
    folder = shutil.copytree(section.name, tmp_path / "base")
    save_tiny(folder, "bert", "classification", labels=2)
    config = json.loads((folder / "config.json").read_text())
    config.pop("id2label", None)
    config |= {"id2label": dict(enumerate(names))} if names else {}
    (folder / "config.json").write_text(json.dumps(config))
    notes = prepare(BaseSection(name=str(folder)), TASK, (), seed=0).notes
    assert [note for note in notes if note.endswith("is where the head for no, yes starts")] == list(notes) * told
    assert len(notes) == told
