"""Identity, validation and error messages of run specs."""

import json

import pytest
from pydantic import ValidationError

from bkdsnn.config import BKD, KDSNN, LD, RUN_NAME, Dataset, LaSNN, Mix, Pretrained, Recipe, ResNet, RunSpec
from bkdsnn.core.errors import UserError, explain

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
    "family": "resnet",
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
TEACHER = {"dataset": DATASET, "network": ANN, "recipe": RECIPE, "role": "teacher", "seed": 0}
TERMS = {"ld": {"tau": 2.0}, "bkd": {"weight": 7e-4}}
STUDENT = {**TEACHER, "network": SEW, "distill": TERMS, "teacher": TEACHER, "role": "student"}
SFORMER = {
    "family": "spikingformer",
    "name": "sformer-4-384",
    "form": "spiking",
    "dim": 16,
    "depth": 1,
    "heads": 2,
    "pools": (3, 4),
    "cml": True,
    "neuron": NEURON,
    "timesteps": 4,
}
META = {
    "family": "meta-spikeformer",
    "name": "mformer-8-256",
    "dims": (4, 8, 8, 16),
    "heads": 2,
    "neuron": NEURON,
    "timesteps": 4,
}
VIT = {"family": "vit", "name": "vit-s-16", "image_size": 24, "patch": 6, "dim": 24, "depth": 1, "heads": 2}
VIT |= {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
PRETRAINED = {"name": "timm/vit_small", "sha256": "0123abcd"}


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
        {"network": {**SEW, "view": {"crop": 1.0}}},
        {"network": SFORMER},
        {"recipe": {**RECIPE, "cooldown_epochs": 1}},
        {"recipe": {**RECIPE, "label_smoothing": 0.1}},
        {"recipe": {**RECIPE, "mix": {"mixup": 0.5}}},
        {"recipe": {**RECIPE, "augment": {"erasing": 0.25}}},
        {"source": {**TEACHER, "network": SEW}},
        {"source": PRETRAINED},
    ],
)
def test_whatever_changes_the_result_changes_the_identity(changes):
    assert make(**changes).digest != make().digest


def test_the_digest_of_a_changed_copy_is_its_own():
    spec = RunSpec.model_validate(STUDENT)
    before, other = spec.digest, spec.model_copy(update={"seed": 1})
    assert other.digest == RunSpec.model_validate({**STUDENT, "seed": 1}).digest != before == spec.digest


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
        ({"teacher": None}, "'distill' is given, but no 'teacher'"),
        ({"distill": ()}, "'teacher' is given, but no 'distill'"),
        ({"teacher": {**TEACHER, "dataset": {**DATASET, "classes": 100, "name": "pairs"}}}, "dataset is 'pairs'"),
        ({"seed": -1}, "seed"),
        ({"network": {**SEW, "timesteps": 0}}, "timesteps"),
        ({"network": {**SEW, "blocks": (1, 1, 1)}}, "3 stages"),
        ({"network": {**SEW, "neuron": None}}, "needs a 'neuron'"),
        ({"network": {**ANN, "timesteps": 4}}, "has no time"),
        ({"recipe": {**RECIPE, "lr": float("nan")}}, "lr"),
        (
            {"recipe": {**RECIPE, "epochs": 3, "warmup_epochs": 3}},
            "'warmup_epochs' is 3, must be less than 'epochs', 3",
        ),
        ({"network": {**SFORMER, "heads": 3}}, "'heads' must divide 'dim', found 3 heads for a width of 16"),
        ({"network": {**SFORMER, "dim": 20}}, r"'dim' must be a multiple of 8 .*, found 20"),
        ({"network": {**SFORMER, "pools": (4, 3)}}, r"'pools' must rise without repeats, found \[4, 3\]"),
        ({"network": {**SFORMER, "pools": (3, 3)}}, r"'pools' must rise without repeats, found \[3, 3\]"),
        ({"network": {**SFORMER, "pools": (4, 5)}}, "Input should be 1, 2, 3 or 4"),
        ({"network": {**SFORMER, "form": "ann"}}, "form 'ann' takes no 'neuron'"),
        ({"network": {**SFORMER, "form": "ann", "neuron": None}}, "has no time: 'timesteps' must be 1, found 4"),
        ({"network": {**META, "heads": 16}}, "'heads' must divide 'dims', found 16 heads for a width of 8"),
        ({"network": {**META, "dims": (5, 8, 8, 16)}}, r"begin with an even width .*, found 5"),
        ({"network": {**VIT, "patch": 7}}, "'patch' must divide 'image_size', found 7 and 24"),
        ({"network": {**VIT, "heads": 5}}, "'heads' must divide 'dim', found 5 heads for a width of 24"),
        ({"network": {**VIT, "timesteps": 4}}, "has no time: 'timesteps' must be 1, found 4"),
        ({"distill": {"hard-ld": {}}}, "'hard-ld' needs a network with 'distilled_head'"),
        (
            {"network": {**META, "distilled_head": True}},
            "'hard-ld' needs a network with 'distilled_head'",
        ),
        (
            {"network": META, "distill": {"hard-ld": {}}},
            "'hard-ld' needs a network with 'distilled_head'",
        ),
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


def plain(**changes):
    """A run without a teacher."""
    return RunSpec.model_validate({**TEACHER, **changes})


def sized(size):
    return {**DATASET, "image_size": size}


@pytest.mark.parametrize(
    ("network", "size", "message"),
    [
        (SFORMER, 18, r"'sformer-4-384': the tokenizer halves the image 2 times .* multiple of 4, found 18"),
        ({**SFORMER, "family": "spikformer"}, 18, r"multiple of 4, found 18"),
        ({**SFORMER, "pools": (1, 2, 3, 4)}, 24, r"halves the image 4 times .* multiple of 16, found 24"),
        (META, 24, r"'mformer-8-256': 'image_size' must be a multiple of 16, found 24"),
    ],
)
def test_images_that_a_network_cannot_reduce_are_refused(network, size, message):
    with pytest.raises(ValidationError, match=message):
        plain(network=network, dataset=sized(size))


@pytest.mark.parametrize(
    ("network", "size"),
    [(SFORMER, 20), ({**SFORMER, "pools": (1, 2, 3, 4)}, 32), (META, 48), (ANN, 17), (VIT, 17)],
)
def test_other_sizes_are_taken(network, size):
    assert plain(network=network, dataset=sized(size)).dataset.image_size == size


def test_the_second_head_is_distilled():
    run = make(network={**META, "distilled_head": True}, distill={"hard-ld": {}})
    assert run.name.startswith("digits-meta-spikeformer-8-256-hard-ld-t4-s0-")


@pytest.mark.parametrize(
    ("network", "source"),
    [
        (META, {**META, "timesteps": 1}),
        (SFORMER, SFORMER),
        ({**SEW, "view": {"crop": 1.0}}, {**SEW, "view": {"crop": 1.0}, "timesteps": 2}),
    ],
)
def test_fine_tuning_begins_with_the_same_network_at_any_number_of_time_steps(network, source):
    run = plain(network=network, source={**TEACHER, "network": source}, role="student")
    assert run.parents() == [run.source] and run.kind == "student"


@pytest.mark.parametrize(
    ("network", "source", "message"),
    [
        (META, {**META, "dims": (4, 8, 8, 8)}, "differs from 'mformer-8-256' in 'dims'"),
        (META, {**META, "neuron": {**NEURON, "alpha": 4.0}}, "differs from"),
        ({**META, "distilled_head": True}, META, "differs from"),
        (SFORMER, {**SFORMER, "cml": False}, "differs from 'sformer-4-384' in 'cml'"),
        (SFORMER, {**SFORMER, "family": "spikformer"}, "differs from"),
        (SEW, {**SEW, "form": "spiking"}, "'source' has form 'spiking', expected 'sew'"),
    ],
)
def test_fine_tuning_another_network_is_refused(network, source, message):
    distilled = {"distill": {"hard-ld": {}}, "teacher": TEACHER} if network.get("distilled_head") else {}
    with pytest.raises(ValidationError, match=message):
        plain(network=network, source={**TEACHER, "network": source}, **distilled)


def test_a_conversion_may_change_the_form_but_nothing_else():
    qcfs = {**ANN, "form": "qcfs", "quantised": {"levels": 4}}
    converted = {**qcfs, "form": "qcfs-snn", "timesteps": 8}
    run = plain(network=converted, source={**TEACHER, "network": qcfs}, recipe=None)
    assert (run.method, run.kind) == ("convert", "evaluation")
    with pytest.raises(ValidationError, match="differs from"):
        plain(network={**converted, "quantised": {"levels": 8}}, source={**TEACHER, "network": qcfs}, recipe=None)


def test_published_weights_are_evaluated_without_a_recipe_and_fine_tuned_with_one():
    evaluated, tuned = plain(network=VIT, source=PRETRAINED, recipe=None), plain(network=VIT, source=PRETRAINED)
    assert isinstance(tuned.source, Pretrained) and tuned.parents() == []
    assert (evaluated.method, evaluated.kind) == ("pretrained", "evaluation")
    assert (tuned.method, tuned.kind) == ("ce", "teacher")
    assert RunSpec.model_validate(json.loads(tuned.canonical())) == tuned


def test_weights_with_and_without_a_checksum_are_other_weights():
    sources = (PRETRAINED, {"name": "timm/vit_small"}, {**PRETRAINED, "sha256": "0123abce"})
    assert len({plain(network=VIT, source=source).digest for source in sources}) == 3


@pytest.mark.parametrize("checksum", ["0123abc", "0123ABCD", "not a checksum", ""])
def test_a_checksum_is_at_least_eight_hexadecimal_digits(checksum):
    with pytest.raises(ValidationError, match="sha256"):
        Pretrained(name="timm/vit_small", sha256=checksum)


def test_cooldown_comes_after_the_schedule():
    recipe = Recipe(**{**RECIPE, "epochs": 4, "warmup_epochs": 3, "cooldown_epochs": 2})
    assert recipe.total_epochs == 6


@pytest.mark.parametrize("options", [{}, {"mixup": 0.0, "cutmix": 0.0, "off_epoch": 3}])
def test_a_mix_that_mixes_nothing_is_refused(options):
    with pytest.raises(ValidationError, match="'mix' needs 'mixup' or 'cutmix' above 0"):
        Mix(**options)


@pytest.mark.parametrize("term", [KDSNN, LaSNN])
@pytest.mark.parametrize("ratio", [0.0, 0.15])
def test_only_one_thing_replaces_the_comparison_of_layers(term, ratio):
    with pytest.raises(ValidationError, match="'published' and 'blur_ratio' exclude each other"):
        term(weight=1.0, published=True, blur_ratio=ratio)


@pytest.mark.parametrize("method", ["kdsnn", "lasnn"])
def test_blur_ratio_zero_restores_and_none_does_not_so_they_are_two_runs(method):
    runs = [make(distill={method: {"weight": 1.0, **options}}) for options in ({"blur_ratio": 0.0}, {}, {})]
    assert runs[0].digest != runs[1].digest == runs[2].digest


@pytest.mark.parametrize(
    ("network", "prefix"),
    [
        (SFORMER, "digits-spikingformer-cml-4-384-ce-t4-s0-"),
        ({**SFORMER, "cml": False}, "digits-spikingformer-4-384-ce-t4-s0-"),
        ({**SFORMER, "family": "spikformer"}, "digits-spikformer-cml-4-384-ce-t4-s0-"),
        ({**SFORMER, "form": "ann", "neuron": None, "timesteps": 1}, "digits-spikingformer-ann-cml-4-384-ce-t1-s0-"),
        (META, "digits-meta-spikeformer-8-256-ce-t4-s0-"),
        (VIT, "digits-vit-s-16-ce-t1-s0-"),
    ],
)
def test_names_of_transformers_say_family_form_and_size(network, prefix):
    run = plain(network=network)
    assert run.name == prefix + run.digest[:10] and RUN_NAME.match(run.name)


def test_a_distilled_transformer_is_named_after_the_method():
    run = make(network=SFORMER, teacher={**TEACHER, "network": VIT})
    assert run.name.startswith("digits-spikingformer-cml-4-384-bkdsnn-t4-s0-")
    assert [parent.name for parent in run.lineage()] == [run.teacher.name, run.name]


def test_the_view_that_is_left_out_is_the_usual_one():
    same = {**SEW, "view": {"crop": 0.875, "interpolation": "bilinear"}}
    assert make(network=same).digest == make().digest
    assert make(network={**same, "view": {"interpolation": "bicubic"}}).digest != make().digest
