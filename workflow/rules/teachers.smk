# Training of teachers. The shell command is the same for all runs, because a run's name determines its settings.
# Checkpoints are undeclared files in the run's folder, so that a failed or interrupted job continues from them.
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
    priority: 10  # before students, which need them
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
