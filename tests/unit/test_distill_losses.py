"""Every loss against an oracle: its equation in NumPy loops, float64; gradients by central differences.

The golden values notice a change of meaning that a test and its oracle would share. After an intended change:
`BKDSNN_GOLDEN=write pytest tests/unit/test_distill_losses.py -k golden`, and raise `VERSIONS["method"]`.
"""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from bkdsnn.distill import Criterion
from bkdsnn.models.outputs import Outputs
from bkdsnn.spec import BKD, KDSNN, LD, TET, CrossEntropy, LaSNN, RunSpec

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "losses.json"
T, B, K, SIZE = 2, 2, 3, 2
NARROW = {"stage1": (2, SIZE, SIZE), "stage2": (3, SIZE, SIZE)}
WIDE = {"layer1": (2, SIZE, SIZE), "layer2": (4, SIZE, SIZE)}
LABELS = [2, 0]

# name -> task loss, terms, shapes of the teacher
CASES = {
    "ce": (CrossEntropy(), (), None),
    "tet": (TET(mse_weight=0.3, target=0.7), (), None),
    "ld": (CrossEntropy(), (LD(weight=0.6, tau=3.0),), NARROW),
    "ld-focal": (CrossEntropy(), (LD(weight=0.6, tau=3.0, focal=True),), NARROW),
    "bkd": (CrossEntropy(), (BKD(weight=0.2, blur_ratio=0.4),), NARROW),
    "bkd-adapter": (CrossEntropy(), (BKD(weight=0.2, blur_ratio=0.4),), WIDE),
    "bkd-pixel": (CrossEntropy(), (BKD(weight=0.2, blur_ratio=0.4, mask="pixel"),), NARROW),
    "bkd-bare": (CrossEntropy(), (BKD(weight=0.2, blur_ratio=0.4, restoration=False, reduction="sum"),), NARROW),
    "kdsnn": (CrossEntropy(), (KDSNN(weight=0.3, logits_weight=0.4, tau=1.5),), WIDE),
    "kdsnn-published": (CrossEntropy(), (KDSNN(weight=0.3, published=True),), WIDE),
    "lasnn": (CrossEntropy(), (LaSNN(weight=0.7),), WIDE),
    "lasnn-published": (CrossEntropy(), (LaSNN(weight=0.7, published=True),), WIDE),
    "bkdsnn": (TET(), (LD(), BKD(weight=0.2)), WIDE),
}


def run_spec(loss, terms):
    """A run with the given task loss and terms; only those two matter to the criterion."""
    digits = {"name": "d", "format": "digits", "classes": K, "image_size": 8, "digits": {"train": 9, "test": 9}}
    resnet = {"name": "r", "stem": "cifar", "stem_width": 2, "block": "basic", "blocks": [1], "widths": [2]}
    neuron = {"kind": "if", "surrogate": "atan", "alpha": 2.0}
    shared = {"dataset": digits | {"mean": (0, 0, 0), "std": (1, 1, 1)}, "seed": 0}
    shared["recipe"] = {"epochs": 1, "batch_size": B, "optimizer": "sgd", "lr": 0.1}
    snn = resnet | {"form": "sew", "neuron": neuron, "timesteps": T}
    teacher = shared | {"network": resnet | {"form": "ann"}} if terms else None
    return RunSpec.model_validate(shared | {"network": snn, "loss": loss, "distill": terms, "teacher": teacher})


def wave(shape, phase):
    """Values in (-1, 1) that no random generator decides."""
    return np.sin(phase + 1.7 * np.arange(math.prod(shape))).reshape(shape)


def case(name):
    """The criterion, arrays of the student, the teacher and the trained parameters, and the uniform draws R."""
    loss, terms, teacher_shapes = CASES[name]
    criterion = Criterion(run_spec(loss, terms), NARROW, teacher_shapes).double()
    arrays = {"logits": 2 * wave((T, B, K), 0.3)}
    arrays |= {tap: wave((T, B, *shape), i + 0.1) for i, (tap, shape) in enumerate(NARROW.items())}
    teacher = {"logits": 3 * wave((1, B, K), 0.9)}
    teacher |= {tap: wave((1, B, *shape), i + 0.5) for i, (tap, shape) in enumerate((teacher_shapes or {}).items())}
    for i, (parameter, values) in enumerate(criterion.named_parameters()):
        arrays[parameter] = wave(values.shape, i + 0.7) / 3
        values.data = torch.from_numpy(arrays[parameter]).clone()
    return criterion, arrays, teacher


def measure(criterion, arrays, teacher):
    """Losses of the criterion, and its gradients by the names of `arrays`."""
    inputs = {name: torch.tensor(arrays[name], requires_grad=True) for name in ("logits", *NARROW)}
    constants = {name: torch.tensor(values, requires_grad=True) for name, values in teacher.items()}
    losses = criterion(bundle(inputs), bundle(constants), torch.tensor(LABELS), torch.Generator().manual_seed(11))
    sum(losses.values()).backward()
    assert all(values.grad is None for values in constants.values()), "the teacher receives a gradient"
    leaves = inputs | dict(criterion.named_parameters())
    gradients = {key: np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy() for key, leaf in leaves.items()}
    return {name: loss.item() for name, loss in losses.items()}, gradients


def bundle(values):
    return Outputs(values["logits"], {tap: value for tap, value in values.items() if tap != "logits"})


# --- the oracles: plain equations


def softmax(scores):
    exponentials = [math.exp(score) for score in scores]
    return [one / sum(exponentials) for one in exponentials]


def hard_ce(scores, label):
    return -math.log(softmax(scores)[label])


def oracle_ce(arrays):
    return sum(hard_ce(arrays["logits"].sum(0)[i] / T, LABELS[i]) for i in range(B)) / B


def oracle_tet(arrays, options):
    total = 0.0
    for t in range(T):
        ce = sum(hard_ce(arrays["logits"][t, i], LABELS[i]) for i in range(B)) / B
        mse = sum((arrays["logits"][t, i, k] - options.target) ** 2 for i in range(B) for k in range(K)) / (B * K)
        total += ((1 - options.mse_weight) * ce + options.mse_weight * mse) / T
    return total


def oracle_ld(arrays, teacher, tau, weights=(1.0,) * B):
    total = 0.0
    for i in range(B):
        soft = softmax(arrays["logits"].sum(0)[i] / T / tau)
        target = softmax(teacher["logits"][0, i] / tau)
        total -= weights[i] * sum(q * math.log(p) for q, p in zip(target, soft)) / B
    return tau**2 * total


def focal_weights(arrays, teacher):
    student = [hard_ce(arrays["logits"].sum(0)[i] / T, LABELS[i]) for i in range(B)]
    teachers = [hard_ce(teacher["logits"][0, i], LABELS[i]) for i in range(B)]
    return [1 - math.exp(-s / (t + 1e-7)) for s, t in zip(student, teachers)]


def convolve(feature, weight, bias):
    """Convolution that keeps the size, feature (B, C, h, w), weight (out, C, k, k), k 1 or 3."""
    margin = weight.shape[-1] // 2
    padded = np.pad(feature, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
    result = np.empty((len(feature), len(weight), *feature.shape[2:]))
    for i, o, y, x in np.ndindex(*result.shape):
        patch = padded[i, :, y : y + weight.shape[2], x : x + weight.shape[3]]
        result[i, o, y, x] = (patch * weight[o]).sum() + bias[o]
    return result


def adapted(arrays, method, index, tap):
    """F of Eq. 3 after f_adp, which exists if the criterion trains one."""
    feature, prefix = arrays[tap].sum(0) / T, f"methods.{method}.adapters.{index}"
    if f"{prefix}.weight" in arrays:
        return convolve(feature, arrays[f"{prefix}.weight"], arrays[f"{prefix}.bias"])
    return feature


def squares(feature, target):
    return sum((feature[index] - target[index]) ** 2 for index in np.ndindex(*target.shape))


def oracle_bkd(arrays, teacher, options, target_tap):
    feature = adapted(arrays, "bkd", 0, "stage2")
    channels = feature.shape[1]
    drawn = (B, channels, 1, 1) if options.mask == "channel" else (B, 1, SIZE, SIZE)
    uniform = torch.rand(drawn, generator=torch.Generator().manual_seed(11)).numpy()
    blurred = np.zeros_like(feature)
    for i, c, y, x in np.ndindex(*feature.shape):
        r = uniform[i, c, 0, 0] if options.mask == "channel" else uniform[i, 0, y, x]
        blurred[i, c, y, x] = 0 if r < options.blur_ratio else feature[i, c, y, x]
    if options.restoration:
        g = [arrays[f"methods.bkd.restoration.{layer}.{kind}"] for layer in (0, 2) for kind in ("weight", "bias")]
        blurred = convolve(np.maximum(convolve(blurred, *g[:2]), 0), *g[2:])
    return squares(blurred, teacher[target_tap][0]) / (B if options.reduction == "batch-mean" else 1)


def oracle_stages(arrays, teacher, method):
    stages = enumerate(zip(NARROW, WIDE))
    return sum(squares(adapted(arrays, method, i, s), teacher[t][0]) for i, (s, t) in stages) / B


def unit_energy(feature):
    """Attention maps (B, h, w)."""
    energy = np.array([[[(f[:, y, x] ** 2).sum() for x in range(SIZE)] for y in range(SIZE)] for f in feature])
    return np.array([one / math.sqrt((one**2).sum()) for one in energy])


def oracle_attention(arrays, teacher):
    stages = zip(NARROW, WIDE)
    return sum(squares(unit_energy(arrays[s].sum(0) / T), unit_energy(teacher[t][0])) for s, t in stages) / B


def oracle(name, arrays, teacher, weights):
    """Losses by name; `weights` are the focal weights, which have no gradient."""
    loss, terms, shapes = CASES[name]
    losses = {"ce": oracle_ce(arrays)} if loss.method == "ce" else {"tet": oracle_tet(arrays, loss)}
    for term in terms:
        if term.method == "ld":
            losses["ld"] = term.weight * oracle_ld(arrays, teacher, term.tau, weights if term.focal else (1.0,) * B)
        elif term.method == "bkd":
            losses["bkd"] = term.weight * oracle_bkd(arrays, teacher, term, list(shapes)[-1])
        elif term.method == "lasnn":
            layers = oracle_stages(arrays, teacher, "lasnn") if term.published else oracle_attention(arrays, teacher)
            losses["lasnn"] = term.weight * layers
        elif term.published:
            last = adapted(arrays, "kdsnn", 0, "stage2")
            losses["kdsnn_features"] = term.weight * squares(last, teacher["layer2"][0]) / B
        else:
            losses["kdsnn_logits"] = term.logits_weight * oracle_ld(arrays, teacher, term.tau)
            losses["kdsnn_features"] = term.weight * oracle_stages(arrays, teacher, "kdsnn")
    return losses


def slopes(function, arrays, step=1e-5):
    """Central differences of a scalar function of named arrays, one entry at a time."""
    result = {name: np.zeros(values.shape) for name, values in arrays.items()}
    for name, values in arrays.items():
        for index in np.ndindex(*values.shape):
            ends = []
            for sign in (1, -1):
                moved = values.copy()
                moved[index] += sign * step
                ends.append(function(arrays | {name: moved}))
            result[name][index] = (ends[0] - ends[1]) / (2 * step)
    return result


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_the_equations_in_the_order_of_the_spec(name):
    criterion, arrays, teacher = case(name)
    losses, _ = measure(criterion, arrays, teacher)
    expected = oracle(name, arrays, teacher, focal_weights(arrays, teacher))
    assert list(losses) == list(expected)
    assert losses == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_student_adapter_and_restoration_are_those_of_the_equations(name):
    criterion, arrays, teacher = case(name)
    _, gradients = measure(criterion, arrays, teacher)
    weights = focal_weights(arrays, teacher)
    expected = slopes(lambda moved: sum(oracle(name, moved, teacher, weights).values()), arrays)
    assert list(gradients) == list(expected)
    for key in expected:
        np.testing.assert_allclose(gradients[key], expected[key], rtol=1e-5, atol=1e-8, err_msg=key)


@pytest.mark.parametrize("name", CASES)
def test_golden_values(name):
    criterion, arrays, teacher = case(name)
    losses, gradients = measure(criterion, arrays, teacher)
    found = losses | {"gradient norm": math.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))}
    if os.environ.get("BKDSNN_GOLDEN") == "write":
        stored = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
        GOLDEN.write_text(json.dumps(stored | {name: found}, indent=1, sort_keys=True) + "\n")
        pytest.skip(f"written to {GOLDEN}")
    assert found == pytest.approx(json.loads(GOLDEN.read_text())[name], rel=1e-9)
