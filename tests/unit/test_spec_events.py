"""Specs of event data: what belongs together, and what is refused before anything is trained."""

import pytest
from pydantic import ValidationError

from bkdsnn.config import BKD, Dataset, RunSpec

EVENTS = {
    "name": "moving",
    "format": "events",
    "classes": 10,
    "image_size": 32,
    "events": {"layout": "n-mnist", "sensor": (34, 34), "simulated": {"train": 40, "test": 20}},
}
IMAGES = {
    "name": "digits",
    "format": "digits",
    "classes": 10,
    "image_size": 32,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.25, 0.25, 0.25),
    "digits": {"train": 40, "test": 20},
}
NEURON = {"kind": "plif", "surrogate": "atan", "alpha": 2.0}
WIDE = {"family": "wide-7b", "name": "wide", "widths": (4, 8), "neuron": NEURON, "timesteps": 4}
RESNET = {
    "family": "resnet",
    "name": "resnet20",
    "form": "sew",
    "stem": "cifar",
    "stem_width": 4,
    "block": "basic",
    "blocks": (1, 1),
    "widths": (4, 8),
    "neuron": {**NEURON, "kind": "if"},
    "timesteps": 4,
}
RECIPE = {"epochs": 1, "batch_size": 10, "optimizer": "sgd", "lr": 0.1}
RUN = {"dataset": EVENTS, "network": WIDE, "recipe": RECIPE, "seed": 0}
TEACHER = {**RUN, "role": "teacher", "network": {**WIDE, "timesteps": 16}}


def test_events_have_two_channels_and_may_be_embedded():
    moving = Dataset.model_validate(EVENTS)
    recorded = Dataset.model_validate({**EVENTS, "events": {**EVENTS["events"], "simulated": None}})
    assert (moving.channels, Dataset.model_validate(IMAGES).channels) == (2, 3)
    assert moving.embedded and not recorded.embedded


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": (0.5, 0.5)}, "'mean' has 2 numbers, format 'events' needs 0"),
        ({"events": None}, "'events' is missing; expected it with format 'events'"),
        ({"format": "cifar-binary"}, "'events' is given with format 'cifar-binary'"),
    ],
)
def test_a_dataset_is_of_one_kind(changes, message):
    with pytest.raises(ValidationError, match=message):
        Dataset.model_validate({**EVENTS, **changes})


def test_images_need_three_numbers_per_statistic():
    with pytest.raises(ValidationError, match="'std' has 2 numbers, format 'digits' needs 3"):
        Dataset.model_validate({**IMAGES, "std": (0.5, 0.5)})


def test_a_student_may_have_fewer_time_steps_than_its_teacher():
    spec = RunSpec.model_validate({**RUN, "distill": {"bkd": {"weight": 1.0}}, "teacher": TEACHER})
    assert spec.name.startswith("moving-wide-bkd-t4-s0-") and spec.teacher.name.startswith("moving-wide-ce-t16-s0-")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": RESNET}, "'resnet20' takes images, but 'moving' has events"),
        ({"dataset": IMAGES}, "'wide' takes events, but 'digits' has images"),
        ({"dataset": {**EVENTS, "image_size": 34}}, "must be a multiple of 4, found 34"),
        ({"network": {**WIDE, "widths": ()}}, "'widths' must name at least one unit"),
        (
            {"distill": {"bkd": {"weight": 1.0, "target": "vector"}}, "teacher": TEACHER},
            "'target: vector' needs a pooled vector; 'wide' has none",
        ),
    ],
)
def test_what_cannot_be_run_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        RunSpec.model_validate({**RUN, **changes})


def test_only_maps_are_swapped():
    assert BKD(weight=1.0, swapped=True).swapped
    with pytest.raises(ValidationError, match="'swapped' compares maps"):
        BKD(weight=1.0, swapped=True, target="vector")
