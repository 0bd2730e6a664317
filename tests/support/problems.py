"""Problems to solve: the notebook's example, and random ones of any size."""

import numpy as np

PARAMETERS = ("Wf", "bf", "Wi", "bi", "Wc", "bc", "Wo", "bo", "Wy", "by")
N_X, N_A, N_Y = 3, 4, 2


def problem(T_x, m, *, n_x=N_X, n_a=N_A, n_y=N_Y, seed=0):
    """Return inputs (x, a0, c0), parameters, and gradients (da, dy, dc) to feed back, on unit scale."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.standard_normal(shape)

    inputs = {"x": draw(n_x, m, T_x), "a0": draw(n_a, m), "c0": draw(n_a, m)}
    parameters = {"W" + gate: draw(n_a, n_a + n_x) / np.sqrt(n_a + n_x) for gate in "fico"}
    parameters |= {"b" + gate: draw(n_a, 1) for gate in "fico"}
    parameters |= {"Wy": draw(n_y, n_a), "by": draw(n_y, 1)}
    gradients = {"da": draw(n_a, m, T_x), "dy": draw(n_y, m, T_x), "dc": draw(n_a, m, T_x)}
    return inputs, parameters, gradients
