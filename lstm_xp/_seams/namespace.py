"""The one import of array_api_compat: namespace, device and dtype of the inputs, and the way to another library."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

# With `as`, what the others import from here.
from array_api_compat import array_namespace as array_namespace
from array_api_compat import is_array_api_obj, is_dask_array, is_jax_array
from array_api_compat import is_cupy_namespace as is_cupy_namespace
from array_api_compat import is_dask_namespace as is_dask_namespace
from array_api_compat import is_jax_namespace as is_jax_namespace
from array_api_compat import is_ndonnx_namespace as is_ndonnx_namespace
from array_api_compat import is_numpy_namespace as is_numpy_namespace
from array_api_compat import is_torch_namespace as is_torch_namespace

from .trees import Tree, mapped

# Of any library; the standard has no common base classes to name. Of dtypes and devices nothing is known but `==`.
Array: TypeAlias = Any
Namespace: TypeAlias = Any
DType: TypeAlias = Any
Device: TypeAlias = Any


def device(x: Array) -> Device:
    """Return where `x` lives, or None where the library does not say."""
    # Not array_api_compat.device: it fails on arrays without the attribute (MLX, Dask, NumPy 1, traced JAX).
    return getattr(x, "device", None)


def on_device_of(x: Array) -> dict[str, Device]:
    """Return the keyword that makes an array where `x` is: libraries without devices do not take it."""
    place = device(x)
    return {} if place is None else {"device": place}


def zeros(shape: tuple[int, ...], like: Array, *, xp: Namespace) -> Array:
    """Return zeros of the dtype of another array, where it is."""
    return xp.zeros(shape, dtype=like.dtype, **on_device_of(like))


def library_name(xp: Namespace) -> str:
    """Return the name a person knows the namespace by."""
    name: str = xp.__name__.removeprefix("array_api_compat.")
    return name.split(".")[0]


def namespace_of(x: object) -> Namespace | None:
    """Return the namespace of an array, and None for anything else."""
    return array_namespace(x) if is_array_api_obj(x) else None


def dtype_name(x: Array) -> str:
    """Return the name of the dtype of x, which all libraries share."""
    return str(x.dtype).split(".")[-1]


def peculiarity(x: Array) -> str | None:
    """Return what x is if it computes otherwise than plain arrays of its library: a subclass by itself does not."""
    if isinstance(x, np.ndarray) and type(x) is not np.ndarray:
        operators = ("__mul__", "__array_ufunc__", "__array_function__")
        same = all(getattr(type(x), name) is getattr(np.ndarray, name) for name in operators)
        return None if same else type(x).__name__
    if hasattr(x, "detach") and (x.is_nested or str(x.layout) != "torch.strided"):  # PyTorch
        return "a nested tensor" if x.is_nested else str(x.layout)
    return None


def moved(x: Array, there: Namespace, options: Mapping[str, Any]) -> Array:
    """Return a copy of x in a library, with the `dtype` and on the `device` of the options, or as it is.

    Between two libraries it goes through NumPy: the one way that all of them have.
    """
    here = array_namespace(x)
    if there is not here:
        if hasattr(there, dtype_name(x)):
            options = {"dtype": getattr(there, dtype_name(x)), **options}
        x = to_numpy(x)
    elif is_torch_namespace(here):
        x = x.detach()  # a copy is not part of the graph of the gradients
    return there.asarray(x, copy=True, **options)


def autocast_dtype(x: Array) -> DType | None:
    """Return the dtype in which `torch.autocast` wants to compute with x, if it is under way."""
    if not hasattr(x, "detach"):  # not PyTorch's
        return None
    import torch

    kind = x.device.type
    # Named, as `torch.compile` cannot ask PyTorch 2.11 whether there is an autocast; where there is none, this fails.
    enabled = kind in ("cpu", "cuda", "mps", "xpu") and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if enabled else None


def beside(x: Array, tree: Tree) -> Tree:
    """Return arrays that can meet x.

    Those of the library of Dask's blocks become Dask's, and travel with the tasks. Under `torch.autocast` all get its
    dtype, but float64, which it leaves alone.
    """
    narrow = autocast_dtype(x)
    if narrow is not None:
        kinds = ("float16", "bfloat16", "float32")
        return mapped(lambda a: a.to(narrow) if hasattr(a, "detach") and dtype_name(a) in kinds else a, tree)
    if not is_dask_array(x):
        return tree
    from dask.array import from_array

    kind = type(x._meta)
    return mapped(lambda a: from_array(a, chunks=-1) if isinstance(a, kind) else a, tree)  # type: ignore[no-untyped-call] # Dask's


def to_numpy(x: Array) -> np.ndarray:
    """Return an array of any library as NumPy's, in the byte order of this machine.

    It may share the memory of x. bfloat16, which NumPy lacks, widens to float32: exactly.
    """
    if hasattr(x, "detach"):  # PyTorch: out of the graph of its gradients, and off its device
        x = x.detach().cpu()
    if hasattr(x, "dtype") and dtype_name(x) == "bfloat16":
        xp = array_namespace(x)
        x = xp.astype(x, xp.float32)
    if hasattr(x, "unwrap_numpy"):  # ndonnx
        x = x.unwrap_numpy()
    elif hasattr(x, "get"):  # CuPy
        x = x.get()
    elif type(x).__module__.startswith("array_api_strict"):  # its other devices refuse to become NumPy's by themselves
        x = np.from_dlpack(x)
    array = np.asarray(x)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def is_split(x: Array, axis: int) -> bool:
    """Tell whether x lies on several devices, of which each has a part of this axis."""
    if hasattr(x, "placements"):  # a DTensor of PyTorch
        return any(placement.is_shard(axis) for placement in x.placements)
    if not is_jax_array(x):
        return False
    import jax

    spec = getattr(getattr(x, "sharding", None) or jax.typeof(x).sharding, "spec", ())
    return len(spec) > axis and spec[axis] is not None


def whole(x: Array) -> Array:
    """Return an array of which each device has all: on a mesh with explicit axes JAX takes no part of a split one."""
    if not is_jax_array(x):
        return x
    import jax

    sharding: Any = jax.sharding  # has no types
    here = jax.typeof(x).sharding
    return sharding.reshard(x, sharding.NamedSharding(here.mesh, sharding.PartitionSpec())) if any(here.spec) else x
