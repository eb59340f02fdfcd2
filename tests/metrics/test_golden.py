"""Every metric against the implementation that published values come from (scripts/golden_metrics.py)."""

import json
from pathlib import Path

import numpy as np
import pytest

from peftcli.metrics import registry
from peftcli.metrics.modules import scored

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))
TRUTH = ("references", "labels", "targets", "tags")


def texts(numbers):
    picked = [GOLDEN["texts"]["examples"][number] for number in numbers]
    return [one["prediction"] for one in picked], [one["references"] for one in picked]


def known(kind, values):
    return [name for name in registry.NAMES[kind] if name in values]


@pytest.mark.parametrize("number", range(len(GOLDEN["texts"]["sets"])))
def test_texts_are_worth_what_the_reference_implementations_say(number):
    one = GOLDEN["texts"]["sets"][number]
    pair = texts(one["examples"])
    names = [name for name in known("texts", one["values"]) if name not in registry.ELSEWHERE]
    names = [name for name in names if name != "meteor" or not has_synonyms()]
    assert len(names) >= 9
    found = {name: scored("texts", name, *pair).value for name in names}
    assert found == pytest.approx({name: one["values"][name] for name in names}, abs=1e-4)


@pytest.mark.parametrize("kind", ["answers", "classes", "multilabel", "numbers", "tags"])
def test_every_other_kind_is_worth_what_the_reference_implementations_say(kind):
    for one in GOLDEN[kind]:
        truth = next(one[key] for key in TRUTH if key in one)
        found = {name: scored(kind, name, one["predictions"], truth).value for name in registry.NAMES[kind]}
        assert found == pytest.approx(one["values"], abs=1e-4)


def test_the_golden_file_has_every_metric():
    for kind, names in registry.NAMES.items():
        sets = GOLDEN["texts"]["sets"] if kind == "texts" else GOLDEN[kind]
        assert set(names) - {"exact_match"} <= {name for one in sets for name in one["values"]}, kind


def test_nist_is_what_the_script_of_nist_says():
    """What mteval-v13a gives with letter case; "Partei" keeps apart what only the case does."""
    references = [
        "It is a guide to action that ensures that the military will forever heed Partei commands",
        "It is the guiding principle which guarantees the military forces always being under the command of the Partei",
        "It is the practical guide for the army always to heed the directions of the party",
    ]
    near = "It is a guide to action which ensures that the military always obeys the commands of the party"
    far = "It is to insure the troops forever hearing the activity guidebook that party direct"
    assert scored("texts", "nist", [near], [references]).value == pytest.approx(5.0379, abs=1e-4)
    assert scored("texts", "nist", [far], [references]).value == pytest.approx(2.1139, abs=1e-4)


def test_meteor_goes_up_and_down_with_meteor_1_5_without_being_it():
    ours, theirs = zip(
        *(
            (scored("texts", "meteor", *texts(one["examples"])).value, one["values"]["meteor_1.5"])
            for one in GOLDEN["texts"]["sets"]
        ),
        strict=True,
    )
    assert 0.8 < np.corrcoef(ours, theirs)[0, 1] < 1
    assert abs(np.mean(ours) - np.mean(theirs)) > 0.1


def has_synonyms():
    from peftcli.metrics.meteor import has_synonyms

    return has_synonyms()
