"""`lstm_xp.modules.torch.LSTM`: what `torch.nn.LSTM` does, asked of both; and what it does besides."""

import copy
import pickle
from itertools import chain, product

import numpy as np
import pytest

from lstm_xp import Cell, Layer, LSTMState, formats, layers, lstm

torch = pytest.importorskip("torch")
nn, rnn_utils = torch.nn, torch.nn.utils.rnn
LSTM = pytest.importorskip("lstm_xp.modules.torch").LSTM
PackedSequence, pack_sequence = rnn_utils.PackedSequence, rnn_utils.pack_sequence
pack_padded_sequence, pad_packed_sequence = rnn_utils.pack_padded_sequence, rnn_utils.pad_packed_sequence

pytestmark = pytest.mark.filterwarnings(
    # From PyTorch: of array-api-compat, and at the first compilation.
    "ignore:Dynamo detected a call to a `functools.lru_cache`",
    "ignore:`torch.jit.script:DeprecationWarning",
)


@pytest.fixture(params=[nn.LSTM, LSTM], ids=["nn", "ours"])
def kind(request):
    """Either class."""
    return request.param


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    return request.param


@pytest.fixture
def ran(monkeypatch):
    """Return the names of the kernels that ran, and None for the equations."""
    names, choose = [], layers.kernel_for

    def noted(*arguments):
        kernel = choose(*arguments)
        names.append(kernel and kernel.name)
        return kernel

    monkeypatch.setattr(layers, "kernel_for", noted)
    return names


def pair(device="cpu", **options):
    """Return both, with the same parameters in float64."""
    options = {"dtype": torch.float64, "device": device, **options}
    theirs, ours = nn.LSTM(3, 4, **options), LSTM(3, 4, **options)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return theirs, ours


def leaves(result):
    y, (h, c) = result
    return [y.data if isinstance(y, PackedSequence) else y, h, c]


def assert_same(got, wanted, **tolerance):
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, **({"rtol": 0, "atol": 1e-12} | tolerance))


# What torch.nn.LSTM does


def test_the_documented_example(kind):
    rnn = kind(10, 20, 2)
    input, h0, c0 = torch.randn(5, 3, 10), torch.randn(2, 3, 20), torch.randn(2, 3, 20)
    output, (hn, cn) = rnn(input, (h0, c0))
    assert output.shape == (5, 3, 20)
    assert hn.shape == cn.shape == (2, 3, 20)
    torch.testing.assert_close(output[-1], hn[-1])


def test_splitting_directions_as_documented(kind):
    rnn = kind(3, 4, bidirectional=True)
    output, (hn, _) = rnn(torch.randn(5, 2, 3))
    split = output.view(5, 2, 2, 4)
    torch.testing.assert_close(split[-1, :, 0], hn[0])
    torch.testing.assert_close(split[0, :, 1], hn[1])


@pytest.mark.parametrize("options", [{}, {"proj_size": 2}, {"num_layers": 2, "bidirectional": True}], ids=str)
@pytest.mark.parametrize(("batch_first", "size"), [(False, (5, 2)), (True, (2, 5)), (False, (5,)), (True, (5,))])
def test_shapes(kind, options, batch_first, size):
    rnn = kind(3, 4, batch_first=batch_first, **options)
    R, D = rnn.proj_size or 4, 1 + rnn.bidirectional
    rows, batch = D * rnn.num_layers, (2,) * (len(size) - 1)
    for hx in (None, (torch.zeros(rows, *batch, R), torch.zeros(rows, *batch, 4))):
        y, last = rnn(torch.ones(*size, 3), hx)
        h, c = last
        assert type(last) is tuple
        assert (y.shape, h.shape, c.shape) == ((*size, D * R), (rows, *batch, R), (rows, *batch, 4))


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        ((3, 4), {}, "LSTM(3, 4)"),
        ((3, 4, 2), {"bias": False, "batch_first": True}, "LSTM(3, 4, num_layers=2, bias=False, batch_first=True)"),
        (
            (3, 4, 2),
            {"dropout": 0.5, "bidirectional": True},
            "LSTM(3, 4, num_layers=2, dropout=0.5, bidirectional=True)",
        ),
        ((3, 4), {"proj_size": 2}, "LSTM(3, 4, proj_size=2)"),
    ],
)
def test_repr(kind, arguments, options, text):
    assert repr(kind(*arguments, **options)) == text


def test_defaults(kind):
    rnn = kind(3, 4)
    names = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional", "proj_size")
    assert [getattr(rnn, name) for name in names] == [3, 4, 1, True, False, 0.0, False, 0]
    assert {p.dtype for p in rnn.parameters()} == {torch.float32}
    assert rnn.training


def test_the_state_dict(kind):
    """Names, order and shapes; a direction after the other, a layer after the other."""
    shapes = {name: tuple(p.shape) for name, p in kind(3, 4, 2, bidirectional=True, proj_size=2).state_dict().items()}
    assert list(shapes) == [
        f"{part}_l{k}{suffix}"
        for k in range(2)
        for suffix in ("", "_reverse")
        for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    ]
    assert [shapes[f"{part}_l1"] for part in ("weight_ih", "weight_hh", "bias_ih", "weight_hr")] == [
        (16, 4),
        (16, 2),
        (16,),
        (2, 4),
    ]
    assert not [name for name in kind(3, 4, bias=False).state_dict() if "bias" in name]


def test_strict_loading_refuses_other_names(kind):
    with pytest.raises(RuntimeError, match=r"Missing key\(s\).*bias_ih_l0"):
        kind(3, 4).load_state_dict(kind(3, 4, bias=False).state_dict())
    with pytest.raises(RuntimeError, match="size mismatch for weight_ih_l0"):
        kind(3, 4).load_state_dict(kind(2, 4).state_dict())


def test_all_weights(kind):
    rnn = kind(3, 4, 2, bidirectional=True)
    assert [len(direction) for direction in rnn.all_weights] == [4] * 4
    assert all(a is b for a, b in zip(chain(*rnn.all_weights), rnn.parameters(), strict=True))


def test_parameters_are_drawn_alike(kind):
    """From one seed, in one order, within 1 / sqrt(H); again by `reset_parameters`."""
    torch.manual_seed(0)
    wanted = nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2)
    torch.manual_seed(0)
    rnn = kind(3, 4, 2, bidirectional=True, proj_size=2)
    assert_same(rnn.parameters(), wanted.parameters(), atol=0)
    torch.manual_seed(0)
    rnn.reset_parameters()
    assert_same(rnn.parameters(), wanted.parameters(), atol=0)
    assert max(float(p.detach().abs().max()) for p in rnn.parameters()) <= 0.5


@pytest.mark.parametrize(
    "options",
    [
        {"input_size": 0},
        {"hidden_size": 0},
        {"num_layers": 0},
        {"proj_size": -1},
        {"proj_size": 4},
        {"input_size": 2.0},
        {"hidden_size": "4"},
        {"bias": 1},
        {"batch_first": None},
        {"dropout": 1.5},
        {"dropout": -0.1},
        {"dropout": True},
    ],
    ids=str,
)
def test_options_are_refused(kind, options):
    with pytest.raises((ValueError, TypeError), match=next(iter(options))):
        kind(**{"input_size": 3, "hidden_size": 4} | options)


def test_dropout_of_one_layer_warns(kind):
    with pytest.warns(UserWarning, match="dropout"):
        kind(3, 4, dropout=0.5)


@pytest.mark.parametrize(
    ("x", "hx"),
    [
        (torch.ones(5, 2, 4), None),
        (torch.ones(5), None),
        (torch.ones(5, 2, 3, 1), None),
        (torch.ones(5, 2, 3, dtype=torch.float64), None),
        (torch.ones(5, 2, 3, dtype=torch.int64), None),
        (torch.ones(5, 2, 3), (torch.ones(1, 3, 4), torch.ones(1, 2, 4))),
        (torch.ones(5, 2, 3), (torch.ones(1, 2, 4), torch.ones(2, 2, 4))),
        (torch.ones(5, 2, 3), (torch.ones(1, 4), torch.ones(1, 4))),
        (torch.ones(5, 3), (torch.ones(1, 1, 4), torch.ones(1, 1, 4))),
        (torch.ones(5, 2, 3), (torch.ones(1, 2, 4).double(), torch.ones(1, 2, 4).double())),
        (torch.ones(5, 2, 3), torch.ones(1, 2, 4)),
    ],
)
def test_calls_are_refused(kind, x, hx):
    with pytest.raises((ValueError, RuntimeError, TypeError, IndexError)):
        kind(3, 4)(x, hx)


def test_moving(kind, device):
    rnn = kind(3, 4)
    assert rnn.double() is rnn
    assert {p.dtype for p in rnn.parameters()} == {torch.float64}
    assert rnn.to(device, torch.float32)(torch.ones(5, 2, 3, device=device))[0].device.type == device
    assert {p.dtype for p in rnn.half().parameters()} == {torch.float16}
    assert kind(3, 4, device="meta")(torch.ones(5, 2, 3, device="meta"))[0].shape == (5, 2, 4)
    assert {p.dtype for p in kind(3, 4, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda rnn: pickle.loads(pickle.dumps(rnn))], ids=["copy", "pickle"])
def test_copies(kind, copied):
    rnn = kind(3, 4, 2, bidirectional=True)
    other, x = copied(rnn), torch.randn(5, 2, 3)
    assert_same(leaves(other(x)), leaves(rnn(x)), atol=0)
    with torch.no_grad():
        other.weight_hh_l1.zero_()
    assert rnn.weight_hh_l1.all()


def test_parameters_are_asked_for_at_every_call(kind):
    """Frozen, replaced, shared, in a functional call, or under a parametrization."""
    rnn, x = kind(3, 4), torch.randn(5, 2, 3)
    rnn.requires_grad_(False)
    assert not rnn(x)[0].requires_grad
    rnn.share_memory().flatten_parameters()
    zeros = {name: torch.zeros_like(p) for name, p in rnn.named_parameters()}
    assert not torch.func.functional_call(rnn, zeros, (x,))[0].any()
    nn.utils.parametrizations.weight_norm(rnn, "weight_hh_l0")
    rnn.weight_ih_l0 = nn.Parameter(torch.zeros(16, 3))
    assert torch.equal(rnn(x)[0][:, 0], rnn(x)[0][:, 1])


def test_dropout_acts_in_training_alone(kind):
    rnn, x = kind(3, 4, 2, dropout=1.0), torch.randn(5, 2, 3)
    without = kind(3, 4, 2)
    without.load_state_dict(rnn.state_dict())
    assert not torch.allclose(rnn(x)[0], without(x)[0])
    assert_same(leaves(rnn.eval()(x)), leaves(without(x)), atol=1e-7)


def test_a_sequence_goes_on(kind):
    rnn, x = kind(3, 4, 2, dtype=torch.float64), torch.randn(6, 2, 3, dtype=torch.float64)
    y, last = rnn(x)
    first, state = rnn(x[:2])
    rest, state = rnn(x[2:], state)
    assert_same([torch.cat([first, rest]), *state], [y, *last])


def test_truncated_back_propagation(kind):
    """A window's gradient is the whole one of a loss on that window, if the state before it is detached."""
    rnn, x = kind(3, 4, dtype=torch.float64), torch.randn(6, 2, 3, dtype=torch.float64)
    _, state = rnn(x[:4])
    (rnn(x[4:], tuple(a.detach() for a in state))[0] ** 2).sum().backward()
    windowed = [p.grad.clone() for p in rnn.parameters()]
    rnn.zero_grad()
    whole = rnn(x[4:], tuple(a.clone().detach().requires_grad_() for a in state))
    assert_same(torch.autograd.grad((whole[0] ** 2).sum(), list(rnn.parameters())), windowed)
    # With the state attached, more comes back: what was cut off.
    _, state = rnn(x[:4])
    attached = torch.autograd.grad((rnn(x[4:], state)[0] ** 2).sum(), list(rnn.parameters()))
    assert not torch.allclose(attached[1], windowed[1])
    through = torch.autograd.grad((rnn(x)[0][4:] ** 2).sum(), list(rnn.parameters()))
    assert_same(attached, through)


# The same numbers

OPTIONS = [
    dict(zip(("num_layers", "bias", "batch_first", "bidirectional", "proj_size"), row, strict=True))
    for row in product((1, 3), (True, False), (True, False), (False, True), (0, 2))
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())))
def test_results_gradients_and_dropout_are_the_same(options, device):
    """Also what dropout leaves, from one seed; and a sequence alone."""
    theirs, ours = pair(device, dropout=0.5 if options["num_layers"] > 1 else 0.0, **options)
    x = torch.randn(5, 2, 3, dtype=torch.float64, device=device, requires_grad=True)
    for one in (x, x[0]):
        results = []
        for rnn in (theirs, ours):
            torch.manual_seed(0)
            found = leaves(rnn(one))
            loss = sum((k * a.sin()).sum() for k, a in enumerate(found, 1))
            results.append([*found, *torch.autograd.grad(loss, [x, *rnn.parameters()])])
        assert_same(*results)


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"proj_size": 2}], ids=str)
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("lengths", [(5, 3, 3, 1), (1, 3, 5, 3)], ids=["sorted", "unsorted"])
def test_packed_sequences_are_the_same(options, with_state, lengths, device):
    theirs, ours = pair(device, **options)
    rows, R = len(ours.all_weights), ours.proj_size or 4
    make = lambda *size: torch.randn(*size, dtype=torch.float64, device=device)  # noqa: E731
    packed = pack_sequence([make(n, 3) for n in lengths], enforce_sorted=lengths[0] == 5)
    hx = (make(rows, 4, R), make(rows, 4, 4)) if with_state else None
    got, wanted = ours(packed, hx), theirs(packed, hx)
    assert_same(leaves(got), leaves(wanted))
    for a, b in zip(got[0][1:], wanted[0][1:], strict=True):
        assert a is b is None or torch.equal(a, b)
    padded, counted = pad_packed_sequence(got[0])
    assert counted.tolist() == list(lengths)
    dense, _ = ours(pad_packed_sequence(packed)[0], hx, lengths=torch.tensor(lengths, device=device))
    assert_same([padded], [dense])


def test_packed_in_padding_order():
    theirs, ours = pair(batch_first=True)
    x = torch.randn(3, 5, 3, dtype=torch.float64)
    packed = pack_padded_sequence(x, [2, 5, 4], batch_first=True, enforce_sorted=False)
    assert_same(leaves(ours(packed)), leaves(theirs(packed)))


# What it does besides


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_marks_cells_and_peepholes_are_those_of_lstm(batch_first, dropout):
    cells = (Cell(coupled="forget"), (Cell(clip=0.5), Cell()))
    rnn = LSTM(3, 4, 2, True, batch_first, dropout, True, 2, dtype=torch.float64, cell=cells, peephole=True)
    assert rnn.weight_peephole_l1_reverse.shape == (12,)
    x, state = torch.randn(5, 2, 3).double(), [torch.randn(4, 2, n).double() for n in (2, 4)]
    marks = {"lengths": torch.tensor([5, 3]), "mask": torch.rand(5, 2) > 0.3, "reset": torch.rand(5, 2) > 0.7}
    each = [w for layer in rnn._layers() for w in layer]
    stack = (Layer(each[0], each[1]), Layer(each[2], each[3]))
    start = tuple(LSTMState(*(a[k : k + 2] for a in state)) for k in (0, 2))
    turned = {k: a.T if batch_first and a.ndim == 2 else a for k, a in marks.items()}
    y, last = rnn.eval()(x.transpose(0, 1) if batch_first else x, state, **turned)
    wanted, ends = lstm(x, stack, start, cell=cells, time_major=True, **marks)
    assert_same([y.transpose(0, 1) if batch_first else y], [wanted])
    assert_same(last, [torch.cat(part) for part in zip(*ends, strict=True)])
    rnn.dropout = 1e-300 * dropout  # layer by layer, and nothing is dropped
    assert_same(leaves(rnn.train()(x.transpose(0, 1) if batch_first else x, state, **turned)), [y, *last])
    one, _ = rnn.eval()(x[:, 0], lengths=torch.tensor(4), mask=marks["mask"][:, 0], reset=marks["reset"][:, 0])
    marks = {"lengths": torch.tensor([4]), "mask": marks["mask"][:, :1], "reset": marks["reset"][:, :1]}
    assert_same([one], [lstm(x[:, :1], stack, cell=cells, time_major=True, **marks)[0][:, 0]])


def test_the_plain_module_ends_in_the_kernel(ran):
    x = torch.randn(5, 2, 3)
    LSTM(3, 4, 2, bidirectional=True)(x)
    LSTM(3, 4, 2, dropout=0.5)(x)
    LSTM(3, 4)(x[:1])
    LSTM(3, 4, peephole=True)(x)
    LSTM(3, 4)(pack_sequence([x[:, 0], x[:3, 1]]))
    assert ran == ["torch.lstm"] * 3 + ["torch.lstm_cell", None, "torch.lstm"]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda f: f(np.ones((5, 2, 3))), TypeError, "LSTM: `input` must come from the library of"),
        (lambda f: f(torch.ones(5, 2, 3).double()), TypeError, "LSTM: `input` must have the dtype of"),
        (lambda f: f(torch.ones(5, 2, 2)), ValueError, r"LSTM: `input` must have shape \(time, batch, I\) with I = 3"),
        (lambda f: f(torch.ones(5, 2)), ValueError, r"LSTM: `input` must have shape \(time, I\) with I = 3"),
        (lambda f: f(torch.ones(5)), ValueError, r"`input` must have 3 dimensions"),
        (lambda f: f(torch.ones(5, 2, 3, device="meta")), TypeError, "`input` must be on the device"),
        (lambda f: f(packed(device="meta")), TypeError, "`input.data` must be on the device"),
        (lambda f: f(packed(I=2)), ValueError, r"`input.data` must have shape \(steps, I\) with I = 3"),
        (lambda f: f(packed(), lengths=torch.tensor([5])), ValueError, "`lengths` must be None with a PackedSequence"),
        (lambda f: f(packed(), mask=torch.ones(5, 1) > 0), ValueError, "`mask` must be None with a PackedSequence"),
        (lambda f: f(packed(), (torch.ones(1, 2, 4),) * 2), ValueError, r"`hx\[0\]` must have shape .* = \(1, 1, 4\)"),
        (lambda f: f(torch.ones(5, 2, 3), torch.ones(1, 2, 4)), TypeError, "`hx` must be a tuple of two tensors"),
        (lambda f: f(torch.ones(5, 2, 3), (torch.ones(1, 2, 4),) * 3), TypeError, "`hx` must be a tuple of two"),
        (
            lambda f: f(torch.ones(5, 2, 3), (np.ones((1, 2, 4)),) * 2),
            TypeError,
            r"`hx\[0\]` must come from the library of `input`",
        ),
        (lambda f: f(torch.ones(5, 3), (torch.ones(1, 1, 4),) * 2), ValueError, r"\(layers \* directions, hidden\)"),
        (lambda f: f(torch.ones(5, 2, 3), lengths=torch.tensor([6, 1])), ValueError, "`lengths` must lie between"),
        (lambda f: f(torch.ones(5, 2, 3), mask=torch.ones(2, 5) > 0), ValueError, r"`mask` must have shape \(time"),
        (lambda f: LSTM(3, 4, cell="plain"), TypeError, "LSTM: `cell` must be a Cell"),
        (lambda f: LSTM(3, 4, 2, cell=(Cell(),)), TypeError, "LSTM: `cell` must be a Cell"),
        (lambda f: LSTM(3, 4, peephole=1), TypeError, "LSTM: `peephole` must be True or False"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call(LSTM(3, 4))


def packed(*, device="cpu", I=3):  # noqa: E741 -- the field's letter
    return pack_sequence([torch.ones(5, I, device=device)])


def test_repr_of_what_is_ours():
    text = repr(LSTM(3, 4, cell=Cell(clip=1.0), peephole=True))
    assert text.startswith("LSTM(3, 4, cell=Cell(")
    assert text.endswith("peephole=True)")


def test_sizes_are_kept_as_integers_of_python():
    rnn = LSTM(np.uint8(3), np.uint8(100), np.uint8(2), proj_size=np.uint8(2))
    assert rnn.weight_ih_l1.shape == (400, 2)
    assert {type(size) for size in (rnn.input_size, rnn.hidden_size, rnn.num_layers, rnn.proj_size)} == {int}


@pytest.mark.parametrize("options", [{}, {"peephole": True, "bidirectional": True}], ids=str)
def test_gradients_computed_again(options):
    """`torch.utils.checkpoint` gives the same ones."""
    rnn = LSTM(3, 4, dtype=torch.float64, **options)
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    found = []
    for run in (rnn, lambda x: torch.utils.checkpoint.checkpoint(rnn, x, use_reentrant=False)):
        y, (h, c) = run(x)
        found.append(torch.autograd.grad((y**2).sum() + h.sum() + c.sum(), [x, *rnn.parameters()]))
    assert_same(*found)


# Autocast


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2}, {"proj_size": 2}], ids=str)
def test_autocast_as_in_torch(kind, options, dtype, device):
    """All three results have its dtype, what comes out goes back in, and the gradients are those of the parameters."""
    if kind is nn.LSTM and options.get("proj_size"):
        pytest.skip("PyTorch gives c in float32 there")
    rnn = kind(3, 4, device=device, **options)
    x, rows = torch.randn(5, 2, 3, device=device, dtype=getattr(torch, dtype)), len(rnn.all_weights)
    with torch.autocast(device, dtype=torch.bfloat16):
        y, state = rnn(x, tuple(torch.zeros(rows, 2, n, device=device) for n in (rnn.proj_size or 4, 4)))
        y, state = rnn(x, state)
        if kind is LSTM:  # PyTorch gives float32 there
            assert rnn(pack_sequence([x[:, 0], x[:3, 1]]))[0].data.dtype == torch.bfloat16
    assert {a.dtype for a in (y, *state)} == {torch.bfloat16}
    y.sum().backward()
    assert {p.grad.dtype for p in rnn.parameters()} == {torch.float32}


# Programs


class WithHead(nn.Module):
    """A module of a user's."""

    def __init__(self, **options):
        super().__init__()
        self.rnn = LSTM(3, 4, batch_first=True, **options)
        self.head = nn.Linear(options.get("proj_size", 4) * (1 + self.rnn.bidirectional), 2)

    def forward(self, x):
        y, (h, c) = self.rnn(x)
        return self.head(y), h, c


PROGRAMS = {
    "plain": {},
    "both": {"num_layers": 2, "bidirectional": True},
    "everything": {"proj_size": 2, "peephole": True, "cell": Cell(clip=0.5, coupled="input")},
}


@pytest.mark.parametrize("name", ["plain", pytest.param("everything", marks=pytest.mark.slow)])
def test_compile(name):
    model, x = WithHead(**PROGRAMS[name]), torch.randn(2, 3, 3)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    got, wanted = (f(x) for f in (compiled, model))
    assert_same(got, wanted, atol=1e-6)
    for a, b in zip(
        *(torch.autograd.grad((f(x)[0] ** 2).sum(), list(model.parameters())) for f in (compiled, model)), strict=True
    ):
        torch.testing.assert_close(a, b)


def free():
    return ({0: torch.export.Dim("batch"), 1: torch.export.Dim("time")},)


class Padded(nn.Module):
    """A module of a user."""

    def __init__(self, **options):
        super().__init__()
        self.lstm = LSTM(3, 4, batch_first=True, **options)

    def forward(self, x, lengths):
        return self.lstm(x, lengths=lengths)[0]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"peephole": True}], ids=str)
def test_jit_trace(options, tmp_path):
    """A kernel takes other sizes than those it is traced with; equations are written down step by step."""
    model = Padded(**options)
    x, lengths = torch.randn(2, 5, 3), torch.tensor([5, 3])
    torch.jit.save(torch.jit.trace(model, (x, lengths)), tmp_path / "m.pt")
    program = torch.jit.load(tmp_path / "m.pt")
    if "peephole" not in options:
        x, lengths = torch.randn(3, 7, 3), torch.tensor([1, 7, 0])
    torch.testing.assert_close(program(x, lengths), model(x, lengths))
    for module in (program, model):
        module(x, lengths).sum().backward()
    for name, parameter in program.named_parameters():
        torch.testing.assert_close(parameter.grad, model.get_parameter(name).grad)


@pytest.mark.parametrize("name", PROGRAMS)
def test_export_with_free_batch_and_time(name, tmp_path):
    model = WithHead(**PROGRAMS[name]).eval()
    torch.compiler.reset()
    torch.export.save(torch.export.export(model, (torch.randn(2, 5, 3),), dynamic_shapes=free()), tmp_path / "m.pt2")
    program = torch.export.load(tmp_path / "m.pt2").module()
    for size in ((7, 9), (1, 1), (2, 5)):
        x = torch.randn(*size, 3)
        assert_same(program(x), model(x), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
# From its own modules, and from onnxruntime.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_onnx_with_free_batch_and_time(name, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = WithHead(**PROGRAMS[name]).eval()
    torch.compiler.reset()
    path, arguments = tmp_path / "m.onnx", (torch.randn(2, 5, 3),)
    torch.onnx.export(model, arguments, path, dynamo=True, dynamic_shapes=free(), verbose=False)
    session = onnxruntime.InferenceSession(path)
    for size in ((7, 9), (1, 1), (2, 5)):
        x = torch.randn(*size, 3)
        got = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        for a, b in zip(got, model(x), strict=True):
            np.testing.assert_allclose(a, b.detach(), rtol=0, atol=1e-6)


def test_formats_read_the_module():
    """Its peepholes too, which no other module of PyTorch has; the cell is not among the weights."""
    rnn = LSTM(3, 4, 2, bidirectional=True, proj_size=2, peephole=True, dtype=torch.float64)
    x, record = torch.randn(2, 5, 3).double(), formats.torch.from_params(rnn)
    assert record.layers[1].backward.peephole.shape == (12,)
    rnn.batch_first = True
    np.testing.assert_allclose(record(x.numpy())[0], rnn(x)[0].detach(), rtol=0, atol=1e-12)
