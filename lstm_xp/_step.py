"""One step of a stack, checked once: what `LSTM.step` calls."""

from . import _forms
from ._checks import arrays as _check
from ._checks import call as _problem
from ._equations.records import Cells, Layers, State, directions_of
from ._kernels import choice as _native
from ._seams import scan as _scan
from ._seams.namespace import Array
from .layers import one_step


class Step:
    """One step of a stack of forward layers that is checked once.

    It keeps no array but the caller's own: a copy would go stale where weights are trained in place, and would belong
    to whatever trace is under way.
    """

    def __init__(self, layers: Layers, cell: Cells) -> None:
        """Check the layers."""
        function = "LSTM.step"
        _problem.check_layers(function, layers)
        cells = _problem.cells_of(function, layers, cell)
        for k, layer in enumerate(layers):
            if len(directions_of(layer)) != 1 or layer.forward is None:
                raise ValueError(
                    f"{function}: `layers[{k}]` must have a forward direction only, as a step has no later ones; "
                    "run the whole sequence with `lstm` instead."
                )
        named = _problem.named_weights(layers)
        self._xp = _check.arrays(function, named)
        self._layers, self._cells = tuple(layers), cells
        self._passed: dict[_forms.Form, tuple[_native.Kernel | None]] = {}
        self._weight_name, self._weight = next(iter(named.items()))
        _check.rank(function, self._weight_name, self._weight, _problem.WEIGHT_SYMBOLS["weight_ih"])
        self._sizes = _problem.check_weights(function, layers, self._weight.shape[1])

    def __call__(self, x: Array, state: State | None) -> tuple[Array, State]:
        """Return the output and the next state."""
        form = _forms.form_of((x, self._weight), (), state)
        (candidate,) = _forms.once(self._passed, form, lambda: (self._checked(x, state),))
        if candidate is not None:
            problem = self._problem(x, state)
            kernel = _native.chosen("LSTM.step", candidate, problem, engine="auto")
            if kernel is not None:
                y, new = kernel.run(problem)
                return y[0, ...], new
        y, new = _scan.staged(one_step, self._xp)(x, self._layers, state, cells=self._cells, xp=self._xp)
        return y, new

    def _checked(self, x: Array, state: State | None) -> _native.Kernel | None:
        """Check a step, and find the kernel for it."""
        function = "LSTM.step"
        I = self._weight.shape[1]  # noqa: E741 -- the field's letter for the input size
        state = _problem.state_of(function, state, len(self._layers))
        _check.arrays(function, {self._weight_name: self._weight, "x_t": x} | _problem.named_state(state))
        if len(x.shape) != 2 or x.shape[1] != I:
            raise ValueError(f"{function}: `x_t` must have shape (batch, I) = (batch, {I}); got {tuple(x.shape)}.")
        if state is not None:
            _problem.check_state(function, state, self._sizes, x.shape[0])
        if not _native.has_one_for_a_step(self._xp):
            return None
        return _native.candidate(function, self._problem(x, state), trace=False, engine="auto")

    def _problem(self, x: Array, state: State | None) -> _problem.Problem:
        """Return the step as a sequence of one."""
        return _problem.Problem(x[None, ...], self._layers, state, self._cells, False, True, self._xp)
