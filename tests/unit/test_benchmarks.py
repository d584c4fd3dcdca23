"""Every benchmark runs with its smallest settings and writes JSON; how fast anything is, no test says."""

import importlib
import json
import math
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def measured(tmp_path):
    """A function that runs a benchmark for one round and returns what it wrote."""

    def run(name, *arguments):
        out = tmp_path / "result.json"
        importlib.import_module(name).main(["--rounds", "1", "--out", str(out), *arguments])
        result = json.loads(out.read_text())
        assert (result["benchmark"], result["device"]) == (name, "cpu")
        assert result["machine"].keys() == {"cpu", "cores", "load_before", "python", "packages"}
        return result

    return run


@pytest.mark.workflow
def test_dag_counts_the_jobs_of_a_scale(measured):
    rows = measured("dag", "--scales", "smoke")["rows"]
    assert [row["workflow"] for row in rows] == ["empty", "smoke"]
    assert rows[0]["jobs"] == 1 and rows[1]["jobs"] > 50
    assert all(row["median"] > 0 for row in rows)


@pytest.mark.workflow
def test_short_runs_compares_the_same_weights_of_both_sides(measured):
    found = measured("short_runs", "--scale", "smoke", "--methods", "ann")
    assert [(row["seconds"], row["side"]) for row in found["rows"]] == [
        (kind, side) for kind in ("cpu", "wall") for side in ("alone", "served")
    ]
    assert len(found["runs"]) == 1 and all(row["median"] > 0 for row in found["rows"])


def test_startup_reaches_the_first_step(measured):
    result = measured("startup", "--scale", "smoke")
    assert [row["side"] for row in result["rows"]] == ["import torch", "first step"]
    assert "bkdsnn" in result["run"] and result["imports_ms"]["torch"] > 0


@pytest.mark.parametrize("case", ["demo-R20", "demo-Spikformer", "demo-Spikingformer", "demo-Wide-7B"])
def test_throughput_compares_equal_networks(measured, case):
    """Before it times anything, the benchmark itself asserts that losses and gradients agree."""
    rows = measured("throughput", "--cases", case)["rows"]
    assert [row["loss"] for row in rows] == ["ce", "bkdsnn"]
    assert "distillation_cost" not in rows[0] and math.isfinite(
        rows[1]["distillation_cost"]
    )  # of busy cores any number
    for row in rows:
        assert row["sides"].keys() == {"ours", "plain", "lean"}
        assert row["sides"]["ours"]["ours_faster"] == 1
        assert all(side["images_per_second"] > 0 and side["memory_mib"] >= 0 for side in row["sides"].values())


def test_recomputation_takes_less_memory(measured):
    (row, _) = measured("throughput", "--cases", "demo-R20")["rows"]
    assert row["sides"]["lean"]["memory_mib"] < 0.7 * row["sides"]["ours"]["memory_mib"]  # few blocks


def test_live_tensors_are_counted_once_and_until_they_are_gone():
    live = importlib.import_module("live").Live()
    with live:
        one = torch.zeros(1000)
        del one
        two = torch.zeros(500).view(5, 100)[1:]
        two.add_(1)
        three = two * two
    assert live.peak == 4000 and three.shape == (4, 100)


def test_neurons_compares_equal_spikes(measured):
    rows = measured("neurons")["rows"]
    assert len(rows) == 12 and all(row["spikingjelly / ours"] > 0 and row["loop / ours"] > 0 for row in rows)


def test_attention_compares_equal_products_and_says_which_order_is_ours(measured):
    rows = measured("attention")["rows"]
    assert {(row["N"], row["d"]) for row in rows} >= {(9, 8), (64, 16), (64, 32), (196, 48), (196, 64), (196, 96)}
    for row in rows:
        assert row["left/right"] > 0
        assert row["ours"] == ("left" if row["N"] < row["d"] else "right")


def test_scaling_measures_every_point_of_both_networks(measured):
    rows = measured("scaling", "--axes", "width")["rows"]
    assert [(row["axis"], row["value"]) for row in rows] == [("width", value) for value in (1, 2, 4)] * 2
    assert all(row["ours ms"] > 0 and row["ratio"] > 0 for row in rows)


def test_the_exponent_of_a_law_is_found():
    scaling = importlib.import_module("scaling")
    assert scaling.exponent({value: 3 * value**1.5 for value in (1, 2, 4)}) == pytest.approx(1.5)


@pytest.mark.parametrize("name", ["attention", "dag", "decoding", "neurons", "scaling", "startup", "throughput"])
def test_help_explains_every_benchmark(measured, capsys, name):
    with pytest.raises(SystemExit, match="0"):
        measured(name, "--help")
    assert f"python benchmarks/{name}.py" in capsys.readouterr().out


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Run a benchmark where all packages of this environment are, but for Snakemake."""
    packages = tmp_path_factory.mktemp("packages")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "snakemake" not in path.name:
            (packages / path.name).symlink_to(path)

    def run(name, *arguments):
        line = [sys.executable, "-S", str(ROOT / "benchmarks" / f"{name}.py"), *map(str, arguments)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, packages)))}
        return subprocess.run(line, capture_output=True, text=True, env=environment)

    return run


@pytest.mark.parametrize(
    ("name", "options"), [("throughput", ("--cases", "demo-R20")), ("neurons", ()), ("scaling", ("--axes", "width"))]
)
def test_benchmarks_run_where_snakemake_is_not_installed(bare, tmp_path, name, options):
    ended = bare(name, "--rounds", 1, "--out", tmp_path / "result.json", *options)
    assert ended.returncode == 0, ended.stderr
    packages = json.loads((tmp_path / "result.json").read_text())["machine"]["packages"]
    assert packages["snakemake"] is None and packages["torch"] == torch.__version__.partition("+")[0]


@pytest.mark.parametrize("name", ["attention", "dag", "decoding", "startup"])
def test_help_needs_no_snakemake(bare, name):
    assert f"python benchmarks/{name}.py" in bare(name, "--help").stdout


def test_decoding_reads_with_and_without_workers(measured):
    result = measured("decoding")
    assert {row["workers"] for row in result["rows"]} >= {0, 1} and all(row["cores"] > 0 for row in result["rows"])
    assert result["files"] == "made" and 80 < result["mean_kb"] < 120
