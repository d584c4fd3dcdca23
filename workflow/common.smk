# Helpers of the rules. Everything imported here is light: no torch, no pandas, for each job parses this file again.
import sys

sys.path.insert(0, str(workflow.basedir))

from snakemake.exceptions import WorkflowError

from bkdsnn import paper
from bkdsnn.errors import UserError
from bkdsnn.settings import Settings
from bkdsnn.spec import Pretrained

ARTEFACTS = ["metrics.json", "weights.safetensors", "predictions.npz", "history.jsonl", "spec.json", "provenance.json"]


def settle():
    """Validate the configuration and expand every table, or stop with one message before anything is built."""
    try:
        settings = Settings.read(config)
        settings.export()
        expansion = paper.Expansion(settings.scale, neurons=settings.neurons)
        plans = {name: expansion.plan(paper.load_table(name), settings.seeds) for name in paper.table_names()}
    except UserError as error:
        raise WorkflowError(str(error))
    return settings, expansion.scale, plans


SETTINGS, SCALE, PLANS = settle()
RUNS = {name: spec for plan in PLANS.values() for name, spec in plan.runs().items()}
DATASETS = sorted({spec.dataset.name for spec in RUNS.values()})
TAUGHT_BY = {spec.teacher.name for spec in RUNS.values() if spec.teacher}
GPUS, THREADS, MEMORY_MB = (1, 8, 32000) if SCALE.gpu else (0, 1, 2000)
PUBLISHED = {one.stem: one.name for one in paper.published_weights()}


def run_names(kind):
    """A pattern of the names of all runs of one kind: teacher, student or evaluation.

    What another run imitates is a teacher, also if it is a spiking network.
    """
    kinds = {name: "teacher" if spec.recipe and name in TAUGHT_BY else spec.kind for name, spec in RUNS.items()}
    return "|".join(name for name in RUNS if kinds[name] == kind) or "none"


def artefact(run, name):
    """Path of one file that a run leaves."""
    return f"results/{SCALE.name}/runs/{run}/{name}"


def run_inputs(wildcards):
    """What a run needs first: its data, the runs it builds on, published weights."""
    spec = RUNS[wildcards.run]
    files = [f"results/{SCALE.name}/data/{spec.dataset.name}.json"]
    if spec.dataset.events:
        clips = {one.network.timesteps for one in (spec, spec.teacher) if one}
        files += [f"results/{SCALE.name}/data/{spec.dataset.name}-t{timesteps}.json" for timesteps in sorted(clips)]
    for parent in spec.parents():
        files += [artefact(parent.name, "metrics.json"), artefact(parent.name, "weights.safetensors")]
    if isinstance(spec.source, Pretrained):
        files.append(f"resources/weights/{spec.source.stem}.safetensors")
    return files


def table_inputs(wildcards):
    """The results of every run that a table shows."""
    runs = {spec.name: spec for cell in PLANS[wildcards.table].cells for spec in cell.runs}
    return [artefact(run, name) for run in runs for name in ("metrics.json", "predictions.npz")]


def table_seeds(wildcards):
    """The seeds of a table, as arguments."""
    return " ".join(map(str, SETTINGS.seeds or SCALE.seeds_for(wildcards.table)))


def table_files(table):
    """The files of one table and the results behind it: a result that was deleted is made again."""
    results = [artefact(run, "metrics.json") for run in PLANS[table].runs()]
    return results + [f"results/{SCALE.name}/tables/{table}.{kind}" for kind in ("csv", "tex", "md")]


wildcard_constraints:
    table="|".join(PLANS),
    dataset="|".join(DATASETS),
    published="|".join(PUBLISHED),
    timesteps=r"\d+",
