"""Constants from published code and from the paper: the values that their sources state, which `config/` must hold.

Nothing here is read from `config/`: every value was read in its source, which is named beside it. Options of published
programs are named as these spell them. A value of one of these files that is neither pinned here nor FREE is an error,
and so is a field that is added to them or left out.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest
import yaml

from bkdsnn.config.catalogue import CONFIG

# Names of fields that change no result, and beginnings of the names of embedded data, which no published code has.
FREE = ("label", "page", "folder", "source")
EMBEDDED = ("digit", "smoke-")

# Repositories, with the folders or files that are cited.
BKDSNN = "Intelligent-Computing-Research-Group/BKDSNN, commit b802f1c"
SFORMER = f"{BKDSNN}, Spikingformer-CML"
SEW = "fangwei123456/Spike-Element-Wise-ResNet"
TET = "brain-intelligence-lab/temporal_efficient_training"
QCFS = "putshua/ANN_SNN_QCFS"
META = "BICLab/Spike-Driven-Transformer-V2, classification"
STATIC = "the paper, sec. 4.1, 'Static Datasets and Settings'"
DYNAMIC = "the paper, sec. 4.1, 'Neuromorphic Dataset and Networks'"


class Pin(NamedTuple):
    """An entry of a file in `config/`, the source of its values, and the values by dotted key."""

    file: str
    entry: str
    source: str
    values: dict[str, Any]


# ---- Neurons ---------------------------------------------------------------------------------------------------------

HARD = {"v_threshold": 1.0, "v_reset": 0.0}
DETACHED = {**HARD, "detach_reset": True}
ATAN, SIGMOID = {"surrogate": "atan", "alpha": 2.0}, {"surrogate": "sigmoid", "alpha": 4.0}

NEURONS = [
    Pin(
        "neurons.yaml",
        "if-atan",
        f"{SEW}, imagenet/sew_resnet.py, MultiStepIFNode(detach_reset=True); the rest are the defaults of "
        "spikingjelly.cext.neuron: v_threshold=1., v_reset=0., ATan() with alpha=2.0",
        {"kind": "if", **DETACHED, **ATAN},
    ),
    Pin(
        "neurons.yaml",
        "tet-lif",
        f"{TET}, models/layers.py, LIFSpike(thresh=1.0, tau=0.5, gama=1.0): V <- 0.5 V + x, whole gradient of the "
        "reset; ZIF: a triangle",
        {
            "kind": "lif",
            "tau": 2.0,
            "decay_input": False,
            **HARD,
            "detach_reset": False,
            "surrogate": "triangle",
            "alpha": 1.0,
        },
    ),
    Pin(
        "neurons.yaml",
        "tdbn-lif",
        "Zheng et al., AAAI 2021: V <- 0.25 V + x (tau 1 / (1 - 0.25)), V_th 0.5, rectangle of width a = 1, gradient "
        "through the reset",
        {
            "kind": "lif",
            "tau": 4 / 3,
            "decay_input": False,
            "v_threshold": 0.5,
            "v_reset": 0.0,
            "detach_reset": False,
            "surrogate": "rectangle",
            "alpha": 1.0,
        },
    ),
    Pin(
        "neurons.yaml",
        "paper-text",
        "the paper, sec. 2, 'Spiking Neuron Model' (integrate and fire), and appendix A4 (sigmoid, alpha 4.0); the "
        "reset as if-atan",
        {"kind": "if", **DETACHED, **SIGMOID},
    ),
    Pin(
        "neurons.yaml",
        "lif-sigmoid",
        f"{SFORMER}/cifar10/model.py and imagenet/model.py, MultiStepLIFNode(tau=2.0, detach_reset=True); the rest are "
        "spikingjelly's defaults, as in cifar10/model.txt: v_threshold=1.0, v_reset=0.0, Sigmoid(alpha=4.0)",
        {"kind": "lif", "tau": 2.0, "decay_input": True, **DETACHED, **SIGMOID},
    ),
    Pin(
        "neurons.yaml",
        "plif-atan",
        f"{SEW}, cifar10dvs/smodels.py, MultiStepParametricLIFNode(init_tau=2.0, detach_reset=True); the rest as "
        "if-atan",
        {"kind": "plif", "tau": 2.0, "decay_input": True, **DETACHED, **ATAN},
    ),
    Pin(
        "neurons.yaml",
        "lif-sigmoid-events",
        f"{SFORMER}/cifar10-dvs/model.py, tau_thr = 1.75; the rest as lif-sigmoid",
        {"kind": "lif", "tau": 1.75, "decay_input": True, **DETACHED, **SIGMOID},
    ),
    Pin(
        "quantised.yaml",
        "qcfs",
        f"{QCFS}, main_train.py, '--L' default=8; Models/layer.py, IF(L=8, thresh=8.0)",
        {"levels": 8, "init": 8.0},
    ),
]

# ---- Networks --------------------------------------------------------------------------------------------------------

TORCHVISION = "torchvision, models/resnet.py (He et al., CVPR 2016, table 1), as SEW's imagenet/sew_resnet.py has it"
IMAGENET_STEM = {"stem": "imagenet", "stem_width": 64, "widths": [64, 128, 256, 512]}
CIFAR_POOLS, ALL_POOLS = {"pools": [3, 4]}, {"pools": [1, 2, 3, 4]}
WHOLE = {"view.crop": 1.0, "view.interpolation": "bicubic"}  # crop_pct and interpolation of the files
EIGHT = "zhouchenlin2096/Spikingformer, cifar100/cifar100.yml, num_heads: 8"
MIXED = f"{SFORMER}/imagenet/config/mixed"
METAS = f"{META}/models.py: embed_dim of metaspikformer_8_*; util/datasets.py: 256, bicubic, centre 224"
VIT = {
    "family": "vit",
    "image_size": 224,
    "patch": 16,
    "depth": 12,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "view.crop": 0.9,
    "view.interpolation": "bicubic",
}
TIMM = "Dosovitskiy et al., ICLR 2021, table 1; timm, models/vision_transformer.py, _cfg: 0.5, crop_pct 0.9, bicubic"

NETWORKS = [
    Pin("networks.yaml", "resnet18", TORCHVISION, {**IMAGENET_STEM, "block": "basic", "blocks": [2, 2, 2, 2]}),
    Pin("networks.yaml", "resnet34", TORCHVISION, {**IMAGENET_STEM, "block": "basic", "blocks": [3, 4, 6, 3]}),
    Pin("networks.yaml", "resnet50", TORCHVISION, {**IMAGENET_STEM, "block": "bottleneck", "blocks": [3, 4, 6, 3]}),
    Pin(
        "networks.yaml",
        "resnet19",
        f"{TET}, models/resnet_models.py, ResNet19: [3, 3, 2] blocks, 64 channels, then 128, 256, 512; fc1 to 256",
        {
            "stem": "cifar",
            "stem_width": 64,
            "block": "basic",
            "blocks": [3, 3, 2],
            "widths": [128, 256, 512],
            "hidden": 256,
        },
    ),
    Pin(
        "networks.yaml",
        "resnet20",
        "He et al., CVPR 2016, sec. 4.2 with n = 3",
        {"stem": "cifar", "stem_width": 16, "block": "basic", "blocks": [3, 3, 3], "widths": [16, 32, 64]},
    ),
    Pin(
        "networks.yaml",
        "sformer-4-256",
        f"{SFORMER}/cifar10/config/mixed/vit-ti-300-mixed.yml: dim, layer, num_heads; cifar10/model.py pools third "
        "and fourth convolution",
        {"dim": 256, "depth": 4, "heads": 16, **CIFAR_POOLS},
    ),
    Pin(
        "networks.yaml",
        "sformer-2-384",
        f"{SFORMER}/cifar10/config/mixed/vit-st-300-mixed.yml and model.py; {EIGHT}",
        {"dim": 384, "depth": 2, "heads": 12, **CIFAR_POOLS, "datasets.cifar100.heads": 8},
    ),
    Pin(
        "networks.yaml",
        "sformer-4-384",
        f"{SFORMER}/cifar10/cifar10.yml: dim, depths, num_heads; model.py; {EIGHT}",
        {"dim": 384, "depth": 4, "heads": 12, **CIFAR_POOLS, "datasets.cifar100.heads": 8},
    ),
    Pin(
        "networks.yaml",
        "sformer-8-384",
        f"{MIXED}/vit-s-mixed.yml: dim, depths, num_heads, crop_pct, interpolation; imagenet/model.py pools four times",
        {"dim": 384, "depth": 8, "heads": 8, **ALL_POOLS, **WHOLE},
    ),
    Pin(
        "networks.yaml",
        "sformer-8-512",
        f"{MIXED}/vit-m-mixed.yml",
        {"dim": 512, "depth": 8, "heads": 8, **ALL_POOLS, **WHOLE},
    ),
    Pin(
        "networks.yaml",
        "sformer-8-768",
        f"{MIXED}/vit-b-mixed.yml",
        {"dim": 768, "depth": 8, "heads": 8, **ALL_POOLS, **WHOLE},
    ),
    Pin(
        "networks.yaml",
        "sformer-2-256",
        f"{SFORMER}/cifar10-dvs/model.py, Spikingformer: embed_dims=256, num_heads=16, depths=2, four pools",
        {"dim": 256, "depth": 2, "heads": 16, **ALL_POOLS},
    ),
    Pin(
        "networks.yaml",
        "wide-7b-net",
        f"{SEW}, cifar10dvs/smodels.py, SEWResNet: 'channels' of layer_list",
        {"widths": [64, 64, 64, 64, 128, 128, 128]},
    ),
    Pin("networks.yaml", "mformer-8-256", METAS, {"dims": [64, 128, 256, 360], "view.interpolation": "bicubic"}),
    Pin("networks.yaml", "mformer-8-384", METAS, {"dims": [96, 192, 384, 480], "view.interpolation": "bicubic"}),
    Pin("networks.yaml", "mformer-8-512", METAS, {"dims": [128, 256, 512, 640], "view.interpolation": "bicubic"}),
    Pin("networks.yaml", "vit-s-16", TIMM, {**VIT, "dim": 384, "heads": 6}),
    Pin("networks.yaml", "vit-b-16", TIMM, {**VIT, "dim": 768, "heads": 12}),
]

# ---- Recipes ---------------------------------------------------------------------------------------------------------

SGD = {"optimizer": "sgd", "momentum": 0.9}
ADAMW = {"optimizer": "adamw", "decay_vectors": False}  # timm's create_optimizer decays no 1-D parameter
CROPPED = {"augment.crop_padding": 4, "augment.flip": True}
RESIZED = {"augment.resized_crop": {}, "augment.flip": True}
# Mixed images are erased: timm 0.6.12, data/loader.py, whose prefetcher erases after FastCollateMixup has mixed.
RAND_CIFAR, RAND_IMAGENET = "rand-m9-n1-mstd0.4-inc1", "rand-m9-mstd0.5-inc1"

QCFS_CIFAR = {**SGD, "epochs": 300, "batch_size": 300, "weight_decay": 5e-4, "precision": "fp32", **CROPPED}
SFORMER_CIFAR = {
    **ADAMW,
    "cooldown_epochs": 10,
    "batch_size": 64,
    "lr": 5e-4,
    "weight_decay": 6e-2,
    "warmup_epochs": 20,
    "warmup_lr": 1e-5,
    "min_lr": 1e-5,
    "label_smoothing": 0.1,
    "mix.mixup": 0.5,
    "precision": "fp16",
    "augment.flip": True,
    "augment.randaugment": RAND_CIFAR,
    "augment.erasing": 0.25,
    "augment.erasing_mode": "const",
    "augment.erasing_mixed": True,
}
SFORMER_IMAGENET = {
    **ADAMW,
    "epochs": 300,
    "cooldown_epochs": 10,
    "weight_decay": 5e-2,
    "warmup_epochs": 20,
    "warmup_lr": 1e-6,
    "min_lr": 1e-5,
    "label_smoothing": 0.1,
    "mix.mixup": 0.8,
    "mix.cutmix": 1.0,
    "precision": "fp16",
    "augment.resized_crop.scale": [1, 1],
    "augment.resized_crop.ratio": [1, 1],
    "augment.resized_crop.interpolation": "bicubic",
    "augment.flip": True,
    "augment.randaugment": RAND_IMAGENET,
    "augment.erasing": 0.25,
    "augment.erasing_mode": "const",
    "augment.erasing_mixed": True,
}
SFORMER_EVENTS = {
    **ADAMW,
    "cooldown_epochs": 10,
    "batch_size": 16,
    "lr": 1e-3,
    "weight_decay": 0.06,
    "warmup_epochs": 10,
    "warmup_lr": 1e-5,
    "min_lr": 1e-5,
    "label_smoothing": 0.1,
    "mix.mixup": 0.5,
    "mix.probability": 0.5,
    "mix.off_epoch": 75,
    "precision": "fp16",
    "augment.neuromorphic": True,
}
LAMB = {
    "optimizer": "lamb",
    "decay_vectors": False,
    "weight_decay": 0.05,
    "min_lr": 1e-6,
    "label_smoothing": 0.1,
    "precision": "fp16",
    "augment.resized_crop.interpolation": "bicubic",
    "augment.flip": True,
    "augment.randaugment": RAND_IMAGENET,
    "augment.erasing": 0.25,
    "augment.erasing_mode": "pixel",
}
MAIN = "main_finetune.py: Lamb(trust_clip=True), lr = blr x images / 256, '--weight_decay' 0.05, '--min_lr' 1e-6, ..."
RATIO = "imagenet/train.py, '--ratio' default=[1.0, 1.0]"

RECIPES = [
    Pin(
        "recipes/ann.yaml",
        "ann-cifar",
        "He et al., CVPR 2016, sec. 4.2 (batches of 128, 0.1, 0.9, crop with padding 4, mirroring); epochs, cosine, "
        "decay and precision are ours (D-118)",
        {**SGD, "epochs": 200, "batch_size": 128, "lr": 0.1, "weight_decay": 5e-4, "precision": "fp16", **CROPPED},
    ),
    Pin(
        "recipes/ann.yaml",
        "ann-imagenet",
        "torchvision, references/classification/train.py, defaults: '--epochs' 90, 8 x 32 images, '--lr' 0.1, "
        "'--momentum' 0.9, '--wd' 1e-4; cosine and precision are ours",
        {**SGD, "epochs": 90, "batch_size": 256, "lr": 0.1, "weight_decay": 1e-4, "precision": "fp16", **RESIZED},
    ),
    Pin(
        "recipes/events.yaml",
        "wide-7b-events",
        f"{SEW}, origin_logs/cifar10dvs/SEWResNet_ADD_T_4_T_train_None_SGD_lr_0.01_CosALR_64_amp/args.txt",
        {**SGD, "epochs": 64, "batch_size": 16, "lr": 0.01, "weight_decay": 0.0, "precision": "fp16"},
    ),
    Pin(
        "recipes/events.yaml",
        "spikingformer-events",
        f"{SFORMER}/cifar10-dvs/train.py, defaults of its options; mixup ends at epoch 75",
        {**SFORMER_EVENTS, "epochs": 96, "augment.flip": True},
    ),
    Pin(
        "recipes/events.yaml",
        "spikingformer-gesture",
        "zhouchenlin2096/Spikingformer, dvs128-gesture/train.py, '--epochs' 192; the rest as spikingformer-events, "
        "without mirroring, which is ours (D-107)",
        {**SFORMER_EVENTS, "epochs": 192},
    ),
    Pin(
        "recipes/meta-spikeformer.yaml",
        "meta-spikeformer-t1",
        f"{META}/train.sh: 8 x 128 images, '--blr' 6e-4; {MAIN}; warmup_lr is ours (D-130)",
        {**LAMB, "epochs": 200, "batch_size": 1024, "lr": 2.4e-3, "warmup_epochs": 10, "warmup_lr": 1.2e-4},
    ),
    Pin(
        "recipes/meta-spikeformer.yaml",
        "meta-spikeformer-t4",
        f"{META}/train_finetune_from_t1_to_t4.sh: 8 x 24 images, '--blr' 2e-5; {MAIN}; warmup_lr is ours (D-130)",
        {**LAMB, "epochs": 50, "batch_size": 192, "lr": 1.5e-5, "warmup_epochs": 5, "warmup_lr": 1.5e-6},
    ),
    Pin(
        "recipes/qcfs.yaml",
        "qcfs-cifar",
        f"{QCFS}, commit d3c5698, main_train.py: '--batch_size' 300, '--epochs' 300, '--lr' 0.1, '--weight_decay' "
        "5e-4, momentum=0.9, no autocast; Preprocess/getdataloader.py: RandomCrop(32, padding=4)",
        {**QCFS_CIFAR, "lr": 0.1},
    ),
    Pin(
        "recipes/qcfs.yaml",
        "qcfs-cifar100",
        f"{QCFS}, commit d3c5698, main_train.py:26: 0.05 for CIFAR-100; the rest as qcfs-cifar",
        {**QCFS_CIFAR, "lr": 0.05},
    ),
    Pin(
        "recipes/qcfs.yaml",
        "qcfs-imagenet",
        "putshua/SNN_conversion_QCFS, ImageNet: 120 epochs, no autocast; Bu et al., ICLR 2022, appendix: 0.1, 0.9, "
        "1e-4",
        {**SGD, "epochs": 120, "batch_size": 256, "lr": 0.1, "weight_decay": 1e-4, "precision": "fp32", **RESIZED},
    ),
    Pin(
        "recipes/sew.yaml",
        "sew-imagenet",
        f"{SEW}, origin_logs/imagenet/sew_resnet/spiking_resnet18_b32_lr0.1_T4_coslr320_sgd_cnf_add_logs/args.txt: "
        "8 x 32 images, weight_decay=0, amp=True",
        {**SGD, "epochs": 320, "batch_size": 256, "lr": 0.1, "weight_decay": 0.0, "precision": "fp16", **RESIZED},
    ),
    Pin(
        "recipes/sew.yaml",
        "sew-cifar",
        "as sew-imagenet; epochs, batch size and augmentation are ours (D-114)",
        {**SGD, "epochs": 300, "batch_size": 128, "lr": 0.1, "weight_decay": 0.0, "precision": "fp16", **CROPPED},
    ),
    Pin(
        "recipes/spikingformer.yaml",
        "spikingformer-cifar-300",
        f"{SFORMER}/cifar10/config/mixed/vit-ti-300-mixed.yml",
        {**SFORMER_CIFAR, "epochs": 300, "mix.off_epoch": 200},
    ),
    Pin(
        "recipes/spikingformer.yaml",
        "spikingformer-cifar-400",
        f"{SFORMER}/cifar10/cifar10.yml",
        {**SFORMER_CIFAR, "epochs": 400, "mix.off_epoch": 200},
    ),
    Pin(
        "recipes/spikingformer.yaml",
        "spikingformer-imagenet-384",
        f"{MIXED}/vit-s-mixed.yml; 4 x 48 images; {RATIO}",
        {**SFORMER_IMAGENET, "batch_size": 192, "lr": 5e-4},
    ),
    Pin(
        "recipes/spikingformer.yaml",
        "spikingformer-imagenet-512",
        f"{MIXED}/vit-m-mixed.yml; 4 x 34 images; {RATIO}",
        {**SFORMER_IMAGENET, "batch_size": 136, "lr": 4.208e-4},
    ),
    Pin(
        "recipes/spikingformer.yaml",
        "spikingformer-imagenet-768",
        f"{MIXED}/vit-b-mixed.yml; 4 x 24 images; {RATIO}",
        {**SFORMER_IMAGENET, "batch_size": 96, "lr": 3.5355e-4},
    ),
    Pin(
        "recipes/tet.yaml",
        "tet-cifar",
        f"Deng et al., ICLR 2022: 300 epochs; {TET}, main_training_parallel.py: Adam, '--lr' 0.001, '--batch_size' "
        "128, eta_min=0; data_loaders.py: RandomCrop(32, padding=4); no autocast",
        {
            "optimizer": "adam",
            "epochs": 300,
            "batch_size": 128,
            "lr": 1e-3,
            "weight_decay": 0.0,
            "precision": "fp32",
            **CROPPED,
        },
    ),
    Pin(
        "recipes/vit.yaml",
        "vit-cifar",
        f"{SFORMER}/cifar10/cifar10-ann.yml; its mixup_off_epoch, 200, lies beyond the last epoch",
        {**SFORMER_CIFAR, "epochs": 50},
    ),
    Pin(
        "recipes/vit.yaml",
        "vit-imagenet",
        "Touvron et al., ICML 2021, table 9 (300 epochs, 1024 images, 1e-3, 0.05, 5 epochs of warm-up, 0.8, 1.0, "
        "0.25); facebookresearch/deit, main.py: '--warmup-lr' 1e-6, '--min-lr' 1e-5, '--aa', '--remode' pixel",
        {
            **ADAMW,
            "epochs": 300,
            "batch_size": 1024,
            "lr": 1e-3,
            "weight_decay": 0.05,
            "warmup_epochs": 5,
            "warmup_lr": 1e-6,
            "min_lr": 1e-5,
            "label_smoothing": 0.1,
            "mix.mixup": 0.8,
            "mix.cutmix": 1.0,
            "precision": "fp16",
            "augment.resized_crop.interpolation": "bicubic",
            "augment.flip": True,
            "augment.randaugment": RAND_IMAGENET,
            "augment.erasing": 0.25,
            "augment.erasing_mode": "pixel",
        },
    ),
]

# ---- Methods ---------------------------------------------------------------------------------------------------------

LD = {"distill.ld.weight": 1.0, "distill.ld.tau": 2.0}
BKD = {"distill.bkd.weight": 7e-4, "distill.bkd.blur_ratio": 0.15}
TEACHES = {"base": "student", "teacher": "ann"}
SPIKFORMER = {"network.form": "spiking", "network.neuron": "lif-sigmoid", "recipe": "student"}
METASPIKE = {"network.family": "meta-spikeformer", "network.neuron": "lif-sigmoid"}

METHODS = [
    Pin("methods.yaml", "ann", "the paper, sec. 4.1: corresponding ANNs", {"network.form": "ann", "recipe": "teacher"}),
    Pin(
        "methods.yaml",
        "qcfs-ann",
        f"{QCFS}, main_train.py",
        {"network.form": "qcfs", "network.quantised": "qcfs", "recipe": "conversion"},
    ),
    Pin(
        "methods.yaml",
        "qcfs",
        f"{QCFS}, main_test.py",
        {"network.form": "qcfs-snn", "network.quantised": "qcfs", "source": "qcfs-ann"},
    ),
    Pin(
        "methods.yaml",
        "tet",
        f"{TET}, models/resnet_models.py: sum before the neuron; images are repeated before the stem",
        {
            "network.form": "spiking",
            "network.neuron": "tet-lif",
            "network.still_norm": True,
            "loss.method": "tet",
            "recipe": "student",
        },
    ),
    Pin(
        "methods.yaml",
        "tet-sew",
        f"{TET}, main_training_parallel.py, '--lamb' default=1e-3 (D-054, D-055)",
        {"base": "sew-resnet", "loss.method": "tet", "loss.mse_weight": 0.001},
    ),
    Pin(
        "methods.yaml",
        "stbp-tdbn",
        "Zheng et al., AAAI 2021",
        {"network.form": "spiking", "network.norm": "tdbn", "network.neuron": "tdbn-lif", "recipe": "student"},
    ),
    Pin(
        "methods.yaml",
        "spiking-resnet",
        f"{SEW}, imagenet/spiking_resnet.py",
        {"network.form": "spiking", "network.neuron": "if-atan", "recipe": "student"},
    ),
    Pin(
        "methods.yaml",
        "sew-resnet",
        f"{SEW}, imagenet/sew_resnet.py, connect_f='add'",
        {"network.form": "sew", "network.neuron": "if-atan", "recipe": "student"},
    ),
    Pin(
        "methods.yaml",
        "spikformer",
        "Zhou et al., ICLR 2023; ZK-Zhou/spikformer",
        {"network.family": "spikformer", **SPIKFORMER},
    ),
    Pin(
        "methods.yaml",
        "spikformer-cml",
        "zhouchenlin2096/Spikingformer-CML, cifar10/CML_Spikformer.py",
        {"base": "spikformer", "network.cml": True},
    ),
    Pin(
        "methods.yaml",
        "spikingformer",
        "zhouchenlin2096/Spikingformer, cifar10/model.py",
        {"network.family": "spikingformer", **SPIKFORMER},
    ),
    Pin(
        "methods.yaml",
        "spikingformer-cml",
        "zhouchenlin2096/Spikingformer-CML, cifar10/model.py",
        {"base": "spikingformer", "network.cml": True},
    ),
    Pin(
        "methods.yaml",
        "spikingformer-ann",
        "the paper, table 5b, T-8-768: operations and accuracy are those of this network without spikes",
        {"network.family": "spikingformer", "network.form": "ann", "network.cml": True, "recipe": "student"},
    ),
    Pin(
        "methods.yaml",
        "spikingformer-cml-events",
        f"{SFORMER}/cifar10-dvs/model.py, tau_thr",
        {"base": "spikingformer-cml", "network.neuron": "lif-sigmoid-events"},
    ),
    Pin(
        "methods.yaml",
        "meta-spikeformer",
        f"{META}/train.sh; main_finetune.py, '--time_steps' default=1",
        {**METASPIKE, "timesteps": 1, "recipe": "pretraining"},
    ),
    Pin(
        "methods.yaml",
        "meta-spikeformer-tuned",
        f"{META}/train_finetune_from_t1_to_t4.sh, '--finetune' (T = 4: rows of table 3a)",
        {"base": "meta-spikeformer", "timesteps": None, "source": "meta-spikeformer", "recipe": "student"},
    ),
    Pin(
        "methods.yaml",
        "meta-spikeformer-kd",
        f"{META}/train_finetune_from_t1_to_t4.sh, '--distillation_type' hard; '--distillation_alpha' 0.5, which makes "
        "half the sum of both terms of weight 1 (D-032)",
        {
            "base": "meta-spikeformer",
            "network.distilled_head": True,
            "teacher": "ann",
            "distill.hard-ld.weight": 1.0,
        },
    ),
    Pin(
        "methods.yaml",
        "meta-spikeformer-kd-tuned",
        "as meta-spikeformer-tuned",
        {"base": "meta-spikeformer-kd", "timesteps": None, "source": "meta-spikeformer-kd", "recipe": "student"},
    ),
    Pin(
        "methods.yaml",
        "wide-7b-net",
        f"{SEW}, cifar10dvs/smodels.py",
        {"network.family": "wide-7b", "network.neuron": "plif-atan", "recipe": "student"},
    ),
    Pin("methods.yaml", "none", "the paper, tables 4b and A1 to A3, w/o KD", {"base": "student"}),
    Pin("methods.yaml", "snn", DYNAMIC, {"base": "student", "recipe": "teacher"}),
    Pin("methods.yaml", "ld", f"{STATIC}: tau 2.0, w_LD 1", {**TEACHES, **LD}),
    Pin("methods.yaml", "bkd", f"{STATIC}: lambda 0.15, w_BKD 7e-4", {**TEACHES, **BKD}),
    Pin("methods.yaml", "bkdsnn", STATIC, {**TEACHES, **LD, **BKD}),
    Pin("methods.yaml", "md", "the paper, table 4a, L_MD", {"base": "bkdsnn"}),
    Pin(
        "methods.yaml",
        "kdsnn",
        f"{BKDSNN}, Spike-Element-Wise-ResNet/cifar10dvs/loss.py: w_BKD is KDSNN's weight too (D-022)",
        {**TEACHES, "distill.kdsnn.weight": 7e-4},
    ),
    Pin("methods.yaml", "lasnn", "ours (D-024)", {**TEACHES, "distill.lasnn.weight": 1.0}),
    Pin("methods.yaml", "kdsnn-bkd", f"{STATIC}: lambda", {"base": "kdsnn", "distill.kdsnn.blur_ratio": 0.15}),
    Pin(
        "methods.yaml",
        "lasnn-bkd",
        f"{STATIC}: lambda, w_BKD",
        {"base": "lasnn", "distill.lasnn.weight": 7e-4, "distill.lasnn.blur_ratio": 0.15},
    ),
    Pin(
        "methods.yaml",
        "kdsnn-last",
        "the paper, table 4c, single-layer",
        {"base": "kdsnn", "distill.kdsnn.layers": "last"},
    ),
]

# ---- Data ------------------------------------------------------------------------------------------------------------

CIFAR = {
    "format": "cifar-binary",
    "image_size": 32,
    "mean": [0.4914, 0.4822, 0.4465],
    "std": [0.2470, 0.2435, 0.2616],
}
FOLDERS = {"format": "image-folder", "image_size": 224, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
CIFAR_PAGE = f"the set's page; mean and std: {SFORMER}/cifar10/cifar10.yml, and cifar100.yml, which has the same"
FRAMES = {"format": "events", "image_size": 128}

DATASETS = [
    Pin("datasets.yaml", "cifar10", CIFAR_PAGE, {**CIFAR, "classes": 10}),
    Pin("datasets.yaml", "cifar100", CIFAR_PAGE, {**CIFAR, "classes": 100}),
    Pin("datasets.yaml", "cifar10-jpeg75", CIFAR_PAGE, {**CIFAR, "classes": 10}),
    Pin(
        "datasets.yaml",
        "imagenet",
        f"{SEW}, imagenet/train.py: RandomResizedCrop(224), Normalize",
        {**FOLDERS, "classes": 1000},
    ),
    Pin("datasets.yaml", "imagenette", "fastai/imagenette: 10 classes of ImageNet", {**FOLDERS, "classes": 10}),
    Pin(
        "datasets.yaml",
        "cifar10-dvs",
        "Li et al., 2017",
        {**FRAMES, "classes": 10, "events.layout": "cifar10-dvs", "events.sensor": [128, 128]},
    ),
    Pin(
        "datasets.yaml",
        "dvs128-gesture",
        "Amir et al., CVPR 2017",
        {**FRAMES, "classes": 11, "events.layout": "dvs128-gesture", "events.sensor": [128, 128]},
    ),
    Pin(
        "datasets.yaml",
        "n-caltech101",
        "Orchard et al., 2015; spikingjelly.datasets.n_caltech101: H 180, W 240; frames of 128 are ours (D-104)",
        {**FRAMES, "classes": 101, "events.layout": "n-caltech101", "events.sensor": [180, 240]},
    ),
    Pin(
        "datasets.yaml",
        "n-mnist",
        "Orchard et al., 2015: 34 x 34; frames of 48 are ours (D-090)",
        {**FRAMES, "image_size": 48, "classes": 10, "events.layout": "n-mnist", "events.sensor": [34, 34]},
    ),
    Pin(
        "datasets.yaml",
        "n-mnist-1100",
        "as n-mnist",
        {**FRAMES, "image_size": 48, "classes": 10, "events.layout": "n-mnist", "events.sensor": [34, 34]},
    ),
    Pin(
        "datasets.yaml",
        "n-cars",
        "Sironi et al., CVPR 2018: at most 120 x 100 pixels; frames of 128 are ours (D-104)",
        {**FRAMES, "classes": 2, "events.layout": "n-cars", "events.sensor": [100, 120]},
    ),
    Pin(
        "datasets.yaml",
        "dvs-lip",
        "Tan et al., CVPR 2022",
        {**FRAMES, "classes": 100, "events.layout": "dvs-lip", "events.sensor": [128, 128]},
    ),
]

PINS = [*NEURONS, *NETWORKS, *RECIPES, *METHODS, *DATASETS]

# ---- Settings --------------------------------------------------------------------------------------------------------

SETTINGS = [
    Pin("config.yaml", "energy", "the paper, appendix A6: 45 nm", {"mac_pj": 4.6, "ac_pj": 0.9}),
    Pin("config.yaml", "neurons", "each family's own, as in its published code (D-041)", {"": "reference"}),
    Pin("scales/paper.yaml", "seeds", "ours (D-134)", {"": [0, 1, 2]}),
    Pin("scales/paper.yaml", "pretrained", "the paper, sec. 4.1: teachers are pre-trained", {"": "all"}),
]
USERS = {  # what a user sets, and what describes a scale, by file
    "config.yaml": {"scale", "datasets", "device", "gpu_share", "recompute", "slice_minutes", "own", "data"}
    | {"weights", "budget"},
    "scales/paper.yaml": {"note", "gpu"},
}

PINS = [*NEURONS, *NETWORKS, *RECIPES, *METHODS, *DATASETS, *SETTINGS]
FILES = sorted({pin.file for pin in PINS})


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """All values below a mapping by dotted key; a list is one value, and so is an empty mapping."""
    if not isinstance(value, Mapping) or (place and not value):
        yield place, value
        return
    for key, inner in value.items():
        yield from leaves(inner, f"{place}.{key}" if place else str(key))


def free(file: str, place: str) -> bool:
    entry, _, field = place.partition(".")
    if file in USERS:
        return entry in USERS[file]
    # A method's `source` is a run, not a note.
    return (field in FREE and (file, field) != ("methods.yaml", "source")) or entry.startswith(EMBEDDED)


@pytest.mark.parametrize("file", FILES)
def test_every_value_is_the_one_that_its_source_states(file):
    declared = dict(leaves(yaml.safe_load((CONFIG / file).read_text())))
    pins = [pin for pin in PINS if pin.file == file]
    pinned = {f"{pin.entry}.{key}".rstrip("."): value for pin in pins for key, value in pin.values.items()}
    assert {place: value for place, value in declared.items() if not free(file, place)} == pinned


def test_every_file_with_constants_is_pinned():
    beside = {"notation.yaml"}  # names of what the code computes
    found = {str(path.relative_to(CONFIG)) for path in [*CONFIG.glob("*.yaml"), *CONFIG.glob("recipes/*.yaml")]}
    assert found - beside | {"scales/paper.yaml"} == {*FILES}


def test_every_entry_is_pinned_once_and_has_a_source():
    assert len({(pin.file, pin.entry) for pin in PINS}) == len(PINS)
    assert all(pin.source for pin in PINS)
