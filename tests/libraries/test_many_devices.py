"""Arrays that lie on several devices: JAX meshes and `shard_map`, and the DTensor of PyTorch."""

import subprocess
import sys

import pytest

from tests.support.ranks import assert_held

JAX = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import jax, numpy
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from lstm_xp import LSTM, Cell, lstm_vjp
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)

kind, stack, engine = {kind!r}, {stack!r}, {engine!r}
if {as_on_an_accelerator}:
    jax.lax.platform_dependent = lambda *arrays, cpu, default: default(*arrays)
both, projected = dict(bidirectional=True), dict(proj_size=2, cell=Cell(proj_clip=0.5))
model = LSTM.init(3, 4, rng=0, xp=jax.numpy, dtype="float64", **(both if stack == "both" else projected))
x = jax.numpy.asarray(numpy.random.default_rng(0).standard_normal((4, 5, 3)))
lengths = jax.numpy.asarray([5, 3, 0, 1])
loss = lambda model, x, engine: (model(x, lengths=lengths_here, engine=engine)[0] ** 2).sum()

def hold(got, wanted):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        numpy.testing.assert_allclose(a, b, rtol=0, atol=1e-12)

lengths_here = lengths
wanted, gradient = model(x, lengths=lengths), jax.grad(loss)(model, x, "xp")
mesh = jax.make_mesh((2,), ("data",), axis_types=(getattr(AxisType, kind),))
here, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
model, x, lengths = jax.device_put(model, here), jax.device_put(x, split), jax.device_put(lengths, split)
def inside(model, x, lengths):
    global lengths_here
    lengths_here = lengths
    return model(x, lengths=lengths, engine=engine)[0]
def summed(model, x, lengths):
    global lengths_here
    lengths_here = lengths
    return jax.lax.psum(loss(model, x, engine), "data")
mapping = dict(mesh=mesh, in_specs=(P(), P("data"), P("data")))
hold(jax.jit(jax.shard_map(inside, out_specs=P("data"), **mapping))(model, x, lengths), wanted[0])
total = jax.shard_map(summed, out_specs=P(), **mapping)
hold(jax.jit(jax.grad(total))(model, x, lengths), gradient)
with jax.set_mesh(mesh):
    lengths_here = lengths
    hold(model(x, lengths=lengths, engine=engine)[0], wanted[0])
    hold(jax.jit(jax.grad(loss), static_argnums=2)(model, x, engine), gradient)
with jax.set_mesh(mesh):
    (y, last), vjp = lstm_vjp(x, model.layers, cell=model.cell, lengths=lengths)
    hold((y, last), wanted)
    hold(vjp(2 * y)[1], gradient.layers)
print("held")
"""

# What is communicated: by the text of a compiled program, of which a computation is a paragraph that names others.
COMMUNICATION = """
import os, re
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
import jax
from jax.sharding import NamedSharding, PartitionSpec as P
from lstm_xp import LSTM

mesh = jax.make_mesh((8,), ("data",))
here, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
model = jax.device_put(LSTM.init(3, 4, bidirectional={both!r}, rng=0, xp=jax.numpy), here)
x, lengths = jax.device_put((jax.numpy.ones((16, 20, 3)), jax.numpy.full((16,), 7)), split)
loss = lambda model, x, lengths, **options: (model(x, lengths=lengths, **options)[0] ** 2).mean()

def collectives(function):
    parts = re.split(r"\\n(?=\\S)", jax.jit(function).lower(model, x, lengths).compile().as_text())
    within = {{re.search(r"%[\\w.-]+", part)[0]: part for part in parts if part.startswith(("%", "ENTRY"))}}
    loops, reached = re.findall(r"body=(%[\\w.-]+)", "".join(parts)), set()
    assert loops
    while loops:
        name = loops.pop()
        if name in within and name not in reached:
            reached.add(name)
            loops += re.findall(r"%[\\w.-]+", within[name])
    count = lambda text: len(re.findall(r" (?:all-|collective-|reduce-scatter)[a-z-]*\\(", text))
    return count("".join(parts)), sum(count(within[name]) for name in reached)

print(*collectives(lambda model, x, lengths: model(x, lengths=lengths)), *collectives(jax.grad(loss)))
print(collectives(jax.grad(lambda *arrays: loss(*arrays, checkpoint=7)))[1] > 0)
"""

# A model, marks and streams that know nothing of the mesh, which the sequences are split over.
EXPLICIT = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import jax, numpy
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from lstm_xp import LSTM, Cell, lstm_vjp, gather_states, scatter_states
jax.config.update("jax_disable_most_optimizations", True)

mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
projected = dict(proj_size=2, peephole=True, cell=Cell(proj_clip=0.5))
model = LSTM.init(3, 4, num_layers=2, rng=0, xp=jax.numpy, **projected)
x, lengths = jax.numpy.ones((4, 5, 3)), jax.numpy.asarray([5, 3, 0, 1])

def hold(got, wanted):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        numpy.testing.assert_allclose(a, b, rtol=0, atol=1e-6)

def gradient(model, x, checkpoint=None):
    return jax.grad(lambda model: (model(x, lengths=lengths, checkpoint=checkpoint)[0] ** 2).sum())(model)

def backward(model, x):
    (y, _), vjp = lstm_vjp(x, model.layers, cell=model.cell)
    return vjp(y)

def streams(model, x, sizes=(1, 3)):
    _, state = model(x)
    return scatter_states(state, sizes)

def joined(model, x):
    parts = streams(model, x, [1, 1, 2])
    return model.step(x[:, 0], gather_states(parts))

runs = gradient, lambda *both: gradient(*both, checkpoint=2), backward, streams, joined
wanted = [run(model, x) for run in runs]
with (jax.set_mesh if hasattr(jax, "set_mesh") else jax.sharding.use_mesh)(mesh):  # the latter until 0.7
    split = jax.device_put(x, P("data"))
    for run, result in zip(runs, wanted):
        hold(jax.jit(run)(model, split), result)
    hold(gradient(model, split), wanted[0])
    hold(streams(model, split), wanted[3])
print("held")
"""

SPLIT = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from lstm_xp import LSTM

for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,))
    model = jax.device_put(LSTM.init(4, 4, rng=0, xp=jax.numpy), NamedSharding(mesh, P()))
    along = NamedSharding(mesh, P(None, "data"))
    x = jax.device_put(jax.numpy.ones((4, 4, 4)), NamedSharding(mesh, P("data")))
    mark = jax.device_put(jax.numpy.ones((4, 4), bool), along)
    for options in {"mask": mark}, {"reset": mark}, {"mask": mark.T, "time_major": True}:
        try:
            model(jax.device_put(x, along) if "time_major" in options else x, **options)
        except ValueError as error:
            print(error)
    for axis in (1, 2):
        x = jax.device_put(jax.numpy.ones((4, 4, 4)), NamedSharding(mesh, P(*[None] * axis, "data")))
        for run in (model, jax.jit(lambda x: model(x)))[: 2 if kind is AxisType.Explicit else 1]:
            try:
                run(x)
            except ValueError as error:
                print(error)
"""

TORCH = """
import sys, torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from lstm_xp import LSTM, lstm_vjp
from lstm_xp._seams.trees import leaves, mapped

rank, path = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method="file://" + path, rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
torch.manual_seed(0)
plain = LSTM.init(3, 4, num_layers=2, bidirectional=True, rng=0, xp=torch, dtype=torch.float64)
x = torch.randn(4, 5, 3, dtype=torch.float64)
there = LSTM(mapped(lambda a: distribute_tensor(a, mesh, [Replicate()]).requires_grad_(), plain.layers))
split = distribute_tensor(x, mesh, [Shard(0)])
y, _ = plain(x)
torch.testing.assert_close(there(split)[0].full_tensor(), y)
torch.testing.assert_close(LSTM(there.layers)(split[:, :1])[0].full_tensor(), plain(x[:, :1])[0])
for a in leaves(plain.layers): a.requires_grad_()
(plain(x)[0] ** 2).sum().backward()
(there(split)[0] ** 2).sum().backward()
(_, _), vjp = lstm_vjp(split, mapped(lambda a: a.detach(), there.layers))
dlayers = vjp(2 * there(split)[0].detach())[1]
for a, b, d in zip(leaves(there.layers), leaves(plain.layers), leaves(dlayers), strict=True):
    torch.testing.assert_close(a.grad.full_tensor(), b.grad)
    torch.testing.assert_close(d.full_tensor(), b.grad)
for axis in (1, 2):
    try:
        there(distribute_tensor(x, mesh, [Shard(axis)]))
    except ValueError as error:
        assert "must lie in one piece along " + ("time", "features")[axis - 1] in str(error)
    else:
        raise AssertionError(axis)
dist.destroy_process_group()
print("held")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "stack", "engine", "as_on_an_accelerator"),
    [
        ("Auto", "both", "auto", False),
        ("Auto", "both", "xp", True),
        ("Explicit", "both", "auto", False),
        ("Explicit", "both", "auto", True),
        ("Explicit", "projected", "auto", False),
    ],
)
def test_jax_meshes_and_shard_map(kind, stack, engine, as_on_an_accelerator):
    pytest.importorskip("jax")
    code = JAX.format(kind=kind, stack=stack, engine=engine, as_on_an_accelerator=as_on_an_accelerator)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180)
    assert done.stdout.split() == ["held"], done.stderr[-2000:]


def test_what_is_made_outside_of_an_explicit_jax_mesh():
    pytest.importorskip("jax")
    done = subprocess.run([sys.executable, "-c", EXPLICIT], capture_output=True, text=True, timeout=180)
    assert done.stdout.split() == ["held"], done.stderr[-2000:]


@pytest.mark.parametrize("both", [False, True])
def test_what_jax_communicates(both):
    """Nothing on the way forward; for the gradient the sum of the weights' gradients, once and outside of the loop.

    With `checkpoint` it is in the loop over segments, which shows that what is in a loop is found.
    """
    pytest.importorskip("jax")
    code = COMMUNICATION.format(both=both)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180)
    forward, looped, gradient, gradient_looped, *control = done.stdout.split() or [done.stderr[-2000:]]
    assert (forward, looped, gradient_looped, *control) == ("0", "0", "0", "True")
    assert 1 <= int(gradient) <= 6  # late versions of JAX join those of all weights of a layer


def test_a_jax_mesh_splits_the_batch_alone():
    """An array that is split along another axis is refused: one that is there, and in `jit` where its type says so."""
    pytest.importorskip("jax")
    done = subprocess.run([sys.executable, "-c", SPLIT], capture_output=True, text=True, timeout=180)
    words = "lstm: `{}` must lie in one piece along {}, as devices share the batch alone; got an array that is split"
    marks = [("mask", "time"), ("reset", "time"), ("mask", "time")]
    axes = [*marks, ("x", "time"), ("x", "features"), *marks, *[("x", "time")] * 2, *[("x", "features")] * 2]
    lines = done.stdout.splitlines()
    assert len(lines) == len(axes), done.stderr[-2000:]
    for line, named in zip(lines, axes, strict=True):
        assert line.startswith(words.format(*named))


@pytest.mark.slow
def test_dtensors(tmp_path):
    assert_held(TORCH, tmp_path)
