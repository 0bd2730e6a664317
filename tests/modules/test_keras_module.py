"""`lstm_xp.modules.keras.LSTM` on the backends of Keras: on PyTorch here, on the others in processes of their own."""

import numpy as np
import pytest

from tests.cli.program import python

keras = pytest.importorskip("keras")

from lstm_xp.modules.keras import LSTM  # noqa: E402 -- it needs Keras
from tests.modules import keras_layer  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")


@pytest.mark.parametrize("check", keras_layer.CHECKS, ids=lambda check: check.__name__)
def test_on_pytorch(check):
    assert keras.backend.backend() == "torch"
    check()


@pytest.mark.parametrize("backend", ["numpy", pytest.param("jax", marks=pytest.mark.slow)])
def test_on(backend):
    pytest.importorskip(backend)
    settings = {"KERAS_BACKEND": backend, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # the latter as `conftest.py` does
    done = python("-m", "tests.modules.keras_layer", **settings)
    assert (done.returncode, done.stdout) == (0, f"done on {backend}\n"), done.stderr


@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.filterwarnings("ignore")  # of PyTorch, of its own way to trace
def test_a_masked_layer_becomes_an_onnx_file(return_sequences, tmp_path):
    """With holes, one at the start, and a sequence that is masked as a whole; at another batch than it is traced at."""
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    layers = [keras.layers.Masking(), LSTM(4, return_sequences=return_sequences)]
    model = keras.Sequential([keras.Input((6, 3)), *layers])
    x = np.random.default_rng(0).standard_normal((4, 6, 3)).astype("float32")
    x[0, 4:], x[1, :2], x[2], x[3, 2:4] = 0, 0, 0, 0
    wanted = keras.ops.convert_to_numpy(model(x))
    model.export(tmp_path / "m.onnx", format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (got,) = session.run(None, {session.get_inputs()[0].name: x})
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)


def relu(x):
    """Be another function than Keras' of this name."""
    return 2 * x


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"recurrent_dropout": 0.1}, "^LSTM: `recurrent_dropout` must be 0.0; `keras.layers.LSTM` has others; got 0.1"),
        ({"unroll": True}, "^LSTM: `unroll` must be False"),
        ({"implementation": 1}, "`implementation` must be 2"),
        ({"use_cudnn": True}, "`use_cudnn` must be False"),
        ({"activation": "gelu"}, "^LSTM: `activation` must be one of sigmoid, tanh, .* here; got 'gelu'"),
        ({"recurrent_activation": keras.layers.LeakyReLU(0.1)}, "`recurrent_activation` .*; got 'another LeakyReLU'"),
        ({"activation": relu}, "got 'another relu'"),
        ({"activation": lambda x: x}, "got 'another <lambda>'"),
    ],
)
def test_options_that_it_has_not(options, words):
    with pytest.raises(ValueError, match=words):
        LSTM(4, **options)


def test_another_backend(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    with pytest.raises(ValueError, match=r"`keras.backend.backend\(\)` must be jax, numpy or torch; got tensorflow"):
        LSTM(4)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ([(3, 4), (3, 4)], r"\(directions, batch, hidden\) = \(1, 2, 4\); got \(1, 3, 4\)"),
        ([(2, 4)], "LSTM: `initial_state` must have two arrays, h and c; got 1"),
    ],
)
def test_an_initial_state_that_does_not_fit(shapes, words):
    with pytest.raises(ValueError, match=words):
        LSTM(4)(keras.ops.ones((2, 5, 3)), initial_state=[keras.ops.ones(shape) for shape in shapes])
