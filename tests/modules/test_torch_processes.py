"""The module on two processes: each gets half of the batch, and the gradient is that of one process with all of it."""

import pytest

from tests.support.ranks import assert_held

BEGIN = """
import sys, torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from lstm_xp import Cell
from lstm_xp.modules.torch import LSTM
rank, path = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method="file://" + path, rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
variants = [{}, dict(num_layers=2, bidirectional=True, proj_size=2), dict(peephole=True, cell=Cell(clip=0.5))]

def made(options):
    torch.manual_seed(0)
    return LSTM(3, 4, dtype=torch.float64, **options)

def grads(model, x):
    y, (h, c) = model(x)
    ((y ** 2).mean() + h.mean() + c.mean()).backward()
    return y, [p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad for p in model.parameters()]

def hold(got, wanted):
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)

torch.manual_seed(1)
x = torch.randn(5, 4, 3, dtype=torch.float64)
mine = x[:, 2 * rank : 2 * rank + 2]
"""

WAYS = {
    "ddp": """
from torch.nn.parallel import DistributedDataParallel
for options in variants:
    hold(grads(DistributedDataParallel(made(options)), mine)[1], grads(made(options), x)[1])
""",
    "fsdp": """
from torch.distributed.fsdp import fully_shard
for options in variants:
    model = made(options)
    fully_shard(model, mesh=mesh)
    hold(grads(model, mine)[1], grads(made(options), x)[1])
""",
    "dtensor": """
from torch.distributed.tensor import Replicate, Shard, distribute_module, distribute_tensor
def on(dim, tensor):
    return distribute_tensor(tensor, mesh, [Replicate() if dim is None else Shard(dim)])
for options in variants:
    y, found = grads(distribute_module(made(options), mesh), on(1, x))
    wanted, one = grads(made(options), x)
    hold([y.full_tensor(), *found], [wanted, *one])
    assert y.placements == (Shard(1),)
model, state = distribute_module(made({}), mesh), [torch.zeros(1, 4, 4, dtype=torch.float64)] * 2
model(on(1, x), [on(1, a) for a in state], mask=on(1, torch.ones(5, 4, dtype=torch.bool)))
for refused, words in (
    (lambda: model(on(2, x)), "`x` must lie in one piece along features"),
    (lambda: model(on(0, x)), "`x` must lie in one piece along time"),
    (lambda: model(on(1, x), [on(2, a) for a in state]), "`state[0].h` must lie in one piece along features"),
    (lambda: model(x), "`input` must be a DTensor, as"),
    (lambda: made({})(on(1, x)), "`input` must be a plain tensor, as"),
    (lambda: model(on(1, x), lengths=torch.tensor([5, 0, 1, 2])), "`lengths` must be a DTensor, as `x` is"),
):
    try:
        refused()
    except (ValueError, TypeError) as error:
        assert words in str(error), error
    else:
        raise AssertionError(words)
""",
}
END = """
dist.destroy_process_group()
print("held")
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_two_processes(way, tmp_path):
    assert_held(BEGIN + WAYS[way] + END, tmp_path)
