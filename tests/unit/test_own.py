"""A folder of the user's own: what it adds, what it may not, and what is said about it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from bkdsnn import models
from bkdsnn.config import RunSpec, catalogue, own, paper
from bkdsnn.config.figure_plans import figure_names, load_figure, plan_figure
from bkdsnn.config.settings import Settings
from bkdsnn.core.errors import UserError
from bkdsnn.distill import Criterion
from bkdsnn.models.outputs import Outputs
from bkdsnn.report.figures.style import remarks
from bkdsnn.report.tables import latex, markdown
from bkdsnn.report.tables.measurement import measure

ROOT = Path(__file__).resolve().parents[2]
LOSS = """
from typing import Literal
from pydantic import Field
from bkdsnn.config import OwnLoss

class Mean(OwnLoss):
    method: Literal["mean"] = "mean"
    weight: float = Field(default=2.0, ge=0)

    def build(self, student, teacher):
        from bkdsnn.distill.features import pair_last
        from bkdsnn.distill.method import Comparison
        from own.gap import gap

        return Comparison("mean", [pair_last("mean", student, teacher)], lambda f, g: self.weight * gap(f, g))
"""
GAP = "def gap(feature, target):\n    return (feature.mean() - target.mean()).abs()\n"
NETWORK = """
from typing import Literal
from pydantic import Field
from bkdsnn.config import Neuron, OwnNetwork

class Tiny(OwnNetwork):
    family: Literal["tiny"] = "tiny"
    width: int = Field(gt=0)
    neuron: Neuron

    def build(self, dataset):
        from own.tiny_net import TinyNet

        return TinyNet(self, dataset.classes)
"""
TINY_NET = """
import torch
from torch import nn
from bkdsnn.models.neurons import Spiking
from bkdsnn.models.outputs import Network, Outputs

class TinyNet(Network):
    taps, last_layer = ("fire",), "head"

    def __init__(self, options, classes):
        super().__init__()
        self.timesteps = options.timesteps
        self.conv = nn.Conv2d(3, options.width, 3, stride=2, padding=1)
        self.fire = Spiking(options.neuron, options.timesteps, static=True)
        self.head = nn.Linear(options.width, classes)

    def forward(self, images, taps=()):
        self.check_taps(taps)
        spikes = self.fire(self.conv(images)).unflatten(0, (self.timesteps, -1))
        pooled = spikes.mean((-2, -1))
        return Outputs(self.head(pooled), {tap: spikes for tap in taps}, pooled)

    def segments(self):
        return []

    def mac_layers(self):
        return {"conv": 1}
"""
METHODS = {
    "mean": {"label": "Mean", "base": "student", "teacher": "ann", "distill": {"mean": {}}},
    "tiny": {"label": "Tiny", "network": {"family": "tiny", "neuron": "my-lif"}, "recipe": "student"},
}
NEURON = {"kind": "lif", "surrogate": "atan", "alpha": 2.0}
ROW = {"group": "with-kd", "method": "mean", "timesteps": 4}
COLUMN = {"key": "tiny", "heading": ["Tiny"], "dataset": "imagenet", "network": "tiny-8", "student": "tiny"}
TABLES = {
    "table_mean": {"extends": "table2c", "rows": [{**ROW, "delta_against": ["none"] * 3}, {**ROW, "method": "none"}]},
    "table_cut": {"extends": {"table": "table2c", "rows": ["sew-resnet", "bkdsnn"], "columns": ["resnet34-imagenet"]}},
    "table_tiny": {
        "title": "a tiny network",
        "metric": "top-1 accuracy (%)",
        "groups": {"all": "All"},
        "columns": [{**COLUMN, "recipes": {"student": "tiny-recipe"}}],
        "rows": [{"group": "all", "method": "tiny", "timesteps": 2}],
    },
}
TABLES["table_cut"]["rows"] = [ROW]
FIGURE = {"title": "mine", "kind": "accuracy-by-epoch", "panels": []}
FIGURE["panels"] = [{"title": "R-18", "table": "table_mean", "column": "resnet18-imagenet", "curves": []}]
FIGURE["panels"][0]["curves"] = [{"label": "Mean", "row": "mean"}, {"label": "alone", "row": "none"}]


def write(folder, **files):
    """Write files by their paths, with `__` for a slash; what is no text as YAML."""
    for name, content in files.items():
        path = folder / (name.replace("__", "/") + (".py" if isinstance(content, str) else ".yaml"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return folder


@pytest.fixture
def mine(tmp_path, monkeypatch):
    folder = write(tmp_path / "mine", losses__mean=LOSS, gap=GAP, networks__tiny=NETWORK, tiny_net=TINY_NET)
    recipe = yaml.safe_load((catalogue.CONFIG / "recipes" / "sew.yaml").read_text())["sew-cifar"]
    write(folder, methods=METHODS, networks={"tiny-8": {"family": "tiny", "width": 8}}, neurons={"my-lif": NEURON})
    write(folder, recipes__mine={"tiny-recipe": recipe}, figures__fig_mine=FIGURE)
    write(folder, **{f"tables__{name}": table for name, table in TABLES.items()})
    monkeypatch.setenv(own.OWN, str(folder))
    return folder


def run_of(table, row, column, scale="demo"):
    return paper.plan(table, scale).cell(row, column).runs[0]


def test_own_tables_and_figures_stand_behind_ours(mine, monkeypatch):
    tables, figures = catalogue.table_names(), figure_names()
    monkeypatch.delenv(own.OWN)
    assert tables == [*catalogue.table_names(), *sorted(TABLES)]
    assert figures == [*figure_names(), "fig_mine"]


def test_our_runs_keep_their_names_beside_own_work(mine, monkeypatch):
    with_own = paper.all_runs("demo")
    monkeypatch.delenv(own.OWN)
    ours = paper.all_runs("demo")
    assert ours.keys() < with_own.keys()
    assert {re.split(r"-s\d-", name)[0] for name in with_own.keys() - ours.keys()} == {
        *(f"digits-48-sew-resnet{depth}-mean-t4" for depth in (18, 34, 50)),
        "digits-48-tiny-8-ce-t2",
    }


def test_an_extended_table_has_the_rows_of_ours_and_the_same_runs(mine):
    plan, ours = paper.plan("table_mean", "demo"), paper.plan("table2c", "demo")
    rows = [row.key for row in ours.table.rows]
    assert [row.key for row in plan.table.rows] == [*rows, "mean", "none"]
    assert ours.runs().keys() < plan.runs().keys()
    assert plan.cell("mean", "resnet18-imagenet").paper is None
    assert plan.cell("bkdsnn", "resnet18-imagenet").paper == 65.60


def test_an_extended_table_may_keep_some_rows_and_columns(mine):
    table = catalogue.load_table("table_cut")
    assert [row.key for row in table.rows] == ["sew-resnet", "bkdsnn", "mean"]
    assert [column.key for column in table.columns] == ["resnet34-imagenet"]
    assert table.rows[1].paper == (71.24,) and table.rows[1].delta_against == (None,)  # without the baseline's row


def test_an_own_row_stands_behind_the_last_of_its_group(mine):
    write(mine, tables__table_cut={"extends": "table2c", "rows": [{**ROW, "group": "without-kd"}]})
    rows = [row.key for row in catalogue.load_table("table_cut").rows]
    assert rows.index("mean") == rows.index("sew-resnet") + 1


def test_captions_and_notes_do_not_call_own_work_the_papers(mine, tmp_path):
    model = measure(paper.plan("table_tiny", "demo"), tmp_path)
    for text in (markdown.render(model), latex.render(model)):
        assert "paper" not in text.replace("it says nothing about the paper's values", "").replace("own=", "")
    assert "a tiny network, top-1 accuracy (%)." in markdown.render(model)
    extended = markdown.render(measure(paper.plan("table_mean", "demo"), tmp_path))
    assert "Not of the paper: Mean, w/o KD; the other rows are of its table 2c, reproduced." in extended
    assert extended.endswith(f"Generated by `snakemake --cores all table_mean --config own={mine}`.\n")
    figure = plan_figure(paper.Expansion("demo"), load_figure("fig_mine"))
    assert remarks(figure)[0] == "mine." and f"own={mine}" in figure.command


def losses_of(spec):
    criterion = Criterion(spec, {"last": (4, 2, 2)}, {"deep": (4, 2, 2)})
    student, teacher = (Outputs(torch.zeros(1, 2, 10), {}, torch.zeros(1, 2, 4)) for _ in range(2))
    student.features["last"], teacher.features["deep"] = torch.ones(4, 2, 4, 2, 2), torch.full((1, 2, 4, 2, 2), 3.0)
    return criterion(student, teacher, torch.zeros(2, dtype=torch.int64), torch.Generator())


def test_an_own_loss_is_computed_from_the_features_before_the_last_layer(mine):
    losses = losses_of(run_of("table_mean", "mean", "resnet18-imagenet"))
    assert losses["mean"].item() == pytest.approx(4.0) and list(losses) == ["ce", "mean"]


def test_an_own_network_is_built_with_own_neurons(mine):
    spec = run_of("table_tiny", "tiny", "tiny")
    net = models.build(spec.network, spec.dataset)
    assert net(torch.rand(3, 3, 16, 16), ["fire"]).features["fire"].shape == (2, 3, 8, 8, 8)
    assert models.feature_shapes(net, 16) == {"fire": (8, 8, 8)}


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("1 / 0", r": ZeroDivisionError: division by zero \(.*gap\.py, line 2\)$"),
        ("None", r": TypeError: unsupported operand .*'NoneType' \(.*losses/mean\.py, line 15\)$"),
    ],
)
def test_an_own_loss_that_fails_in_training_is_named_with_its_file_and_its_error(mine, result, message):
    (mine / "gap.py").write_text(f"def gap(feature, target):\n    return {result}\n")
    with pytest.raises(UserError, match=rf"^[^ ]*mine/losses/mean\.py: forward of 'mean'{message}"):
        losses_of(run_of("table_mean", "mean", "resnet18-imagenet"))


@pytest.mark.parametrize(
    ("result", "shown"), [("None", "NoneType"), ("{'mean': 1.0}", "float"), ("torch.ones(2)", r"Tensor \(2,\)")]
)
def test_an_own_loss_that_returns_anything_but_named_scalars_is_refused(mine, result, shown):
    body = f"import torch\n\n        loss = Method()\n        loss.forward = lambda *_: {result}\n        return loss\n"
    imports = "        from bkdsnn.distill.method import Method\n        "
    write(mine, losses__mean=f"{LOSS.partition('        from')[0]}{imports}{body}")
    with pytest.raises(
        UserError, match=rf"mean\.py: forward of 'mean' returns {shown}, expected a dict of 0-dim tensors"
    ):
        losses_of(run_of("table_mean", "mean", "resnet18-imagenet"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('taps, last_layer = ("fire",), "head"', 'last_layer = "head"', "AttributeError: .*has no attribute 'taps'"),
        ("def mac_layers", "def other_layers", "TypeError: Can't instantiate abstract class TinyNet .*mac_layers"),
        ('{"conv": 1}', '{"convv": 1}', "AttributeError: TinyNet has no attribute `convv`"),
        (
            "classes)\n",
            "7)\n",
            r"TypeError: forward returns \(2, 1, 7\), expected Outputs with logits \(T, B, K\) = \(2, ",
        ),
        ("return Outputs(", "return (", "TypeError: forward returns tuple, expected Outputs"),
        ("for tap in taps}", "for tap in []}", r"TypeError: forward returns no feature .* for the taps fire"),
    ],
)
def test_an_own_network_that_lacks_a_part_is_named_with_its_file_and_the_part(mine, old, new, message):
    write(mine, tiny_net=TINY_NET.replace(old, new))
    spec = run_of("table_tiny", "tiny", "tiny")
    with pytest.raises(
        UserError, match=rf"^[^ ]*mine/networks/tiny\.py: (build of Tiny|trial of 'tiny' .*): {message}"
    ):
        models.build(spec.network, spec.dataset)


def test_a_recipe_with_another_ending_is_refused_and_a_hidden_folder_is_left_alone(mine):
    (mine / ".git").mkdir()
    (mine / ".git" / "x.yml").touch()
    paper.Expansion("smoke")
    (mine / "recipes" / "x.yml").touch()
    with pytest.raises(UserError, match=r"recipes/x\.yml: nothing reads it \(did you mean 'recipes/x\.yaml'\?\)"):
        paper.Expansion("smoke")


def test_a_spec_with_own_work_is_read_as_it_was_written(mine):
    for run in (run_of("table_mean", "mean", "resnet18-imagenet"), run_of("table_tiny", "tiny", "tiny")):
        assert RunSpec.model_validate_json(run.model_dump_json()).digest == run.digest


def in_a_new_process(mine, *arguments, **environment):
    command = [sys.executable, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), own.OWN: str(mine), **environment}
    return subprocess.run(command, cwd=mine.parent, env=environment, capture_output=True, text=True, check=False)


def planned(mine, table):
    ended = in_a_new_process(mine, "-m", "bkdsnn", "plan", table, "--seeds", "0")
    assert ended.returncode == 0, ended.stderr
    return {line.split()[-1] for line in ended.stdout.splitlines()}


def test_edited_code_makes_other_runs_of_what_uses_it_and_of_nothing_else(mine):
    before, other = planned(mine, "table_cut"), planned(mine, "table_tiny")
    (mine / "gap.py").write_text(GAP.replace("abs()", "square()"))  # imported when the loss is built
    after = planned(mine, "table_cut")
    assert ["-mean-" in name for name in before - after] == ["-mean-" in name for name in after - before] == [True]
    assert planned(mine, "table_tiny") == other


def test_code_that_is_not_that_of_the_spec_is_not_run(mine):
    spec = run_of("table_tiny", "tiny", "tiny")
    stale = spec.network.model_copy(update={"code": "0123456789"})
    with pytest.raises(UserError, match=r"networks/tiny\.py: changed since the run was planned"):
        models.build(stale, spec.dataset)


def test_reading_own_work_imports_no_torch(mine):
    seen = "import sys; from bkdsnn.config import paper; paper.all_runs('demo'); print('torch' in sys.modules)"
    assert in_a_new_process(mine, "-c", seen).stdout == "False\n"
    write(mine, losses__heavy="import torch\n" + LOSS.replace('"mean"', '"heavy"'))
    ended = in_a_new_process(mine, "-m", "bkdsnn", "plan", "table_mean")
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: {mine}/losses/heavy.py: imports torch, and each job")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"methods": {"ld": METHODS["mean"]}}, r"mine/methods\.yaml declares 'ld', as config/methods\.yaml, 'ld' does"),
        ({"recipes__b": {"sew-cifar": {}}}, r"mine/recipes/b\.yaml declares 'sew-cifar', as config/recipes/sew\.yaml"),
        ({"methods": {"mean": {"lable": "x"}}}, r"^[^ ]*mine/methods\.yaml, 'mean': .*unknown key 'lable'.*'label'"),
        ({"networks": {"My_Net": {}}}, r"mine/networks\.yaml: 'My_Net' is not a name such as my-net-2"),
        (
            {"table__table_x": {}},
            r"mine/table/table_x\.yaml: nothing reads it \(did you mean 'tables/table_x\.yaml'\?\)",
        ),
        (
            {"tables__sub__table_x": {}},
            r"tables/sub/table_x\.yaml: nothing reads it \(did you mean 'tables/table_x\.ya",
        ),
        (
            {"tables__table_cut": {"extends": "table2c", "rows": [{**ROW, "method": "maen"}]}},
            r"^unknown method 'maen' in [^ ]*mine/tables/table_cut\.yaml, row 'maen' \(did you mean 'mean'\?\)",
        ),
        (
            {"tables__table_tiny": {**TABLES["table_tiny"], "rows": [{"group": "all", "method": "tiny"}]}},
            r"^[^ ]*mine/tables/table_tiny\.yaml, row 'tiny': 'timesteps' is missing, and 'tiny-8' is spiking; st",
        ),
        (
            {"methods": METHODS | {"mean": METHODS["mean"] | {"base": "studnet"}}},
            r"^unknown method 'studnet' in [^ ]*mine/methods\.yaml, 'mean', as 'base' \(did you mean 'student'\?\)",
        ),
        (
            {"networks": {"tiny-8": {"family": "tiny", "width": 8}, "spare": {"blocs": [1]}}},
            r"^[^ ]*mine/networks\.yaml, 'spare': unknown key 'blocs' \(did you mean 'blocks'\?\)",
        ),
        (
            {"networks__tiny": NETWORK.replace("from own.", "from ...")},
            r"mine/networks/tiny\.py, line 12: the import leads out of the folder [^ ]*mine$",
        ),
        (
            {
                "networks__tiny": NETWORK.replace(
                    "Neuron, OwnNetwork", "Neuron\nfrom bkdsnn.config.own import Own"
                ).replace("(OwnNetwork", "(Own")
            },
            r"mine/networks/tiny\.py: Tiny lacks `fires` and the other parts of a network; extend OwnLoss or",
        ),
        ({"method": {}}, r"mine/method\.yaml: nothing reads it \(did you mean 'methods\.yaml'\?\)"),
        (
            {"losses__ld": LOSS.replace('"mean"', '"ld"')},
            r"losses/ld\.py declares method 'ld', which bkdsnn\.con",
        ),
        ({"losses__b": LOSS}, r"mine/losses/mean\.py and .*mine/losses/b\.py both declare 'mean'"),
        ({"losses__b": LOSS.replace('"mean"', '"My"')}, r"losses/b\.py: Mean\.method is 'My', expected a name such as"),
        ({"losses__b": "1 / 0"}, r"mine/losses/b\.py: not imported: ZeroDivisionError: division by zero"),
        ({"tables__mine": {}}, r"mine/tables/mine\.yaml: the file's name .*; rename it, such as table_mine\.y"),
        ({"tables__table2c": {}}, r"mine/tables/table2c\.yaml: config/paper/table2c\.yaml has that name already"),
        ({"tables__table_cut": {"extends": "table2", "rows": [ROW]}}, r"unknown table of the paper 'table2' in .*_cut"),
        (
            {"tables__table_cut": {"extends": "table2c", "rows": [{**ROW, "group": "x"}]}},
            r"_cut\.yaml: row 'mean': 'g",
        ),
        ({"tables__table_cut": {"extends": "table2c", "number": "9"}}, r"table_cut\.yaml: .*unknown key 'number'"),
        (
            {"tables__table_tiny": {**TABLES["table_tiny"], "number": "9"}},
            r"_tiny\.yaml: 'number': .*'', found '9'",
        ),
        (
            {"tables__table_cut": {"extends": {"table": "table2c", "rows": ["ldd"]}, "rows": [ROW]}},
            r"mine/tables/table_cut\.yaml: unknown row 'ldd' in 'extends'",
        ),
    ],
)
def test_a_mistake_in_own_work_names_its_file(mine, files, message):
    write(mine, **files)
    own._classes.cache_clear()
    with pytest.raises(UserError, match=message):
        paper.all_runs("demo")


def test_an_unknown_option_of_an_own_loss_names_cell_and_file(mine):
    write(mine, methods={**METHODS, "mean": {**METHODS["mean"], "distill": {"mean": {"wieght": 1}}}})
    message = r"^table_mean, row 'mean', column '.*': options of 'mean' \(.*losses/mean\.py\): unknown key 'wieght'"
    with pytest.raises(UserError, match=message):
        paper.plan("table_mean", "demo")


def test_the_setting_reaches_jobs_by_environment(mine, tmp_path, monkeypatch):
    monkeypatch.delenv(own.OWN)
    for variable in ("PATH", "BKDSNN_DEVICE", "BKDSNN_RECOMPUTE"):
        monkeypatch.setenv(variable, os.environ.get(variable, ""))
    monkeypatch.setenv(own.OWN, "")
    Settings.read({"scale": "demo", "own": str(mine)}).export()
    assert "table_mean" in catalogue.table_names()


def test_a_folder_that_is_not_there_is_told_by_every_command(tmp_path):
    ended = in_a_new_process(tmp_path / "absent", "-m", "bkdsnn", "plan", "table2c")
    assert ended.returncode == 1
    assert ended.stderr.strip() == f"error: 'own' (or BKDSNN_OWN): no such folder: {tmp_path / 'absent'}"


# --- mistakes that would be silent, or end in a traceback

COSINE = {"label": "Mean", "base": "student", "teacher": "ann", "distill": {"mean": {}}}
MISTAKES = {
    "a term that nothing knows": (
        {"mean": COSINE | {"distill": {"mean": {}, "bkdd": {"weight": 1}}}},
        r"unknown term 'bkdd' in .*methods\.yaml, 'mean' .*did you mean 'bkd'",
    ),
    "a method that teaches itself": (
        {"mean": COSINE | {"teacher": "mean"}},
        r"method 'mean' builds on itself \(mean > mean\)",
    ),
    "an entry that is nothing": ({"mean": None}, r"methods\.yaml, 'mean': expected a mapping, found nothing"),
    "an entry that is text": ({"mean": "x"}, r"methods\.yaml, 'mean': expected a mapping, found str"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_methods_is_one_message(mine, name):
    methods, message = MISTAKES[name]
    write(mine, methods=METHODS | methods)
    with pytest.raises(UserError, match=message):
        paper.plan(next(iter(TABLES)), "smoke")


def test_an_option_of_a_term_that_the_rows_method_lacks_is_refused(mine):
    table = TABLES[next(iter(TABLES))]
    group = table["rows"][0]["group"]
    rows = [{"group": group, "method": "mean", "key": "other", "timesteps": 4, "distill": {"bkd": {"weight": 7.0}}}]
    write(mine, tables__table_other={**table, "rows": rows})
    with pytest.raises(UserError, match=r"unknown term of method 'mean' 'bkd' in .*table_other\.yaml, row 'other'"):
        paper.plan("table_other", "smoke")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: {x: 1}\na: {x: 2}\n", r"methods\.yaml: not valid YAML in UTF-8: key 'a' stands twice .*line 1"),
        ("# ü\n".encode("latin-1"), r"methods\.yaml: not valid YAML in UTF-8: 'utf-8' codec can't decode"),
    ],
)
def test_a_file_with_a_repeated_key_or_another_encoding_is_refused(mine, content, message):
    (mine / "methods.yaml").write_bytes(content)
    with pytest.raises(UserError, match=message):
        paper.Expansion("smoke")


def test_keys_that_are_merged_may_be_repeated(tmp_path):
    (tmp_path / "x.yaml").write_text("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  x: 3\nc: {<<: *a, y: 4}\nd: *a\n")
    found = catalogue.read_yaml(tmp_path / "x.yaml")
    assert found == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}, "c": {"x": 1, "y": 4}, "d": {"x": 1, "y": 2}}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys\nsys.exit(0)\n", r"bad\.py: not imported: SystemExit: 0 \(.*bad\.py, line 2\)"),
        (
            "from bkdsnn.config import OwnLoss\nclass Bad(OwnLoss):\n    method: str = 'bad'\n",
            r"Bad lacks a method `build`",
        ),
        ("from bkdsnn.config.own import Own\nclass Bad(Own):\n    x: int = 1\n", r"Bad lacks a field method or family"),
    ],
)
def test_python_that_cannot_be_a_loss_is_refused_with_its_file(mine, code, message):
    write(mine, losses__bad=code)
    with pytest.raises(UserError, match=message):
        paper.Expansion("smoke")


def test_a_home_that_does_not_exist_is_named(monkeypatch):
    monkeypatch.setenv(own.OWN, "~nobody-of-that-name/x")
    with pytest.raises(UserError, match=r"'own' \(or BKDSNN_OWN\): no such folder: ~nobody-of-that-name/x"):
        paper.Expansion("smoke")
