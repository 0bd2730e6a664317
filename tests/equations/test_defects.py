"""That the comparisons see what commonly goes wrong: each defect is made, and a live peer must contradict it."""

import numpy as np
import pytest

from lstm_xp._equations import cell, stack
from lstm_xp._seams import ops
from lstm_xp.formats import torch as torch_format
from tests.equations import test_peers
from tests.formats import test_formats


def swapped_gates(monkeypatch):
    made = ops.gates

    def gates(z, *, xp):
        i, f, g, o = made(z, xp=xp)
        return f, i, g, o

    monkeypatch.setattr(ops, "gates", gates)


def swapped_gradients(monkeypatch):
    made = cell.backward

    def backward(dh, dc, slopes, *, xp):
        return made(dh, dc, slopes._replace(z_i=slopes.z_f, z_f=slopes.z_i), xp=xp)

    monkeypatch.setattr(cell, "backward", backward)


def transposed_recurrence(monkeypatch):
    made = stack.directions_of

    def directions_of(layer):
        def turned(R):
            return np.concatenate([block.T for block in np.split(R, 4)])

        return [(reverse, w._replace(weight_hh=turned(w.weight_hh))) for reverse, w in made(layer)]

    monkeypatch.setattr(stack, "directions_of", directions_of)


def one_step_more(monkeypatch):
    made = stack._marks
    monkeypatch.setattr(stack, "_marks", lambda call, plan: made(call._replace(lengths=call.lengths + 1), plan))


def dropped_recurrent_bias(monkeypatch):
    made = torch_format._weights

    def weights(parts, k):
        return made(parts | {"bias_hh": np.zeros_like(parts["bias_hh"])}, k)

    monkeypatch.setattr(torch_format, "_weights", weights)


def against_torch():
    test_peers.test_torch(bidirectional=True, proj_size=0, lengths=test_peers.LENGTHS, convert=lambda tree: tree)


def read_from_torch():
    test_formats.test_a_live_lstm_and_back(test_formats.PEERS["double"])


@pytest.mark.parametrize(
    ("defect", "comparison"),
    [
        (swapped_gates, against_torch),
        (swapped_gradients, against_torch),
        (transposed_recurrence, against_torch),
        (one_step_more, against_torch),
        (dropped_recurrent_bias, read_from_torch),
    ],
)
def test_a_defect_is_seen(defect, comparison, monkeypatch):
    comparison()
    defect(monkeypatch)
    with pytest.raises(AssertionError):
        comparison()
