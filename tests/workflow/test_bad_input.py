"""Mistakes of a user of the workflow: one message that says what to do, and nothing that exists is touched."""

import json
import shutil
import subprocess
import sys

import pytest
from calls import environment, repository, results, snakemake

from bkdsnn.config import catalogue, paper
from bkdsnn.runs.run_folder import RunFolder

pytestmark = pytest.mark.workflow

TEACHER = paper.plan("table2a", "smoke").cell("ann", "resnet20-cifar10").runs[0].name
PREAMBLE = ("Using workflow specific profile", "Config file ", "WorkflowError in file ", '  File "')


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("begun")
    target = f"results/smoke/runs/{TEACHER}/metrics.json"
    ended = snakemake(folder, "--cores", "1", target, "--config", "scale=smoke")
    assert ended.returncode == 0 and (folder / target).exists(), ended.stdout
    return folder


@pytest.fixture
def begun(prepared, tmp_path):
    """A folder that already has a data manifest and a trained network."""
    return shutil.copytree(prepared, tmp_path / "begun")


MISTAKES = {
    "scal=smoke": "unknown key 'scal' (did you mean 'scale'?); "
    "expected one of: budget, data, datasets, device, energy, gpu_share, neurons, own, recompute, scale, seeds, "
    "slice_minutes",
    "scale=smok": "unknown scale 'smok' in config/config.yaml or --config (did you mean 'smoke'?); expected one of: ",
    "seeds=[]": "'seeds': expected at least one seed, all different and none negative, such as [0, 1, 2], found []",
    "seeds=0,1": "'seeds': Input should be a list, found '0,1'",
    "seeds=one": "'seeds': Input should be a list, found 'one'",
    "seeds=[one]": "'seeds.0': Input should be a valid integer",
    "datasets={cifar10: cifar10-jpg75}": "unknown dataset 'cifar10-jpg75' in 'datasets' "
    "(did you mean 'cifar10-jpeg75'?); expected one of: ",
    "neurons=paper": "'reference' or 'paper-text', found 'paper' (did you mean 'paper-text'?)",
    "device=gpu": "'device': String should match pattern '^(auto|cpu|cuda(:\\d+)?)$', found 'gpu'",
    "data=/images": "'data': Input should be a mapping, found '/images'",
    "data={rot: /images}": "unknown key 'data.rot' (did you mean 'root'?); expected one of: root",
}


def own_lines(output):
    """The lines that are not Snakemake's own."""
    return [line for line in output.splitlines() if not line.startswith(PREAMBLE)]


@pytest.mark.parametrize("setting", MISTAKES)
def test_a_wrong_setting_is_named_in_one_line(begun, setting):
    before = results(begun)
    ended = snakemake(begun, "--cores", "1", "table2a", "--config", "scale=smoke", setting)
    assert ended.returncode == 1
    said = own_lines(ended.stdout)
    assert len(said) == 1 and MISTAKES[setting] in said[0]
    assert results(begun) == before


def test_an_unknown_table_is_named(begun):
    before = results(begun)
    ended = snakemake(begun, "--cores", "1", "table2e", "--config", "scale=smoke")
    assert ended.returncode == 1
    assert "No rule to produce table2e" in ended.stdout and "Traceback" not in ended.stdout
    assert results(begun) == before


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            "stbp-tdbn",
            "unknown method 'stbp-tdbn-' in config/paper/table2c.yaml, row 'stbp-tdbn-' (did you mean 'stbp-tdbn'?); ",
        ),
        ("lasnn", "config/paper/table2c.yaml: row 'bkdsnn': 'delta_against' is 'lasnn', expected one of: qcfs, "),
    ],
)
def test_a_mistake_in_a_table_names_file_and_key(begun, tmp_path, method, message):
    clone = repository(tmp_path / "clone")
    table = clone / "config" / "paper" / "table2c.yaml"
    table.write_text(table.read_text().replace(f"method: {method},", f"method: {method}-,"))
    before = results(begun)
    ended = snakemake(begun, "--cores", "1", "table2a", "--config", "scale=smoke", root=clone)
    assert ended.returncode == 1
    said = own_lines(ended.stdout)
    assert len(said) == 1 and said[0].startswith(message) and len(said[0]) < 650
    assert results(begun) == before


EDITS = {
    "heads that do not divide the width": (
        ("networks.yaml", "{dim: 256, depth: 4, heads: 16,", "{dim: 256, depth: 4, heads: 12,"),
        "paper",
        "network 'sformer-4-256' at scale 'paper': 'heads' must divide 'dim', found 12 heads for a width of 256",
    ),
    "images that the tokenizer cannot halve": (
        ("scales/smoke.yaml", "imagenet: smoke-digit-pairs-32", "imagenet: smoke-digits-12"),
        "smoke",
        "table2d, row 'spikformer', column 'sformer-8-384-imagenet': 'sformer-8-384': the tokenizer halves the image 4 "
        "times ('pools'); 'image_size' must be a multiple of 16, found 12",
    ),
    "a recipe that there is not": (
        ("paper/table2b.yaml", "student: spikingformer-cifar-300", "student: spikingformer-cifar-30"),
        "smoke",
        "unknown recipe 'spikingformer-cifar-30' in config/paper/table2b.yaml, column 'sformer-4-256-cifar10' (did you "
        "mean 'spikingformer-cifar-300'?); expected one of: ",
    ),
    "an option that there is not": (
        ("paper/table4d.yaml", "λ: bkd.blur_ratio", "λ: bkd.blur"),
        "smoke",
        "unknown option of 'bkd' 'blur' in config/paper/table4d.yaml (did you mean 'blur_ratio'?); expected one of: ",
    ),
}


@pytest.fixture
def clone(tmp_path):
    """A copy of the repository."""
    return repository(tmp_path / "clone")


def edit(clone, file, old, new):
    """Replace what stands once in a file of the configuration."""
    path = clone / "config" / file
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize("case", EDITS)
def test_a_mistake_in_the_configuration_ends_a_dry_run_in_one_line(clone, tmp_path, case):
    change, scale, message = EDITS[case]
    edit(clone, *change)
    ended = snakemake(tmp_path, "--dry-run", "all", "--config", f"scale={scale}", root=clone)
    assert ended.returncode == 1
    said = own_lines(ended.stdout)
    assert len(said) == 1 and said[0].startswith(message) and len(said[0]) < 650
    assert not (tmp_path / "results").exists()


def bkdsnn(clone, folder, *arguments):
    """Run a command of the copied repository at smoke scale on the results below `folder`."""
    command = [sys.executable, "-m", "bkdsnn", *arguments, "--scale", "smoke", "--results", str(folder)]
    return subprocess.run(command, cwd=clone, env=environment(clone), capture_output=True, text=True, check=False)


def test_a_teacher_that_cannot_be_matched_is_named_before_the_first_step(clone, tmp_path):
    """How many features a network has is known when it is built, not when the configuration is read."""
    edit(
        clone,
        "scales/smoke.yaml",
        "vit-s-16: {image_size: 24, patch: 6, dim: 24, depth: 3,",
        "vit-s-16: {image_size: 24, patch: 6, dim: 24, depth: 1,",
    )
    config = clone / "config"
    plan = paper.Expansion("smoke", config=config).plan(catalogue.load_table("table2b", config))
    student = plan.cell("kdsnn", "sformer-4-256-cifar10").runs[0]
    assert bkdsnn(clone, tmp_path, "data", student.dataset.name).returncode == 0
    assert bkdsnn(clone, tmp_path, "train", student.teacher.name).returncode == 0
    ended = bkdsnn(clone, tmp_path, "train", student.name)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    (error,) = error_lines(ended.stderr)
    assert error.startswith(
        "error: 'kdsnn' compares layer by layer: the student has 2 {'block1': (16, 3, 3), 'block2': "
    )
    assert "the teacher only 1 {'block1': (24, 4, 4)}, as (C, h, w); choose a teacher with at least as many" in error
    folder = RunFolder(tmp_path / "smoke" / "runs", student)
    assert json.loads((folder.path / "failure.json").read_text())["message"] == error.removeprefix("error: ")
    assert not folder.checkpoint.exists() and not (folder.path / "history.jsonl").exists()


ABSENT = {
    "no root": ([], "needs data that you must supply, and no data root is set"),
    "empty root": (["data={{root: {0}}}"], "the folder {0}/cifar-10-batches-bin is missing"),
}
LAYOUT = {
    "cifar10": "cifar-10-batches-bin/{data_batch_1.bin,data_batch_2.bin,",
    "cifar100": "cifar-100-binary/{train.bin,test.bin}",
}


def error_lines(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize("case", ABSENT)
def test_missing_data_are_told_before_anything_is_trained(begun, tmp_path, case):
    settings, problem = ABSENT[case]
    before = results(begun)
    settings = [setting.format(tmp_path) for setting in settings]
    ended = snakemake(begun, "--cores", "2", "table2a", "--config", "scale=paper", *settings)
    assert ended.returncode == 1 and "Traceback" not in ended.stdout
    errors = error_lines(ended.stdout)
    assert len(errors) == 2 and problem.format(tmp_path) in "".join(errors)
    for line, (dataset, layout) in zip(sorted(errors), LAYOUT.items()):
        assert line.startswith(f"error: dataset '{dataset}': ") and layout in line
        for part in ("https://www.cs.toronto.edu/~kriz/cifar.html", "data.root", "BKDSNN_DATA_ROOT"):
            assert part in line
    assert {path.name for path in (begun / "results" / "paper" / "logs").iterdir()} == {"dataset"}
    assert not (begun / "results" / "paper" / "runs").exists()
    assert before.items() <= results(begun).items()


def test_a_data_root_that_does_not_exist_is_named(begun, tmp_path):
    before = results(begun)
    root = f"data={{root: {tmp_path / 'nowhere'}}}"
    ended = snakemake(begun, "--cores", "2", "table2a", "--config", "scale=paper", root)
    assert ended.returncode == 1 and "Traceback" not in ended.stdout
    missing = f"no such folder: {tmp_path / 'nowhere'}; create it or correct the path"
    message = f"error: 'data.root' (or BKDSNN_DATA_ROOT): {missing}"
    assert set(error_lines(ended.stdout)) == {message}
    assert not (begun / "results" / "paper" / "runs").exists()
    assert before.items() <= results(begun).items()
