from functools import partial

import pytest

from tests.bench import layer_sides, report, rows, sides
from tests.bench.problem import Size
from tests.bench.timing import assert_same, extra_bytes

TINY = Size(3, 2, 4, 5)


@pytest.mark.parametrize(
    "peer",
    [sides.notebook_forward, sides.port_forward, sides.kinder_port_forward],
    ids=["notebook", "port", "kinder port"],
)
def test_the_peers_give_the_numbers_of_lstm_forward(peer):
    ours, theirs = sides.numpy_forward(TINY), peer(TINY)
    assert_same(ours.numbers(ours.call()), theirs.numbers(theirs.call()))


def test_the_notebooks_cell_gives_the_numbers_of_lstm_cell():
    ours, theirs = sides.numpy_cell(TINY), sides.notebook_cell(TINY)
    assert_same(ours.numbers(ours.call()), theirs.numbers(theirs.call()))


def test_torch_nn_gives_the_numbers_of_the_backward_pass():
    ours, theirs = sides.numpy_train(TINY), sides.torch_nn_train(TINY)
    assert_same(ours.numbers(ours.call()), theirs.numbers(theirs.call()))


@pytest.mark.parametrize(
    "row",
    [
        rows.step_torch,
        rows.step_onnxruntime,
        rows.numpy_torch,
        rows.dask_layer,
        rows.torch_layer,
        rows.torch_layer_training,
        rows.torch_step,
        pytest.param(rows.flax, marks=pytest.mark.slow),
        pytest.param(rows.flax_gradient, marks=pytest.mark.slow),
        rows.without_jit,
    ],
    ids=lambda row: row(TINY).what + " against " + row(TINY).peer.name,
)
def test_the_layers_of_others_give_the_numbers_of_lstm(row):
    row = row(TINY)
    if row.missing():
        pytest.skip(f"no {', '.join(row.missing())}")
    tasks = row.ours.build(), row.peer.build()
    results = [task.call() for task in tasks]
    for task, result in zip(tasks, results, strict=True):
        task.wait(result)
    ours, theirs = (task.numbers(result) for task, result in zip(tasks, results, strict=True))
    assert len(ours) >= 3
    assert_same(ours, theirs)


def test_products_alone_have_no_numbers_to_compare():
    result = rows.products(TINY, rows.Faster(1e-9)).run(turns=1)
    assert result.met
    assert layer_sides.numpy_products(TINY).numbers(None) == ()


def test_memory_is_measured_beyond_y_h_and_c():
    task = layer_sides.numpy_layer(TINY)
    B, T, H = TINY.m, TINY.T, TINY.n_a
    assert [array.shape for array in task.numbers(task.call())] == [(B, T, H), (1, B, H), (1, B, H)]


@pytest.mark.parametrize("make", [layer_sides.numpy_layer, sides.numpy_forward], ids=["lstm", "lstm_forward"])
def test_memory_does_not_grow_with_time(make):
    """Beyond inputs and outputs: NumPy counts its bytes, so this is no matter of the machine."""
    make(TINY).call()  # imports, and what is kept for later calls
    short, long = (extra_bytes(make(Size(T, 8, 64, 16))) for T in (300, 3000))
    more_input = 2700 * 8 * 64 * 4
    assert long - short < 0.05 * more_input  # views of blocks, but no numbers


def test_a_row_names_its_letters():
    label = "T=3, B=2, I=4, H=5"
    assert rows.products(TINY).what == f"NumPy lstm, {label}"
    assert rows.ROWS[-1].what == "NumPy lstm, memory beyond inputs and outputs, B=32, I=128, H=256"


def test_sides_that_differ_are_not_measured():
    row = rows.Row("", *(rows.Side("", make, TINY) for make in (sides.numpy_forward, sides.numpy_cell)))
    with pytest.raises(AssertionError, match="the sides differ"):
        row.run(turns=1)


def test_a_row_becomes_a_line_of_the_document(tmp_path):
    row = rows.notebook(TINY, rows.Faster(1e-9))
    line = report.cells(row, row.run(turns=1))
    assert line[0] == "NumPy lstm_forward, T=3, m=2, n_x=4, n_a=5"
    assert line[-1] == "yes"

    document = tmp_path / "performance.md"
    document.write_text("before\n<!-- measured -->\nold\n<!-- /measured -->\nafter\n")
    report.write(document, report.markdown([line]))
    text = document.read_text()
    assert f"| {' | '.join(line)} |" in text
    assert text.startswith("before\n<!-- measured -->\n")
    assert text.endswith("\n<!-- /measured -->\nafter\n")
    assert "old" not in text


@pytest.mark.parametrize(("bound", "met"), [(rows.Faster(2), [True, False]), (rows.AtMost(0.7), [True, False])])
def test_bounds(bound, met):
    row = partial(rows.Result, rows.notebook(TINY, bound))
    assert [row([ours], [1.0]).met for ours in (0.4, 0.8)] == met
