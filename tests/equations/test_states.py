"""The states of many streams as one batch, and the states of a batch one by one."""

import re

import numpy as np
import pytest

from lstm_xp import LSTM, LSTMState, gather_states, scatter_states
from lstm_xp._seams.namespace import array_namespace
from tests.support.layers import leaves

MODEL = LSTM.init(3, 4, num_layers=2, proj_size=2, rng=0, dtype=np.float64)
X = np.random.default_rng(0).standard_normal((4, 4, 3))
# Session: the steps at which it has something, from the first to the last.
SESSIONS = {0: range(4), 1: range(1, 3), 2: range(2, 4), 3: range(0, 4, 2)}


def served(x, layers):
    """Run each session's steps, those of one moment as one batch; return its outputs and its last state."""
    model, xp = LSTM(layers), array_namespace(x)
    states = {name: model.zero_state(1) for name in SESSIONS}
    ys = {name: [] for name in SESSIONS}
    for t in range(4):
        now = [name for name, steps in SESSIONS.items() if t in steps]
        x_t = xp.concat([x[name : name + 1, t, :] for name in now])
        y_t, state = model.step(x_t, gather_states([states[name] for name in now]))
        for k, (name, own) in enumerate(zip(now, scatter_states(state), strict=True)):
            states[name] = own
            ys[name].append(y_t[k : k + 1, :])
    return [xp.stack(y, axis=1) for y in ys.values()], list(states.values())


def test_sessions_that_come_and_go_are_those_that_run_alone(bench):
    ys, states = bench.call(served, bench.array(X), bench.tree(MODEL.layers))
    atol = {"float64": 1e-12, "float32": 1e-5}[bench.dtype]
    for (name, steps), y, state in zip(SESSIONS.items(), ys, states, strict=True):
        wanted_y, wanted = MODEL(X[name : name + 1, list(steps)])
        bench.assert_close(y, wanted_y, atol=atol)
        assert [type(s) for s in state] == [LSTMState, LSTMState]
        for got, array in zip(leaves(state), leaves(wanted), strict=True):
            bench.assert_close(got, array, atol=atol)


def state_of(*batch, H=4, D=1, dtype=np.float64, layers=1):
    """Return states of unlike numbers."""
    draw = np.random.default_rng(0).standard_normal
    return tuple(LSTMState(*(draw((D, *batch, H)).astype(dtype) for _ in "hc")) for _ in range(layers))


@pytest.mark.parametrize("sizes", [None, [1] * 5, [2, 3], (0, 5, 0), [5]])
def test_parted_and_joined_is_the_same(sizes):
    """Of both directions; lists are as good as tuples."""
    state = list(state_of(5, D=2, layers=2))
    parts = scatter_states(state, sizes)
    assert [part[1].c.shape[1] for part in parts] == list(sizes or [1] * 5)
    for got, wanted in zip(leaves(gather_states(tuple(parts))), leaves(tuple(state)), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_an_empty_batch():
    assert scatter_states(state_of(0)) == []
    assert gather_states([state_of(0), state_of(2)])[0].h.shape == (1, 2, 4)


def test_what_is_kept_of_a_batch_does_not_keep_it():
    state = state_of(64)
    for array in leaves(scatter_states(state)[3]):
        assert array.base is None


def test_gradients_pass():
    torch = pytest.importorskip("torch")
    model = LSTM.init(3, 4, rng=0, xp=torch)
    weight = model.layers[0].forward.weight_hh.requires_grad_()
    first, second = (model(torch.ones(1, 3, 3))[1] for _ in range(2))
    _, state = model.step(torch.ones(2, 3), gather_states([first, second]))
    scatter_states(state)[1][0].h.sum().backward()
    assert weight.grad.abs().sum() > 0


def strict():
    xp = pytest.importorskip("array_api_strict")
    return (LSTMState(xp.zeros((1, 1, 4)), xp.zeros((1, 1, 4))),)


ONE = state_of(1)
BAD = {
    "none": (lambda: gather_states([]), ValueError, "`states` must have at least one state; got none"),
    "no sequence": (lambda: gather_states({}), TypeError, "`states` must be a sequence of states; got dict"),
    "a state": (lambda: gather_states(ONE), TypeError, "`states[0]` must be a sequence of LSTMState; got LSTMState"),
    "no layers": (lambda: gather_states([()]), ValueError, "`states[0]` must have one LSTMState a layer, 1; got 0"),
    "None": (lambda: gather_states([ONE, None]), TypeError, "`states[1]` must be a sequence of LSTMState; got NoneT"),
    "pairs": (lambda: gather_states([(tuple(ONE[0]),)]), TypeError, "`states[0][0]` must be an LSTMState; got tuple"),
    "layers": (
        lambda: gather_states([ONE, state_of(1, layers=2)]),
        ValueError,
        "`states[1]` must have one LSTMState a layer, 1; got 2",
    ),
    "library": (
        lambda: gather_states([ONE, strict()]),
        TypeError,
        "`states[1][0].h` must come from the library of `states[0][0].h`, numpy; got array_api_strict",
    ),
    "dtype": (
        lambda: gather_states([ONE, state_of(1, dtype=np.float32)]),
        TypeError,
        "`states[1][0].h` must have the dtype of `states[0][0].h`, float64; got float32",
    ),
    "hidden": (
        lambda: gather_states([ONE, state_of(1, H=5)]),
        ValueError,
        "`states[1][0].h` must have shape (directions, batch, hidden) = (1, 1, 4); got (1, 1, 5)",
    ),
    "directions": (lambda: gather_states([ONE, state_of(1, D=2)]), ValueError, "= (1, 1, 4); got (2, 1, 4)"),
    "no batch": (lambda: gather_states([state_of()]), ValueError, "`states[0][0].h` must have 3 dimensions"),
    "two batches": (
        lambda: scatter_states((ONE[0]._replace(c=np.zeros((1, 2, 4))),)),
        ValueError,
        "`state[0].c` must have shape (directions, batch, hidden) = (1, 1, 4); got (1, 2, 4)",
    ),
    "two batches of layers": (
        lambda: scatter_states(state_of(2) + ONE),
        ValueError,
        "`state[1].h` must have shape (directions, batch, hidden) = (1, 2, 4); got (1, 1, 4)",
    ),
    "an LSTMState": (lambda: scatter_states(ONE[0]), TypeError, "A single one goes into a tuple, `(state,)`."),
    "sizes": (lambda: scatter_states(ONE, [1, 1]), ValueError, "`sizes` must add up to the batch of `state`, 1; got 2"),
    "negative": (lambda: scatter_states(ONE, [2, -1]), ValueError, "`sizes[1]` must be an integer of at least 0"),
    "a number": (lambda: scatter_states(ONE, 1), TypeError, "`sizes` must be a sequence of int; got int"),
    "fraction": (
        lambda: scatter_states(ONE, [1.0]),
        ValueError,
        "`sizes[0]` must be an integer of at least 0; got 1.0",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_states(case):
    call, error, words = BAD[case]
    function = "scatter_states" if "scatter_states" in call.__code__.co_names else "gather_states"
    with pytest.raises(error, match=f"^{function}: .*{re.escape(words)}"):
        call()


def test_a_batch_that_nobody_knows():
    ndx = pytest.importorskip("ndonnx")
    h = ndx.argument(shape=(1, None, 4), dtype=ndx.float64)
    with pytest.raises(ValueError, match="scatter_states: `state` must have a known batch; got None"):
        scatter_states((LSTMState(h, h),))


@pytest.mark.parametrize(
    ("function", "name"), [(scatter_states, "state"), (lambda state: gather_states([state, state]), r"states\[0\]")]
)
def test_a_batch_that_dask_has_not_counted(function, name):
    da = pytest.importorskip("dask.array")
    h, c = (da.zeros((1, 3, 4))[:, da.asarray(np.asarray([True, False, True])), :] for _ in "hc")
    with pytest.raises(ValueError, match=rf"_states: `{name}\[0\].h` must have known sizes; .*compute_chunk_sizes"):
        function((LSTMState(h, c),))
