"""The catalogue of datasets in config/datasets.yaml."""

from pathlib import Path

import pytest
import yaml

from bkdsnn.config import Dataset
from bkdsnn.data.digits import build

CATALOGUE = yaml.safe_load((Path(__file__).parents[2] / "config" / "datasets.yaml").read_text())


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_entry_of_the_catalogue_is_a_valid_dataset_with_a_label(name):
    dataset = Dataset(name=name, **CATALOGUE[name])
    assert dataset.label
    assert ("(embedded)" in dataset.label) == dataset.embedded
    assert dataset.embedded or (dataset.page and dataset.folder)


@pytest.mark.parametrize("name", [name for name in CATALOGUE if "digits" in CATALOGUE[name]])
def test_the_catalogue_states_mean_and_deviation_of_the_embedded_images(name):
    dataset = Dataset(name=name, **CATALOGUE[name])
    images = build(dataset).train_images / 255.0
    assert images.mean((0, 2, 3)) == pytest.approx(dataset.mean, abs=0.05)
    assert images.std((0, 2, 3)) == pytest.approx(dataset.std, abs=0.05)
