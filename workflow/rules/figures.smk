localrules:
    figure,


rule figure:
    input:
        figure_inputs,
    output:
        report(f"figures/{SCALE.name}/{{figure}}.png", category="Figures", labels={"figure": "{figure}"}),
        f"figures/{SCALE.name}/{{figure}}.pdf",
        f"figures/{SCALE.name}/{{figure}}.csv",
    log:
        f"results/{SCALE.name}/logs/figures/{{figure}}.log",
    benchmark:
        f"results/{SCALE.name}/benchmarks/figures/{{figure}}.tsv"
    conda:
        "../../environment.yml"
    params:
        scale=SCALE.name,
        variant=SETTINGS.variant,
        seeds=figure_seeds,
    shell:
        "python -m bkdsnn figure {wildcards.figure} --scale {params.scale} {params.variant} {params.seeds} "
        "--log {log}"


# One target per figure, named after the figure: `snakemake fig4`.
for one in FIGURES:

    rule:
        name:
            one
        input:
            figure_files(one),
        localrule: True
