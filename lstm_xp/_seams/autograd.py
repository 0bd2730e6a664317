"""A gradient written by hand, for PyTorch's autograd: a module of its own, as a class of that needs PyTorch at once."""

from collections.abc import Callable
from itertools import compress
from typing import Any, NamedTuple

import torch

from .trees import filled, leaves, mapped


class Functions(NamedTuple):
    """What is computed: by itself, with what its gradient needs, and that gradient, of the first arrays."""

    plain: Callable[..., Any]
    forward: Callable[..., tuple[Any, Any]]
    backward: Callable[[Any, Any], tuple[Any, ...]]


class Written(torch.autograd.Function):
    """Takes functions, a tree, the results' tree and the arrays of the first; gives the arrays of the second."""

    @staticmethod
    def forward(ctx: Any, functions: Functions, tree: Any, results: Any, *arrays: Any) -> tuple[Any, ...]:
        """Run forward. What came in is kept with the rest, so that PyTorch notices where it is changed."""
        made, kept = functions.forward(*filled(tree, arrays))
        ctx.known = functions, tree, results, mapped(lambda _: True, kept)
        ctx.save_for_backward(*arrays, *leaves(kept))
        return tuple(leaves(made))

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        """Run backward; where that is to be differentiated too, autograd does it all."""
        functions, tree, results, kept = ctx.known
        count, saved = len(leaves(tree)), ctx.saved_tensors  # once: `torch.utils.checkpoint` gives them once
        arrays, rest = saved[:count], saved[count:]
        if torch.is_grad_enabled():
            wanted = ctx.needs_input_grad[3:]
            made = leaves(functions.plain(*filled(tree, arrays)))
            grads = iter(torch.autograd.grad(made, list(compress(arrays, wanted)), gradients, create_graph=True))
            found = [next(grads) if k else None for k in wanted]
        else:
            found = leaves(functions.backward(filled(kept, rest), filled(results, gradients)))
        return None, None, None, *found, *[None] * (count - len(found))
