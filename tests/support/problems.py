"""Problems to solve, random and of any size: for the textbook's functions, and for stacks of layers."""

import numpy as np

from lstm_xp import Layer, LSTMState, LSTMWeights

PARAMETERS = ("Wf", "bf", "Wi", "bi", "Wc", "bc", "Wo", "bo", "Wy", "by")
N_X, N_A, N_Y = 3, 4, 2


def drawing(seed=0, *, dtype="float64"):
    """Return the one way to draw: a function from a shape to normal numbers, of unit scale unless told.

    A generator may stand in the place of the seed.
    """
    rng = np.random.default_rng(seed)

    def draw(*shape, scale=1.0):
        return (scale * rng.standard_normal(shape)).astype(dtype)

    return draw


def problem(T_x, m, *, n_x=N_X, n_a=N_A, n_y=N_Y, seed=0):
    """Return inputs (x, a0, c0), parameters, and gradients (da, dy, dc) to feed back, on unit scale."""
    draw = drawing(seed)
    inputs = {"x": draw(n_x, m, T_x), "a0": draw(n_a, m), "c0": draw(n_a, m)}
    parameters = {"W" + gate: draw(n_a, n_a + n_x, scale=(n_a + n_x) ** -0.5) for gate in "fico"}
    parameters |= {"b" + gate: draw(n_a, 1) for gate in "fico"}
    parameters |= {"Wy": draw(n_y, n_a), "by": draw(n_y, 1)}
    gradients = {"da": draw(n_a, m, T_x), "dy": draw(n_y, m, T_x), "dc": draw(n_a, m, T_x)}
    return inputs, parameters, gradients


def layer_problem(stack, *, B=3, T=5, I=3, seed=0):  # noqa: E741 -- the field's letter for the input size
    """Return x, layers, state, and the options of a `Stack`, all float64 NumPy; x is on unit scale."""
    rng = np.random.default_rng(seed)
    draw = drawing(rng)

    def weights(I, H, R):  # noqa: E741 -- as above
        return LSTMWeights(
            draw(4 * H, I, scale=I**-0.5),
            draw(4 * H, R or H, scale=H**-0.5),
            draw(4 * H) if stack.bias else None,
            draw(R, H, scale=H**-0.5) if R else None,
            draw(3 * H) if stack.peephole else None,
        )

    x = draw(B, T, I)
    layers, state = [], []
    for H, R, directions in stack.layers:
        D, width = abs(directions), R or H
        both = [weights(I, H, R) for _ in range(D)]
        layers.append(Layer(None, *both) if directions == -1 else Layer(*both))
        state.append(LSTMState(draw(D, B, width, scale=0.5), draw(D, B, H, scale=0.5)))
        I = D * width  # noqa: E741 -- as above
    options = {"cell": stack.cell}
    if stack.lengths:
        options["lengths"] = np.asarray([0, T, *rng.integers(1, T + 1, B)][:B])
    if stack.mask:
        options["mask"] = rng.random((B, T)) < 0.7
    if stack.reset:
        options["reset"] = rng.random((B, T)) < 0.3
    return x, tuple(layers), tuple(state), options
