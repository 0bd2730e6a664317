"""Two peers: the notebook's code carried over to torch line by line, and the same with torch's own activations."""

from functools import partial

import torch


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


def softmax(x):
    e = torch.exp(x - torch.max(x))
    return e / e.sum(dim=0)


def lstm_cell_forward(xt, a_prev, c_prev, parameters, sigmoid=sigmoid, softmax=softmax):
    Wf, bf = parameters["Wf"], parameters["bf"]
    Wi, bi = parameters["Wi"], parameters["bi"]
    Wc, bc = parameters["Wc"], parameters["bc"]
    Wo, bo = parameters["Wo"], parameters["bo"]
    Wy, by = parameters["Wy"], parameters["by"]

    concat = torch.cat((a_prev, xt), dim=0)
    ft = sigmoid(torch.matmul(Wf, concat) + bf)
    it = sigmoid(torch.matmul(Wi, concat) + bi)
    cct = torch.tanh(torch.matmul(Wc, concat) + bc)
    c_next = ft * c_prev + it * cct
    ot = sigmoid(torch.matmul(Wo, concat) + bo)
    a_next = ot * torch.tanh(c_next)
    yt_pred = softmax(torch.matmul(Wy, a_next) + by)
    return a_next, c_next, yt_pred, (a_next, c_next, a_prev, c_prev, ft, it, cct, ot, xt, parameters)


def lstm_forward(x, a0, parameters, cell=lstm_cell_forward):
    _, m, T_x = x.shape
    n_y, n_a = parameters["Wy"].shape
    a = torch.zeros((n_a, m, T_x), dtype=x.dtype, device=x.device)
    c = torch.zeros((n_a, m, T_x), dtype=x.dtype, device=x.device)
    y = torch.zeros((n_y, m, T_x), dtype=x.dtype, device=x.device)
    a_next, c_next = a0, torch.zeros((n_a, m), dtype=x.dtype, device=x.device)
    caches = []
    for t in range(T_x):
        a_next, c_next, yt, cache = cell(x[:, :, t], a_next, c_next, parameters)
        a[:, :, t] = a_next
        c[:, :, t] = c_next
        y[:, :, t] = yt
        caches.append(cache)
    return a, y, c, (caches, x)


kinder_cell_forward = partial(lstm_cell_forward, sigmoid=torch.sigmoid, softmax=partial(torch.softmax, dim=0))
kinder_lstm_forward = partial(lstm_forward, cell=kinder_cell_forward)
