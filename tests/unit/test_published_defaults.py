"""Constants of published code and of the paper that the code holds, not `config/`, and those of the paper's tables.

As in test_published_constants.py the values were read in their sources, which are named beside them.
"""

import math

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import nn

from bkdsnn import models
from bkdsnn.analysis import energy
from bkdsnn.config import datasets, losses, networks, paper, recipes, settings
from bkdsnn.config.catalogue import table_names
from bkdsnn.config.identity import Part
from bkdsnn.data.events import clip_augment
from bkdsnn.data.randaugment import randaugment
from bkdsnn.distill.ld import focal_weight
from bkdsnn.models.quantised import CONVERTED
from bkdsnn.training.optim import make_optimizer

TAGS = {"family", "method", "form", "code"}  # say which class it is
BEYOND = {"Digits", "Simulated", "OwnNetwork", "OwnLoss"}  # embedded data, work of a user's own

# What a field is that `config/` leaves out, by class, with the source.
DEFAULTS = {
    "Events": {"slices": "count", "simulated": None},  # spikingjelly, split_by='number', as every script has it
    "Dataset": {"mean": (), "std": (), "digits": None, "events": None},  # fields of other formats
    "View": {"crop": 224 / 256, "interpolation": "bilinear"},  # SEW, imagenet/train.py: Resize(256), CenterCrop(224)
    # torchvision, RandomResizedCrop
    "ResizedCrop": {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "interpolation": "bilinear"},
    "Augment": {
        "crop_padding": 0,
        "resized_crop": None,
        "flip": False,
        "randaugment": None,
        "neuromorphic": False,
        "erasing": 0.0,
        "erasing_mode": "const",  # timm, create_transform, re_mode
        "erasing_mixed": False,  # DeiT
    },
    # spikingjelly, defaults of neurons; membranes begin at V_reset
    "Neuron": {
        "tau": 2.0,
        "decay_input": True,
        "v_threshold": 1.0,
        "v_reset": 0.0,
        "v_init": 0.0,
        "detach_reset": True,
    },
    "Quantised": {"init": 8.0},  # ANN_SNN_QCFS, Models/layer.py, IF(thresh=8.0)
    "Architecture": {"timesteps": 1, "view": datasets.View()},
    # projections as in ANN_SNN_QCFS, Models/ResNet.py, and TET, models/resnet_models.py
    "ResNet": {
        "shortcut": "conv",
        "hidden": None,
        "norm": "bn",
        "still_norm": False,  # SEW, imagenet/sew_resnet.py: stem and norm of each image once
        "neuron": None,
        "quantised": None,
    },
    # Spikingformer-CML, cifar10/model.py: mlp_ratio of the files, attn_lif(v_threshold=0.5), * 0.125
    "SpikingTransformer": {
        "mlp_ratio": 4,
        "cml": False,
        "attention_threshold": 0.5,
        "attention_scale": 0.125,
        "neuron": None,
    },
    # Spike-Driven-Transformer-V2, models.py: ConvBlock1_1, ConvBlock1_2, ConvBlock2_1 and 2_2; block3 six, block4 two
    "MetaSpikeformer": {
        "conv_blocks": (1, 1, 2),
        "attention_blocks": (6, 2),
        "heads": 8,
        "mlp_ratio": 4,
        "distilled_head": False,
        "attention_threshold": 0.5,
        "attention_scale": 0.125,
    },
    "ViT": {"resize": "bicubic"},  # BKDSNN, cifar10/train.py, F.interpolate(mode='bicubic')
    # timm, data/mixup.py, and the files: mixup_prob, mixup_switch_prob
    "Mix": {"mixup": 0.0, "cutmix": 0.0, "probability": 1.0, "switch": 0.5, "off_epoch": None},
    "Recipe": {
        "momentum": 0.9,
        "weight_decay": 0.0,
        "decay_vectors": True,  # torch's optimisers
        "warmup_epochs": 0,
        "warmup_lr": 0.0,
        "min_lr": 0.0,  # SEW, TET, QCFS: CosineAnnealingLR(eta_min=0)
        "cooldown_epochs": 0,
        "label_smoothing": 0.0,
        "mix": None,
        "processes": 1,
        "sync_batch_norm": False,  # SEW, args.txt: sync_bn=False
        "precision": "fp32",
        "augment": datasets.Augment(),
        "floor": None,  # of the project: which teachers are used, which changes no number of a run
    },
    "TET": {"mse_weight": 0.05, "target": 1.0},  # Deng et al., ICLR 2022, sec. 5; main_training_parallel.py, '--means'
    "LD": {"weight": 1.0, "tau": 2.0, "focal": False},  # the paper, sec. 4.1
    "HardLD": {"weight": 1.0},
    "BKD": {
        "blur_ratio": 0.15,  # the paper, sec. 4.1
        "mask": "channel",  # the paper, table 1; MGD, mgd.py: (N, C, 1, 1)
        "restoration": True,
        "reduction": "batch-mean",  # BKDSNN, loss.py: MSELoss(reduction='sum') / N
        "target": "map",
        "swapped": False,
    },
    "LayerWise": {"blur_ratio": None, "published": False},
    "KDSNN": {"logits_weight": 1.0, "tau": 2.0, "layers": "all"},
}


def parts() -> dict[str, type[Part]]:
    found = [one for module in (datasets, networks, recipes, losses) for one in vars(module).values()]
    classes = [one for one in found if isinstance(one, type) and issubclass(one, Part) and one is not Part]
    return {one.__name__: one for one in classes if one.__name__ not in BEYOND}


def test_what_config_leaves_out_is_as_its_source_states():
    found = {}
    for name, one in parts().items():
        own = {key: one.model_fields[key] for key in one.__annotations__ if key in one.model_fields}
        found[name] = {
            key: field.default
            for key, field in own.items()
            if not (field.is_required() or field.exclude or key in TAGS)
        }
    assert {name: values for name, values in found.items() if values} == DEFAULTS


# ---- Constants of single modules -------------------------------------------------------------------------------------


def test_the_neuron_of_a_conversion_is_that_of_qcfs():
    # ANN_SNN_QCFS, Models/layer.py, IF: mem = 0.5 * thre at first, minus a whole threshold at a spike, no leak
    found = CONVERTED.model_dump(include={"kind", "v_threshold", "v_reset", "v_init"})
    assert found == {"kind": "if", "v_threshold": 1.0, "v_reset": None, "v_init": 0.5}


def test_events_are_augmented_in_the_published_ranges():
    # Spikingformer-CML and BKDSNN, cifar10-dvs/autoaugment.py:32, and _augmentation_space, for frames of 128 pixels
    assert clip_augment.KINDS == ("identity", "shear-x", "translate-x", "translate-y", "rotate", "cutout")
    largest = (clip_augment.SHEAR, 128 * clip_augment.SHIFT, clip_augment.ANGLE)
    assert largest == (0.3, 5.0, math.radians(30.0))
    assert clip_augment.AREA == (0.001, 0.11)  # of squares: ratio=(1, 1)
    assert 2 * clip_augment.STEPS + 1 == 31  # num_magnitude_bins


def test_the_energy_of_an_operation_is_the_papers():
    # the paper, appendix A6
    assert energy.Constants() == (4.6, 0.9)
    assert settings.Energy().model_dump() == {"mac_pj": 4.6, "ac_pj": 0.9}


def test_the_focal_weight_has_the_published_guard_against_a_teacher_without_loss():
    # BKDSNN, Spikingformer-CML/cifar100/loss.py:116-142: 1e-7 beside the teacher's cross-entropy
    own = torch.tensor([[-math.log(math.expm1(1e-7)), 0.0]], dtype=torch.float64)  # cross-entropy 1e-7
    sure = torch.tensor([[1000.0, 0.0]], dtype=torch.float64)  # cross-entropy 0
    assert focal_weight(own, sure, torch.tensor([0])).item() == pytest.approx(1 - math.exp(-1), rel=1e-6)


def test_randaugment_shifts_and_fills_as_timm_does():
    # timm, data/transforms_factory.py: translate_const=int(img_size_min * 0.45), img_mean of 255 times the mean
    run = paper.plan("table2b", "paper", seeds=[0]).cell("spikingformer-cml", "sformer-2-384-cifar10").runs[0]
    operations = randaugment(run.dataset, run.recipe.augment).ops
    expected = {"translate_const": 14, "img_mean": (125, 123, 114)}
    assert all(expected.items() <= operation.hparams.items() for operation in operations)
    assert [len(operations), {one.magnitude for one in operations}, {one.magnitude_std for one in operations}] == [
        15,
        {9},
        {0.4},
    ]


def settings_of(recipe: str) -> dict[str, object]:
    parameters = [nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))]
    return make_optimizer(paper.Expansion("paper").recipes[recipe], parameters).defaults


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        # SEW, imagenet/train.py; QCFS, main_train.py: SGD(momentum=0.9)
        ("sew-imagenet", {"momentum": 0.9, "dampening": 0, "nesterov": False}),
        # TET, main_training_parallel.py: Adam(lr)
        ("tet-cifar", {"betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False}),
        # Spikingformer-CML, cifar10-dvs/train.py: '--opt-eps' 1e-8, '--opt-betas' None
        ("spikingformer-cifar-300", {"betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False}),
        # Spike-Driven-Transformer-V2, main_finetune.py: timm's Lamb(trust_clip=True)
        (
            "meta-spikeformer-t1",
            {
                "betas": (0.9, 0.999),
                "eps": 1e-6,
                "trust_clip": True,
                "max_grad_norm": 1.0,
                "always_adapt": False,
                "bias_correction": True,
                "grad_averaging": True,
            },
        ),
    ],
)
def test_optimisers_have_the_published_settings(recipe, expected):
    found = settings_of(recipe)
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("table", "method", "column"),
    [
        ("table2a", "tet", "resnet19-cifar10"),
        ("table2a", "stbp-tdbn", "resnet19-cifar10"),
        ("table2a", "sew-resnet", "resnet20-cifar10"),
        ("table2b", "spikformer", "sformer-2-384-cifar10"),
        ("table2b", "spikingformer-cml", "sformer-2-384-cifar10"),
        ("table3a", "meta-spikeformer", "mformer-8-256-imagenet"),
        ("table3b", "none", "wide-7b-net-t4"),
    ],
)
def test_norms_have_the_published_eps_and_momentum(table, method, column):
    # torch's defaults, in the networks of every repository
    run = paper.plan(table, "paper", seeds=[0]).cell(method, column).runs[0]
    with torch.device("meta"):
        network = models.build(run.network, run.dataset)
    norms = [one for one in network.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    assert {(one.eps, one.momentum, one.affine) for one in norms} == {(1e-5, 0.1, True)}


def test_the_norms_of_a_vit_have_the_eps_of_its_weights():
    # timm, models/vision_transformer.py: LayerNorm(eps=1e-6)
    run = paper.plan("table2b", "paper", seeds=[0]).cell("ann", "sformer-2-384-cifar10").runs[0]
    with torch.device("meta"):
        blocks = [one for one in models.build(run.network, run.dataset).modules() if isinstance(one, Block)]
    assert {one.norm1.eps for one in blocks} | {one.norm2.eps for one in blocks} == {1e-6}


# ---- The paper's tables ----------------------------------------------------------------------------------------------

# The paper, sec. 4.1: w_BKD by family and data. KDSNN's features have the same weight (D-022, D-095).
W_BKD = {
    ("resnet", "cifar"): 7e-4,
    ("resnet", "imagenet"): 7e-5,
    ("spikingformer", "cifar"): 2e-3,
    ("spikingformer", "imagenet"): 2e-3,
    ("meta-spikeformer", "imagenet"): 2e-3,
    ("wide-7b", "events"): 2e-3,
    ("spikingformer", "events"): 7e-5,
}
BLUR_RATIO = {"cifar": 0.15, "imagenet": 0.15, "events": 0.40}  # the paper, sec. 4.1
W_LASNN = 1.0  # ours (D-024)

# The paper, sec. 4.1; names by timm and torchvision, first digits of the SHA-256 as in the names of the files.
# vit-s-16: BKDSNN, imagenet/train.py, model_path: S_16-i21k-300ep-...-res_224.npz
PRETRAINED = {
    "resnet18": ("torchvision/ResNet18_Weights.IMAGENET1K_V1", "f37072fd"),
    "resnet34": ("torchvision/ResNet34_Weights.IMAGENET1K_V1", "b627a593"),
    "resnet50": ("torchvision/ResNet50_Weights.IMAGENET1K_V1", "0676ba61"),
    "vit-s-16": ("timm/vit_small_patch16_224.augreg_in21k_ft_in1k", None),
    "vit-b-16": ("timm/vit_base_patch16_224.orig_in21k_ft_in1k", "80ecf9dd"),
}

# Network of a column: its teacher's network (none: its own), student, recipes of student and teacher. The paper,
# sec. 4.1: "training configurations from" SEW ResNet, TET and Sformer+CML; schedules: tables 4a and 4d, A1 and A2.
CNN, SFORMER = ("", "sew-resnet", "sew-imagenet", "ann-imagenet"), ("vit-b-16", "spikingformer-cml")
COLUMNS = {
    "resnet18": CNN,
    "resnet34": CNN,
    "resnet50": CNN,
    "resnet19": ("", "tet", "tet-cifar", "ann-cifar"),
    "resnet20": ("", "sew-resnet", "sew-cifar", "ann-cifar"),
    **dict.fromkeys(
        ("sformer-4-256", "sformer-2-384", "sformer-4-384"),
        ("vit-s-16", "spikingformer-cml", "spikingformer-cifar-300", "vit-cifar"),
    ),
    **{
        f"sformer-8-{width}": (*SFORMER, f"spikingformer-imagenet-{width}", "vit-imagenet") for width in (384, 512, 768)
    },
    **{
        f"mformer-8-{width}": ("vit-b-16", "meta-spikeformer-tuned", "meta-spikeformer-t4", "vit-imagenet")
        for width in (256, 384, 512)
    },
    "sformer-2-256": ("", "spikingformer-cml-events", "spikingformer-events", "spikingformer-events"),
    "wide-7b-net": ("", "wide-7b-net", "wide-7b-events", "wide-7b-events"),
}
LONG = {"table4a", "table4d", "table5a", "tableA2"}  # 400 epochs
# QCFS, main_train.py and ImageNet; Spike-Driven-Transformer-V2, train.sh
OTHERS = {
    "cifar10": {"conversion": "qcfs-cifar"},
    "cifar100": {"conversion": "qcfs-cifar100"},
    "imagenet": {"conversion": "qcfs-imagenet", "pretraining": "meta-spikeformer-t1"},
}


@pytest.fixture(scope="module", params=table_names())
def plan(request):
    return paper.plan(request.param, "paper", seeds=[0])


def kind(dataset: datasets.Dataset) -> str:
    return "events" if dataset.events else "cifar" if dataset.image_size == 32 else "imagenet"


def test_weights_and_ratios_of_distillation_are_those_of_the_paper(plan):
    for cell in plan.cells:
        run, swept = cell.runs[0], cell.row.distill  # swept values: test_paper_values.py
        terms = {term.method: term for term in run.distill}
        where = kind(run.dataset)
        weight = W_BKD.get((run.network.family, where))
        if bkd := terms.get("bkd"):
            assert bkd.weight == weight
            assert bkd.blur_ratio == BLUR_RATIO[where] or "blur_ratio" in swept.get("bkd", {})
            assert bkd.restoration is not cell.column.key.endswith("-without-g")
        if kdsnn := terms.get("kdsnn"):
            assert (kdsnn.weight, kdsnn.blur_ratio) in [(weight, None), (weight, 0.15)]
        if lasnn := terms.get("lasnn"):
            assert (lasnn.weight, lasnn.blur_ratio) in [(W_LASNN, None), (weight, 0.15)]
        if ld := terms.get("ld"):
            assert ld.weight == 1.0
            assert ld.tau == 2.0 or "tau" in swept.get("ld", {})


def test_columns_have_the_students_teachers_and_recipes_of_the_paper(plan):
    for cell in plan.cells:
        column = cell.column
        teacher, student, recipe, teachers = COLUMNS[column.network]
        if plan.table.name in LONG:
            recipe = recipe.replace("cifar-300", "cifar-400")
        if column.dataset == "dvs128-gesture":
            recipe = teachers = "spikingformer-gesture"
        named = {role: one for role, one in column.recipes.items() if role in ("student", "teacher")}
        assert (column.teacher or "", column.student, named) == (
            teacher,
            student,
            {"student": recipe, "teacher": teachers},
        )
        others = OTHERS.get(column.dataset, {})
        assert column.recipes == named | {role: others[role] for role in column.recipes if role not in named}
        assert column.taught_by == ("snn" if kind(cell.runs[0].dataset) == "events" else None)
        steps = {"teacher": 15 if column.dataset == "dvs-lip" else 16}
        assert {role: one for role, one in column.timesteps.items() if role == "teacher"} in ({}, steps)


def test_published_weights_are_those_that_the_paper_starts_from(plan):
    for cell in plan.cells:
        column = cell.column
        if column.pretrained:
            name, sha256 = PRETRAINED[column.teacher or column.network]
            assert (column.pretrained.name, column.pretrained.sha256) == (name, sha256)
            assert column.fine_tune is (column.teacher == "vit-s-16")
        else:
            assert kind(cell.runs[0].dataset) != "imagenet" and column.teacher is None
