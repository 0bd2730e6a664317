import json
from dataclasses import replace
from functools import partial

import pytest

from tests.bench import device, layer_sides, report, rows, sides
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
        rows.sessions,
        rows.numpy_torch,
        rows.dask_layer,
        rows.torch_layer,
        rows.torch_layer_training,
        rows.torch_masked,
        rows.torch_step,
        rows.torch_lengths_training,
        rows.torch_lengths_training_of_two_layers,
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


def test_what_keeps_fewer_states_gives_the_same_gradient():
    assert rows.checkpointed(TINY._replace(T=70), rows.AtMost(1e9)).run(turns=1).met


def test_steps_of_many_threads_are_those_of_one():
    row = rows.in_threads(TINY._replace(T=1), rows.Faster(1e-9))
    assert row.run(turns=1).met


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


def tiny(row):
    """Return the row on a small problem, on the CPU."""
    return replace(row, **{side: replace(getattr(row, side), size=TINY) for side in ("ours", "peer")})


# One row of each kind; CuPy has no CPU.
KINDS = {
    (row.ours.make, row.peer.make): tiny(row)
    for row in rows.GPU_ROWS
    if row.measure is rows.seconds and row.library != "CuPy"
}


@pytest.mark.parametrize("row", KINDS.values(), ids=report.name_of)
@pytest.mark.slow
def test_what_a_gpu_measures_gives_the_numbers_of_its_peer(row):
    """On the CPU: the same sides."""
    if row.missing():
        pytest.skip(f"no {', '.join(row.missing())}")
    assert row.ours.size == row.peer.size
    assert not row.part
    row.run(turns=1)


def test_rows_have_names_of_their_own():
    for table in rows.DEVICES.values():
        assert len({report.name_of(row) for row in table}) == len(table)


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(device, "_LIBRARIES", {"torch": lambda: None, "numpy": lambda: "a GPU"})
    row = rows.torch_layer(rows.on_gpu(TINY))
    assert row.missing() == ["GPU for torch"]
    assert tiny(row).missing() == []
    assert device.gpu() == "a GPU"


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "performance.md"
    path.write_text("before\n<!-- measured cpu -->\nold\n<!-- /measured -->\nafter\n")
    return path


def test_a_row_becomes_a_line_of_the_document(page):
    pytest.importorskip("matplotlib")
    rows_ = rows.notebook(TINY, rows.Faster(1e-9)), rows.torch_layer(TINY)
    kept = {"header": "here", "rows": {report.name_of(row): report.record(row, row.run(turns=1)) for row in rows_}}
    report.write(page, "cpu", kept)
    text = page.read_text()
    assert text.startswith("before\n<!-- measured cpu -->\nhere.\n\n![forward_cpu](forward_cpu.svg)\n\n### NumPy\n")
    assert "\n| lstm_forward, T=3, m=2, n_x=4, n_a=5 | " in text
    assert " | yes |\n" in text
    assert "\n### PyTorch\n" in text
    assert text.endswith("\n<!-- /measured -->\nafter\n")
    assert "old" not in text
    assert f"torch lstm, {rows._layer(TINY)} / torch.nn.LSTM" in page.with_name("forward_cpu.svg").read_text()
    assert sorted(path.name for path in page.parent.iterdir()) == ["forward_cpu.svg", "measured_cpu.json", page.name]


def test_rows_measured_again_take_the_place_of_the_old(page):
    first, second = rows.notebook(TINY), rows.cell(TINY, label="")
    lacking = [{report.name_of(row): report.record(row, None)} for row in (first, second)]
    for header, new, names in (("a", lacking[0], [0]), ("a", lacking[1], [0, 1]), ("b", lacking[1], [1])):
        report.write(page, "cpu", {"header": header, "rows": new})
        kept = json.loads(page.with_name("measured_cpu.json").read_text())
        assert list(kept["rows"]) == [report.name_of((first, second)[k]) for k in names]
        assert page.read_text().count("| not run |") == len(names)


def test_a_page_without_its_markers(page):
    page.write_text("nothing")
    with pytest.raises(ValueError, match="must have the markers"):
        report.write(page, "cpu", {"header": "", "rows": {}})
    assert list(page.parent.iterdir()) == [page]


@pytest.mark.parametrize(("bound", "met"), [(rows.Faster(2), [True, False]), (rows.AtMost(0.7), [True, False])])
def test_bounds(bound, met):
    row = partial(rows.Result, rows.notebook(TINY, bound))
    assert [row([ours], [1.0]).met for ours in (0.4, 0.8)] == met
