"""On a Dask cluster of two processes: more than fits into one of them, with one that is killed, and a training step."""

import os
import signal

import dask.array
import numpy as np
from dask.distributed import Client, LocalCluster

from lstm_xp import LSTM, lstm_vjp
from tests.support.layers import leaves

LIMIT = 512 * 2**20  # bytes of memory of a process


def infer(client, model):
    """Return the last hidden states of an array that no process can hold, and those of its first block as NumPy's."""
    x = dask.array.random.default_rng(0).standard_normal((22_400, 400, 16), chunks=(1120, -1, -1), dtype="float32")
    assert x.nbytes > LIMIT
    _, (state,) = model(x)
    job = client.compute(state.h)
    while not all(client.run(lambda dask_worker: len(dask_worker.data)).values()):
        pass
    os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
    return job.result(), model(x[:1120].compute())[1][0].h


def train(model):
    """Return the gradients of a loss with respect to the weights: from Dask's blocks, and from NumPy."""
    x = np.random.default_rng(0).standard_normal((64, 20, 16), dtype="float32")
    for array in (dask.array.from_array(x, chunks=(16, -1, -1)), x):
        (y, _), vjp = lstm_vjp(array, model.layers)
        yield dask.compute(*leaves(vjp(2 * y)[1]))


def main():
    options = {"memory_limit": LIMIT, "dashboard_address": None, "threads_per_worker": 1}
    with LocalCluster(n_workers=2, **options) as cluster, Client(cluster) as client:
        model = LSTM.init(16, 8, rng=0)
        got, first = infer(client, model)
        assert got.shape == (1, 22_400, 8)
        np.testing.assert_allclose(got[:, :1120], first, rtol=0, atol=1e-6)
        for a, b in zip(*train(model), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)
    print("held")


if __name__ == "__main__":
    main()
