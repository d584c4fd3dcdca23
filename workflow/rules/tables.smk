localrules:
    all,
    layers,
    notation,
    table,


rule table:
    input:
        table_inputs,
    output:
        f"results/{SCALE.name}/tables/{{table}}.csv",
        f"results/{SCALE.name}/tables/{{table}}.tex",
        report(f"results/{SCALE.name}/tables/{{table}}.md", category="Tables", labels={"table": "{table}"}),
    log:
        f"results/{SCALE.name}/logs/tables/{{table}}.log",
    benchmark:
        f"results/{SCALE.name}/benchmarks/tables/{{table}}.tsv"
    conda:
        "../../environment.yml"
    params:
        command="table",
        scale=SCALE.name,
        variant=SETTINGS.variant,
        seeds=table_seeds,
        energy=f"--mac-pj {SETTINGS.energy.mac_pj} --ac-pj {SETTINGS.energy.ac_pj}",
    shell:
        "python -m bkdsnn {params.command} {wildcards.table} --scale {params.scale} {params.variant} "
        "--seeds {params.seeds} {params.energy} --log {log}"


# Operations and energy, layer by layer, of every run of a table.
use rule table as layers with:
    output:
        f"results/{SCALE.name}/tables/{{table}}-layers.csv",
    log:
        f"results/{SCALE.name}/logs/tables/{{table}}-layers.log",
    benchmark:
        f"results/{SCALE.name}/benchmarks/tables/{{table}}-layers.tsv"
    wildcard_constraints:
        table="|".join(WITH_ENERGY) or "none",
    params:
        command="layers",
        scale=SCALE.name,
        variant=SETTINGS.variant,
        seeds=table_seeds,
        energy=f"--mac-pj {SETTINGS.energy.mac_pj} --ac-pj {SETTINGS.energy.ac_pj}",


# Table 1, the notation, which needs no run.
rule notation:
    output:
        f"results/{SCALE.name}/tables/table1.csv",
        f"results/{SCALE.name}/tables/table1.tex",
        report(f"results/{SCALE.name}/tables/table1.md", category="Tables", labels={"table": "table1"}),
    log:
        f"results/{SCALE.name}/logs/tables/table1.log",
    benchmark:
        f"results/{SCALE.name}/benchmarks/tables/table1.tsv"
    conda:
        "../../environment.yml"
    params:
        scale=SCALE.name,
    shell:
        "python -m bkdsnn notation --scale {params.scale} --log {log}"


rule table1:
    input:
        rules.notation.output,
    localrule: True


# All attempts at runs so far. The rule declares no outputs, so that Snakemake always runs it.
rule ledger:
    log:
        f"results/{SCALE.name}/logs/tables/ledger.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        scale=SCALE.name,
    shell:
        "python -m bkdsnn ledger --scale {params.scale} --log {log}"


# One target per table, named after the table: `snakemake table2c`.
for one in PLANS:

    rule:
        name:
            one
        input:
            table_files(one),
        localrule: True
