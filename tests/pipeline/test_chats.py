"""A chat's template goes with the model that learned it."""

import json

from transformers import AutoTokenizer
from untrained_runs import recipe, run, save_base

from peftcli.artifact.unmerging import unmerge
from peftcli.data.chat_template import read_template
from peftcli.pipeline.evaluation import EvaluationRequest, evaluate
from peftcli.pipeline.merging import MergeOptions, merge
from peftcli.pipeline.progress import Silent

TALK = [{"role": "user", "content": "a fine film"}, {"role": "assistant", "content": "so warm"}]


def test_a_merged_model_writes_chats_as_it_was_taught(tmp_path):
    base = save_base(tmp_path / "base")
    (base / "chat_template.jinja").write_text("{{ 'another one' }}")
    rows = [{"messages": TALK}] * 6
    path = recipe(tmp_path, base, {"name": "lora"}, rows, task="causal-lm", chat_template="chatml")
    finished = run(path, "training.steps=2", "training.batch_size=2")
    merge(finished.folder, tmp_path / "merged", MergeOptions(keep_originals=True), Silent())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.chat_template == read_template("chatml")
    assert "assistant" in tokenizer.apply_chat_template(TALK[:1], tokenize=False, add_generation_prompt=True)
    measured = evaluate(tmp_path / "merged", EvaluationRequest(data=[str(tmp_path / "validation.jsonl")]), Silent())
    before = finished.report["metrics"]["validation"]["loss"]
    assert abs(measured["metrics"]["delta"]["loss"] - before) < 1e-4
    unmerge(tmp_path / "merged", tmp_path / "back", None)
    assert (tmp_path / "back/chat_template.jinja").read_text() == "{{ 'another one' }}"
    assert json.loads((tmp_path / "merged/peftcli.json").read_text())["task"]["chat_template"]
