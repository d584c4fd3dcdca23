"""Every loss against an oracle: its equation in NumPy loops, float64; gradients by central differences.

The golden values notice a change of meaning that a test and its oracle would share. After an intended change:
`BKDSNN_GOLDEN=write pytest tests/unit/test_distill_losses.py -k golden`, and raise the `version` of its options.
"""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from bkdsnn.config import BKD, KDSNN, LD, TET, CrossEntropy, HardLD, LaSNN, RunSpec
from bkdsnn.distill import Criterion
from bkdsnn.models.outputs import Outputs

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "losses.json"
T, B, K, SIZE = 2, 2, 3, 2
NARROW = {"stage1": (2, SIZE, SIZE), "stage2": (3, SIZE, SIZE)}
WIDE = {"layer1": (2, SIZE, SIZE), "layer2": (4, SIZE, SIZE)}
BLOCKS = {f"block{i}": (4, 3, 3) for i in range(1, 6)}
LABELS = [2, 0]
SOFT = [[0.1, 0.3, 0.6], [0.75, 0.25, 0.0]]
SEED = 11  # of the masks

# by the number of the teacher's taps: 5 / 2 is the third, a half rounded up
PAIRS = {2: [("stage1", "layer1"), ("stage2", "layer2")], 5: [("stage1", "block3"), ("stage2", "block5")]}

# name -> task loss, terms, shapes of the teacher; names with "soft" have probabilities for labels
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
    "ce-soft": (CrossEntropy(), (), None),
    "tet-soft": (TET(mse_weight=0.3, target=0.7), (), None),
    "ld-focal-soft": (CrossEntropy(), (LD(weight=0.6, tau=3.0, focal=True),), NARROW),
    "hard-ld": (CrossEntropy(), (HardLD(weight=0.6),), NARROW),
    "bkd-vector": (CrossEntropy(), (BKD(weight=0.2, blur_ratio=0.4, target="vector"),), BLOCKS),
    "bkd-vector-bare": (
        CrossEntropy(),
        (BKD(weight=0.2, blur_ratio=0.4, target="vector", restoration=False, reduction="sum"),),
        NARROW,
    ),
    "bkd-swapped": (CrossEntropy(), (BKD(weight=0.2, blur_ratio=0.4, swapped=True),), NARROW),
    "bkd-swapped-adapter": (CrossEntropy(), (BKD(weight=0.2, blur_ratio=0.4, swapped=True),), WIDE),
    "bkd-swapped-resampled": (CrossEntropy(), (BKD(weight=0.2, blur_ratio=0.4, swapped=True, mask="pixel"),), BLOCKS),
    "bkd-swapped-bare": (
        CrossEntropy(),
        (BKD(weight=0.2, blur_ratio=0.4, swapped=True, restoration=False, reduction="sum"),),
        NARROW,
    ),
    "bkd-resampled": (CrossEntropy(), (BKD(weight=0.2, blur_ratio=0.4),), BLOCKS),
    "kdsnn-blurred": (CrossEntropy(), (KDSNN(weight=0.3, blur_ratio=0.4),), WIDE),
    "kdsnn-last": (CrossEntropy(), (KDSNN(weight=0.3, layers="last"),), WIDE),
    "kdsnn-last-blurred": (CrossEntropy(), (KDSNN(weight=0.3, layers="last", blur_ratio=0.4),), WIDE),
    "kdsnn-resampled": (CrossEntropy(), (KDSNN(weight=0.3),), BLOCKS),
    "lasnn-blurred": (CrossEntropy(), (LaSNN(weight=0.7, blur_ratio=0.4),), WIDE),
    "lasnn-resampled": (CrossEntropy(), (LaSNN(weight=0.7),), BLOCKS),
}


def run_spec(loss, terms):
    """A run with the given task loss and terms; only those two matter to the criterion."""
    digits = {"name": "d", "format": "digits", "classes": K, "image_size": 16, "digits": {"train": 9, "test": 9}}
    resnet = {"family": "resnet", "name": "r", "stem": "cifar", "stem_width": 2, "block": "basic"}
    resnet |= {"blocks": [1], "widths": [2]}
    neuron = {"neuron": {"kind": "if", "surrogate": "atan", "alpha": 2.0}, "timesteps": T}
    shared = {"dataset": digits | {"mean": (0, 0, 0), "std": (1, 1, 1)}, "seed": 0}
    shared["recipe"] = {"epochs": 1, "batch_size": B, "optimizer": "sgd", "lr": 0.1}
    snn = resnet | neuron | {"form": "sew"}
    if any(term.method == "hard-ld" for term in terms):
        snn = {"family": "meta-spikeformer", "name": "m", "dims": (2, 2, 8, 8), "distilled_head": True} | neuron
    teacher = shared | {"network": resnet | {"form": "ann"}, "role": "teacher"} if terms else None
    return RunSpec.model_validate(shared | {"network": snn, "loss": loss, "distill": terms, "teacher": teacher})


def wave(shape, phase):
    """Values in (-1, 1) that no random generator decides."""
    return np.sin(phase + 1.7 * np.arange(math.prod(shape))).reshape(shape)


def case(name):
    """The criterion, arrays of the student and the trained parameters, and arrays of the teacher."""
    loss, terms, teacher_shapes = CASES[name]
    criterion = Criterion(run_spec(loss, terms), NARROW, teacher_shapes).double()
    arrays = {"logits": 2 * wave((T, B, K), 0.3)}
    arrays |= {tap: wave((T, B, *shape), i + 0.1) for i, (tap, shape) in enumerate(NARROW.items())}
    arrays |= {"distilled": 2 * wave((T, B, K), 0.4)} if name == "hard-ld" else {}
    teacher = {"logits": 3 * wave((1, B, K), 0.9)}
    if teacher_shapes:
        teacher |= {tap: wave((1, B, *shape), i + 0.5) for i, (tap, shape) in enumerate(teacher_shapes.items())}
        teacher |= {"pooled": wave((1, B, list(teacher_shapes.values())[-1][0]), 1.3)}
    for i, (parameter, values) in enumerate(criterion.named_parameters()):
        arrays[parameter] = wave(values.shape, i + 0.7) / 3
        values.data = torch.from_numpy(arrays[parameter]).clone()
    return criterion, arrays, teacher


def labels_of(name):
    return SOFT if "soft" in name else LABELS


def measure(name, criterion, arrays, teacher):
    """Losses of the criterion, and its gradients by the names of `arrays`."""
    parameters = dict(criterion.named_parameters())
    inputs = {key: torch.tensor(values, requires_grad=True) for key, values in arrays.items() if key not in parameters}
    constants = {key: torch.tensor(values, requires_grad=True) for key, values in teacher.items()}
    labels = torch.from_numpy(np.array(labels_of(name)))
    losses = criterion(bundle(inputs), bundle(constants), labels, torch.Generator().manual_seed(SEED))
    sum(losses.values()).backward()
    assert all(values.grad is None for values in constants.values()), "the teacher receives a gradient"
    leaves = inputs | parameters
    gradients = {key: np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy() for key, leaf in leaves.items()}
    return {key: loss.item() for key, loss in losses.items()}, gradients


def bundle(values):
    features = {tap: value for tap, value in values.items() if tap not in ("logits", "pooled", "distilled")}
    return Outputs(values["logits"], features, values.get("pooled"), values.get("distilled"))


# --- the oracles: plain equations


def softmax(scores):
    exponentials = [math.exp(score) for score in scores]
    return [one / sum(exponentials) for one in exponentials]


def cross_entropy(scores, label):
    """`label` a class or the probabilities of all."""
    target = np.eye(K)[label] if np.ndim(label) == 0 else label
    return -sum(q * math.log(p) for q, p in zip(target, softmax(scores)))


def oracle_ce(arrays, labels):
    return sum(cross_entropy(arrays["logits"].sum(0)[i] / T, labels[i]) for i in range(B)) / B


def oracle_tet(arrays, options, labels):
    total = 0.0
    for t in range(T):
        ce = sum(cross_entropy(arrays["logits"][t, i], labels[i]) for i in range(B)) / B
        mse = sum((arrays["logits"][t, i, k] - options.target) ** 2 for i in range(B) for k in range(K)) / (B * K)
        total += ((1 - options.mse_weight) * ce + options.mse_weight * mse) / T
    return total


def oracle_hard(arrays, teacher):
    decisions = [max(range(K), key=list(teacher["logits"][0, i]).__getitem__) for i in range(B)]
    return sum(cross_entropy(arrays["distilled"].sum(0)[i] / T, decisions[i]) for i in range(B)) / B


def oracle_ld(arrays, teacher, tau, weights=(1.0,) * B):
    total = 0.0
    for i in range(B):
        target = softmax(teacher["logits"][0, i] / tau)
        total += weights[i] * cross_entropy(arrays["logits"].sum(0)[i] / T / tau, target) / B
    return tau**2 * total


def focal_weights(arrays, teacher, labels):
    student = [cross_entropy(arrays["logits"].sum(0)[i] / T, labels[i]) for i in range(B)]
    teachers = [cross_entropy(teacher["logits"][0, i], labels[i]) for i in range(B)]
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


def adapted(arrays, method, index, feature):
    """A feature (B, C, h, w) after f_adp, which exists if the criterion trains one."""
    prefix = f"methods.{method}.adapters.{index}"
    if f"{prefix}.weight" in arrays:
        return convolve(feature, arrays[f"{prefix}.weight"], arrays[f"{prefix}.bias"])
    return feature


def squares(feature, target):
    return sum((feature[index] - target[index]) ** 2 for index in np.ndindex(*target.shape))


def triangle(places, kept):
    """Matrix (kept, places): every row a triangle over the old places, as wide as both old and new ones demand."""
    ratio = places / kept
    heights = [[1 - abs(i + 0.5 - (o + 0.5) * ratio) / max(ratio, 1) for i in range(places)] for o in range(kept)]
    rows = np.maximum(heights, 0)
    return rows / rows.sum(1, keepdims=True)


def resampled(target):
    """The teacher's map (B, C, h, w) on the student's grid, SIZE x SIZE."""
    if target.shape[-1] == SIZE:
        return target
    rows = triangle(target.shape[-1], SIZE)
    return np.array([[rows @ channel @ rows.T for channel in image] for image in target])


def restored(arrays, block, feature, draws, ratio, mask="channel"):
    """G(F * B), G the parameters of that name, if any; R comes from `draws`."""
    channels = feature.shape[1]
    uniform = torch.rand((B, channels, 1, 1) if mask == "channel" else (B, 1, SIZE, SIZE), generator=draws).numpy()
    blurred = np.zeros_like(feature)
    for i, c, y, x in np.ndindex(*feature.shape):
        r = uniform[i, c, 0, 0] if mask == "channel" else uniform[i, 0, y, x]
        blurred[i, c, y, x] = 0 if r < ratio else feature[i, c, y, x]
    if f"{block}.0.weight" not in arrays:
        return blurred
    g = [arrays[f"{block}.{layer}.{kind}"] for layer in (0, 2) for kind in ("weight", "bias")]
    return convolve(np.maximum(convolve(blurred, *g[:2]), 0), *g[2:])


def oracle_bkd(arrays, teacher, options, target_tap):
    own, target = arrays["stage2"].sum(0) / T, resampled(teacher[target_tap][0])
    if options.swapped:
        own, target = target, own
    feature, draws = adapted(arrays, "bkd", 0, own), torch.Generator().manual_seed(SEED)
    found = restored(arrays, "methods.bkd.restoration", feature, draws, options.blur_ratio, options.mask)
    if options.target == "vector":
        found, target = found.sum((2, 3)) / SIZE**2, teacher["pooled"][0]
    return squares(found, target) / (B if options.reduction == "batch-mean" else 1)


def oracle_layers(arrays, teacher, method, pairs, ratio):
    """Features compared as they are, or restored with the masks of one generator in order of depth."""
    total, draws = 0.0, torch.Generator().manual_seed(SEED)
    for i, (tap, teacher_tap) in enumerate(pairs):
        feature = adapted(arrays, method, i, arrays[tap].sum(0) / T)
        if ratio is not None:
            feature = restored(arrays, f"methods.{method}.restorations.{i}", feature, draws, ratio)
        total += squares(feature, resampled(teacher[teacher_tap][0])) / B
    return total


def unit_energy(feature):
    """Attention maps (B, h, w)."""
    energy = np.array([[[(f[:, y, x] ** 2).sum() for x in range(SIZE)] for y in range(SIZE)] for f in feature])
    return np.array([one / math.sqrt((one**2).sum()) for one in energy])


def oracle_attention(arrays, teacher, pairs):
    maps = ((arrays[s].sum(0) / T, resampled(teacher[t][0])) for s, t in pairs)
    return sum(squares(unit_energy(own), unit_energy(target)) for own, target in maps) / B


def oracle_term(term, arrays, teacher, shapes, weights):
    """The losses of one term, by name."""
    pairs = PAIRS[len(shapes)]
    if term.method == "ld":
        return {"ld": term.weight * oracle_ld(arrays, teacher, term.tau, weights if term.focal else (1.0,) * B)}
    if term.method == "hard-ld":
        return {"hard-ld": term.weight * oracle_hard(arrays, teacher)}
    if term.method == "bkd":
        return {"bkd": term.weight * oracle_bkd(arrays, teacher, term, list(shapes)[-1])}
    if term.method == "lasnn" and not term.published and term.blur_ratio is None:
        return {"lasnn": term.weight * oracle_attention(arrays, teacher, pairs)}
    if term.method == "lasnn":
        return {"lasnn": term.weight * oracle_layers(arrays, teacher, "lasnn", pairs, term.blur_ratio)}
    chosen = pairs[-1:] if term.published or term.layers == "last" else pairs
    features = term.weight * oracle_layers(arrays, teacher, "kdsnn", chosen, term.blur_ratio)
    logits = {"kdsnn_logits": term.logits_weight * oracle_ld(arrays, teacher, term.tau)}
    return ({} if term.published else logits) | {"kdsnn_features": features}


def oracle(name, arrays, teacher, weights):
    """Losses by name; `weights` are the focal weights, which have no gradient."""
    loss, terms, shapes = CASES[name]
    labels = labels_of(name)
    losses = {"ce": oracle_ce(arrays, labels)} if loss.method == "ce" else {"tet": oracle_tet(arrays, loss, labels)}
    for term in terms:
        losses |= oracle_term(term, arrays, teacher, shapes, weights)
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
    losses, _ = measure(name, criterion, arrays, teacher)
    expected = oracle(name, arrays, teacher, focal_weights(arrays, teacher, labels_of(name)))
    assert list(losses) == list(expected)
    assert losses == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_student_adapter_and_restoration_are_those_of_the_equations(name):
    criterion, arrays, teacher = case(name)
    _, gradients = measure(name, criterion, arrays, teacher)
    weights = focal_weights(arrays, teacher, labels_of(name))
    expected = slopes(lambda moved: sum(oracle(name, moved, teacher, weights).values()), arrays)
    assert list(gradients) == list(expected)
    for key in expected:
        np.testing.assert_allclose(gradients[key], expected[key], rtol=1e-5, atol=1e-8, err_msg=key)


@pytest.mark.parametrize("name", CASES)
def test_golden_values(name):
    criterion, arrays, teacher = case(name)
    losses, gradients = measure(name, criterion, arrays, teacher)
    found = losses | {"gradient norm": math.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))}
    if os.environ.get("BKDSNN_GOLDEN") == "write":
        stored = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
        GOLDEN.write_text(json.dumps(stored | {name: found}, indent=1, sort_keys=True) + "\n")
        pytest.skip(f"written to {GOLDEN}")
    assert found == pytest.approx(json.loads(GOLDEN.read_text())[name], rel=1e-9)
