"""What a library does with whole functions: compiling, differentiating, tracing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any, ParamSpec, TypeVar

from .namespace import Array, Namespace, autocast_dtype, is_jax_namespace, is_numpy_namespace, is_torch_namespace
from .trees import filled, leaves, mapped, when_imported

P = ParamSpec("P")
T = TypeVar("T")
Kept = TypeVar("Kept")


def staged(core: Callable[P, T], xp: Namespace) -> Callable[P, T]:
    """Return `core`, compiled where the library compiles: its arrays are positional, its options keyword-only."""
    if is_torch_namespace(xp):
        return partial(_on_torch, core)
    if not is_jax_namespace(xp):
        return core
    return lambda *arrays, **options: _jitted(core, **options)(*arrays)


# JAX compiles again for each function that it has not seen, and keeps what it compiled while the function is there:
# here the 128 last used, so that a program that makes cell after cell does not grow.
@lru_cache(maxsize=128)
def _jitted(core: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    import jax

    return jax.jit(partial(core, **options))


def _on_torch(core: Callable[..., T], *arrays: Any, **options: Any) -> T:
    """Run in the dtype of the arrays; for a program in a file with what a loop in it takes, `scan.py` says which."""
    import torch

    if is_exporting(torch):
        # Not as they are, as they may be constants; and for an ONNX file without gradients.
        fresh = torch.detach if is_for_onnx() else torch.clone
        arrays = torch.utils._pytree.tree_map_only(torch.Tensor, fresh, arrays)
    first: Any = arrays
    while isinstance(first, tuple):
        first = first[0]
    if autocast_dtype(first) is None:
        return core(*arrays, **options)
    with torch.autocast(first.device.type, enabled=False):
        return core(*arrays, **options)


def is_exporting(xp: Namespace) -> bool:
    """Tell whether PyTorch makes a program for a file, in which a loop is one operation and its length is free.

    Not before 2.13, where the gradient of such a loop is wrong (seen in 2.11).
    """
    if not is_torch_namespace(xp):
        return False
    import torch

    return torch.compiler.is_exporting() and torch.__version__ >= "2.13"


def takes_gradients(tree: object, xp: Namespace) -> bool:
    """Tell whether a hand-written gradient is worth giving to the library: where it would differentiate the scan."""
    if not is_torch_namespace(xp):
        return is_jax_namespace(xp)
    import torch

    wanted = torch.is_grad_enabled() and any(a.requires_grad for a in leaves(tree))
    return wanted and why_not_by_hand(tree, xp) is None


def why_not_by_hand(tree: object, xp: Namespace) -> str | None:
    """Return what keeps a hand-written gradient from PyTorch, which it has for its autograd alone."""
    if not is_torch_namespace(xp):
        return None
    import torch

    if any(hasattr(a, "placements") for a in leaves(tree)):  # autograd gives zeros that are none
        return "its arrays are DTensors"
    if is_traced():
        return "`torch.jit.trace` writes it down"
    if torch.compiler.is_compiling():
        return "`torch.compile` or `torch.export` traces it, with gradients" if torch.is_grad_enabled() else None
    return torch_transform(tree)


def wants_gradient(x: Array, xp: Namespace) -> bool:
    """Tell whether the library may ask for the gradient of x, where it takes a hand-written one."""
    return bool(x.requires_grad) if is_torch_namespace(xp) else True


def with_gradient(
    function: Callable[P, T],
    forward: Callable[P, tuple[T, Kept]],
    backward: Callable[[Kept, T], tuple[Any, ...]],
    *,
    results: T,
    xp: Namespace,
) -> Callable[P, T]:
    """Return a function of JAX or PyTorch whose reverse-mode gradient is `backward`: forward-mode is then refused.

    ``forward(*arrays)`` returns the results, a tree like `results`, and what ``backward(kept, gradients)`` needs of it.
    """
    if is_torch_namespace(xp):
        from .autograd import Functions, Written

        apply: Any = partial(Written.apply, Functions(function, forward, backward))

        def recorded(*arrays: P.args, **_: P.kwargs) -> T:
            return filled(results, apply(arrays, results, *leaves(arrays)))

        return recorded
    import jax

    wrapped: Any = jax.custom_vjp(function)
    wrapped.defvjp(forward, backward)
    return wrapped  # type: ignore[no-any-return] # JAX forgets the type


def aligned(tree: T, xp: Namespace) -> T:
    """Return a tree whose arrays all vary over the same axes of a mesh: inside `jax.shard_map` a scan wants that."""
    if not is_jax_namespace(xp):
        return tree
    import jax

    def axes_of(x: Array) -> frozenset[str]:
        kind = jax.typeof(x)  # until 0.9 it says so itself
        of = getattr(kind, "manual_axis_type", kind)
        varying: frozenset[str] = getattr(of, "varying", getattr(of, "vma", frozenset()))
        return varying

    axes = frozenset[str]().union(*map(axes_of, leaves(tree)))
    if not axes:
        return tree
    pcast = getattr(jax.lax, "pcast", lambda x, axes, to: vars(jax.lax)["pvary"](x, axes))  # until 0.8
    return mapped(lambda x: pcast(x, tuple(axes - axes_of(x)), to="varying"), tree)


def is_batched(x: Array) -> bool:
    """Tell whether a transform of PyTorch may see more in a tensor than its shape says."""
    import torch

    return torch.compiler.is_compiling() or torch.func.debug_unwrap(x, recurse=False) is not x


def torch_transform(tree: object) -> str | None:
    """Return which transform of PyTorch is under way, if there is one: in words that end an error."""
    import torch

    if torch.compiler.is_compiling():
        return None if _takes_operators() else "`torch.compile` or `torch.export` cannot trace it"
    if not _may_be_transformed():
        return None
    arrays = leaves(tree)
    if any(map(is_batched, arrays)):
        return "it is inside a transform of `torch.func`"
    if any(torch.autograd.forward_ad.unpack_dual(a).tangent is not None for a in arrays):  # type: ignore[no-untyped-call] # torch's
        return "it has no forward-mode gradient"
    return None


def _may_be_transformed() -> bool:
    """Tell at once where no tensor can be: by private names, without which each tensor is asked, which takes longer."""
    import torch

    try:
        return torch._C._functorch.peek_interpreter_stack() is not None or torch.autograd.forward_ad._current_level >= 0
    except AttributeError:
        return True


def _takes_operators() -> bool:
    """Tell whether a program that is compiled may call an operator of one's own: not if it is written to a file."""
    import torch

    return (
        not torch.compiler.is_exporting() and not _may_be_transformed() and hasattr(torch._C, "_ForceDispatchKeyGuard")
    )


def is_traced() -> bool:
    """Tell whether `torch.jit.trace` writes down what PyTorch runs."""
    import torch

    jit: Any = torch.jit  # has no types
    return bool(jit.is_tracing())


def is_for_onnx() -> bool:
    """Tell whether the program that PyTorch makes becomes an ONNX file."""
    import torch

    return torch.onnx.is_in_onnx_export()


def _not_traced(torch: Any) -> None:
    """Let PyTorch ask these while it traces a program, and not trace them: it answers wrongly in their place."""
    for asked in (_takes_operators, is_for_onnx):
        torch.compiler.assume_constant_result(asked)


when_imported("torch", _not_traced)


@contextmanager
def recording() -> Iterator[None]:
    """Let autograd record inside an operator of one's own, where PyTorch shuts it out: no public name does."""
    import torch

    C = torch._C
    others = C._dispatch_tls_local_exclude_set().remove(C.DispatchKey.AutogradCPU)  # stands for that of each device
    with C._ForceDispatchKeyGuard(C._dispatch_tls_local_include_set(), others), torch.enable_grad():
        yield


def concrete(x: Array, xp: Namespace) -> bool:
    """Tell whether the values of x can be looked at: not inside a transform, and without computing a lazy array."""
    if is_jax_namespace(xp):
        import jax

        return not isinstance(x, jax.core.Tracer)
    if is_torch_namespace(xp):
        import torch

        # To look at a GPU's array would stop and wait for it; other subclasses stand for what is elsewhere.
        return not is_batched(x) and x.is_cpu and type(x) in (torch.Tensor, torch.nn.Parameter)
    return is_numpy_namespace(xp)
