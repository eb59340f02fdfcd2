import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import FAMILIES, save_tiny, tasks, tiny_batch, tiny_config, tiny_network

from peftcli.base.anatomy import Anatomy
from peftcli.base.loading import empty_base, load_base, load_tokenizer
from peftcli.base.source import find_source
from peftcli.errors import BaseModelError

CLASSIFIER = "AutoModelForSequenceClassification"
GENERATOR = "AutoModelForCausalLM"
TEXT = [f for f in FAMILIES if f not in ("vit", "deit", "clip", "clip_vision_model")]


def _load(folder, task_class=CLASSIFIER, *, labels=3, new_head=True, seed=0, dtype="auto"):
    settings = {"num_labels": labels} if task_class != GENERATOR else {}
    source = find_source(str(folder))
    return load_base(source, task_class=task_class, settings=settings, dtype=dtype, new_head=new_head, seed=seed)


def _edit(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("family", TEXT)
def test_a_new_head_is_everything_the_backbone_checkpoint_did_not_hold(tmp_path, family):
    base = _load(save_tiny(tmp_path, family))
    expected = {t.path.removeprefix("^") for t in base.anatomy.head_tensors}
    assert base.head == expected
    assert base.anatomy.size == base.size


@pytest.mark.parametrize("family", TEXT)
def test_the_loaded_weights_are_those_of_the_checkpoint(tmp_path, family):
    base = _load(save_tiny(tmp_path, family))
    bare = tiny_network(family).state_dict()
    for tensor in base.anatomy.tensors:
        stored = bare.get(tensor.path, bare.get(f"decoder.{tensor.path}"))
        if stored is not None:
            assert torch.equal(base.tensor(tensor.path), stored)


@pytest.mark.parametrize("family", [f for f in TEXT if "causal-lm" in tasks(f)])
def test_a_generator_is_loaded_whole(tmp_path, family):
    base = _load(save_tiny(tmp_path, family, "causal-lm"), GENERATOR, new_head=False)
    batch = tiny_batch(family)
    with torch.no_grad():
        expected = tiny_network(family, "causal-lm")(**batch).logits
        assert torch.equal(base.network.eval()(**batch).logits, expected)
    assert base.head == frozenset()


def test_a_language_model_is_a_base_for_a_classifier(tmp_path):
    base = _load(save_tiny(tmp_path, "gpt2", "causal-lm"))
    assert base.head == {"score.weight"}


def test_a_pooler_that_the_checkpoint_lacks_belongs_to_the_head(tmp_path):
    def drop(tensors):
        for name in [n for n in tensors if "pooler" in n]:
            del tensors[name]

    base = _load(_edit(save_tiny(tmp_path, "bert"), drop))
    assert base.head == {"classifier.weight", "classifier.bias", "bert.pooler.dense.weight", "bert.pooler.dense.bias"}


def test_a_head_for_as_many_labels_is_kept(tmp_path):
    base = _load(save_tiny(tmp_path, "bert", "classification", labels=3), labels=3)
    assert torch.equal(base.parameters["classifier.weight"], tiny_network("bert", "classification").classifier.weight)
    assert base.head == {"classifier.weight", "classifier.bias"}


def test_a_head_for_other_labels_is_made_anew(tmp_path):
    base = _load(save_tiny(tmp_path, "bert", "classification", labels=3), labels=5)
    assert base.parameters["classifier.weight"].shape == (5, 16)
    assert base.head == {"classifier.weight", "classifier.bias"}


def test_the_seed_decides_what_the_head_starts_from(tmp_path):
    save_tiny(tmp_path, "roberta")
    heads = [_load(tmp_path, seed=s).parameters["classifier.dense.weight"] for s in (1, 1, 2)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_the_names_of_the_labels_are_put_on_the_config(tmp_path):
    settings = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}, "num_labels": 2}
    source = find_source(str(save_tiny(tmp_path, "bert")))
    base = load_base(source, task_class=CLASSIFIER, settings=settings, dtype="auto", new_head=True, seed=0)
    assert base.network.config.id2label == {0: "no", 1: "yes"}


def test_a_missing_tensor_is_refused_by_name(tmp_path):
    name = "encoder.layer.1.attention.self.query.weight"
    _edit(save_tiny(tmp_path, "bert"), lambda tensors: tensors.pop(name))
    with pytest.raises(BaseModelError, match=rf"1 missing \(for instance bert\.{name}"):
        _load(tmp_path)


def test_a_missing_output_projection_is_refused(tmp_path):
    save_tiny(tmp_path, "llama")
    with pytest.raises(BaseModelError, match=r"lm_head\.weight"):
        _load(tmp_path, GENERATOR, new_head=False)


def test_a_tensor_of_another_shape_is_refused(tmp_path):
    def widen(tensors):
        tensors["embeddings.word_embeddings.weight"] = torch.zeros(70, 16)

    _edit(save_tiny(tmp_path, "bert"), widen)
    with pytest.raises(BaseModelError, match="1 of another shape"):
        _load(tmp_path)


@pytest.mark.parametrize("family", ["gpt2", "t5", "opt", "llama"])
def test_layers_that_the_config_forgets_are_refused(tmp_path, family):
    folder = save_tiny(tmp_path, family)
    config = json.loads((folder / "config.json").read_text())
    key = next(k for k in ("n_layer", "num_layers", "num_hidden_layers") if k in config)
    config.pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config | {key: 1}))
    with pytest.raises(BaseModelError, match="of no use to this config"):
        _load(folder)


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    def break_one(tensors):
        tensors["h.0.ln_1.weight"][3] = float("nan")

    _edit(save_tiny(tmp_path, "gpt2"), break_one)
    with pytest.raises(BaseModelError, match=r"not finite \(for instance transformer\.h\.0\.ln_1\.weight"):
        _load(tmp_path)


def test_a_quantised_checkpoint_is_refused(tmp_path):
    folder = save_tiny(tmp_path, "llama")
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": {"quant_method": "gptq"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BaseModelError, match="quantised"):
        _load(folder)


def test_a_cut_off_file_is_refused(tmp_path):
    file = save_tiny(tmp_path, "bert") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BaseModelError, match="cannot be loaded"):
        _load(tmp_path)


def test_a_family_that_cannot_do_the_task_is_refused(tmp_path):
    save_tiny(tmp_path, "vit")
    with pytest.raises(BaseModelError, match="reads images, and the task gives text"):
        _load(tmp_path)


def test_a_type_can_be_asked_for(tmp_path):
    base = _load(save_tiny(tmp_path, "bert"), dtype="bfloat16")
    assert base.parameters["bert.embeddings.word_embeddings.weight"].dtype == torch.bfloat16


def test_loading_says_nothing(tmp_path, capfd):
    _load(save_tiny(tmp_path, "bert"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("family", [f for f in FAMILIES if "classification" in tasks(f)])
def test_an_empty_base_has_shapes_but_no_values(family):
    vision = family in ("vit", "deit", "clip")
    name = "AutoModelForImageClassification" if vision else CLASSIFIER
    base = empty_base(tiny_config(family), task_class=name, settings={"num_labels": 3})
    assert all(p.device.type == "meta" for p in base.parameters.values())
    anatomy = Anatomy.of(tiny_config(family), task="classification", labels=3)
    assert (base.size, base.head_size) == (anatomy.size, anatomy.head_size)


def _tokenizer(folder, *, words=20, **special):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({f"w{i}": i for i in range(words)} | {"<unk>": words}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=inner, **special).save_pretrained(folder)


def test_a_tokenizer_brings_its_padding(tmp_path):
    _tokenizer(save_tiny(tmp_path, "bert"), pad_token="w0")
    tokenizer, pad, notes = load_tokenizer(find_source(str(tmp_path)))
    assert (tokenizer("w3 w4")["input_ids"], pad, notes) == ([3, 4], 0, ())


def test_without_a_padding_token_the_end_of_sequence_pads_and_it_is_said(tmp_path):
    _tokenizer(save_tiny(tmp_path, "gpt2"), eos_token="w7")
    _, pad, notes = load_tokenizer(find_source(str(tmp_path)))
    assert pad == 7
    assert "no padding token" in notes[0]
    assert _load(tmp_path).network.config.pad_token_id == 7


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path):
    _tokenizer(save_tiny(tmp_path, "bert"), words=61, pad_token="w0")
    with pytest.raises(BaseModelError, match="62 tokens, but the base model's embedding has 61 rows"):
        load_tokenizer(find_source(str(tmp_path)))


def test_a_missing_tokenizer_is_explained(tmp_path):
    save_tiny(tmp_path, "bert")
    with pytest.raises(BaseModelError, match="there is no tokenizer"):
        load_tokenizer(find_source(str(tmp_path)))
