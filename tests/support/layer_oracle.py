"""The layer written a second time: one sequence, one step, one number at a time, straight from the definitions."""

import math

import numpy as np

from lstm_xp import Cell, LSTMState
from lstm_xp._equations.cell import PLAIN


def _activation(kind, x):
    """Return the activation of a number, from its definition in the ONNX operator, or as the user gives it."""
    if callable(kind):
        return kind(x, math)
    name, *numbers = kind if isinstance(kind, tuple) else (kind,)
    a, b = numbers or {"hard_sigmoid": (0.2, 0.5), "leaky_relu": (0.01, 0), "scaled_tanh": (1, 1)}.get(name, (1, 0))
    return {
        "sigmoid": lambda: 1 / (1 + math.exp(-x)),
        "tanh": lambda: math.tanh(x),
        "relu": lambda: max(0.0, x),
        "hard_sigmoid": lambda: min(1.0, max(0.0, a * x + b)),
        "affine": lambda: a * x + b,
        "leaky_relu": lambda: x if x >= 0 else a * x,
        "thresholded_relu": lambda: x if x > a else 0.0,
        "scaled_tanh": lambda: a * math.tanh(b * x),
        "elu": lambda: x if x >= 0 else a * (math.exp(x) - 1),
        "softsign": lambda: x / (1 + abs(x)),
        "softplus": lambda: math.log(1 + math.exp(x)),
    }[name]()


def _clip(x, bound):
    return x if bound is None else min(bound, max(-bound, x))


def _step(x, h, c, w, cell):
    """Return h and c of one sequence after one step, as lists, and the gates i, f, g, o."""
    H = len(c)
    bias = np.zeros(4 * H) if w.bias is None else w.bias
    p = np.zeros(3 * H) if w.peephole is None else w.peephole
    z = [
        sum(w.weight_ih[k, j] * x[j] for j in range(len(x)))
        + sum(w.weight_hh[k, j] * h[j] for j in range(len(h)))
        + bias[k]
        for k in range(4 * H)
    ]
    c_new, out, gates = [], [], []
    for k in range(H):
        z_i, z_f, z_g, z_o = z[k], z[H + k], z[2 * H + k], z[3 * H + k]
        i = _activation(cell.gate_activation, _clip(z_i + p[k] * c[k], cell.clip))
        f = _activation(cell.gate_activation, _clip(z_f + p[H + k] * c[k], cell.clip))
        g = _activation(cell.candidate_activation, _clip(z_g, cell.clip))
        used_i = 1 - f if cell.coupled == "input" else i
        used_f = 1 - i if cell.coupled == "forget" else f
        c_k = _clip(used_f * c[k] + used_i * g, cell.cell_clip)
        o = _activation(cell.gate_activation, _clip(z_o + p[2 * H + k] * c_k, cell.clip))
        c_new.append(c_k)
        out.append(o * _activation(cell.output_activation, c_k))
        gates.append((used_i, used_f, g, o))
    if w.weight_hr is not None:
        out = [_clip(sum(row[j] * out[j] for j in range(H)), cell.proj_clip) for row in w.weight_hr]
    return out, c_new, np.asarray(gates).T


def given_marks(B, T, lengths=None, mask=None, reset=None):
    """Return the mask and the reset that the marks of a call come to."""
    mask = np.ones((B, T), dtype=bool) if mask is None else mask
    if lengths is not None:
        mask = mask & (np.arange(T) < lengths[:, None])
    return mask, np.zeros((B, T), dtype=bool) if reset is None else reset


def lstm(x, layers, state=None, *, cell=PLAIN, **marks):
    """Return y, the state and the trace (i, f, g, o, c, h of each direction of each layer); x is batch first."""
    B, T, _ = x.shape
    mask, reset = given_marks(B, T, **marks)
    cells = cell if isinstance(cell, tuple) else (cell,) * len(layers)
    last, traces = [], []
    for k, layer in enumerate(layers):
        ys, hs, cs, layer_traces = [], [], [], []
        directions = [(w, order) for w, order in zip(layer, (range(T), range(T)[::-1]), strict=True) if w is not None]
        for d, (w, order) in enumerate(directions):
            cell = cells[k] if isinstance(cells[k], Cell) else cells[k][d]
            R, H = w.weight_hh.shape[1], w.weight_hh.shape[0] // 4
            y, trace = np.zeros((B, T, R)), [np.zeros((B, T, H)) for _ in "ifgoc"] + [np.zeros((B, T, R))]
            end_h, end_c = np.zeros((B, R)), np.zeros((B, H))
            for b in range(B):
                h, c = ([0.0] * R, [0.0] * H) if state is None else (list(state[k].h[d, b]), list(state[k].c[d, b]))
                for t in order:
                    if mask[b, t]:
                        if reset[b, t]:
                            h, c = [0.0] * R, [0.0] * H
                        h, c, gates = _step(x[b, t], h, c, w, cell)
                        y[b, t] = h
                        for array, gate in zip(trace, gates, strict=False):
                            array[b, t] = gate
                    trace[4][b, t], trace[5][b, t] = c, h
                end_h[b], end_c[b] = h, c
            ys.append(y)
            hs.append(end_h)
            cs.append(end_c)
            layer_traces.append(trace)
        x = np.concatenate(ys, axis=2)
        last.append(LSTMState(np.stack(hs), np.stack(cs)))
        traces.append(tuple(map(tuple, layer_traces)))
    return x, tuple(last), tuple(traces)
