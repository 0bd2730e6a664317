"""The equations of the LSTM: one step forward, one step backward.

Arrays are features first, ``(H, batch)``; everything here also takes ``(H, time, batch)``, many steps at once.
The rows of a block ``(4H, ...)`` are ordered i, f, o, g (input, forget, output gate; candidate), so that
the three sigmoids are one contiguous slice::

    z = W x + R h_prev + b                      pre-activations
    i, f, o = sigmoid(z_i, z_f, z_o)            g = tanh(z_g)
    c = f * c_prev + i * g
    h = o * tanh(c)

A sigmoid is a tanh of half the argument, ``sigmoid(z) = (1 + tanh(z / 2)) / 2``. With the sigmoid rows of the
weights halved once (`halve_sigmoids`), one tanh over the whole block makes all four gates, and nothing can overflow.
"""

from typing import NamedTuple

from ._namespace import Array, Namespace

# Input, forget and output gate, and the candidate. A plain tuple: one is made at every step.
Gates = tuple[Array, Array, Array, Array]


class Slopes(NamedTuple):
    """What the gradient of one step needs and the gradient itself does not change."""

    h_c: Array  # dh / dc
    z_i: Array  # dc / dz_i
    z_f: Array  # dc / dz_f
    z_o: Array  # dh / dz_o
    z_g: Array  # dc / dz_g
    c_c: Array  # dc / dc_prev


def halve_sigmoids(rows: Array, *, xp: Namespace) -> Array:
    """Halve the rows i, f, o of a block: the form in which `gates` takes it."""
    H = rows.shape[0] // 4
    return xp.concat([0.5 * rows[: 3 * H, ...], rows[3 * H :, ...]])


def gates(z: Array, *, xp: Namespace) -> Gates:
    """Return i, f, o, g: the activations of a block of pre-activations whose sigmoid rows are halved."""
    H = z.shape[0] // 4
    t = xp.tanh(z)
    s = t[: 3 * H, ...] * 0.5
    s += 0.5
    return s[:H, ...], s[H : 2 * H, ...], s[2 * H :, ...], t[3 * H :, ...]


def forward(z: Array, c_prev: Array, *, xp: Namespace) -> tuple[Array, Array, Gates]:
    """Return h, c and the gates of one step."""
    i, f, o, g = ifog = gates(z, xp=xp)
    c = f * c_prev
    c += i * g
    h = o * xp.tanh(c)
    return h, c, ifog


def slopes(gates: Gates, c_prev: Array, c: Array, *, xp: Namespace) -> Slopes:
    """Return the derivatives of `forward`, for one step or for many at once."""
    i, f, o, g = gates
    tanh_c = xp.tanh(c)
    return Slopes(
        h_c=o * (1 - tanh_c * tanh_c),
        z_i=g * i * (1 - i),
        z_f=c_prev * f * (1 - f),
        z_o=tanh_c * o * (1 - o),
        z_g=i * (1 - g * g),
        c_c=f,
    )


def backward(dh: Array, dc: Array, slopes: Slopes, *, xp: Namespace) -> tuple[Array, Array]:
    """Return dz (4H, batch), rows i, f, o, g, and dc_prev from the gradients of h and c."""
    dc = dc + dh * slopes.h_c
    dz = xp.concat([dc * slopes.z_i, dc * slopes.z_f, dh * slopes.z_o, dc * slopes.z_g])
    return dz, dc * slopes.c_c
