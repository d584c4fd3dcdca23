rule dataset:
    output:
        f"results/{SCALE.name}/data/{{dataset}}.json",
    log:
        f"results/{SCALE.name}/logs/dataset/{{dataset}}.log",
    benchmark:
        f"results/{SCALE.name}/benchmarks/dataset/{{dataset}}.tsv"
    priority: 100  # report missing data before anything is trained
    retries: 0  # a mistake in the data does not go away by itself
    conda:
        "../../environment.yml"
    params:
        scale=SCALE.name,
    shell:
        "python -m bkdsnn data {wildcards.dataset} --scale {params.scale} --log {log}"


# Event-camera recordings, integrated to T frames each; the arrays are stored beside the manifest.
rule frames:
    input:
        f"results/{SCALE.name}/data/{{dataset}}.json",
    output:
        f"results/{SCALE.name}/data/{{dataset}}-t{{timesteps}}.json",
    log:
        f"results/{SCALE.name}/logs/frames/{{dataset}}-t{{timesteps}}.log",
    benchmark:
        f"results/{SCALE.name}/benchmarks/frames/{{dataset}}-t{{timesteps}}.tsv"
    priority: 50
    retries: 0
    conda:
        "../../environment.yml"
    params:
        scale=SCALE.name,
    shell:
        "python -m bkdsnn frames {wildcards.dataset} --timesteps {wildcards.timesteps} --scale {params.scale} "
        "--log {log}"


rule published_weights:
    output:
        "resources/weights/{published}.safetensors",
    log:
        f"results/{SCALE.name}/logs/weights/{{published}}.log",
    benchmark:
        f"results/{SCALE.name}/benchmarks/weights/{{published}}.tsv"
    priority: 100
    conda:
        "../../environment.yml"
    params:
        name=lambda wildcards: PUBLISHED[wildcards.published],
    shell:
        "python -m bkdsnn weights {params.name} --log {log}"
