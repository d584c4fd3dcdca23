rule dataset:
    output:
        f"results/{SCALE.name}/data/{{dataset}}.json",
    log:
        f"results/{SCALE.name}/logs/dataset/{{dataset}}.log",
    benchmark:
        f"results/{SCALE.name}/benchmarks/dataset/{{dataset}}.tsv"
    priority: 100  # missing data is told before anything is trained
    shell:
        "{PYTHON} -m bkdsnn data {wildcards.dataset} --scale {SCALE.name} " "{DATA_ROOT} --log {log}"


rule published_weights:
    output:
        "resources/weights/{published}.safetensors",
    log:
        f"results/{SCALE.name}/logs/weights/{{published}}.log",
    benchmark:
        f"results/{SCALE.name}/benchmarks/weights/{{published}}.tsv"
    priority: 100
    params:
        name=lambda wildcards: PUBLISHED[wildcards.published],
    shell:
        "{PYTHON} -m bkdsnn weights {params.name} {WEIGHTS_ROOT} --log {log}"
