from pathlib import Path

from snakemake.utils import min_version

min_version("9.27")


configfile: Path(workflow.basedir) / "config" / "config.yaml"


include: "workflow/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/teachers.smk"
include: "workflow/rules/students.smk"
include: "workflow/rules/analysis.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/tables.smk"


# In this file, because Snakemake does not take a rule of an included file as the default target.
rule all:
    default_target: True
    input:
        rules.notation.output,
        [path for one in PLANS for path in table_files(one)],
        [path for one in FIGURES for path in figure_files(one)],
