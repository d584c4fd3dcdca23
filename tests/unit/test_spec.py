"""Identity, validation and error messages of run specs."""

import json

import pytest
from pydantic import ValidationError

from bkdsnn import spec as vocabulary
from bkdsnn.errors import UserError, explain
from bkdsnn.spec import BKD, LD, RUN_NAME, Dataset, Recipe, ResNet, RunSpec

DATASET = {
    "name": "digits",
    "format": "digits",
    "classes": 10,
    "image_size": 16,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.25, 0.25, 0.25),
    "digits": {"train": 40, "test": 20},
}
NEURON = {"kind": "if", "surrogate": "atan", "alpha": 2.0}
SEW = {
    "name": "resnet20",
    "form": "sew",
    "stem": "cifar",
    "stem_width": 4,
    "block": "basic",
    "blocks": (1, 1),
    "widths": (4, 8),
    "neuron": NEURON,
    "timesteps": 4,
}
ANN = {**SEW, "form": "ann", "neuron": None, "timesteps": 1}
RECIPE = {"epochs": 1, "batch_size": 10, "optimizer": "sgd", "lr": 0.1}
TEACHER = {"dataset": DATASET, "network": ANN, "recipe": RECIPE, "seed": 0}
TERMS = {"ld": {"tau": 2.0}, "bkd": {"weight": 7e-4}}
STUDENT = {**TEACHER, "network": SEW, "distill": TERMS, "teacher": TEACHER}


def make(**changes):
    return RunSpec.model_validate({**STUDENT, **changes})


def test_name_is_readable_and_ends_in_the_digest():
    run = make()
    assert run.name.startswith("digits-sew-resnet20-bkdsnn-t4-s0-")
    assert RUN_NAME.match(run.name)["digest"] == run.digest[:10]


def test_identity_survives_json_and_term_order():
    run = make()
    assert RunSpec.model_validate(json.loads(run.canonical())).digest == run.digest
    assert make(distill=dict(reversed(TERMS.items()))).digest == run.digest


def test_defaults_filled_in_or_left_out_are_the_same_run():
    assert make(network={**SEW, "shortcut": "conv", "norm": "bn"}).digest == make().digest


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"recipe": {**RECIPE, "lr": 0.2}},
        {"network": {**SEW, "timesteps": 8}},
        {"network": {**SEW, "neuron": {**NEURON, "alpha": 4.0}}},
        {"distill": {**TERMS, "bkd": {"weight": 7e-4, "blur_ratio": 0.4}}},
        {"teacher": {**TEACHER, "seed": 1}},
        {"loss": {"method": "tet"}},
        {"versions": {**vocabulary.VERSIONS, "model": 99}},
    ],
)
def test_whatever_changes_the_result_changes_the_identity(changes):
    assert make(**changes).digest != make().digest


def test_labels_and_places_do_not_enter_the_identity():
    labelled = {**DATASET, "label": "digits (embedded)", "page": "somewhere", "folder": "elsewhere"}
    changed = make(dataset=labelled, teacher={**TEACHER, "dataset": labelled})
    assert changed.digest == make().digest


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 2.0])
def test_blur_ratio_outside_its_range_is_refused(ratio):
    with pytest.raises(ValidationError, match="blur_ratio"):
        BKD(weight=1.0, blur_ratio=ratio)


@pytest.mark.parametrize("tau", [0.0, -1.0])
def test_temperature_must_be_positive(tau):
    with pytest.raises(ValidationError, match="tau"):
        LD(tau=tau)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": None}, "needs a 'source'"),
        ({"teacher": None}, "belong together"),
        ({"distill": ()}, "belong together"),
        ({"teacher": {**TEACHER, "dataset": {**DATASET, "classes": 100, "name": "pairs"}}}, "teacher sees 'pairs'"),
        ({"seed": -1}, "seed"),
        ({"network": {**SEW, "timesteps": 0}}, "timesteps"),
        ({"network": {**SEW, "blocks": (1, 1, 1)}}, "3 stages"),
        ({"network": {**SEW, "neuron": None}}, "needs a 'neuron'"),
        ({"network": {**ANN, "timesteps": 4}}, "has no time"),
        ({"recipe": {**RECIPE, "lr": float("nan")}}, "lr"),
    ],
)
def test_inconsistent_specs_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        make(**changes)


def explained(model, content):
    with pytest.raises(ValidationError) as caught:
        model.model_validate(content)
    error = explain(caught.value, model, "here")
    assert isinstance(error, UserError)
    return str(error)


def test_unknown_keys_are_named_with_the_nearest_valid_one():
    message = explained(Recipe, {**RECIPE, "epoch": 3})
    assert "here: unknown key 'epoch'" in message
    assert "did you mean 'epochs'?" in message


def test_unknown_keys_deep_inside_are_named_too():
    message = explained(RunSpec, {**STUDENT, "distill": {"bkd": {"weight": 1.0, "blur_ration": 0.1}, "ld": {}}})
    assert "blur_ration" in message
    assert "did you mean 'blur_ratio'?" in message


def test_unknown_values_are_named_with_the_nearest_valid_one():
    message = explained(ResNet, {**SEW, "form": "sow"})
    assert "found 'sow' (did you mean 'sew'?)" in message


def test_several_mistakes_are_told_at_once():
    message = explained(Dataset, {**DATASET, "classes": 1, "image_size": 0})
    assert "'classes'" in message and "'image_size'" in message
