"""One direction of one layer over time, forward and backward.

A sequence is (features, time, batch), a state (features, batch). The rows of W (4H, I), R (4H, H) and b (4H, 1)
are ordered i, f, o, g.
"""

from typing import NamedTuple

from . import _cell
from ._namespace import Array, Namespace
from ._scan import scan


class Gradients(NamedTuple):
    """What `backward` returns: one gradient for each argument of `forward`."""

    dx: Array
    dh0: Array
    dc0: Array
    dW: Array
    dR: Array
    db: Array


def forward(x: Array, h0: Array, c0: Array, W: Array, R: Array, b: Array, *, xp: Namespace) -> tuple[Array, Array]:
    """Return h and c (H, time, batch) of every step."""
    W, R, b = (_cell.halve_sigmoids(rows, xp=xp) for rows in (W, R, xp.expand_dims(b, axis=2)))

    def project(x: Array) -> tuple[Array]:
        return (_times(W, x, xp=xp) + b,)

    def step(carry: tuple[Array, Array], z_x: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        h_prev, c_prev = carry
        h, c, _ = _cell.forward(z_x + R @ h_prev, c_prev, xp=xp)
        return (h, c), (h, c)

    _, (h, c) = scan(step, (h0, c0), (x,), prepare=project, xp=xp)
    return h, c


def backward(
    dh: Array,
    dc: Array | None,
    x: Array,
    h0: Array,
    c0: Array,
    h: Array,
    c: Array,
    W: Array,
    R: Array,
    b: Array,
    *,
    xp: Namespace,
) -> Gradients:
    """Return the gradients of sum(dh * h) + sum(dc * c), where h, c = forward(x, h0, c0, W, R, b).

    The gates are computed again, from h: many steps at once, which costs less than keeping them.
    """
    length = dh.shape[1]
    x, c = x[:, :length, :], c[:, :length, :]
    h_prev = _shift(h0, h, length, xp=xp)
    c_prev = _shift(c0, c, length, xp=xp)
    halved = tuple(_cell.halve_sigmoids(rows, xp=xp) for rows in (W, R, xp.expand_dims(b, axis=2)))

    def differentiate(x: Array, h_prev: Array, c_prev: Array, c: Array, *dh_dc: Array) -> tuple[Array, ...]:
        W, R, b = halved
        z = _times(W, x, xp=xp) + _times(R, h_prev, xp=xp) + b
        return *_cell.slopes(_cell.gates(z, xp=xp), c_prev, c, xp=xp), *dh_dc

    def step(carry: tuple[Array, Array], *row: Array) -> tuple[tuple[Array, Array], tuple[Array]]:
        dh_next, dc_next = carry
        slopes, (dh, *dc) = _cell.Slopes(*row[:6]), row[6:]
        dz, dc_prev = _cell.backward(dh + dh_next, sum(dc, dc_next), slopes, xp=xp)
        return (R.T @ dz, dc_prev), (dz,)

    last = (xp.zeros_like(h0), xp.zeros_like(c0))
    xs = (x, h_prev, c_prev, c, dh) if dc is None else (x, h_prev, c_prev, c, dh, dc)
    (dh0, dc0), (dz,) = scan(step, last, xs, prepare=differentiate, xp=xp, reverse=True)

    each_step = ((1, 2), (1, 2))
    return Gradients(
        dx=_times(W.T, dz, xp=xp),
        dh0=dh0,
        dc0=dc0,
        dW=xp.tensordot(dz, x, axes=each_step),
        dR=xp.tensordot(dz, h_prev, axes=each_step),
        db=xp.expand_dims(xp.sum(dz, axis=(1, 2)), axis=1),
    )


def _times(matrix: Array, x: Array, *, xp: Namespace) -> Array:
    """Apply one matrix to every step of every sequence: one product."""
    return xp.tensordot(matrix, x, axes=1)


def _shift(first: Array, x: Array, length: int, *, xp: Namespace) -> Array:
    """Return what each of the steps started from."""
    return xp.concat([xp.expand_dims(first, axis=1), x], axis=1)[:, :length, :]
