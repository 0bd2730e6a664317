"""What every public function checks first, and the words of every error.

Shapes, dtypes, libraries and devices only: nothing here looks at a value, so nothing here stops a trace.
"""

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from .._equations.activations import is_number
from .._seams.namespace import (
    Array,
    Namespace,
    array_namespace,
    device,
    is_split,
    library_name,
    namespace_of,
    peculiarity,
)

_CONVERT = "Convert it first, e.g. with `astype`."
_FLOATING = "a real floating dtype of its library, at least 16 bits wide"
_MOVE = "Nothing is moved silently: move one of them; `LSTM.to` moves a model."


def refusal(function: str, name: str, rule: str, got: object, *, hint: str = "") -> str:
    """Return the words of every error: whose argument, what it must be, and what came."""
    return f"{function}: `{name}` must {rule}; got {got}.{hint and ' ' + hint}"


def arrays(function: str, named: Mapping[str, Array]) -> Namespace:
    """Return the namespace of arrays that agree in library, real floating dtype and device."""
    items = iter(named.items())
    first_name, first = next(items)
    xp = _namespace(function, first_name, first)
    dtype = first.dtype
    if not _is_dtype(dtype, "real floating", xp):
        raise TypeError(refusal(function, first_name, f"have {_FLOATING}", dtype, hint=_CONVERT))
    if not getattr(dtype, "isnative", True):
        rule = "have the byte order of this machine"
        hint = 'Convert it first, with `x.astype(x.dtype.newbyteorder("="))`.'
        raise TypeError(refusal(function, first_name, rule, f"dtype {dtype}", hint=hint))
    for name, array in items:
        agree(function, name, array, first_name, first)
    return xp


def alike(array: Array, x: Array) -> bool:
    """Tell whether two arrays are of one type, dtype and device, as nearly always: of others `agree` finds it out."""
    return (
        type(array) is type(x)
        and getattr(array, "layout", None) is getattr(x, "layout", None)  # of PyTorch's sparse tensors another one
        and not getattr(array, "is_nested", False)
        and array.dtype is x.dtype
        and getattr(array, "device", None) == getattr(x, "device", None)  # NumPy and PyTorch make it anew each time
    )


def agree(function: str, name: str, array: Array, like: str, x: Array) -> None:
    """Require an array of the library, the dtype and the device of x, which `like` names."""
    if alike(array, x):
        return
    _same_library(function, name, array, like, x)
    if array.dtype != x.dtype:
        hint = "Nothing is cast silently: convert one of them."
        raise TypeError(refusal(function, name, f"have the dtype of `{like}`, {x.dtype}", array.dtype, hint=hint))
    _same_device(function, name, array, like, x)


def companion(function: str, name: str, array: Array, like: str, x: Array, kind: str) -> None:
    """Require an array of another kind of dtype, from the library and on the device of `x`."""
    xp = _same_library(function, name, array, like, x)
    if not _is_dtype(array.dtype, kind, xp):
        raise TypeError(refusal(function, name, f"have dtype {kind}", array.dtype, hint=_CONVERT))
    _same_device(function, name, array, like, x)


def destination(function: str, xp: Any, dtype: Any, device: Any) -> tuple[Namespace, dict[str, Any]]:
    """Require a library, and of it the dtype and the device that are not None; return its namespace, and those."""
    # The module a person gives may be the library's own: the namespace of its arrays is the one to compare with.
    there = namespace_of(xp.zeros(0)) if hasattr(xp, "zeros") else None
    if there is None:
        rule = "be a module of arrays, e.g. `numpy`, `torch` or `jax.numpy`"
        raise TypeError(refusal(function, "xp", rule, f"{xp!r:.60}"))
    options = {name: option for name, option in (("dtype", dtype), ("device", device)) if option is not None}
    for name, option in options.items():
        try:
            made = there.zeros(0, **{name: option})  # no elements, as a device of JAX may be several
        except Exception as error:
            raise TypeError(refusal(function, name, f"be a {name} of {library_name(there)}", repr(option))) from error
        if not _is_dtype(made.dtype, "real floating", there):
            raise TypeError(refusal(function, name, f"be {_FLOATING}", made.dtype))
    return there, options


def _is_dtype(dtype: Any, kind: str, xp: Namespace) -> bool:
    try:
        return xp.isdtype(dtype, kind) and (kind != "real floating" or getattr(dtype, "itemsize", 2) >= 2)
    except TypeError:  # foreign to the library, as the dtype of JAX's keys
        return False


def _namespace(function: str, name: str, array: Array) -> Namespace:
    got = peculiarity(array)
    if got is not None:
        rule, hint = "be a plain array of its library", "Convert it first, e.g. with `numpy.asarray` or `to_dense`."
        raise TypeError(refusal(function, name, rule, got, hint=hint))
    try:
        return array_namespace(array)
    except TypeError:
        rule, hint = "be an array of a library that follows the array API standard", "`numpy.asarray` makes one."
        raise TypeError(refusal(function, name, rule, type(array).__name__, hint=hint)) from None


def _same_library(function: str, name: str, array: Array, like: str, x: Array) -> Namespace:
    xp, other = _namespace(function, like, x), _namespace(function, name, array)
    if other is not xp:
        rule = f"come from the library of `{like}`, {library_name(xp)}"
        raise TypeError(refusal(function, name, rule, library_name(other), hint=_MOVE))
    if hasattr(array, "device_mesh") != hasattr(x, "device_mesh"):
        kind = "a DTensor" if hasattr(x, "device_mesh") else "a plain tensor"
        raise TypeError(refusal(function, name, f"be {kind}, as `{like}` is", type(array).__name__))
    return xp


def _same_device(function: str, name: str, array: Array, like: str, x: Array) -> None:
    here, there = device(array), device(x)
    # An array sharded over several devices has a device *set*; how such sets combine is its library's rule.
    sharded = hasattr(here, "device_set") or hasattr(there, "device_set")
    if here is not None and there is not None and here != there and not sharded:
        raise TypeError(refusal(function, name, f"be on the device of `{like}`, {there}", here, hint=_MOVE))


def mapping(function: str, name: str, value: object, keys: Sequence[str]) -> None:
    """Require a mapping that has all the keys."""
    listed = ", ".join(keys)
    if not isinstance(value, Mapping):
        raise TypeError(refusal(function, name, f"be a mapping with the keys {listed}", type(value).__name__))
    missing = ", ".join(key for key in keys if key not in value)
    if missing:
        raise ValueError(f"{function}: `{name}` must have the keys {listed}; missing: {missing}.")


def rank(function: str, name: str, array: Array, symbols: str) -> None:
    """Require as many dimensions as there are symbols."""
    wanted = symbols.count(",") + 1
    if len(array.shape) != wanted:
        rule = f"have {wanted} dimensions ({symbols})"
        raise ValueError(refusal(function, name, rule, f"shape {tuple(array.shape)}"))


def known(function: str, name: str, size: int | None) -> None:
    """Require a size along time that is known before anything is computed."""
    if size is None:
        rule = "have a known size along time, as the loop over it is written out"
        raise ValueError(refusal(function, name, rule, size, hint="Leave the batch free only."))


def counted(function: str, name: str, array: Array) -> None:
    """Require sizes that the library has counted: where Dask has not, they are NaN."""
    if any(isinstance(size, float) for size in array.shape):
        hint = f"`{name}.compute_chunk_sizes()` counts them."
        raise ValueError(refusal(function, name, "have known sizes", f"shape {tuple(array.shape)}", hint=hint))


def in_one_piece(function: str, name: str, array: Array, **axes: int) -> None:
    """Require that no device has a part of one of these axes alone."""
    for symbol, axis in axes.items():
        if is_split(array, axis):
            rule = f"lie in one piece along {symbol}, as devices share the batch alone"
            hint = "Lay it out anew, e.g. with `jax.device_put` or `redistribute`."
            raise ValueError(refusal(function, name, rule, f"an array that is split along axis {axis}", hint=hint))


def shape(function: str, name: str, array: Array, symbols: str, size: tuple[int, ...]) -> None:
    """Require one exact shape."""
    if tuple(array.shape) != size:
        raise ValueError(refusal(function, name, f"have shape ({symbols}) = {size}", tuple(array.shape)))


def at_least_one(function: str, name: str, array: Array, symbols: str, **sizes: int) -> None:
    """Require that each of the sizes, which come from the array's shape, is at least one."""
    for symbol, size in sizes.items():
        if size < 1:
            rule = f"have shape ({symbols}) with {symbol} at least 1"
            raise ValueError(refusal(function, name, rule, tuple(array.shape)))


def axis(function: str, name: str, array: Array, axis: Any) -> int:
    """Return an axis of the array, with something along it."""
    size = tuple(array.shape)
    if not _is_integer(axis) or not -array.ndim <= axis < array.ndim:
        rule = f"be one of the {array.ndim} axes of `{name}`"
        raise ValueError(refusal(function, "axis", rule, f"{axis!r}, and shape {size}"))
    if size[axis] == 0:
        raise ValueError(refusal(function, name, f"have at least one entry along axis {axis}", f"shape {size}"))
    return int(axis)


def instance(function: str, name: str, value: object, kind: type, what: str, *, hint: str = "") -> None:
    """Require an object of a type."""
    if not isinstance(value, kind):
        raise TypeError(refusal(function, name, f"be {what}", type(value).__name__, hint=hint))


def sizes(function: str, proj_size: int, **named: int) -> list[int]:
    """Return sizes that layers can have: the last one is that of the state, and a projection makes it smaller."""
    found = [integer(function, name, size, 1) for name, size in named.items()]
    proj_size = integer(function, "proj_size", proj_size, 0)
    if proj_size >= found[-1]:
        raise ValueError(refusal(function, "proj_size", f"be below {list(named)[-1]} = {found[-1]}", proj_size))
    return [proj_size, *found]


def rate(function: str, name: str, value: Any) -> None:
    """Require a probability."""
    if not is_number(value) or not 0 <= value <= 1:
        raise ValueError(refusal(function, name, "be a number from 0 to 1", repr(value)))


def integer(function: str, name: str, value: Any, least: int, *, hint: str = "") -> int:
    """Return an integer that is large enough, as Python's own, or the symbol of one as it is."""
    if type(value).__name__ in ("SymInt", "_DimExpr"):  # those of PyTorch and JAX
        return value  # type: ignore[no-any-return]
    if not _is_integer(value) or value < least:
        raise ValueError(refusal(function, name, f"be an integer of at least {least}", repr(value), hint=hint))
    return int(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
