"""Tables as data: counts of runs, sharing, pairing of seeds, and messages for mistakes in the configuration."""

import re
import shutil

import pytest
import yaml

from bkdsnn import paper
from bkdsnn.errors import UserError
from bkdsnn.settings import Settings
from bkdsnn.spec import Pretrained

# Distinct runs with ancestors, per scale: seeds x (cells + source ANNs of conversions); teachers are cells themselves.
RUNS = {
    ("table2a", "smoke"): 40,
    ("table2a", "demo"): 80,
    ("table2a", "lite"): 120,
    ("table2a", "paper"): 120,
    ("table2c", "smoke"): 30,
    ("table2c", "demo"): 60,
    ("table2c", "lite"): 90,
    ("table2c", "paper"): 84,  # the three published teachers do not depend on the seed
}


@pytest.mark.parametrize(("table", "scale"), RUNS)
def test_number_of_runs(table, scale):
    assert len(paper.plan(table, scale).runs()) == RUNS[table, scale]


@pytest.mark.parametrize("scale", paper.scale_names())
def test_ancestors_come_first_and_every_run_can_be_found_by_its_name(scale):
    seen = set()
    for name, spec in paper.all_runs(scale, seeds=[0]).items():
        assert {parent.name for parent in spec.parents()} <= seen
        seen.add(name)
        assert paper.find_run(name, scale) == spec


def test_a_run_is_found_at_seeds_that_no_configuration_lists():
    spec = next(iter(paper.all_runs("demo", seeds=[7]).values()))
    assert paper.find_run(spec.name, "demo").seed == 7


def test_students_share_teacher_network_and_data_at_a_seed():
    plan = paper.plan("table2a", "demo")
    cells = [plan.cell(method, "resnet20-cifar10") for method in ("kdsnn", "lasnn", "bkdsnn")]
    teachers = plan.cell("ann", "resnet20-cifar10").runs
    for cell in cells:
        assert [run.teacher.name for run in cell.runs] == [run.name for run in teachers]
        assert [run.seed for run in cell.runs] == [run.seed for run in teachers]
    assert len({run.network.model_dump_json() for cell in cells for run in cell.runs}) == 1


def test_resnet19_students_are_those_of_tet_and_resnet20_students_those_of_sew():
    plan = paper.plan("table2a", "paper")
    for column, student in (("resnet19-cifar100", "tet"), ("resnet20-cifar100", "sew-resnet")):
        baseline, distilled = (plan.cell(method, column).runs[0] for method in (student, "bkdsnn"))
        for part in ("network", "loss", "recipe"):
            assert getattr(distilled, part) == getattr(baseline, part)


def test_paper_scale_uses_published_teachers_on_imagenet_only():
    cifar = paper.plan("table2a", "paper").cell("ann", "resnet19-cifar10").runs[0]
    imagenet = paper.plan("table2c", "paper").cell("ann", "resnet50-imagenet").runs
    assert cifar.source is None and cifar.recipe is not None
    assert len(imagenet) == 1 and isinstance(imagenet[0].source, Pretrained) and imagenet[0].recipe is None


def test_distillation_weights_are_the_papers_for_each_dataset():
    weights = {}
    for table, column in (("table2a", "resnet20-cifar10"), ("table2c", "resnet18-imagenet")):
        run = paper.plan(table, "paper").cell("bkdsnn", column).runs[0]
        weights[table] = {term.method: term.weight for term in run.distill}
    assert weights == {"table2a": {"bkd": 7e-4, "ld": 1.0}, "table2c": {"bkd": 7e-5, "ld": 1.0}}


def test_qcfs_converts_the_network_that_was_trained():
    run = paper.plan("table2c", "paper").cell("qcfs", "resnet34-imagenet").runs[0]
    assert (run.network.form, run.network.timesteps, run.recipe) == ("qcfs-snn", 32, None)
    assert run.source.network.form == "qcfs" and run.source.network.quantised == run.network.quantised


def test_the_papers_text_neuron_replaces_every_neuron():
    runs = paper.all_runs("demo", seeds=[0], neurons="paper-text").values()
    neurons = {(run.network.neuron.kind, run.network.neuron.surrogate) for run in runs if run.network.neuron}
    assert neurons == {("if", "sigmoid")}


def test_no_name_stands_for_two_runs_and_names_are_short_enough_for_folders():
    runs = [run for scale in paper.scale_names() for run in paper.all_runs(scale).values()]
    assert len({run.digest[:10] for run in runs}) == len({run.digest for run in runs})
    assert max(len(run.name) for run in runs) < 100


@pytest.fixture
def config(tmp_path):
    shutil.copytree(paper.CONFIG, tmp_path / "config")
    return tmp_path / "config"


def edit(path, change):
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))


MISTAKES = [
    ("paper/table2a.yaml", lambda c: c.update(colums=[]), "unknown key 'colums' (did you mean 'columns'?)"),
    ("paper/table2a.yaml", lambda c: c["rows"][0].update(timesteps=0), "timesteps"),
    ("paper/table2a.yaml", lambda c: c["rows"][0].update(method="qcsf"), "unknown method 'qcsf'"),
    ("paper/table2a.yaml", lambda c: c["rows"][0].update(paper=[1.0]), "found 1, expected 4"),
    ("paper/table2a.yaml", lambda c: c["rows"][0].update(group="wihtout-kd"), "'group' is 'wihtout-kd'"),
    ("paper/table2a.yaml", lambda c: c["columns"][0].update(dataset="cifar11"), "did you mean 'cifar1"),
    ("paper/table2a.yaml", lambda c: c["columns"][0].update(network="resnet21"), "unknown network 'resnet21'"),
    ("paper/table2a.yaml", lambda c: c["rows"][8].update(distill={"bkd": {"blur_ratio": 1.0}}), "blur_ratio"),
    ("paper/table2a.yaml", lambda c: c["rows"][8].update(distill={"ld": {"tau": 0}}), "tau"),
    ("paper/table2a.yaml", lambda c: c["rows"][8].update(distill={"bkt": {"weight": 1}}), "unknown term 'bkt'"),
    ("scales/demo.yaml", lambda c: c.update(sedes=[0]), "did you mean 'seeds'?"),
    ("scales/demo.yaml", lambda c: c["networks"].update(resnet91={}), "unknown network 'resnet91'"),
    ("scales/demo.yaml", lambda c: c["recipes"].update({"sew-cifra": {}}), "did you mean 'sew-cifar'?"),
    ("scales/demo.yaml", lambda c: c["recipes"]["*"].update(epochs=0), "epochs"),
    ("methods.yaml", lambda c: c["tet"].update(los={}), "did you mean 'loss'?"),
    ("methods.yaml", lambda c: c["tet"]["network"].update(neuron="tet-lfi"), "did you mean 'tet-lif'?"),
    ("methods.yaml", lambda c: c["tet"]["network"].update(form="spikin"), "did you mean 'spiking'?"),
    ("neurons.yaml", lambda c: c["if-atan"].update(surrogate="atn"), "did you mean 'atan'?"),
    ("datasets.yaml", lambda c: c["cifar10"].update(clases=10), "did you mean 'classes'?"),
    ("recipes/sew.yaml", lambda c: c["sew-cifar"].update(optimiser="sgd"), "did you mean 'optimizer'?"),
]


@pytest.mark.parametrize(("file", "change", "message"), MISTAKES, ids=[message for _, _, message in MISTAKES])
def test_mistakes_in_the_configuration_are_named(config, file, change, message):
    edit(config / file, change)
    with pytest.raises(UserError, match=re.escape(message)):
        paper.all_runs("demo", config=config)


def test_a_new_row_is_one_entry_and_shares_the_teacher(config):
    before = paper.all_runs("demo", seeds=[0], config=config)
    row = {"group": "with-kd", "method": "bkd", "timesteps": 4, "paper": [None] * 4}
    edit(config / "paper/table2a.yaml", lambda c: c["rows"].append(row))
    added = paper.all_runs("demo", seeds=[0], config=config).keys() - before.keys()
    assert len(added) == 4 and all("-bkd-t4-" in name for name in added)


def test_broken_yaml_is_named(config):
    (config / "methods.yaml").write_text("ann: [")
    with pytest.raises(UserError, match=r"methods\.yaml: not valid YAML"):
        paper.all_runs("demo", config=config)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paper.plan("table2b2", "demo"), "unknown table 'table2b2' (did you mean 'table2"),
        (lambda: paper.plan("table2a", "demos"), "unknown scale 'demos' (did you mean 'demo'?)"),
        (lambda: paper.plan("table2a", "demo", seeds=[]), "'seeds' is empty"),
        (lambda: paper.find_run("digits", "demo"), "'digits' is not a run name"),
        (lambda: paper.find_run("digits-16-sew-resnet20-ce-t4-s0-0123456789", "demo"), "unknown run"),
        (lambda: Settings.read({"scale": "demo", "sees": [1]}), "did you mean 'seeds'?"),
        (lambda: Settings.read({"scale": "demo", "seeds": []}), "at least one seed"),
        (lambda: Settings.read({"scale": "demo", "seeds": [1, 1]}), "all different"),
        (lambda: Settings.read({"scale": "dmo"}), "did you mean 'demo'?"),
        (lambda: Settings.read({"scale": "demo", "device": "gpu"}), "device"),
        (lambda: Settings.read({"scale": "demo", "data": {"rot": "/"}}), "did you mean 'root'?"),
    ],
)
def test_unknown_names_and_values(call, message):
    with pytest.raises(UserError, match=re.escape(message)):
        call()
