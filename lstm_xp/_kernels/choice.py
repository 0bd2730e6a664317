"""Which kernel runs a call: decided by a predicate before the call, and never by a failure."""

from .._equations.records import Call, Layers, Plan
from .._seams.namespace import Array, Namespace, array_namespace, is_torch_namespace, library_name
from . import torch
from .kernel import Kernel


def kernel_for(function: str, call: Call, plan: Plan) -> Kernel | None:
    """Return the kernel for a call, or None for the equations; with ``engine="native"`` there must be one."""
    if plan.engine == "xp":
        return None
    native = plan.engine == "native"
    candidates = _kernels(plan.xp)
    obstacle: str | None = f"{library_name(plan.xp)} has none that this package knows"
    for kernel in candidates:
        if native or kernel.faster(call, plan):
            obstacle = next(kernel.obstacles(call, plan), None)
            if obstacle is None:
                return kernel
    if native:
        raise ValueError(f"{function}: `engine` = 'native' has no kernel for this call: {obstacle}.")
    return None


def has_kernels(xp: Namespace) -> bool:
    """Tell whether `kernel_for` may return one for a library."""
    return len(_kernels(xp)) > 0


def laid_out(layers: Layers, like: Array) -> Layers:
    """Return fresh weights as the kernel of their library wants them in memory."""
    on_cuda = is_torch_namespace(array_namespace(like)) and like.is_cuda
    return torch.as_cudnn_has_them(layers) if on_cuda else layers


def _kernels(xp: Namespace) -> tuple[Kernel, ...]:
    """Return the kernels of a library, the one for the most special calls first."""
    return torch.KERNELS if is_torch_namespace(xp) else ()
