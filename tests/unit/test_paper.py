"""Tables as data: counts of runs, sharing, pairing of seeds, and messages for mistakes in the configuration."""

import re
import shutil

import pytest
import yaml

from bkdsnn.cli.main import parser
from bkdsnn.config import Pretrained, catalogue, paper
from bkdsnn.config.figure_plans import load_figure, plan_figure
from bkdsnn.config.settings import Settings
from bkdsnn.core.errors import UserError
from bkdsnn.report.tables.measurement import measure
from bkdsnn.report.tables.wording import data

# Distinct runs with ancestors that the paper's own rows need, per seed: cells that are runs of their own, and source
# ANNs of conversions. By hand: 2a 36 cells, 4 sources; 2c 27 and 3; 2b 42 of students, 2 teachers of three columns
# each; 2d 21 and 1; 3a 15 and 1; 4a 36 and 4 teachers; 4b 24 and 4; 4c 12 and 2; 4d 32 and 4; A1 and A2 24 and 2;
# A3 16 and 4. 5a is 4a; 5b has 8 rows and the ViT-B, and of these only its transformer ANN is in no other table.
# Rows that are added to a table add runs.
A_SEED = {"2a": 40, "2b": 44, "2c": 30, "2d": 22, "3a": 16, "3b": 18, "4a": 40, "4b": 28, "4c": 14}
A_SEED |= {"4d": 36, "5a": 40, "5b": 9, "A1": 26, "A2": 26, "A3": 20, "A4": 20}


def published(runs):
    """Runs that only evaluate published weights: the same one for all seeds."""
    return {name for name, run in runs.items() if run.recipe is None and isinstance(run.source, Pretrained)}


def expect_as_many_a_seed(runs, one_seed, scale):
    seeds, fixed = len(catalogue.load_scale(scale).seeds), len(published(one_seed))
    assert len(runs) == seeds * (len(one_seed) - fixed) + fixed


@pytest.mark.parametrize("scale", catalogue.scale_names())
@pytest.mark.parametrize("table", catalogue.table_names())
def test_number_of_runs(table, scale):
    plan, one_seed = paper.plan(table, scale), paper.plan(table, scale, seeds=[0]).runs()
    content = yaml.safe_load(catalogue.table_files()[table].read_text())
    assert len(plan.cells) == len(content["rows"]) * len(content["columns"])
    assert len(one_seed) >= A_SEED.get(table.removeprefix("table"), 1)
    expect_as_many_a_seed(plan.runs(), one_seed, scale)


def test_every_table_of_cells_is_there():
    assert {*catalogue.table_names()} >= {f"table{number}" for number in A_SEED}


@pytest.mark.parametrize("scale", catalogue.scale_names())
def test_number_of_distinct_runs_of_all_tables_together(scale):
    expect_as_many_a_seed(paper.all_runs(scale), paper.all_runs(scale, seeds=[0]), scale)


def test_tables_share_their_common_runs():
    """Of table 4a's 40 runs 6 are in table 2a too, and so on, reading the tables in order; what is added may be too."""
    seen, shared, runs = set(), {}, 0
    for table in catalogue.table_names():
        names = set(paper.plan(table, "paper", seeds=[0]).runs())
        shared[table.removeprefix("table")], runs = len(names & seen), runs + len(names)
        seen |= names
    # 3a: the ViT-B. 4a: 4 teachers, R-19 +L_MD at 0.15. 4b: 4 teachers, students alone and +L_MD. 4c: 2 teachers, the
    # plain competitors and BKDSNN. 4d: 4 teachers, 12 of 4a. A1: 2 teachers, alone and +L_MD. A2: 2 teachers, 6 of 4a.
    # A3: 4 teachers, alone and +L_MD, and R-19 with tau = 2 or lambda = 0.15.
    expected = {"3a": 1, "4a": 6, "4b": 16, "4c": 8, "4d": 16, "5a": 40, "5b": 8, "A1": 14, "A2": 8, "A3": 16}
    assert all(shared[table] >= number for table, number in expected.items())
    assert runs - sum(shared.values()) == len(seen) == len(paper.all_runs("paper", seeds=[0]))


def test_ablations_are_the_runs_of_the_main_tables_by_another_name():
    def runs(table, row, column):
        return paper.plan(table, "paper").cell(row, column).runs

    assert runs("tableA1", "md", "sformer-2-384-cifar10") == runs("table2b", "bkdsnn", "sformer-2-384-cifar10")
    assert runs("table4b", "none", "sformer-8-512-imagenet") == (
        runs("table2d", "spikingformer-cml", "sformer-8-512-imagenet")
    )
    assert runs("table4a", "bkd-0.40", "resnet19-cifar10") == runs("table4d", "bkd-0.40", "resnet19-cifar10-with-g")
    assert runs("tableA3", "none", "resnet19-cifar10") == runs("table2a", "tet", "resnet19-cifar10")


@pytest.mark.parametrize(
    ("table", "column", "own", "teachers"),
    [("3b", "wide-7b-net-t8", 8, 16), ("3b", "sformer-2-256-t4", 4, 16), ("A4", "dvs-lip", 10, 15)],
)
def test_on_event_data_the_same_network_with_more_time_steps_teaches(table, column, own, teachers):
    plan = paper.plan(f"table{table}", "paper", seeds=[1])
    student, alone, teacher = (plan.cell(row, column).runs[0] for row in ("bkdsnn", "none", "snn"))
    assert student.teacher == teacher and teacher.teacher is None
    assert student.network == alone.network and student.network.geometry() == teacher.network.geometry()
    assert (student.network.timesteps, teacher.network.timesteps) == (own, teachers)
    assert student.dataset == teacher.dataset and student.seed == teacher.seed == 1


@pytest.mark.parametrize("scale", catalogue.scale_names())
@pytest.mark.parametrize("table", A_SEED)
def test_distilled_students_are_evaluated_at_the_seeds_of_their_baselines(table, scale):
    plan = paper.plan(f"table{table}", scale)
    for cell in plan.cells:
        if cell.baseline:
            other = plan.cell(cell.baseline, cell.column.key)
            if other.runs[0].kind != "evaluation" or other.runs[0].network.spiking:  # published weights have no seed
                assert [run.seed for run in cell.runs] == [run.seed for run in other.runs]
            assert {run.dataset for run in cell.runs} == {run.dataset for run in other.runs}


@pytest.mark.parametrize("scale", catalogue.scale_names())
def test_ancestors_come_first_and_runs_are_found_by_their_names(scale):
    runs = paper.all_runs(scale, seeds=[0])
    seen = set()
    for name, spec in runs.items():
        assert {parent.name for parent in spec.parents()} <= seen
        seen.add(name)
    for name in list(runs)[::16]:  # a search expands every table
        assert paper.find_run(name, scale) == runs[name]


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
    spiking = [run.network for run in runs if run.network.spiking and run.network.form != "qcfs-snn"]
    assert {network.family for network in spiking} == set(paper.FAMILIES) - {"vit"}
    assert {(network.neuron.kind, network.neuron.surrogate) for network in spiking} == {("if", "sigmoid")}


def test_no_name_stands_for_two_runs_and_names_are_short_enough_for_folders():
    runs = [run for scale in catalogue.scale_names() for run in paper.all_runs(scale).values()]
    assert len({run.digest[:10] for run in runs}) == len({run.digest for run in runs})
    assert max(len(run.name) for run in runs) < 100


def with_copy(table, scale, **copies):
    return paper.Expansion(scale, copies=copies).plan(catalogue.load_table(table), [0])


def test_another_copy_of_a_dataset_renames_the_runs_on_it_and_no_others():
    plain, copied = with_copy("table2a", "smoke"), with_copy("table2a", "smoke", cifar10="digits-12")
    changed = {new.column.dataset: new.runs != old.runs for old, new in zip(plain.cells, copied.cells)}
    assert changed == {"cifar10": True, "cifar100": False}
    for cell in copied.cells:
        shown = {run.dataset.name for spec in cell.runs for run in spec.lineage()}
        assert shown == {"digits-12" if cell.column.dataset == "cifar10" else "smoke-digit-pairs-16"}
    assert len(copied.runs()) == len(plain.runs())


@pytest.mark.parametrize(("scale", "cifar10"), [("smoke", "digits-12"), ("lite", "cifar10-jpeg75")])
def test_runs_on_another_copy_are_found_by_their_names(scale, cifar10):
    runs = with_copy("table2a", scale, cifar10=cifar10).runs()
    for row in ("bkdsnn", "qcfs"):
        spec = with_copy("table2a", scale, cifar10=cifar10).cell(row, "resnet20-cifar10").runs[0]
        assert paper.find_run(spec.name, scale) == spec and spec.dataset.name == cifar10
    assert paper.copied(runs, paper.all_runs(scale, seeds=[0]), scale) == runs
    with pytest.raises(UserError, match="unknown run"):
        paper.find_run(f"{spec.name[:-1]}{'0' if spec.name[-1] != '0' else '1'}", scale)


def test_every_caption_names_the_copy_and_what_it_stands_in_for(tmp_path):
    expansion = paper.Expansion("lite", copies={"cifar10": "cifar10-jpeg75"})
    model = measure(expansion.plan(catalogue.load_table("table2a")), tmp_path)
    drawn = plan_figure(expansion, load_figure("figA2"))
    assert data(model) == "Data: CIFAR-10, JPEG-75 copy stands in for CIFAR-10; CIFAR-100."
    assert drawn.data["CIFAR-10, JPEG-75 copy"] == "CIFAR-10"
    for one in (model, drawn):
        assert one.command.endswith("--config scale=lite 'datasets={cifar10: cifar10-jpeg75}'")
    assert not measure(with_copy("table2a", "paper", cifar10="cifar10-jpeg75"), tmp_path).comparable


def test_options_of_commands_say_which_neurons_and_data():
    assert Settings.read({"scale": "demo"}).variant == ""
    settings = {
        "scale": "demo",
        "neurons": "paper-text",
        "datasets": {"cifar10": "digits-12", "imagenet": "imagenette"},
    }
    chosen = Settings.read(settings)
    assert chosen.variant == "--neurons paper-text --datasets cifar10=digits-12 imagenet=imagenette"
    options = parser().parse_args(f"plan table2a {chosen.variant}".split())
    assert (options.neurons, dict(options.datasets)) == (chosen.neurons, chosen.datasets)


@pytest.fixture
def config(tmp_path):
    shutil.copytree(catalogue.CONFIG, tmp_path / "config")
    return tmp_path / "config"


def edit(path, change):
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))


MISTAKES = [
    (
        "networks.yaml",
        lambda c: c["sformer-4-384"].update(datasets={"cifar1000": {"heads": 8}}),
        "unknown dataset 'cifar1000' in 'datasets' of",
    ),
    ("paper/table2a.yaml", lambda c: c.update(colums=[]), "unknown key 'colums' (did you mean 'columns'?)"),
    ("paper/table2a.yaml", lambda c: c["rows"][0].update(timesteps=0), "timesteps"),
    ("paper/table2a.yaml", lambda c: c["rows"][0].update(method="qcsf"), "unknown method 'qcsf'"),
    ("paper/table2a.yaml", lambda c: c["rows"][0].update(paper=[1.0]), "found 1, expected 4"),
    ("paper/table2a.yaml", lambda c: c["rows"][0].update(group="wihtout-kd"), "'group' is 'wihtout-kd'"),
    (
        "paper/table2a.yaml",
        lambda c: c["columns"][0].update(dataset="cifar11"),
        "table2a.yaml, column 'resnet19-cifar10' (did you mean 'cifar1",
    ),
    ("paper/table2a.yaml", lambda c: c["columns"][0].update(network="resnet21"), "unknown network 'resnet21'"),
    ("paper/table2a.yaml", lambda c: c["rows"][8].update(distill={"bkd": {"blur_ratio": 1.0}}), "blur_ratio"),
    ("paper/table2a.yaml", lambda c: c["rows"][8].update(distill={"ld": {"tau": 0}}), "tau"),
    ("paper/table2a.yaml", lambda c: c["rows"][8].update(distill={"bkt": {"weight": 1}}), "unknown term 'bkt'"),
    ("networks.yaml", lambda c: c["resnet18"].update(blocks=2), "config/networks.yaml, 'resnet18': 'blocks': "),
    (
        "networks.yaml",
        lambda c: c.update(spare={"neuron": "lfi"}),
        "unknown neuron 'lfi' in config/networks.yaml, 'spare'",
    ),
    (
        "scales/demo.yaml",
        lambda c: c["recipes"].update({"vit-cifar": {"epoch": 1}}),
        "recipes 'vit-cifar': unknown key",
    ),
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
    (
        "recipes/vit.yaml",
        lambda c: c["vit-cifar"].update(mix={"mixup": 0.0}),
        "'mix' needs 'mixup' or 'cutmix' above 0",
    ),
    ("paper/table4a.yaml", lambda c: c["rows"][1].update(key="ld-1.5"), "two rows share a key: ld-1.5, ld-1.5, ld-4.0"),
    ("paper/table4b.yaml", lambda c: c["rows"][3].update(method="ld"), "two rows share a key: ann, none, ld, ld, md"),
    (
        "paper/table4a.yaml",
        lambda c: c["settings"].update(τ="dl.tau"),
        "unknown term 'dl' in config/paper/table4a.yaml",
    ),
    ("paper/table4a.yaml", lambda c: c["settings"].update(τ="ld.tua"), "unknown option of 'ld' 'tua'"),
    ("paper/table4a.yaml", lambda c: c["settings"].update(τ="tau"), "'settings': 'tau' is not <term>.<option>"),
    (
        "paper/table4c.yaml",
        lambda c: c["columns"][0].update(distill_of={"lasnn-bdk": {}}),
        "unknown method 'lasnn-bdk' in config/paper/table4c.yaml (did you mean 'lasnn-bkd'?)",
    ),
    (
        "paper/table4c.yaml",
        lambda c: c["columns"][0].update(distill_of={"lasnn-bkd": {"lassn": {}}}),
        "unknown term 'lassn' in config/paper/table4c.yaml (did you mean 'lasnn'?)",
    ),
    (
        "paper/table2b.yaml",
        lambda c: c["columns"][0].update(teacher="vit-s"),
        "unknown network 'vit-s' in config/paper/",
    ),
    (
        "paper/table2b.yaml",
        lambda c: c["columns"][0]["recipes"].update(student="spikingformer-cifar"),
        "unknown recipe 'spikingformer-cifar' in config/paper/table2b.yaml, column 'sformer-4-256-cifar10' (did you",
    ),
    (
        "paper/table3a.yaml",
        lambda c: c["columns"][0]["recipes"].pop("pretraining"),
        "unknown recipe role 'pretraining' in column 'mformer-8-256-imagenet'; expected one of: student, teacher",
    ),
    (
        "paper/table3a.yaml",
        lambda c: c["columns"][0]["pretrained"].update(sha="80ecf9dd"),
        "unknown key 'columns.0.pretrained.sha' (did you mean 'sha256'?)",
    ),
    (
        "scales/demo.yaml",
        lambda c: c.update(pretrained=True),
        "'pretrained': Input should be 'none', 'fine-tuned' or 'all', found True",
    ),
    (
        "scales/demo.yaml",
        lambda c: c["networks"]["sformer-4-384"].update(heads=5),
        "network 'sformer-4-384' at scale 'demo': 'heads' must divide 'dim', found 5 heads for a width of ",
    ),
    (
        "scales/demo.yaml",
        lambda c: c["datasets"].update(imagenet="digits-12"),
        "'image_size' must be a multiple of 16, found 12",
    ),
    ("methods.yaml", lambda c: c["spikformer"]["network"].update(family="spikeformer"), "unknown family 'spikeformer'"),
    ("methods.yaml", lambda c: c["spikformer-cml"]["network"].update(clm=True), "did you mean 'cml'?"),
    (
        "methods.yaml",
        lambda c: c["meta-spikeformer-kd"]["network"].clear(),
        "'hard-ld' needs a network with 'distilled_head'",
    ),
    (
        "methods.yaml",
        lambda c: c["meta-spikeformer-kd-tuned"].update(source="meta-spikeformer"),
        "the network of 'source' differs from 'mformer-8-256' in ",
    ),
]


@pytest.mark.parametrize(("file", "change", "message"), MISTAKES, ids=[message for _, _, message in MISTAKES])
def test_mistakes_in_the_configuration_are_named(config, file, change, message):
    edit(config / file, change)
    with pytest.raises(UserError, match=re.escape(message)):
        paper.all_runs("demo", config=config)


def test_a_new_row_is_one_entry_and_shares_the_teacher(config):
    before = paper.all_runs("demo", seeds=[0], config=config)
    mine = {"label": "Mine", "base": "student", "teacher": "ann", "distill": {"ld": {"tau": 3.0}}}
    edit(config / "methods.yaml", lambda c: c.update(mine=mine))
    row = {"group": "with-kd", "method": "mine", "timesteps": 4, "paper": [None] * 4}
    edit(config / "paper/table2a.yaml", lambda c: c["rows"].append(row))
    added = paper.all_runs("demo", seeds=[0], config=config).keys() - before.keys()
    assert len(added) == 4 and all("-ld-t4-" in name for name in added)


def test_broken_yaml_is_named(config):
    (config / "methods.yaml").write_text("ann: [")
    with pytest.raises(UserError, match=r"methods\.yaml: not valid YAML"):
        paper.all_runs("demo", config=config)


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system", "!!python/name:os.system", "!!python/object/new:str"]
)
def test_yaml_that_names_python_runs_nothing(config, tmp_path, tag):
    marker = tmp_path / "ran"
    with (config / "methods.yaml").open("a") as stream:
        stream.write(f"mine: {tag} ['touch {marker}']\n")
    with pytest.raises(
        UserError, match=r"methods\.yaml: not valid YAML in UTF-8: could not determine a constructor"
    ) as caught:
        paper.all_runs("demo", config=config)
    assert "\n" not in str(caught.value) and not marker.exists()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paper.plan("table2b2", "demo"), "unknown table 'table2b2' (did you mean 'table2"),
        (lambda: paper.plan("table2a", "demos"), "unknown scale 'demos' (did you mean 'demo'?)"),
        (lambda: paper.plan("table2a", "demo", seeds=[]), "'seeds' is empty"),
        (lambda: with_copy("table2a", "demo", cifar10="cifar10-jpg75"), "'datasets' (did you mean 'cifar10-jpeg75'?)"),
        (lambda: with_copy("table2a", "demo", cifar1="digits-12"), "'datasets' (did you mean 'cifar10'?)"),
        (lambda: with_copy("table2a", "demo", imagenette="digits-12"), "unknown dataset of the paper 'imagenette'"),
        (lambda: with_copy("table2a", "demo", cifar10="n-mnist"), "takes images, but 'n-mnist' has events"),
        (lambda: paper.find_run("digits", "demo"), "'digits' is not a run name"),
        (lambda: paper.find_run("digits-16-sew-resnet20-ce-t4-s0-0123456789", "demo"), "unknown run"),
        (lambda: Settings.read({"scale": "demo", "sees": [1]}), "did you mean 'seeds'?"),
        (lambda: Settings.read({"scale": "demo", "seeds": []}), "at least one seed"),
        (lambda: Settings.read({"scale": "demo", "seeds": [1, 1]}), "all different"),
        (lambda: Settings.read({"scale": "dmo"}), "did you mean 'demo'?"),
        (lambda: Settings.read({"scale": "demo", "device": "gpu"}), "device"),
        (lambda: Settings.read({"scale": "demo", "recompute": "sometimes"}), "recompute"),
        (lambda: Settings.read({"scale": "demo", "gpu_share": 0}), "gpu_share"),
        (lambda: Settings.read({"scale": "demo", "data": {"rot": "/"}}), "did you mean 'root'?"),
    ],
)
def test_unknown_names_and_values(call, message):
    with pytest.raises(UserError, match=re.escape(message)):
        call()


def test_published_weights_are_fine_tuned_at_lite_and_paper_scale_and_only_evaluated_at_paper_scale():
    def source_and_recipe(table, column, scale):
        run = paper.plan(table, scale, seeds=[1]).cell("ann", column).runs[0]
        return run.source and run.source.name.partition("_patch16")[0], run.recipe is not None, run.seed

    def teachers(table, column):
        return {scale: source_and_recipe(table, column, scale) for scale in catalogue.scale_names()}

    alone, tuned, evaluated = (None, True, 1), ("timm/vit_small", True, 1), ("timm/vit_base", False, 0)
    cifar = {"smoke": alone, "demo": alone, "lite": tuned, "paper": tuned}
    assert teachers("table2b", "sformer-4-256-cifar10") == cifar
    assert teachers("table2d", "sformer-8-512-imagenet") == {**cifar, "lite": alone, "paper": evaluated}


@pytest.mark.parametrize("scale", catalogue.scale_names())
def test_meta_spikeformer_learns_at_one_step_what_is_fine_tuned_at_four(scale):
    plan = paper.plan("table3a", scale, seeds=[0])
    pretrained = {"meta-spikeformer-tuned": "meta-spikeformer", "bkdsnn": "meta-spikeformer"}
    pretrained |= {"meta-spikeformer-kd-tuned": "meta-spikeformer-kd"}
    for method, source in pretrained.items():
        run = plan.cell(method, "mformer-8-256-imagenet").runs[0]
        assert (run.network.timesteps, run.source.network.timesteps) == (4, 1)
        assert run.source == plan.cell(source, "mformer-8-256-imagenet").runs[0]


def test_the_weight_of_one_method_in_a_column_is_its_own():
    plan = paper.plan("table4c", "paper", seeds=[0])
    weights = {}
    for column in ("resnet18-imagenet", "sformer-8-384-imagenet"):
        for method in ("lasnn", "lasnn-bkd"):
            (term,) = plan.cell(method, column).runs[0].distill
            weights[method, column] = (term.weight, term.blur_ratio)
    assert weights == {
        ("lasnn", "resnet18-imagenet"): (1.0, None),
        ("lasnn-bkd", "resnet18-imagenet"): (7e-5, 0.15),
        ("lasnn", "sformer-8-384-imagenet"): (1.0, None),
        ("lasnn-bkd", "sformer-8-384-imagenet"): (2e-3, 0.15),
    }
