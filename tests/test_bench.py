from functools import partial

import pytest

from tests.bench import report, rows, sides
from tests.bench.problem import Size
from tests.bench.timing import assert_same

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
