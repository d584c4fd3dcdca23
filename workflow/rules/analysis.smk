# Measurements on finished runs; nothing is trained here. This rule measures firing rates and operations.
rule activity:
    input:
        f"results/{SCALE.name}/runs/{{run}}/metrics.json",
        f"results/{SCALE.name}/runs/{{run}}/weights.safetensors",
        data_of_run,
    output:
        f"results/{SCALE.name}/analyses/{{run}}/activity.json",
    log:
        f"results/{SCALE.name}/logs/activity/{{run}}.log",
    benchmark:
        f"results/{SCALE.name}/benchmarks/activity/{{run}}.tsv"
    wildcard_constraints:
        run="|".join(ANALYSED) or "none",
    conda:
        "../../environment.yml"
    threads: THREADS
    resources:
        gpu=GPUS,
        mem_mb=MEMORY_MB,
    params:
        scale=SCALE.name,
    shell:
        "python -m bkdsnn activity {wildcards.run} --scale {params.scale} --threads {threads} --log {log}"


# Grad-CAM maps of all networks of one figure, on the same images.
rule gradcam:
    input:
        networks_of_figure,
    output:
        f"results/{SCALE.name}/analyses/{{figure}}.npz",
        f"results/{SCALE.name}/analyses/{{figure}}.json",
    log:
        f"results/{SCALE.name}/logs/analyses/{{figure}}.log",
    benchmark:
        f"results/{SCALE.name}/benchmarks/analyses/{{figure}}.tsv"
    wildcard_constraints:
        figure=figures_of("gradcam"),
    conda:
        "../../environment.yml"
    threads: THREADS
    resources:
        gpu=GPUS,
        mem_mb=MEMORY_MB,
    params:
        command="gradcam",
        scale=SCALE.name,
        variant=SETTINGS.variant,
        seeds=first_seed,
    shell:
        "python -m bkdsnn {params.command} {wildcards.figure} --scale {params.scale} {params.variant} "
        "{params.seeds} --threads {threads} --log {log}"


# Histograms of the features before the last layer, for the networks of one figure.
use rule gradcam as features with:
    output:
        f"results/{SCALE.name}/analyses/{{figure}}.json",
    wildcard_constraints:
        figure=figures_of("histogram"),
    params:
        command="features",
        scale=SCALE.name,
        variant=SETTINGS.variant,
        seeds=first_seed,
