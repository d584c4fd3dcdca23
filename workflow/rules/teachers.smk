# ANN teachers. The shell line of every run is constant: a run is named by its spec, and its folder keeps undeclared
# checkpoints, so that a failed or interrupted job goes on where it stopped.
rule teacher:
    input:
        run_inputs,
    output:
        expand(f"results/{SCALE.name}/runs/{{{{run}}}}/{{file}}", file=ARTEFACTS),
    log:
        f"results/{SCALE.name}/logs/runs/{{run}}.log",
    benchmark:
        f"results/{SCALE.name}/benchmarks/runs/{{run}}.tsv"
    wildcard_constraints:
        run=run_names("teacher"),
    priority: 10  # students wait for them
    conda:
        "../../environment.yml"
    threads: threads_of
    resources:
        gpu=gpus_of,
        mem_mb=memory_of,
        runtime=SETTINGS.slice_minutes,
        attempt=lambda wildcards, attempt: attempt,
    params:
        scale=SCALE.name,
    shell:
        "python -m bkdsnn train {wildcards.run} --scale {params.scale} --threads {threads} "
        "--minutes {resources.runtime} --attempt {resources.attempt} --log {log}"
