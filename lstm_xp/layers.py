"""The layers: `lstm`, and its gradient. A call is checked, then run by a kernel or by the equations."""

from typing import Literal, TypedDict, Unpack, overload

from ._checks.call import check_call, check_gradients, check_input, check_stack, check_state
from ._equations import stack
from ._equations.cell import PLAIN
from ._equations.records import Call, Cells, DirectionCells, Engine, Layers, Plan, State, Traces
from ._equations.stack import Results
from ._kernels.choice import gradient_for, kernel_for, kernels_of
from ._kernels.kernel import VJP
from ._seams.namespace import Array, beside
from ._seams.ops import cast, in_dtypes_of, is_half
from ._seams.transforms import staged


class Options(TypedDict, total=False):
    """The options of a call, but `trace`, which decides how many results there are."""

    lengths: Array | None
    mask: Array | None
    reset: Array | None
    time_major: bool
    checkpoint: int | None
    engine: Engine


class StackOptions(Options, total=False):
    """The options of a call, and the cells of its layers."""

    cell: Cells


@overload
def lstm(
    x: Array, layers: Layers, state: State | None = None, /, *, trace: Literal[False] = False, **o: Unpack[StackOptions]
) -> tuple[Array, State]: ...
@overload
def lstm(
    x: Array, layers: Layers, state: State | None = None, /, *, trace: Literal[True], **o: Unpack[StackOptions]
) -> tuple[Array, State, Traces]: ...
def lstm(
    x: Array,
    layers: Layers,
    state: State | None = None,
    /,
    *,
    cell: Cells = PLAIN,
    lengths: Array | None = None,
    mask: Array | None = None,
    reset: Array | None = None,
    time_major: bool = False,
    trace: bool = False,
    checkpoint: int | None = None,
    engine: Engine = "auto",
) -> Results:
    """Run a stack of LSTM layers over a batch of sequences.

    Parameters
    ----------
    x : array, shape (batch, time, I)
        Input; ``(time, batch, I)`` with ``time_major=True``. Real floating dtype; all arrays of one library, dtype
        and device.
    layers : sequence of Layer
        The weights; sizes may differ between layers and directions.
    state : sequence of LSTMState, optional
        The state before the first step, one a layer: ``h (D, batch, R)``, ``c (D, batch, H)``; zeros by default.
    cell : Cell, or tuple with one a layer
        The variant of the equations; a bidirectional layer's may be a pair.
    lengths : array, shape (batch,), optional
        Integers: the steps of each sequence, from its start. The same as a mask of its first steps.
    mask : array, shape (batch, time), optional
        Booleans, of any pattern: where false, the state is carried over unchanged and `y` is 0. What stands there in
        `x` and `reset` does not matter. ``(time, batch)`` with ``time_major=True``.
    reset : array, shape (batch, time), optional
        Booleans: where true, the state is zeroed before the step, by each direction in its own order. Like `mask`.
    time_major : bool
        Whether time is the first axis of `x`, `mask`, `reset`, `y` and the trace.
    trace : bool
        Whether to return every step's gates and states too.
    checkpoint : int, optional
        For the gradient on PyTorch and JAX, only the state before every so many steps is kept, and those between are
        computed again: memory for ``time / checkpoint + checkpoint`` steps and a run more. The square root of the time
        takes least. Not with ``trace=True`` nor ``engine="xp"``, nor inside `torch.func`, `torch.compile` and
        `torch.export`, but under `torch.no_grad`. Elsewhere it is `lstm_vjp` that takes the gradient.
    engine : {"auto", "native", "xp"}
        ``"xp"``: the equations of this package. ``"native"``: the library's own way, PyTorch's fused kernel or Dask's
        blocks, or an error that names what it cannot do. ``"auto"``: that way where it is known to be faster; on CuPy,
        and on NumPy where numba is installed, the equations compiled; on JAX the hand-written gradient, which has no
        forward mode: `jax.jvp` needs ``"xp"``.

    Returns
    -------
    y : array, shape (batch, time, D * R)
        The last layer's hidden states, the forward direction's features first; 0 where masked.
    state : tuple of LSTMState
        The state after the last step that is not masked: what `state` takes to go on.
    trace : tuple of tuples of Trace
        With ``trace=True``: for each layer and direction, the gates i, f, o, the candidate g, and c and h.

    Raises
    ------
    ValueError
        If a shape does not fit the weights, or an option another.
    TypeError
        If something is not an array, or differs in library, dtype or device.

    Examples
    --------
    With zero weights every gate is half open and the candidate is zero: each step halves the cell state, but a
    masked one.

    >>> import numpy as np
    >>> from lstm_xp import Layer, LSTMState, LSTMWeights
    >>> layer = Layer(LSTMWeights(np.zeros((4, 1)), np.zeros((4, 1))))
    >>> state = LSTMState(np.ones((1, 2, 1)), np.ones((1, 2, 1)))
    >>> y, state = lstm(np.ones((2, 3, 1)), (layer,), (state,), lengths=np.asarray([3, 2]))
    >>> state[0].c
    array([[[0.125],
            [0.25 ]]])
    """
    layers, cells = check_stack("lstm", layers, cell)
    call = Call(x, layers, state, lengths, mask, reset)
    return run("lstm", call, Plan(cells, time_major, trace, checkpoint, engine))


def run(function: str, call: Call, plan: Plan) -> Results:
    """Run layers that have been checked on what comes in, once that has been checked too."""
    call, plan = check_call(function, call, plan)
    kernel = kernel_for(function, call, plan)
    if kernel is not None:
        return kernel.run(call, plan)
    xp = plan.xp
    if is_half(call.x, xp=xp):
        return cast(stack.forward(cast(call, xp.float32), plan=plan), xp.float16)
    return staged(stack.forward, xp)(call, plan=plan)


def run_step(x_t: Array, layers: Layers, state: State | None, cells: DirectionCells) -> tuple[Array, State]:
    """Do what `run` does for one step, x_t (batch, I), of layers that only run forward."""
    function, (x_t, layers) = "LSTM.step", beside(x_t, (x_t, layers))
    xp = check_input(function, "x_t", x_t, layers, "batch, I")
    if state is not None:
        state = check_state(function, "state", state, layers, x_t.shape[0])
    plan = Plan(cells, time_major=True, xp=xp)
    if kernels_of(xp):
        call = Call(x_t[None, ...], layers, state)
        kernel = kernel_for(function, call, plan)
        if kernel is not None:
            y, last = kernel.run(call, plan)[:2]
            return y[0, ...], last
    if is_half(x_t, xp=xp):
        return cast(stack.step(*cast((x_t, layers, state), xp.float32), plan=plan), xp.float16)
    return staged(stack.step, xp)(x_t, layers, state, plan=plan)


@overload
def lstm_vjp(
    x: Array, layers: Layers, state: State | None = None, /, *, trace: Literal[False] = False, **o: Unpack[StackOptions]
) -> tuple[tuple[Array, State], VJP]: ...
@overload
def lstm_vjp(
    x: Array, layers: Layers, state: State | None = None, /, *, trace: Literal[True], **o: Unpack[StackOptions]
) -> tuple[tuple[Array, State, Traces], VJP]: ...
def lstm_vjp(
    x: Array,
    layers: Layers,
    state: State | None = None,
    /,
    *,
    cell: Cells = PLAIN,
    lengths: Array | None = None,
    mask: Array | None = None,
    reset: Array | None = None,
    time_major: bool = False,
    trace: bool = False,
    checkpoint: int | None = None,
    engine: Engine = "auto",
) -> tuple[Results, VJP]:
    """Run `lstm`, and return the function that takes gradients back through it: hand-written, for every library.

    Parameters
    ----------
    x, layers, state, cell, lengths, mask, reset, time_major, trace, checkpoint
        As `lstm` takes them; `checkpoint` on every library.
    engine : {"auto", "xp"}
        The gradient is that of this package; ``"auto"`` has it compiled as `lstm` does.

    Returns
    -------
    result : tuple
        What `lstm` returns.
    vjp : callable
        ``vjp(dy, dstate=None) -> (dx, dlayers, dstate0)``: from the gradients of a loss with respect to `y` and to the
        last state, those with respect to `x`, to the weights, in their own container, and to the first state. It holds
        `x`, the weights, and states and pre-activations of every step (with `checkpoint` the states that it says): what
        came in must not be changed before.

    Raises
    ------
    ValueError, TypeError
        As `lstm`; and `vjp` if `dy` or `dstate` does not fit.

    Examples
    --------
    With zero weights the forget gate is one half at every step: so much of the gradient goes back.

    >>> import numpy as np
    >>> from lstm_xp import Layer, LSTMState, LSTMWeights
    >>> layer = Layer(LSTMWeights(np.zeros((4, 1)), np.zeros((4, 1))))
    >>> (y, state), vjp = lstm_vjp(np.ones((1, 3, 1)), (layer,))
    >>> dx, dlayers, dstate0 = vjp(np.zeros_like(y), (LSTMState(np.zeros((1, 1, 1)), np.ones((1, 1, 1))),))
    >>> dstate0[0].c
    array([[[0.125]]])
    """
    function = "lstm_vjp"
    layers, cells = check_stack(function, layers, cell)
    call = Call(x, layers, state, lengths, mask, reset)
    call, plan = check_call(function, call, Plan(cells, time_major, trace, checkpoint, engine), by_hand=True)
    result, back = (gradient_for(plan) or _run_and_keep)(call, plan)
    _, batch = plan.steps_and_batch(x)
    given = x, layers, None if state is None else tuple(state)

    def vjp(dy: Array, dstate: State | None = None) -> tuple[Array, Layers, State]:
        gradients = back(dy, check_gradients(dy, dstate, result[0], call.layers, batch))
        return in_dtypes_of(given, gradients, xp=plan.xp)

    return result, vjp


def _run_and_keep(call: Call, plan: Plan) -> tuple[Results, VJP]:
    xp = plan.xp
    if is_half(call.x, xp=xp):
        result, wide = _run_and_keep(cast(call, xp.float32), plan)
        return cast(result, xp.float16), lambda *d: cast(wide(*cast(d, xp.float32)), xp.float16)
    result, kept = staged(stack.forward_and_keep, xp)(call, plan=plan)
    return result, lambda dy, dstate: staged(stack.backward, xp)(dy, dstate, call.layers, kept, plan=plan)
