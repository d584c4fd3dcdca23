# Helpers of the rules. Everything imported here is light: no torch, no pandas, for each job parses this file again.
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


def settle():
    """Validate the configuration and expand every table, or stop with one message before anything is built."""
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


SETTINGS, SCALE, PLANS, FIGURES = settle()
RUNS = {name: spec for plan in PLANS.values() for name, spec in plan.runs().items()}
DATASETS = sorted({spec.dataset.name for spec in RUNS.values()})
TAUGHT_BY = {spec.teacher.name for spec in RUNS.values() if spec.teacher}
RATES = [name for name, plan in FIGURES.items() if plan.figure.kind == "firing-rates"]
ANALYSED = {run for plan in PLANS.values() for run in plan.analysed()} | {
    run for name in RATES for run in FIGURES[name].runs()
}
GPUS, THREADS, MEMORY_MB = (1, 8, 32000) if SCALE.gpu else (0, 1, 2000)
PUBLISHED = {one.stem: one.name for one in catalogue.published_weights()}


def run_names(kind):
    """A pattern of the names of all runs of one kind: teacher, student or evaluation.

    What another run imitates is a teacher, also if it is a spiking network.
    """
    kinds = {name: "teacher" if spec.recipe and name in TAUGHT_BY else spec.kind for name, spec in RUNS.items()}
    return "|".join(name for name in RUNS if kinds[name] == kind) or "none"


def artefact(run, name):
    """Path of one file that a run leaves."""
    return f"results/{SCALE.name}/runs/{run}/{name}"


def data_of_run(wildcards):
    """The data that a run sees."""
    return data_of(RUNS[wildcards.run])


def data_of(spec):
    """The manifests of a run's data, those of its frames too.

    Their age makes no run stale, for they may come after a run that was imported; tables compare digests.
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
    """GPUs of a run, one a process."""
    return GPUS * processes(wildcards)


def memory_of(wildcards):
    """Main memory of all processes of a run, MiB."""
    return MEMORY_MB * processes(wildcards)


def run_inputs(wildcards):
    """What a run needs first: its data, the runs it builds on, published weights."""
    if workflow.dryrun:
        budget()
    spec = RUNS[wildcards.run]
    files = data_of_run(wildcards)
    for parent in spec.parents():
        files += [artefact(parent.name, "metrics.json"), artefact(parent.name, "weights.safetensors")]
    if isinstance(spec.source, Pretrained):
        files.append(ancient(f"resources/weights/{spec.source.stem}.safetensors"))  # always of one checksum
    return files


def table_inputs(wildcards):
    """The results of every run that a table shows, and what more is measured of it."""
    plan = PLANS[wildcards.table]
    runs = {spec.name: spec for cell in plan.cells for spec in cell.runs}
    files = [artefact(run, name) for run in runs for name in ("metrics.json", "predictions.npz")]
    return files + [activity_of(run) for run in plan.analysed()] + own.files(f"tables/{wildcards.table}.yaml")


def activity_of(run):
    """The analysis of a run's spikes."""
    return f"results/{SCALE.name}/analyses/{run}/activity.json"


def networks_of_figure(wildcards):
    """The networks that one figure looks into, and their data."""
    runs = FIGURES[wildcards.figure].runs()
    files = [artefact(run, name) for run in runs for name in ("metrics.json", "weights.safetensors")]
    return files + sorted({f"results/{SCALE.name}/data/{spec.dataset.name}.json" for spec in runs.values()})


def figure_inputs(wildcards):
    """What one figure is drawn from."""
    plan = FIGURES[wildcards.figure]
    analyses = {"gradcam": ("npz", "json"), "histogram": ("json",)}.get(plan.figure.kind, ())
    files = [f"results/{SCALE.name}/analyses/{wildcards.figure}.{kind}" for kind in analyses]
    files += [activity_of(run) for run in plan.runs() if plan.figure.kind == "firing-rates"]
    files += own.files(f"figures/{wildcards.figure}.yaml")
    return files + [artefact(run, name) for run in plan.runs() for name in ("metrics.json", "history.jsonl")]


def figure_seeds(wildcards):
    """The seeds of a figure, as an option; none where they are those of the scale."""
    if FIGURES[wildcards.figure].figure.kind in figures.OF_ONE_SEED:
        return first_seed(wildcards)
    return f"--seeds {' '.join(map(str, SETTINGS.seeds))}" if SETTINGS.seeds else ""


def first_seed(wildcards):
    """The seed of what shows single networks, as an option; none where it is the scale's first."""
    return f"--seeds {SETTINGS.seeds[0]}" if SETTINGS.seeds and SETTINGS.seeds[0] != SCALE.seeds[0] else ""


def figures_of(kind):
    """A pattern of the names of all figures of one kind."""
    return "|".join(name for name, plan in FIGURES.items() if plan.figure.kind == kind) or "none"


def figure_files(figure):
    """The files of one figure."""
    return [f"figures/{SCALE.name}/{figure}.{kind}" for kind in ("png", "pdf", "csv")]


def table_seeds(wildcards):
    """The seeds of a table, as arguments."""
    return " ".join(map(str, SETTINGS.seeds or SCALE.seeds))


def table_files(table):
    """The files of one table and the results behind it: a result that was deleted is made again."""
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
    """Tell on standard error, once, what the runs behind the targets will cost; return which cap that exceeds."""
    at_once = workflow.nodes or workflow.cores // max(1, THREADS)
    try:
        lines, problem = quote(workflow.dag_settings.targets, SETTINGS, RUNS, Path.cwd() / "results", at_once)
    except UserError as error:
        lines, problem = [], str(error)
    if Quietness.ALL not in (workflow.output_settings.quiet or ()):
        if problem and workflow.dryrun:
            lines.append(f"warning: a real run would be refused: {problem}")
        print("", *lines, sep="\n", file=sys.stderr, flush=True)
    return problem


# A real run that would cost more than a cap is refused before its first job. A dry run has no such hook: there the
# first input function of a run tells the budget.
onstart:
    if not workflow.touch and (problem := budget()):
        raise WorkflowError(problem)
