# Helper functions of the rules. Import neither torch nor pandas here: every job parses this file again.
import functools
import sys
from pathlib import Path

sys.path.insert(0, str(workflow.basedir))

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import Quietness

from bkdsnn.config import catalogue, own, paper
from bkdsnn.runs.artefacts import ARTEFACTS, data_records
from bkdsnn.budget.quote import quote
from bkdsnn.core.errors import UserError
from bkdsnn.config import figure_plans as figures
from bkdsnn.config.settings import Settings
from bkdsnn.config import Pretrained
from bkdsnn.machine import fork_server


def read_settings():
    """Validate the configuration and expand every table and figure; stop with one message if there is a mistake."""
    try:
        settings = Settings.read(config)
        settings.export()
        expansion = settings.expansion()
        plans = {name: expansion.plan(catalogue.load_table(name), settings.seeds) for name in catalogue.table_names()}
        drawn = {
            name: figures.plan_figure(expansion, figures.load_figure(name), settings.seeds)
            for name in figures.figure_names()
        }
    except UserError as error:
        raise WorkflowError(str(error))
    return settings, expansion.scale, plans, drawn


SETTINGS, SCALE, PLANS, FIGURES = read_settings()
RUNS = {name: spec for plan in PLANS.values() for name, spec in plan.runs().items()}
DATASETS = sorted({spec.dataset.name for spec in RUNS.values()})
RATES = [name for name, plan in FIGURES.items() if plan.figure.kind == "firing-rates"]
ANALYSED = {run for plan in PLANS.values() for run in plan.analysed()} | {
    run for name in RATES for run in FIGURES[name].runs()
}
GPUS, THREADS, MEMORY_MB = (1, 8, 32000) if SCALE.gpu else (0, 1, 2000)
PUBLISHED = {one.stem: one.name for one in catalogue.published_weights()}


def run_names(kind):
    """A regular expression for the names of all runs of one kind: teacher, student or evaluation.

    It has the ends of the names alone: parsing the whole names would take most of the time of a dry run.
    """
    ends = [name.rpartition("-")[2] for name, spec in RUNS.items() if spec.kind == kind]
    return rf"[a-z0-9-]+-(?:{'|'.join(ends)})" if ends else "none"


def artefact(run, name):
    """Path of one output file of a run."""
    return f"results/{SCALE.name}/runs/{run}/{name}"


def data_of_run(wildcards):
    """The manifests of the data of the run that the wildcard names."""
    return data_of(RUNS[wildcards.run])


def data_of(spec):
    """The manifests of a run's data, including those of its frames.

    Marked `ancient`, so that a newer manifest does not trigger retraining: an imported run may be older than it. Tables
    check by digest that the data are the same.
    """
    return [ancient(f"results/{SCALE.name}/data/{name}") for name in data_records(spec)]


def processes(wildcards):
    """How many processes train a run."""
    recipe = RUNS[wildcards.run].recipe
    return recipe.processes if recipe else 1


def threads_of(wildcards):
    """CPU threads of all processes of a run."""
    return THREADS * processes(wildcards)


def gpus_of(wildcards):
    """GPUs of a run, one per process."""
    return GPUS * processes(wildcards)


def memory_of(wildcards):
    """Main memory of all processes of a run, MiB."""
    return MEMORY_MB * processes(wildcards)


def run_inputs(wildcards):
    """Inputs of a run: its data, its teacher and source, and published weights."""
    if workflow.dryrun:
        budget()
    spec = RUNS[wildcards.run]
    files = data_of_run(wildcards)
    for parent in spec.parents():
        files += [artefact(parent.name, "metrics.json"), artefact(parent.name, "weights.safetensors")]
    if isinstance(spec.source, Pretrained):
        files.append(ancient(f"resources/weights/{spec.source.stem}.safetensors"))  # its checksum is fixed
    return files


def table_inputs(wildcards):
    """Inputs of a table: the results of its runs, and their analyses where the table shows more than accuracy."""
    plan = PLANS[wildcards.table]
    runs = {spec.name: spec for cell in plan.cells for spec in cell.runs}
    files = [artefact(run, name) for run in runs for name in ("metrics.json", "predictions.npz")]
    return files + [activity_of(run) for run in plan.analysed()] + own.files(f"tables/{wildcards.table}.yaml")


def activity_of(run):
    """Path of a run's analysis: firing rates and operations."""
    return f"results/{SCALE.name}/analyses/{run}/activity.json"


def networks_of_figure(wildcards):
    """Inputs of the analysis for one figure: the trained networks and their data."""
    runs = FIGURES[wildcards.figure].runs()
    files = [artefact(run, name) for run in runs for name in ("metrics.json", "weights.safetensors")]
    return files + sorted({f"results/{SCALE.name}/data/{spec.dataset.name}.json" for spec in runs.values()})


def figure_inputs(wildcards):
    """Inputs of one figure: results of its runs, and analyses if its kind needs them."""
    plan = FIGURES[wildcards.figure]
    analyses = {"gradcam": ("npz", "json"), "histogram": ("json",)}.get(plan.figure.kind, ())
    files = [f"results/{SCALE.name}/analyses/{wildcards.figure}.{kind}" for kind in analyses]
    files += [activity_of(run) for run in plan.runs() if plan.figure.kind == "firing-rates"]
    files += own.files(f"figures/{wildcards.figure}.yaml")
    return files + [artefact(run, name) for run in plan.runs() for name in ("metrics.json", "history.jsonl")]


def figure_seeds(wildcards):
    """The seeds of a figure as a command-line option; empty if they are those of the scale."""
    if FIGURES[wildcards.figure].figure.kind in figures.OF_ONE_SEED:
        return first_seed(wildcards)
    return f"--seeds {' '.join(map(str, SETTINGS.seeds))}" if SETTINGS.seeds else ""


def first_seed(wildcards):
    """The seed of a figure that shows single networks, as an option; empty if it is the scale's first seed."""
    return f"--seeds {SETTINGS.seeds[0]}" if SETTINGS.seeds and SETTINGS.seeds[0] != SCALE.seeds[0] else ""


def figures_of(kind):
    """A regular expression for the names of all figures of one kind."""
    return "|".join(name for name, plan in FIGURES.items() if plan.figure.kind == kind) or "none"


def figure_files(figure):
    """Output files of one figure."""
    return [f"figures/{SCALE.name}/{figure}.{kind}" for kind in ("png", "pdf", "csv")]


def table_seeds(wildcards):
    """The seeds of a table, as command-line arguments."""
    return " ".join(map(str, SETTINGS.seeds or SCALE.seeds))


def table_files(table):
    """Files of one table, and the results that it shows, so that Snakemake makes a deleted result again."""
    results = [artefact(run, "metrics.json") for run in PLANS[table].runs()]
    layers = [f"results/{SCALE.name}/tables/{table}-layers.csv"] if table in WITH_ENERGY else []
    return results + [f"results/{SCALE.name}/tables/{table}.{kind}" for kind in ("csv", "tex", "md")] + layers


WITH_ENERGY = [name for name, plan in PLANS.items() if any("energy" in cell.column.metric for cell in plan.cells)]


wildcard_constraints:
    table="|".join(PLANS),
    figure="|".join(FIGURES),
    dataset="|".join(DATASETS),
    published="|".join(PUBLISHED),
    timesteps=r"\d+",


@functools.cache
def budget():
    """Print the estimated cost of the unfinished runs once, to standard error; return which cap it exceeds, if any."""
    at_once = workflow.nodes or workflow.cores // max(1, THREADS)
    try:
        lines, problem = quote(workflow.dag_settings.targets, SETTINGS, RUNS, Path.cwd() / "results", at_once)
    except UserError as error:
        lines, problem = [], str(error)
    if Quietness.ALL not in (workflow.output_settings.quiet or ()):
        if problem and workflow.dryrun:
            lines.append(f"warning: a real run would be refused: {problem}")
        print("", *lines, sep="\n", file=sys.stderr, flush=True)
    elif problem and not workflow.dryrun:
        print(problem, file=sys.stderr, flush=True)  # the error itself is not shown either
    return problem


# Refuse to start if the estimated cost exceeds a cap. A dry run never calls `onstart`, so there the input function
# `run_inputs` prints the budget. Short runs on this machine then share one import of torch.
onstart:
    if not workflow.touch and (problem := budget()):
        raise WorkflowError(problem)
    if workflow.local_exec:
        # Snakemake's limit of starts per second sets a timer for every job that ends, each of which looks for work once
        # in that time until the end: a quarter of a core over hundreds of short runs. Starts on one machine need no limit.
        workflow.scheduler.job_rate_limiter = None
    if workflow.local_exec and not SCALE.gpu:
        fork_server.offer(SETTINGS.device)
