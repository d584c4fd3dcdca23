"""Recomputation: every family trains to the same bits, its norms count a batch once, and less is kept in between."""

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

from bkdsnn import models
from bkdsnn.config import paper
from bkdsnn.models.recomputation import recompute


def kind(run):
    return run.network.family, run.network.form, bool(run.dataset.events)


# One run of each family, form and kind of data; Meta-SpikeFormer's with several time-steps is a fine-tuning.
TRAINED = {kind(run): run for run in paper.all_runs("smoke", seeds=[0]).values() if run.recipe}
families = pytest.mark.parametrize("run", TRAINED.values(), ids=["-".join(map(str, key)) for key in TRAINED])


def built(run):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.build(run.network, run.dataset)


def shown(net, run, batch=4):
    generator = torch.Generator().manual_seed(1)
    size = run.dataset.image_size
    return 3 * torch.rand(batch, *net.sample, size, size, generator=generator)


def loss_of(outputs):
    """A loss that every tap and the logits have a share in."""
    labels = torch.arange(outputs.logits.shape[1])
    return functional.cross_entropy(outputs.logits.mean(0), labels) + sum(
        feature.square().mean() for feature in outputs.features.values()
    )


def two_steps(net, x):
    """Losses, features and gradients of two steps, and what the network holds after them."""
    optimizer, found = torch.optim.SGD(net.parameters(), lr=0.1), []
    for _ in range(2):
        optimizer.zero_grad()
        outputs = net(x, net.taps)
        loss = loss_of(outputs)
        loss.backward()
        optimizer.step()
        found += [loss.detach(), outputs.logits, *outputs.features.values(), *(one.grad for one in net.parameters())]
    return [*found, *net.state_dict().values()]


def kept_bytes(net, x):
    """What lies there for the backward pass, each piece of memory once, parameters apart."""
    own = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    sizes = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = net(x)  # which holds on to all of it
    assert outputs.logits.requires_grad
    return sum(size for place, size in sizes.items() if place not in own)


@families
def test_two_steps_are_the_same_bits(run):
    plain, lean = built(run), built(run)
    recompute(lean)
    x = shown(plain, run)
    for one, other in zip(two_steps(plain, x), two_steps(lean, x), strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


@families
def test_norms_count_a_batch_once_and_go_on_as_before(run):
    net = built(run)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [(norm.momentum, [id(buffer) for buffer in norm.buffers()]) for norm in norms]
    recompute(net)
    loss_of(net(shown(net, run), net.taps)).backward()
    assert [norm.num_batches_tracked.item() for norm in norms] == [1] * len(norms)
    assert [(norm.momentum, [id(buffer) for buffer in norm.buffers()]) for norm in norms] == before


@families
def test_less_than_half_is_kept(run):
    plain, lean = built(run), built(run)
    recompute(lean)
    x = shown(plain, run)
    assert kept_bytes(lean, x) < 0.5 * kept_bytes(plain, x)


@families
def test_evaluation_and_names_of_weights_stay(run):
    plain, lean = built(run), built(run)
    recompute(lean)
    assert list(lean.state_dict()) == list(plain.state_dict())
    x = shown(plain, run)
    with torch.no_grad():
        assert torch.equal(lean.eval()(x).logits, plain.eval()(x).logits)


def test_a_hook_on_a_tap_sees_it_once_a_step():
    run = next(iter(TRAINED.values()))
    net, seen = built(run), []
    recompute(net)
    with net.layer(net.taps[-1]).register_forward_hook(lambda module, inputs, output: seen.append(output)):
        outputs = net(shown(net, run), net.taps[-1:])
        outputs.logits.mean().backward()
    assert len(seen) == 1 and torch.equal(seen[0], outputs.features[net.taps[-1]].flatten(0, 1))
