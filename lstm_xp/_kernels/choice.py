"""Which kernel runs a call: decided by a predicate before the call, and never by a failure."""

from collections.abc import Callable

from .._equations.records import Call, Layers, Plan
from .._equations.stack import Results
from .._seams.namespace import Namespace, array_namespace, is_dask_namespace, is_torch_namespace, library_name
from .._seams.trees import leaves
from . import dask, torch
from .kernel import VJP, Kernel
from .torch_lstm import as_cudnn_has_them


def kernels_of(xp: Namespace) -> tuple[Kernel, ...]:
    """Return the kernels of a library, the one for the most special calls first."""
    if is_torch_namespace(xp):
        return torch.KERNELS
    return dask.KERNELS if is_dask_namespace(xp) else ()


def kernel_for(function: str, call: Call, plan: Plan) -> Kernel | None:
    """Return the kernel for a call, or None for the equations; with ``engine="native"`` there must be one."""
    if plan.engine == "xp":
        return None
    native = plan.engine == "native"
    obstacle: str | None = f"{library_name(plan.xp)} has none that this package knows"
    for kernel in kernels_of(plan.xp):
        if native or kernel.faster(call, plan):
            obstacle = next(kernel.obstacles(call, plan), None)
            if obstacle is None:
                return kernel
    if native:
        raise ValueError(f"{function}: `engine` = 'native' has no kernel for this call: {obstacle}.")
    return None


def gradient_for(plan: Plan) -> Callable[[Call, Plan], tuple[Results, VJP]] | None:
    """Return a library's own way to run `lstm_vjp`, or None for the equations."""
    return dask.run_and_keep if plan.engine != "xp" and is_dask_namespace(plan.xp) else None


def laid_out(layers: Layers) -> Layers:
    """Return fresh weights as the kernel of their library wants them in memory."""
    like = leaves(layers)[0]
    on_cuda = is_torch_namespace(array_namespace(like)) and like.is_cuda
    return as_cudnn_has_them(layers) if on_cuda else layers
