"""Norms that nothing here knows: several processes and recomputation refuse them and leave none as it is."""

import pytest
import torch
from torch import nn

from bkdsnn.core.errors import UserError
from bkdsnn.machine.distributed import ALONE
from bkdsnn.models.metaspikeformer import PaddedNorm
from bkdsnn.models.recomputation import recompute
from bkdsnn.models.synced import SYNCED, SyncedNorm, SyncedPaddedNorm, synchronise


class Scaled(nn.BatchNorm2d):
    """A batch norm of one's own, such as one that scales with a neuron's threshold."""


class Kept(nn.Module):
    """A norm written from scratch: all it has of torch's are the names of its buffers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(3))


STRANGERS = {"subclass": Scaled(3), "vectors": nn.BatchNorm1d(3), "volumes": nn.BatchNorm3d(3), "scratch": Kept()}


@pytest.mark.parametrize("norm", STRANGERS.values(), ids=STRANGERS)
def test_a_norm_without_a_synchronised_form_is_refused_by_name(norm):
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(nn.Identity(), norm))
    with pytest.raises(UserError, match=rf"module '1\.1' of the network is a {type(norm).__name__}.*SYNCED"):
        synchronise(network, ALONE)


def test_one_entry_makes_a_norm_of_one_s_own_synchronised(monkeypatch):
    class Synced(Scaled, SyncedNorm):
        pass

    monkeypatch.setitem(SYNCED, Scaled, Synced)
    network = nn.Sequential(Scaled(3), PaddedNorm(3), nn.GroupNorm(1, 3), nn.LayerNorm(3))
    synchronise(network, ALONE)
    assert [type(part) for part in network] == [Synced, SyncedPaddedNorm, nn.GroupNorm, nn.LayerNorm]


class Recomputed(nn.Sequential):
    def segments(self):
        return [(self, "forward")]


def test_recomputation_refuses_statistics_that_it_cannot_leave_as_they_are():
    recompute(Recomputed(nn.BatchNorm2d(3), Scaled(3)))
    with pytest.raises(UserError, match=r"module '1' is a Kept.*without recomputation"):
        recompute(Recomputed(nn.BatchNorm2d(3), Kept()))
