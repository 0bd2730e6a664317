"""Bad input: one clear message each, and never an error from the library below."""

import re

import numpy as np
import pytest

import lstm_xp
from lstm_xp import LSTM, LSTMState, lstm, lstm_vjp
from lstm_xp._seams.namespace import to_numpy
from tests.support.layers import leaves, mapped
from tests.support.problems import problem

# n_x = 3, n_a = 4, n_y = 2; m = 5, T_x = 6
INPUTS, PARAMETERS, WEIGHTS = problem(6, 5)
X, A0 = INPUTS["x"], INPUTS["a0"]


def forward(x=X, a0=A0, c0=None, parameters=PARAMETERS, **changed):
    return lstm_xp.lstm_forward(x, a0, {**parameters, **changed}, c0=c0)


def cell(xt=X[:, :, 0], a_prev=A0, c_prev=A0, parameters=PARAMETERS):
    return lstm_xp.lstm_cell(xt, a_prev, c_prev, parameters)


def backward(da=WEIGHTS["da"], caches=None, **more):
    return lstm_xp.lstm_backward(da, caches or forward()[-1], **more)


def cell_backward(da_next=A0, dc_next=A0, cache=None):
    return lstm_xp.lstm_cell_backward(da_next, dc_next, cache or cell()[-1])


def without(key):
    return {name: value for name, value in PARAMETERS.items() if name != key}


def zeros(*shape):
    return np.zeros(shape)


def in_torch(x):
    return pytest.importorskip("torch").from_numpy(x)


def in_jax(x):
    return pytest.importorskip("jax.numpy").asarray(x)


SHAPES = [
    # the sequence
    (lambda: forward(x=zeros(3, 5)), "lstm_forward: `x` must have 3 dimensions (n_x, m, T_x); got shape (3, 5)."),
    (lambda: forward(x=np.float64(1)), "lstm_forward: `x` must have 3 dimensions (n_x, m, T_x); got shape ()."),
    (
        lambda: forward(x=zeros(2, 5, 6)),
        "lstm_forward: `x` must have shape (n_x, m, T_x) = (3, 5, 6); got (2, 5, 6).",
    ),
    (lambda: forward(a0=zeros(4, 6)), "lstm_forward: `a0` must have shape (n_a, m) = (4, 5); got (4, 6)."),
    (lambda: forward(a0=zeros(4)), "lstm_forward: `a0` must have shape (n_a, m) = (4, 5); got (4,)."),
    (lambda: forward(c0=zeros(3, 5)), "lstm_forward: `c0` must have shape (n_a, m) = (4, 5); got (3, 5)."),
    # the parameters
    (
        lambda: forward(Wf=zeros(4)),
        "lstm_forward: `parameters['Wf']` must have 2 dimensions (n_a, n_a + n_x); got shape (4,).",
    ),
    (
        lambda: forward(Wo=zeros(4, 8)),
        "lstm_forward: `parameters['Wo']` must have shape (n_a, n_a + n_x) = (4, 7); got (4, 8).",
    ),
    (
        lambda: forward(bi=zeros(4)),
        "lstm_forward: `parameters['bi']` must have shape (n_a, 1) = (4, 1); got (4,).",
    ),
    (
        lambda: forward(Wy=zeros(2, 5)),
        "lstm_forward: `parameters['Wy']` must have shape (n_y, n_a) = (2, 4); got (2, 5).",
    ),
    (
        lambda: forward(by=zeros(2, 2)),
        "lstm_forward: `parameters['by']` must have shape (n_y, 1) = (2, 1); got (2, 2).",
    ),
    (
        lambda: forward(Wf=zeros(4, 4)),
        "lstm_forward: `parameters['Wf']` must have shape (n_a, n_a + n_x) with n_x at least 1; got (4, 4).",
    ),
    (
        lambda: forward(Wy=zeros(0, 4)),
        "lstm_forward: `parameters['Wy']` must have shape (n_y, n_a) with n_y at least 1; got (0, 4).",
    ),
    (
        lambda: forward(parameters=without("Wy")),
        "lstm_forward: `parameters` must have the keys Wf, bf, Wi, bi, Wc, bc, Wo, bo, Wy, by; missing: Wy.",
    ),
    # one step
    (lambda: cell(xt=X), "lstm_cell: `xt` must have 2 dimensions (n_x, m); got shape (3, 5, 6)."),
    (lambda: cell(xt=zeros(4, 5)), "lstm_cell: `xt` must have shape (n_x, m) = (3, 5); got (4, 5)."),
    (lambda: cell(a_prev=zeros(4, 1)), "lstm_cell: `a_prev` must have shape (n_a, m) = (4, 5); got (4, 1)."),
    (lambda: cell(c_prev=zeros(5, 4)), "lstm_cell: `c_prev` must have shape (n_a, m) = (4, 5); got (5, 4)."),
    (
        lambda: cell(parameters=without("bf")),
        "lstm_cell: `parameters` must have the keys Wf, bf, Wi, bi, Wc, bc, Wo, bo, Wy, by; missing: bf.",
    ),
    # the gradients
    (
        lambda: backward(da=zeros(4, 5, 7)),
        "lstm_backward: `da` must have shape (n_a, m, T) with T at most T_x = 6; got (4, 5, 7).",
    ),
    (lambda: backward(da=zeros(4, 5)), "lstm_backward: `da` must have 3 dimensions (n_a, m, T); got shape (4, 5)."),
    (
        lambda: backward(da=zeros(3, 5, 6)),
        "lstm_backward: `da` must have shape (n_a, m, T) = (4, 5, 6); got (3, 5, 6).",
    ),
    (
        lambda: backward(dy=zeros(2, 5, 5)),
        "lstm_backward: `dy` must have shape (n_y, m, T) = (2, 5, 6); got (2, 5, 5).",
    ),
    (
        lambda: backward(dc=zeros(4, 4, 6)),
        "lstm_backward: `dc` must have shape (n_a, m, T) = (4, 5, 6); got (4, 4, 6).",
    ),
    (
        lambda: cell_backward(da_next=zeros(4, 4)),
        "lstm_cell_backward: `da_next` must have shape (n_a, m) = (4, 5); got (4, 4).",
    ),
    (
        lambda: cell_backward(dc_next=zeros(4)),
        "lstm_cell_backward: `dc_next` must have shape (n_a, m) = (4, 5); got (4,).",
    ),
    # softmax
    (
        lambda: lstm_xp.softmax(zeros(2, 3), axis=2),
        "softmax: `axis` must be one of the 2 axes of `x`; got 2, and shape (2, 3).",
    ),
    (
        lambda: lstm_xp.softmax(np.float64(1)),
        "softmax: `axis` must be one of the 0 axes of `x`; got 0, and shape ().",
    ),
    (
        lambda: lstm_xp.softmax(zeros(2, 3), axis=True),
        "softmax: `axis` must be one of the 2 axes of `x`; got True, and shape (2, 3).",
    ),
    (
        lambda: lstm_xp.softmax(zeros(0, 3)),
        "softmax: `x` must have at least one entry along axis 0; got shape (0, 3).",
    ),
]

NOT_AN_ARRAY = "must be an array of a library that follows the array API standard; got "
NOT_FLOATING = "must have a real floating dtype of its library, at least 16 bits wide; got "
NOT_PLAIN = "must be a plain array of its library; got "
TYPES = [
    (lambda: forward(x=X.tolist()), f"lstm_forward: `x` {NOT_AN_ARRAY}list."),
    (lambda: forward(a0=None), f"lstm_forward: `a0` {NOT_AN_ARRAY}NoneType."),
    (lambda: forward(c0=[0.0]), f"lstm_forward: `c0` {NOT_AN_ARRAY}list."),
    (lambda: forward(bf=1.0), f"lstm_forward: `parameters['bf']` {NOT_AN_ARRAY}float."),
    (lambda: cell(xt=[[1.0]]), f"lstm_cell: `xt` {NOT_AN_ARRAY}list."),
    (lambda: backward(da="da"), f"lstm_backward: `da` {NOT_AN_ARRAY}str."),
    (lambda: backward(dy=[1.0]), f"lstm_backward: `dy` {NOT_AN_ARRAY}list."),
    (lambda: lstm_xp.sigmoid([0.0]), f"sigmoid: `x` {NOT_AN_ARRAY}list."),
    (lambda: lstm_xp.softmax([0.0]), f"softmax: `x` {NOT_AN_ARRAY}list."),
    (
        lambda: lstm_xp.lstm_forward(X, A0, list(PARAMETERS.values())),
        "lstm_forward: `parameters` must be a mapping with the keys Wf, bf, Wi, bi, Wc, bc, Wo, bo, Wy, by; got list.",
    ),
    (lambda: backward(caches=([], X)), "lstm_backward: `caches` must be what `lstm_forward` returned; got tuple."),
    (
        lambda: backward(caches=lstm_xp.LSTMCaches([1], X)),
        "lstm_backward: `caches.steps` must be what `lstm_forward` returned; got list.",
    ),
    (lambda: cell_backward(cache=(1, 2)), "lstm_cell_backward: `cache` must be what `lstm_cell` returned; got tuple."),
    # dtypes
    (
        lambda: forward(x=X.astype(int)),
        f"lstm_forward: `x` {NOT_FLOATING}int64. Convert it first, e.g. with `astype`.",
    ),
    (lambda: forward(x=X.astype(complex)), f"lstm_forward: `x` {NOT_FLOATING}complex128."),
    (lambda: forward(x=X > 0), f"lstm_forward: `x` {NOT_FLOATING}bool."),
    (lambda: lstm_xp.sigmoid(np.asarray([1])), f"sigmoid: `x` {NOT_FLOATING}int64."),
    (
        lambda: forward(a0=A0.astype("float32")),
        "lstm_forward: `a0` must have the dtype of `x`, float64; got float32. "
        "Nothing is cast silently: convert one of them.",
    ),
    (
        lambda: forward(Wc=PARAMETERS["Wc"].astype(int)),
        "lstm_forward: `parameters['Wc']` must have the dtype of `x`, float64; got int64.",
    ),
    (
        lambda: backward(da=WEIGHTS["da"].astype("float32")),
        "lstm_backward: `caches.x` must have the dtype of `da`, float32; got float64.",
    ),
    # libraries
    (
        lambda: forward(a0=in_torch(A0)),
        "lstm_forward: `a0` must come from the library of `x`, numpy; got torch.",
    ),
    (
        lambda: forward(by=in_jax(PARAMETERS["by"])),
        "lstm_forward: `parameters['by']` must come from the library of `x`, numpy; got jax.",
    ),
    (
        lambda: cell_backward(dc_next=in_torch(A0)),
        "lstm_cell_backward: `dc_next` must come from the library of `da_next`, numpy; got torch.",
    ),
]


def what_passes():
    """Call what is right: it hides nothing of what is wrong."""
    forward()
    forward(c0=A0)
    cell()


@pytest.mark.parametrize(("call", "message"), SHAPES, ids=[message[:70] for _, message in SHAPES])
def test_shapes(call, message):
    what_passes()
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


@pytest.mark.parametrize(("call", "message"), TYPES, ids=[message[:70] for _, message in TYPES])
def test_types(call, message):
    what_passes()
    with pytest.raises(TypeError, match=re.escape(message)):
        call()


def test_devices():
    array_api_strict = pytest.importorskip("array_api_strict")
    first, second = (array_api_strict.Device(name) for name in ("CPU_DEVICE", "device1"))
    parameters = {name: array_api_strict.asarray(value, device=first) for name, value in PARAMETERS.items()}
    x = array_api_strict.asarray(X, device=first)
    a0 = array_api_strict.asarray(A0, device=second)
    with pytest.raises(TypeError, match=r"lstm_forward: `a0` must be on the device of `x`, .*CPU.*; got .*device1"):
        lstm_xp.lstm_forward(x, a0, parameters)


def test_devices_of_torch():
    parameters = {name: in_torch(value) for name, value in PARAMETERS.items()}
    a0 = in_torch(A0).to("meta")
    with pytest.raises(TypeError, match="lstm_forward: `a0` must be on the device of `x`, cpu; got meta"):
        lstm_xp.lstm_forward(in_torch(X), a0, parameters)


@pytest.mark.parametrize("asarray", [np.asarray, in_torch, in_jax], ids=["numpy", "torch", "jax"])
def test_shapes_are_checked_on_every_library(asarray):
    """Also inside `jit`, where the check must not look at values."""
    parameters = {name: asarray(value) for name, value in PARAMETERS.items()}
    run = pytest.importorskip("jax").jit(lstm_xp.lstm_forward) if asarray is in_jax else lstm_xp.lstm_forward
    with pytest.raises(ValueError, match=re.escape("`a0` must have shape (n_a, m) = (4, 5); got (4, 6).")):
        run(asarray(X), asarray(zeros(4, 6)), parameters)


def test_unknown_sizes():
    ndonnx = pytest.importorskip("ndonnx")
    x = ndonnx.argument(shape=(3, 5, "time"), dtype=ndonnx.float64)
    parameters = {name: ndonnx.asarray(value) for name, value in PARAMETERS.items()}
    message = "lstm_forward: `x` must have a known size along time, as the loop over it is written out; got None."
    with pytest.raises(ValueError, match=re.escape(message)):
        lstm_xp.lstm_forward(x, ndonnx.asarray(A0), parameters)


# Arrays that are not as others of their library


class Scaled(np.ndarray):
    """A subclass of NumPy's that computes as it likes, as those with units do."""

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        return getattr(ufunc, method)(*map(np.asarray, inputs), **options)


def of_torch(name, *arguments, **options):
    return lambda x: getattr(in_torch(x), name)(*arguments, **options)


def as_torch(name):
    return lambda x: in_torch(x).to(getattr(pytest.importorskip("torch"), name))


def as_jax(name):
    return lambda x: in_jax(x).astype(name)


def nested(layout):
    def make(x):
        torch = pytest.importorskip("torch")
        return torch.nested.nested_tensor(list(in_torch(x)), layout=getattr(torch, layout))

    return make


def in_jax_sparse(x):
    return pytest.importorskip("jax.experimental.sparse").BCOO.fromdense(in_jax(x))


def jax_keys(x):
    jax = pytest.importorskip("jax")
    return jax.random.split(jax.random.key(0), x.shape)


def shapes_of_jax(x):
    return pytest.importorskip("jax").ShapeDtypeStruct(x.shape, x.dtype)


ODD = {
    "masked": (np.ma.asarray, NOT_PLAIN + "MaskedArray. Convert it first, e.g. with `numpy.asarray`"),
    "operators of its own": (lambda x: x.view(Scaled), NOT_PLAIN + "Scaled."),
    "coo": (of_torch("to_sparse"), NOT_PLAIN + "torch.sparse_coo."),
    "csr": (of_torch("to_sparse_csr"), NOT_PLAIN + "torch.sparse_csr."),
    "nested": (nested("strided"), NOT_PLAIN + "a nested tensor."),
    "jagged": (nested("jagged"), NOT_PLAIN + "a nested tensor."),
    "mkldnn": (lambda x: in_torch(x).float().to_mkldnn(), NOT_PLAIN + "torch._mkldnn."),
    "records": (lambda x: np.zeros(x.shape, [("a", "f8")]), NOT_FLOATING + "[('a', '<f8')]."),
    "objects": (lambda x: x.astype(object), NOT_FLOATING + "object."),
    "bfloat16": (lambda x: x.astype(pytest.importorskip("ml_dtypes").bfloat16), NOT_FLOATING + "bfloat16."),
    "torch float8": (as_torch("float8_e4m3fn"), NOT_FLOATING + "torch.float8_e4m3fn."),
    "torch complex": (as_torch("complex128"), NOT_FLOATING + "torch.complex128."),
    "torch bool": (as_torch("bool"), NOT_FLOATING + "torch.bool."),
    "jax float8": (as_jax("float8_e4m3fn"), NOT_FLOATING + "float8_e4m3fn."),
    "jax int4": (as_jax("int4"), NOT_FLOATING + "int4."),
    "jax keys": (jax_keys, NOT_FLOATING + "key<fry>."),
    "jax shapes": (shapes_of_jax, NOT_AN_ARRAY + "ShapeDtypeStruct."),
    "jax sparse": (in_jax_sparse, NOT_AN_ARRAY + "BCOO."),
    "list": (np.ndarray.tolist, NOT_AN_ARRAY + "list. `numpy.asarray` makes one."),
    "number": (lambda x: 1.0, NOT_AN_ARRAY + "float."),
    "none": (lambda x: None, NOT_AN_ARRAY + "NoneType."),
}
MODEL = LSTM.init(3, 4, rng=0, dtype=np.float64)
INPUT = np.random.default_rng(0).standard_normal((2, 5, 3))


@pytest.mark.filterwarnings("ignore:.*(beta|prototype) st")
@pytest.mark.parametrize("kind", ODD)
def test_odd_weights(kind):
    make, words = ODD[kind]
    weight = make(leaves(MODEL)[0])
    layers = (MODEL.layers[0]._replace(forward=MODEL.layers[0].forward._replace(weight_ih=weight)),)
    for function, arguments in ((LSTM, (layers,)), (lstm, (INPUT, layers)), (lstm_vjp, (INPUT, layers))):
        message = f"{function.__name__}: `layers[0].forward.weight_ih` {words}"
        with pytest.raises(TypeError, match="^" + re.escape(message)):
            function(*arguments)
    with pytest.raises(TypeError, match="^" + re.escape(f"sigmoid: `x` {words}")):
        lstm_xp.sigmoid(weight)


@pytest.mark.filterwarnings("ignore:.*(beta|prototype) st")
@pytest.mark.parametrize("kind", [kind for kind, (_, words) in ODD.items() if words.startswith(NOT_PLAIN)])
def test_odd_inputs_to_plain_weights(kind):
    """Some have the type, the dtype and the device of plain ones."""
    make, words = ODD[kind]
    asarray = np.asarray if isinstance(make(INPUT[:, 0]), np.ndarray) else in_torch
    model, x = mapped(asarray, (MODEL, INPUT))
    if kind == "mkldnn":
        model, x = model.to(dtype=pytest.importorskip("torch").float32), x.float()
    _, state = model(x)
    odd, h = make(INPUT[:, 0]), make(np.zeros((1, 2, 4)))
    for name, call in (
        ("LSTM.step: `x_t`", lambda: model.step(odd)),
        ("lstm: `state[0].h`", lambda: model(x, (LSTMState(h, state[0].c),))),
    ):
        if kind == "csr" and "state" in name:
            continue  # it has no third dimension
        with pytest.raises(TypeError, match="^" + re.escape(f"{name} {words}")):
            call()


def test_odd_marks():
    for name, mark in (("mask", np.ones((2, 5), bool)), ("lengths", np.asarray([5, 3]))):
        with pytest.raises(TypeError, match=rf"^lstm: `{name}` {NOT_PLAIN}MaskedArray"):
            MODEL(INPUT, **{name: np.ma.asarray(mark)})
    with pytest.raises(TypeError, match=r"^lstm: `lengths` must have dtype integral; got key"):
        mapped(in_jax, MODEL)(in_jax(INPUT), lengths=jax_keys(np.zeros(2)))


@pytest.mark.parametrize("asarray", [np.asarray, in_torch, in_jax], ids=["numpy", "torch", "jax"])
@pytest.mark.parametrize("dtype", ["bool", "float32"])
def test_lengths_are_integers(asarray, dtype):
    model, x = mapped(asarray, (MODEL, INPUT))
    with pytest.raises(TypeError, match=rf"^lstm: `lengths` must have dtype integral; got .*{dtype}\. Convert it"):
        model(x, lengths=asarray(np.ones(2, dtype)))


def mapped_into_file(x, tmp_path):
    made = np.memmap(tmp_path / f"{x.shape}", x.dtype, "w+", shape=x.shape)
    made[...] = x
    return made


GOOD = {
    "subclass": lambda x, _: x.view(type("Named", (np.ndarray,), {})),
    "memmap": mapped_into_file,
    "recarray": lambda x, _: x.view(np.recarray),
    "parameter": lambda x, _: pytest.importorskip("torch").nn.Parameter(in_torch(x)),
    "buffer": lambda x, _: pytest.importorskip("torch").nn.Buffer(in_torch(x)),
    "longdouble": lambda x, _: x.astype(np.longdouble),
    "float16": lambda x, _: x.astype(np.float16),
    "jax bfloat16": lambda x, _: in_jax(x).astype("bfloat16"),
}


@pytest.mark.parametrize("kind", GOOD)
def test_good_ones_hide_nothing(kind, tmp_path):
    model, x = mapped(lambda a: GOOD[kind](a, tmp_path), (MODEL, INPUT))
    y, _ = model(x)
    np.testing.assert_allclose(to_numpy(y), MODEL(INPUT)[0], rtol=0, atol=2e-2 if "16" in kind else 1e-6)
    model.step(x[:, 0])
    (y, _), vjp = lstm_vjp(x, model.layers)
    vjp(y)


def test_tensors_without_numbers():
    torch = pytest.importorskip("torch")
    model = MODEL.to(torch, device="meta")
    assert model(torch.ones(2, 5, 3, dtype=torch.float64, device="meta"))[0].is_meta


# Where a model goes


@pytest.mark.parametrize(
    ("library", "options", "words"),
    [
        (None, {"xp": "torch"}, "`xp` must be a module of arrays, e.g. `numpy`, `torch` or `jax.numpy`; got 'torch'."),
        (None, {"xp": re}, "`xp` must be a module of arrays, .*; got <module 're'"),
        (None, {"xp": INPUT}, "`xp` must be a module of arrays"),
        (None, {"xp": np.float32}, "`xp` must be a module of arrays"),
        (None, {"dtype": int}, "`dtype` must be a real floating dtype of its library, at least 16 bits .*; got int64"),
        (None, {"dtype": complex}, "`dtype` must be a real floating dtype .*; got complex128"),
        (None, {"dtype": "number"}, "`dtype` must be a dtype of numpy; got 'number'"),
        (None, {"device": "cuda"}, "`device` must be a device of numpy; got 'cuda'"),
        ("torch", {"dtype": "float64"}, "`dtype` must be a dtype of torch; got 'float64'"),
        ("torch", {"dtype": np.float32}, "`dtype` must be a dtype of torch; got <class 'numpy.float32'>"),
        ("torch", {"device": "nowhere"}, "`device` must be a device of torch; got 'nowhere'"),
        ("jax.numpy", {"dtype": "float8_e4m3fn"}, "`dtype` must be a real floating dtype .*; got float8_e4m3fn"),
        ("jax.numpy", {"device": "nowhere"}, "`device` must be a device of jax; got 'nowhere'"),
    ],
)  # fmt: skip
def test_where_no_model_goes(library, options, words):
    options = dict(options)
    xp = pytest.importorskip(library) if library else options.pop("xp", np)
    with pytest.raises(TypeError, match="^LSTM.init: " + words):
        LSTM.init(3, 4, rng=0, xp=xp, **options)
    with pytest.raises(TypeError, match="^LSTM.to: " + words):
        MODEL.to(xp, **options)


@pytest.mark.parametrize("rng", ["seed", -1, 1.5])
def test_no_seed(rng):
    with pytest.raises(TypeError, match=rf"^LSTM.init: `rng` must be .*; got {rng!r}\."):
        LSTM.init(3, 4, rng=rng)
