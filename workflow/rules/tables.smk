localrules:
    all,
    table,


rule table:
    input:
        table_inputs,
    output:
        expand(f"results/{SCALE.name}/tables/{{{{table}}}}.{{kind}}", kind=["csv", "tex", "md"]),
    log:
        f"results/{SCALE.name}/logs/tables/{{table}}.log",
    benchmark:
        f"results/{SCALE.name}/benchmarks/tables/{{table}}.tsv"
    conda:
        "../../environment.yml"
    params:
        scale=SCALE.name,
        neurons=SETTINGS.neurons,
        seeds=table_seeds,
    shell:
        "python -m bkdsnn table {wildcards.table} --scale {params.scale} --neurons {params.neurons} "
        "--seeds {params.seeds} --log {log}"


# One target per table, named as the table.
for one in PLANS:

    rule:
        name:
            one
        input:
            table_files(one),
        localrule: True


rule all:
    default_target: True
    input:
        [path for one in PLANS for path in table_files(one)],
