"""What every public function checks first, and the words of every error.

Shapes, dtypes, libraries and devices only: nothing here looks at a value, so nothing here stops a trace.
"""

import functools
from collections.abc import Mapping
from typing import Any

from .._seams.namespace import Array, Namespace, array_namespace, device, library_name


def arrays(function: str, named: Mapping[str, Array]) -> Namespace:
    """Return the namespace of arrays that agree in library, real floating dtype and device."""
    items = iter(named.items())
    first_name, first = next(items)
    xp = _namespace(function, first_name, first)
    kind, dtype, place = type(first), first.dtype, device(first)
    if not _real_floating(dtype, xp):
        raise TypeError(
            f"{function}: `{first_name}` must have a real floating dtype; got {dtype}. "
            "Convert it first, e.g. with `astype`."
        )
    for name, array in items:
        if type(array) is kind and array.dtype is dtype and getattr(array, "device", None) is place:
            continue  # nearly always
        if type(array) is not kind:
            other = _namespace(function, name, array)
            if other is not xp:
                raise TypeError(
                    f"{function}: `{name}` must come from the library of `{first_name}`, "
                    f"{library_name(xp)}; got {library_name(other)}."
                )
        if array.dtype != dtype:
            raise TypeError(
                f"{function}: `{name}` must have the dtype of `{first_name}`, {dtype}; got {array.dtype}. "
                "Nothing is cast silently: convert one of them."
            )
        where = device(array)
        if _elsewhere(where, place):
            raise TypeError(f"{function}: `{name}` must be on the device of `{first_name}`, {place}; got {where}.")
    return xp


@functools.cache
def _real_floating(dtype: Any, xp: Namespace) -> bool:
    return bool(xp.isdtype(dtype, "real floating"))


def _namespace(function: str, name: str, array: Array) -> Namespace:
    try:
        return array_namespace(array)
    except TypeError:
        raise TypeError(
            f"{function}: `{name}` must be an array of a library that follows the array API standard; "
            f"got {type(array).__name__}."
        ) from None


def _elsewhere(here: Any, there: Any) -> bool:
    if here is None or there is None or here == there:
        return False
    # An array sharded over several devices has a device *set*; how such sets combine is its library's rule.
    return not (hasattr(here, "device_set") or hasattr(there, "device_set"))


def mapping(function: str, name: str, value: Any, keys: tuple[str, ...]) -> None:
    """Require a mapping that has all the keys."""
    if not isinstance(value, Mapping):
        raise TypeError(
            f"{function}: `{name}` must be a mapping with the keys {', '.join(keys)}; got {type(value).__name__}."
        )
    if not all(map(value.__contains__, keys)):
        missing = [key for key in keys if key not in value]
        raise ValueError(f"{function}: `{name}` must have the keys {', '.join(keys)}; missing: {', '.join(missing)}.")


def rank(function: str, name: str, array: Array, symbols: str) -> None:
    """Require as many dimensions as there are symbols, each of a known size."""
    shape = array.shape
    wanted = symbols.count(",") + 1
    if len(shape) != wanted:
        raise ValueError(f"{function}: `{name}` must have {wanted} dimensions ({symbols}); got shape {tuple(shape)}.")
    for size in shape:
        if not isinstance(size, int):
            raise ValueError(
                f"{function}: `{name}` must have a known size along each of ({symbols}); got {tuple(shape)}."
            )


def shapes(
    function: str,
    named: Mapping[str, Array],
    symbols: Mapping[str, str],
    sizes: Mapping[str, tuple[int, ...]],
) -> None:
    """Require one exact shape of each array: its symbols by its name, the numbers by the symbols."""
    for name, array in named.items():
        size = sizes[symbols[name]]
        if array.shape != size:
            shape(function, name, array, symbols[name], size)


def positive(function: str, name: str, array: Array, symbols: Mapping[str, str], **sizes: int) -> None:
    """Require that each of the sizes is at least one."""
    for symbol, size in sizes.items():
        if size < 1:
            raise ValueError(
                f"{function}: `{name}` must have shape ({symbols[name]}) with {symbol} at least 1; "
                f"got {tuple(array.shape)}."
            )


def at_most(function: str, name: str, array: Array, symbols: str, axis: int, limit: str, size: int) -> None:
    """Require that one axis is no longer than a limit, named by its symbol."""
    if array.shape[axis] > size:
        symbol = symbols.split(", ")[axis]
        raise ValueError(
            f"{function}: `{name}` must have shape ({symbols}) with {symbol} at most {limit} = {size}; "
            f"got {tuple(array.shape)}."
        )


def axis(function: str, name: str, array: Array, axis: int) -> None:
    """Require an axis of the array, with something along it."""
    if not isinstance(axis, int) or not -array.ndim <= axis < array.ndim:
        raise ValueError(
            f"{function}: `axis` must be one of the {array.ndim} axes of `{name}`; got {axis!r}, "
            f"and shape {tuple(array.shape)}."
        )
    if array.shape[axis] == 0:
        raise ValueError(
            f"{function}: `{name}` must have at least one entry along axis {axis}; got shape {tuple(array.shape)}."
        )


def instance(function: str, name: str, value: Any, kind: type, what: str) -> None:
    """Require an object that another function made."""
    if not isinstance(value, kind):
        raise TypeError(f"{function}: `{name}` must be {what}; got {type(value).__name__}.")


def integer(function: str, name: str, value: Any, least: int) -> None:
    """Require an integer that is large enough."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{function}: `{name}` must be an integer of at least {least}; got {value!r}.")


def shape(function: str, name: str, array: Array, symbols: str, size: tuple[int, ...]) -> None:
    """Require one exact shape."""
    if tuple(array.shape) != size:
        raise ValueError(f"{function}: `{name}` must have shape ({symbols}) = {size}; got {tuple(array.shape)}.")


def companion(function: str, name: str, array: Array, like: str, x: Array, kind: str) -> None:
    """Require an array of another kind of dtype, from the library and on the device of `x`."""
    xp = _namespace(function, name, array)
    if xp is not _namespace(function, like, x):
        raise TypeError(
            f"{function}: `{name}` must come from the library of `{like}`, "
            f"{library_name(_namespace(function, like, x))}; got {library_name(xp)}."
        )
    if not xp.isdtype(array.dtype, kind):
        raise TypeError(f"{function}: `{name}` must have dtype {kind}; got {array.dtype}.")
    if device(array) is not device(x) and _elsewhere(device(array), device(x)):
        raise TypeError(f"{function}: `{name}` must be on the device of `{like}`, {device(x)}; got {device(array)}.")
