"""The comparisons, one row each, and what is expected of them."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any

from . import layer_sides, sides
from .device import lacks_gpu
from .problem import Size
from .timing import TOLERANCE, Measure, Task, compile_seconds, extra_bytes, interleave, seconds


@dataclass(frozen=True)
class Faster:
    """The peer takes at least `factor` times as long."""

    factor: float

    def met(self, ratio: float) -> bool:
        return 1 / ratio >= self.factor

    def __str__(self) -> str:
        return f"{self.factor:g}x faster"


@dataclass(frozen=True)
class AtMost:
    """lstm_xp takes at most `factor` times as much."""

    factor: float

    def met(self, ratio: float) -> bool:
        return ratio <= self.factor

    def __str__(self) -> str:
        return f"at most {self.factor:g}x"


@dataclass(frozen=True)
class Side:
    """A name and what makes the task, on one size."""

    name: str
    make: Callable[[Size], Task]
    size: Size

    def build(self) -> Task:
        return self.make(self.size)


@dataclass(frozen=True)
class Row:
    """A comparison; without `expected` it is there for information."""

    what: str
    ours: Side
    peer: Side
    expected: Faster | AtMost | None = None
    measure: Measure = seconds
    needs: tuple[str, ...] = ()
    # NumPy and torch have threads of their own, which disturb each other in one process.
    apart: bool = False
    # A peer that does only a part of the work has no numbers to compare.
    part: bool = False
    # "forward" or "training": the chart in which it stands.
    chart: str = ""

    @property
    def library(self) -> str:
        """The library whose arrays lstm_xp takes."""
        return self.what.partition(" ")[0]

    def missing(self) -> list[str]:
        absent = [library for library in self.needs if find_spec(library) is None]
        if self.ours.size.device == "gpu":
            absent += [f"GPU for {library}" for library in self.needs if lacks_gpu(library)]
        return absent

    def run(self, turns: int) -> "Result":
        builds = (self.ours.build, self.peer.build)
        same = self.ours.size == self.peer.size and not self.part
        tolerance = TOLERANCE[self.ours.size.device] if same else None
        return Result(self, *interleave(builds, self.measure, tolerance=tolerance, apart=self.apart, turns=turns))


@dataclass(frozen=True)
class Result:
    """The measurements of a row, each in seconds or bytes."""

    row: Row
    ours: list[float] = field(repr=False)
    peer: list[float] = field(repr=False)

    @property
    def ratio(self) -> float:
        """What lstm_xp takes for each unit that the peer takes."""
        return statistics.median(self.ours) / statistics.median(self.peer)

    @property
    def met(self) -> bool | None:
        return None if self.row.expected is None else self.row.expected.met(self.ratio)


S, A, M, L = Size(1, 1, 64, 128), Size(100, 1, 128, 128), Size(100, 32, 128, 256), Size(100, 64, 512, 1024)
on_gpu = partial(Size._replace, device="gpu")
GA, GM, GL, GX = on_gpu(A), on_gpu(M), on_gpu(L), on_gpu(Size(512, 256, 512, 1024))


def _layer(size: Size) -> str:
    """Show the letters of the sequence layer."""
    return f"T={size.T}, B={size.m}, I={size.n_x}, H={size.n_a}"


def _against(
    what: str,
    ours: Callable[[Size], Task],
    peer: Callable[[Size], Task],
    name: str,
    show: Callable[[Size], str] = str,
    **options: Any,
) -> Callable[..., Row]:
    """Return a function from size to row: lstm_xp against a peer on the same problem."""

    def row(size: Size, expected: Faster | AtMost | None = None, *, label: str = "") -> Row:
        label = label or show(size)
        return Row(f"{what}, {label}", Side("lstm_xp", ours, size), Side(name, peer, size), expected, **options)

    return row


def _longer(
    what: str,
    make: Callable[[Size], Task],
    size: Size,
    T: int,
    expected: AtMost,
    show: Callable[[Size], str] = str,
    **options,
) -> Row:
    """Return a row that compares lstm_xp with itself on a sequence of another length."""
    long = size._replace(T=T)
    _, _, sizes = show(size).partition(", ")
    return Row(f"{what}, {sizes}", Side(f"T={T}", make, long), Side(f"T={size.T}", make, size), expected, **options)


notebook = _against("NumPy lstm_forward", sides.numpy_forward, sides.notebook_forward, "notebook")
notebook_in_double = _against(
    "NumPy lstm_forward in float64",
    partial(sides.numpy_forward, dtype=float),
    partial(sides.notebook_forward, dtype=float),
    "notebook",
)
cell = _against("NumPy lstm_cell", sides.numpy_cell, sides.notebook_cell, "notebook")
port = _against("torch lstm_forward", sides.torch_forward, sides.port_forward, "port", needs=("torch",))
kinder = _against(
    "torch lstm_forward", sides.torch_forward, sides.kinder_port_forward, "port, torch.sigmoid", needs=("torch",)
)
training = _against(
    "NumPy lstm_forward + lstm_backward",
    sides.numpy_train,
    sides.torch_nn_train,
    "torch.nn.LSTM",
    needs=("torch",),
    apart=True,
)

layer = partial(_against, show=_layer)
step_torch = layer(
    "NumPy LSTM.step", layer_sides.numpy_step, layer_sides.torch_nn_step, "torch.nn.LSTM", needs=("torch",), apart=True
)
step_onnxruntime = layer(
    "NumPy LSTM.step",
    layer_sides.numpy_step,
    layer_sides.onnxruntime_step,
    "onnxruntime",
    needs=("onnx", "onnxruntime"),
    apart=True,
)
sessions = layer(
    "NumPy LSTM.step of many sessions, joined and parted",
    layer_sides.numpy_sessions,
    layer_sides.numpy_session_by_session,
    "one by one",
)
products = layer("NumPy lstm", layer_sides.numpy_layer, layer_sides.numpy_products, "its products alone", part=True)
numpy_torch = layer(
    "NumPy lstm",
    layer_sides.numpy_layer,
    layer_sides.torch_nn_layer,
    "torch.nn.LSTM",
    needs=("torch",),
    apart=True,
    chart="forward",
)
numpy_training = layer(
    "NumPy lstm_vjp",
    layer_sides.numpy_layer_train,
    layer_sides.torch_nn_layer_train,
    "torch.nn.LSTM",
    needs=("torch",),
    apart=True,
    chart="training",
)
dask_layer = layer(
    "Dask lstm, four blocks", layer_sides.dask_layer, layer_sides.dask_by_hand, "x.map_blocks", needs=("dask",)
)
torch_layer = layer(
    "torch lstm",
    layer_sides.torch_layer,
    layer_sides.torch_nn_layer,
    "torch.nn.LSTM",
    needs=("torch",),
    chart="forward",
)
torch_layer_training = layer(
    "torch lstm + autograd",
    layer_sides.torch_layer_train,
    layer_sides.torch_nn_layer_train,
    "torch.nn.LSTM",
    needs=("torch",),
    chart="training",
)
torch_compiled = layer(
    "torch lstm + autograd, torch.compile",
    layer_sides.torch_layer_train_compiled,
    layer_sides.torch_layer_train,
    "not compiled",
    needs=("torch",),
)
torch_step = layer(
    "torch lstm, one step", layer_sides.torch_step, layer_sides.torch_nn_step, "torch.nn.LSTM", needs=("torch",)
)
torch_lengths = layer(
    "torch lstm, lengths",
    layer_sides.torch_lengths,
    layer_sides.torch_nn_without_lengths,
    "torch.nn.LSTM without",
    needs=("torch",),
    part=True,
)
torch_lengths_of_two_layers = layer(
    "torch lstm, lengths, 2 bidirectional layers",
    partial(layer_sides.torch_lengths, num_layers=2),
    partial(layer_sides.torch_nn_without_lengths, num_layers=2),
    "torch.nn.LSTM without",
    needs=("torch",),
    part=True,
)
torch_packed = layer(
    "torch lstm, lengths",
    layer_sides.torch_lengths,
    layer_sides.torch_nn_packed,
    "torch.nn.LSTM, packed",
    needs=("torch",),
)
torch_packed_of_two_layers = layer(
    "torch lstm, lengths, 2 bidirectional layers",
    partial(layer_sides.torch_lengths, num_layers=2),
    partial(layer_sides.torch_nn_packed, num_layers=2),
    "torch.nn.LSTM, packed",
    needs=("torch",),
)
torch_lengths_training = layer(
    "torch lstm + autograd, lengths",
    layer_sides.torch_lengths_train,
    layer_sides.torch_nn_packed_train,
    "torch.nn.LSTM, packed",
    needs=("torch",),
)
torch_lengths_training_of_two_layers = layer(
    "torch lstm + autograd, lengths, 2 bidirectional layers",
    partial(layer_sides.torch_lengths_train, num_layers=2),
    partial(layer_sides.torch_nn_packed_train, num_layers=2),
    "torch.nn.LSTM, packed",
    needs=("torch",),
)
flax = layer(
    "JAX lstm, jit", layer_sides.jax_layer, layer_sides.flax_layer, "Flax", needs=("jax", "flax"), chart="forward"
)
flax_gradient = layer(
    "JAX gradient of lstm, jit",
    layer_sides.jax_layer_gradient,
    layer_sides.flax_layer_gradient,
    "Flax",
    needs=("jax", "flax"),
    chart="training",
)
without_jit = layer(
    "JAX lstm, second call without jit",
    layer_sides.jax_layer_without_jit,
    layer_sides.jax_layer,
    "with jit",
    needs=("jax",),
)
jax_torch = layer(
    "JAX lstm, jit",
    layer_sides.jax_layer,
    layer_sides.torch_nn_layer,
    "torch.nn.LSTM",
    needs=("jax", "torch"),
    chart="forward",
)
jax_torch_training = layer(
    "JAX gradient of lstm, jit",
    layer_sides.jax_layer_gradient,
    layer_sides.torch_nn_layer_gradient,
    "torch.nn.LSTM",
    needs=("jax", "torch"),
    chart="training",
)
jax_torch_stack = layer(
    "JAX gradient of 3 bidirectional layers, jit",
    layer_sides.jax_stack_gradient,
    layer_sides.torch_nn_stack_gradient,
    "torch.nn.LSTM",
    needs=("jax", "torch"),
    chart="training",
)
cupy_torch = layer(
    "CuPy lstm",
    layer_sides.cupy_layer,
    layer_sides.torch_nn_layer,
    "torch.nn.LSTM",
    needs=("cupy", "torch"),
    chart="forward",
)
compiling = partial(
    _longer,
    "JAX compile time of the gradient of 3 bidirectional layers",
    layer_sides.jax_stack_compile,
    T=1000,
    expected=AtMost(1.5),
    show=_layer,
    measure=compile_seconds,
    needs=("jax",),
)


def checkpointed(size: Size, expected: AtMost | None = None) -> Row:
    """Return the row that compares a gradient that keeps every 64th state with one that keeps all."""
    ours = Side("lstm_vjp, checkpoint=64", partial(layer_sides.numpy_layer_train, checkpoint=64), size)
    peer = Side("lstm_vjp", layer_sides.numpy_layer_train, size)
    return Row(f"NumPy lstm_vjp, {_layer(size)}, with checkpoint=64", ours, peer, expected)


def torch_masked(size: Size, expected: Faster | None = None) -> Row:
    """Return the row that compares the hand-written gradient with that of autograd."""
    ours = Side("lstm", layer_sides.torch_masked_train, size)
    peer = Side('lstm, engine="xp"', partial(layer_sides.torch_masked_train, engine="xp"), size)
    return Row(f"PyTorch training with a mask, {_layer(size)}", ours, peer, expected, needs=("torch",))


def in_threads(size: Size, expected: Faster | None = None) -> Row:
    """Return the row that compares eight threads with one."""
    one, eight = (partial(layer_sides.numpy_steps, threads=threads) for threads in (1, 8))
    sides = Side("8 threads", eight, size), Side("one thread", one, size)
    return Row(f"NumPy LSTM.step, {_layer(size)}, steps of 8 threads", *sides, expected)


ROWS = (
    notebook(A, Faster(1.9)),
    notebook(M, Faster(1.5)),
    notebook(L, Faster(1.25)),
    notebook_in_double(A),
    notebook_in_double(M),
    notebook_in_double(L),
    cell(Size(1, 1, 64, 128), AtMost(1.2), label="(n_x, n_a, m) = (64, 128, 1)"),
    cell(Size(1, 10, 3, 5), AtMost(1.4), label="(n_x, n_a, m) = (3, 5, 10)"),
    port(A, Faster(1.7)),
    port(M, Faster(1.7)),
    port(L, Faster(1.25)),
    kinder(A),
    kinder(M),
    kinder(L),
    training(M, AtMost(2.0)),
    _longer("torch lstm_forward + autograd", sides.torch_autograd, M, 400, AtMost(4.6), needs=("torch",)),
    _longer(
        "JAX compile time of lstm_forward",
        sides.jax_compile,
        M._replace(T=10),
        1000,
        AtMost(1.5),
        measure=compile_seconds,
        needs=("jax",),
    ),
    _longer(
        "NumPy lstm_forward, memory beyond inputs and outputs",
        sides.numpy_forward,
        M._replace(T=400),
        4000,
        AtMost(1.5),
        measure=extra_bytes,
    ),
    step_torch(S, Faster(4)),
    step_onnxruntime(S, Faster(1.5)),
    sessions(S._replace(m=64), Faster(2)),
    in_threads(M._replace(T=1)),
    products(M, AtMost(1.5)),
    products(L, AtMost(1.2)),
    numpy_torch(A, AtMost(2)),
    numpy_torch(M, AtMost(1.6)),
    numpy_training(A),
    numpy_training(M),
    numpy_training(L),
    checkpointed(Size(4000, 8, 64, 64), AtMost(1.5)),
    dask_layer(M, AtMost(1.3)),
    torch_layer(A, AtMost(1.05)),
    torch_layer(M, AtMost(1.05)),
    torch_layer(L, AtMost(1.05)),
    torch_layer_training(A, AtMost(1.05)),
    torch_layer_training(M, AtMost(1.05)),
    torch_layer_training(L, AtMost(1.05)),
    torch_compiled(M._replace(T=512), AtMost(1.2)),
    torch_masked(A, Faster(1.5)),
    torch_masked(M),
    torch_step(S, Faster(2)),
    torch_lengths(M, AtMost(1.15)),
    torch_lengths_of_two_layers(M),
    torch_lengths_training(M, Faster(2)),
    torch_lengths_training_of_two_layers(M),
    flax(A, Faster(1.15)),
    flax(M, Faster(1.15)),
    flax(L, AtMost(1.0)),
    flax_gradient(A, Faster(1.5)),
    flax_gradient(M, Faster(1.2)),
    flax_gradient(L, Faster(1.2)),
    without_jit(M, AtMost(1.3)),
    compiling(M._replace(T=10)),
    _longer(
        "NumPy lstm, memory beyond inputs and outputs",
        layer_sides.numpy_layer,
        M._replace(T=400),
        4000,
        AtMost(1.5),
        show=_layer,
        measure=extra_bytes,
    ),
)

GPU_ROWS = (
    torch_layer(GA, AtMost(1.05)),
    torch_layer(GM, AtMost(1.05)),
    torch_layer(GL, AtMost(1.05)),
    torch_layer_training(GA, AtMost(1.05)),
    torch_layer_training(GM, AtMost(1.05)),
    torch_layer_training(GL, AtMost(1.05)),
    torch_packed(GM, AtMost(1)),
    torch_packed(GL, AtMost(1)),
    torch_packed_of_two_layers(GM, AtMost(1.3)),
    torch_lengths_training(GM, AtMost(1)),
    torch_lengths_training(GL, AtMost(1)),
    torch_lengths_training_of_two_layers(GM, AtMost(1)),
    jax_torch(GA, AtMost(1.3)),
    jax_torch(GM, Faster(1.5)),
    jax_torch(GL, Faster(1.1)),
    jax_torch(GX, Faster(1.3)),
    flax(GA, AtMost(1.3)),
    flax(GM, Faster(1.5)),
    flax(GL, Faster(1.1)),
    flax(GX, Faster(1.3)),
    jax_torch_training(GA, AtMost(1.2)),
    jax_torch_training(GM, Faster(2)),
    jax_torch_training(GL, Faster(1.3)),
    jax_torch_training(GX, Faster(1.15)),
    flax_gradient(GA, AtMost(1.2)),
    flax_gradient(GM, Faster(2)),
    flax_gradient(GL, Faster(1.3)),
    flax_gradient(GX, Faster(1.15)),
    jax_torch_stack(GM, Faster(4)),
    without_jit(GM, AtMost(1.3)),
    compiling(GM._replace(T=10)),
    cupy_torch(GA),
    cupy_torch(GM),
    cupy_torch(GL),
)

DEVICES = {"cpu": ROWS, "gpu": GPU_ROWS}
