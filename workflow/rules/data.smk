rule dataset:
    output:
        f"results/{SCALE.name}/data/{{dataset}}.json",
    log:
        f"results/{SCALE.name}/logs/dataset/{{dataset}}.log",
    benchmark:
        f"results/{SCALE.name}/benchmarks/dataset/{{dataset}}.tsv"
    priority: 100  # missing data is told before anything is trained
    conda:
        "../../environment.yml"
    params:
        scale=SCALE.name,
    shell:
        "python -m bkdsnn data {wildcards.dataset} --scale {params.scale} --log {log}"


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
