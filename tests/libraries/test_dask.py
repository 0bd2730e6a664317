"""Dask: one task for each block of the batch, however long the sequences are; the numbers are those of NumPy."""

import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from lstm_xp import LSTM, lstm, lstm_vjp
from lstm_xp._equations import stack
from lstm_xp._kernels import dask as kernel
from tests.support.layers import leaves, mapped, model_of
from tests.support.options import OPTIONS, covering, swapped
from tests.support.ways import posed

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")

ROOT = Path(__file__).parents[2]


def cut(a):
    """Return an array in blocks along every axis: those of a sequence are others than those of a state or a mark."""
    return da.from_array(a, chunks=2 if a.ndim == 3 and a.shape[2] == 3 else 3)


def computed(tree):
    """Return the arrays of a tree, after one run of this thread; their shapes and dtypes were known before."""
    arrays = leaves(tree)
    found = dask.compute(*arrays, scheduler="synchronous")
    assert [(a.shape, a.dtype) for a in arrays] == [(a.shape, a.dtype) for a in found]
    return found


def every_way(inputs, dy, dlast, options):
    """Return what `lstm` gives, and `lstm_vjp` with the gradients."""
    result, vjp = lstm_vjp(*inputs, **options)
    return lstm(*inputs, **options), tuple(result), vjp(dy, dlast)


def assert_close(got, wanted, atol=1e-12):
    for a, b in zip(computed(got), leaves(wanted), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize("row", covering(OPTIONS), ids=str)
def test_blocks_give_what_numpy_gives(row):
    (x, layers, state), options, dy, dlast = posed(row)
    how = {"cell": options["cell"], "time_major": row.time == "first", "trace": row.trace == "yes"}
    marks = {name: mark for name, mark in options.items() if name != "cell"}
    if row.time == "first":
        x, dy = swapped(x), swapped(dy)
        marks = {name: mark if name == "lengths" else swapped(mark) for name, mark in marks.items()}
    arrays = (x, layers, state), dy, dlast if row.last == "yes" else None, marks
    *cuts, cut_marks = mapped(cut, arrays)
    assert_close(every_way(*cuts, cut_marks | how), every_way(*arrays[:3], marks | how))


# The graph


def tasks(*arrays):
    """Count the tasks of arrays by their names."""
    graphs = (dict(array.dask) for array in arrays)
    return Counter(key[0].rsplit("-", 1)[0] for key in {key for graph in graphs for key in graph})


def gradients(model, x):
    (y, last), vjp = lstm_vjp(x, model.layers)
    return y, leaves(vjp(y, last))


@pytest.mark.parametrize("blocks", [1, 3])
def test_the_number_of_tasks_is_that_of_blocks(blocks):
    model = LSTM.init(3, 4, num_layers=2, bidirectional=True, rng=0)
    counts = []
    for T in (10, 400):
        x = da.zeros((4 * blocks - 1, T, 3), chunks=(4, T, 3), dtype="float32")
        y, found = gradients(model, x)
        assert y.chunks[0] == x.chunks[0]
        counts.append((tasks(model(x)[0]), tasks(*found)))
    assert counts[0] == counts[1]
    (forward, both), weights = counts[0], len(leaves(model.layers))
    assert forward == {"zeros_like": blocks, "array": weights, "in_a_block": blocks, "_entry": blocks}
    assert both["in_a_block"] == 2 * blocks


def test_the_gradients_of_the_weights_are_summed_as_a_tree():
    """Of 16 blocks four at a time, for all weights together."""
    model = LSTM.init(3, 4, num_layers=2, rng=0)
    _, found = gradients(model, da.zeros((16, 5, 3), chunks=(1, 5, 3), dtype="float32"))
    counts = tasks(*found)
    assert (counts["last"], counts["_sum-partial"], counts["_sum-aggregate"]) == (16, 4, 1)


def test_the_weights_are_in_the_graph_once():
    model = LSTM.init(100, 200, rng=0)
    x = da.zeros((16, 5, 100), chunks=(1, 5, 100), dtype="float32")
    y, found = gradients(model, x)
    graph = dask.optimize(y, *found)[0].dask
    pickle = pytest.importorskip("cloudpickle")
    assert len(pickle.dumps(dict(graph))) < 1.2 * sum(a.nbytes for a in leaves(model.layers))


def test_nothing_is_computed_before_it_is_asked_for():
    def scheduler(*_, **__):
        raise AssertionError

    model, x, state, marks = model_of("everything", cut)
    with dask.config.set(scheduler=scheduler):
        result, vjp = lstm_vjp(x, model.layers, state, cell=model.cell, trace=True, **marks)
        vjp(*result[:2])
        model(x, state, **marks)
        with pytest.raises(AssertionError):
            result[0].compute()


def test_equal_calls_are_equal_tasks():
    """So Dask runs them once; with another option they are others."""
    model, x, state, marks = model_of("everything", cut)
    names = [model(x, state, **marks)[0].name for _ in range(2)]
    others = {
        model(x, state)[0].name,
        model(x, state, mask=marks["mask"])[0].name,
        model(x, state, reset=marks["mask"])[0].name,
        LSTM(model.layers)(x, state, **marks)[0].name,
        model(x, None, **marks)[0].name,
    }
    assert names[0] == names[1]
    assert len(others | set(names)) == 6


# Where the arrays are from


def test_a_model_of_numpy_and_its_states_run_on_the_input():
    """The weights travel with the tasks; what comes out is Dask's."""
    model, x, state, _ = model_of("uniform")
    (y, last), _, (_, *found) = every_way((x, model.layers, state), np.ones((3, 5, 8)), state, {})
    on_dask = every_way((cut(x), model.layers, list(state)), cut(np.ones((3, 5, 8))), state, {})
    assert_close((on_dask[0], on_dask[2][1:]), ((y, last), tuple(found)))
    model = LSTM.init(3, 4, rng=0, dtype=np.float64)
    state = model.zero_state(3)
    assert_close(model.step(cut(x[:, 0]), state), model.step(x[:, 0], state))


def test_float16_is_computed_in_float32(monkeypatch):
    dtypes, forward = set(), stack.forward
    monkeypatch.setattr(stack, "forward", lambda call, plan: dtypes.add(call.x.dtype) or forward(call, plan=plan))
    model, x, state, marks = model_of("everything", lambda a: a.astype("float16") if a.dtype.kind == "f" else a)
    inputs, dy, options = (x, model.layers, state), np.ones((3, 5, 4), "float16"), {"cell": model.cell, "trace": True}
    *cuts, cut_marks = mapped(cut, (inputs, dy, marks))
    wanted = every_way(inputs, dy, None, marks | options)
    assert_close(every_way(*cuts, None, cut_marks | options), wanted, atol=2e-3)
    assert dtypes == {np.dtype("float32")}


def test_a_model_of_another_library_does_not():
    model = LSTM.init(3, 4, rng=0, xp=pytest.importorskip("torch"))
    words = "`x` must come from the library of `layers.0..forward.weight_ih`, torch; got dask"
    with pytest.raises(TypeError, match=words):
        model(da.zeros((2, 5, 3), dtype="float32"))


@pytest.mark.parametrize("call", [lambda x, model: model(x), lambda x, model: lstm_vjp(x, model.layers)])
@pytest.mark.parametrize("axis", [0, 1])
def test_sizes_that_are_not_known_are_refused(axis, call):
    x = da.ones((4, 5, 3), chunks=2, dtype="float32")
    x = da.compress(da.ones(x.shape[axis]) > 0, x, axis=axis)
    with pytest.raises(ValueError, match=r"`x` must have known sizes; got shape .*nan.*\. `x.compute_chunk_sizes"):
        call(x, LSTM.init(3, 4, rng=0))


@pytest.mark.parametrize("sizes", [((0,), 5), ((3,), 0), ((0,), 0), ((2, 0, 1), 5)], ids=str)
def test_empty_blocks(sizes):
    batch, T = sizes
    model, x, _, _ = model_of("uniform")
    x = x[: sum(batch), :T]
    inputs = da.from_array(x, chunks=(batch, T, 3)), mapped(cut, model.layers), None
    dy = np.ones((*x.shape[:2], 8))
    options = {"trace": True}
    assert_close(every_way(inputs, cut(dy), None, options), every_way((x, model.layers), dy, None, options))


def test_the_equations_operation_by_operation():
    x = model_of("plain")[1]
    model = LSTM.init(3, 4, rng=0, dtype=np.float64)
    wanted = every_way((x, model.layers), np.ones((3, 5, 4)), None, {})
    got = every_way((cut(x), model.layers), cut(np.ones((3, 5, 4))), None, {"engine": "xp"})
    assert "in_a_block" not in tasks(*leaves(got))
    assert "in_a_block" in tasks(model(cut(x), engine="native")[0])
    assert_close(got, wanted)


def test_the_tasks_go_to_other_processes():
    code = """
import dask.array, numpy
from lstm_xp import LSTM, Cell, lstm_vjp
model = LSTM.init(3, 4, rng=0, cell=Cell(candidate_activation=("elu", 0.5, 1.0)))
x = numpy.ones((4, 5, 3), dtype="float32")
(y, _), vjp = lstm_vjp(dask.array.from_array(x, chunks=(2, 5, 3)), model.layers, cell=model.cell)
got = vjp(y)[0].compute(scheduler="processes", num_workers=1)
(y, _), vjp = lstm_vjp(x, model.layers, cell=model.cell)
numpy.testing.assert_allclose(got, vjp(y)[0], rtol=0, atol=1e-6)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_what_lies_at_any_address_is_laid_anew():
    """As weights do that come from another process: products with them take twice as long."""
    there = np.empty(49, dtype="uint8")[1:].view("float64")
    there[:] = range(6)
    block, piece = np.ones((2, 3)), there.reshape(2, 3)
    assert not piece.flags.aligned
    assert kernel._only([[piece]]).flags.aligned
    np.testing.assert_array_equal(kernel._only([[piece]]), piece)
    assert kernel._only([[block]]) is block


@pytest.mark.slow
def test_a_cluster_of_which_a_worker_dies():
    """More than fits into a worker, and a step of training; Dask computes anew what is lost."""
    pytest.importorskip("distributed")
    command = [sys.executable, "-m", "tests.support.cluster"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    )
    try:
        out, err = process.communicate(timeout=240)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert out.split() == ["held"], err[-2000:]
    assert "lose already computed task" in err  # the one that died had done something
