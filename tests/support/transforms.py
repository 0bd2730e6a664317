"""What the tests of transforms share: the devices to run on, and the gradient to compare with."""

import pytest

import lstm_xp
from tests.support.backends import BACKENDS
from tests.support.problems import problem


def case_of(library):
    """Return a fixture: inputs, parameters and weights on each device of a library, in float64, longer than a block."""
    params = [
        pytest.param(backend, id=backend.name, marks=backend.marks(slow=False))
        for backend in BACKENDS
        if backend.library == library and backend.transforms
    ]

    @pytest.fixture(params=params)
    def case(request):
        place = request.param.here()
        return tuple({name: place.asarray(value) for name, value in group.items()} for group in problem(18, 2))

    return case


def numpy_gradients(inputs, parameters, weights):
    """Return the gradients of sum(da * a) + sum(dy * y) + sum(dc * c) from `lstm_backward`, on NumPy arrays."""
    *_, caches = lstm_xp.lstm_forward(inputs["x"], inputs["a0"], parameters, c0=inputs["c0"])
    return lstm_xp.lstm_backward(weights["da"], caches, dy=weights["dy"], dc=weights["dc"])
