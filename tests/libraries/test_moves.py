"""A record from any library to any other, and to NumPy: by one way, whatever its arrays are."""

import numpy as np
import pytest

from lstm_xp import LSTM, load, save
from lstm_xp._seams.namespace import to_numpy
from tests.support.layers import leaves, mapped

LIBRARIES = ["numpy", "torch", "jax.numpy", "array_api_strict", "mlx.core", "dask.array", "ndonnx"]
MODEL = LSTM.init(3, 4, num_layers=2, bidirectional=True, proj_size=2, rng=0)


@pytest.mark.parametrize("there", LIBRARIES)
@pytest.mark.parametrize("here", LIBRARIES)
def test_from_any_library_to_any_other(here, there):
    here, there = pytest.importorskip(here), pytest.importorskip(there)
    model = MODEL.to(here)
    moved = model.to(there)
    kind = type(leaves(LSTM.init(3, 4, rng=0, xp=there))[0])
    for a, b, c in zip(leaves(moved), leaves(moved.to(np)), leaves(MODEL), strict=True):
        assert type(a) is kind
        assert "float32" in str(a.dtype)
        assert type(b) is np.ndarray
        assert b.dtype == c.dtype
        np.testing.assert_array_equal(b, c)
    assert not [a for a, b in zip(leaves(moved), leaves(model), strict=True) if a is b]


def test_weights_of_torch_that_are_trained():
    torch = pytest.importorskip("torch")
    model = MODEL.to(torch)
    for a in leaves(model):
        a.requires_grad_()
    for other in (model.to(np), model.to(torch, dtype=torch.float64), model.to()):
        for a, b in zip(leaves(other), leaves(MODEL), strict=True):
            assert not getattr(a, "requires_grad", False)
            np.testing.assert_array_equal(np.asarray(a), b)


@pytest.mark.parametrize("library", ["torch", "jax.numpy", "mlx.core"])
def test_bfloat16_widens_on_its_way(library, tmp_path):
    """NumPy lacks it; between libraries that have it nothing is lost."""
    xp = pytest.importorskip(library)
    half = MODEL.to(xp, dtype=xp.bfloat16)
    wide = half.to(np)
    save(tmp_path / "model.npz", half)
    for a, b, c in zip(leaves(wide), leaves(MODEL), leaves(load(tmp_path / "model.npz")), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_array_equal(a, c)
        np.testing.assert_allclose(a, b, rtol=2**-8, atol=0)
    torch = pytest.importorskip("torch")
    back = half.to(torch).to(xp)
    assert {str(a.dtype) for a in leaves(back)} == {str(a.dtype) for a in leaves(half)}
    for a, b in zip(leaves(back), leaves(half), strict=True):
        np.testing.assert_array_equal(to_numpy(a), to_numpy(b))


@pytest.mark.gpu
def test_from_a_gpu():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no device for torch-cuda")
    there = MODEL.to(torch, device="cuda")
    for a, b in zip(leaves(there.to(np)), leaves(MODEL), strict=True):
        np.testing.assert_array_equal(a, b)
    x = torch.ones(2, 5, 3, device="cuda")
    y, _ = there(x)  # a warning is an error here
    other, _ = LSTM(mapped(torch.clone, there.layers))(x)
    torch.testing.assert_close(y, other)
