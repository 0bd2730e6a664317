"""What every public function checks first, and the words of every error.

Shapes, dtypes, libraries and devices only: nothing here looks at a value, so nothing here stops a trace.
"""

from collections.abc import Mapping, Sequence

from .._seams.namespace import Array, Namespace, array_namespace, device, library_name


def arrays(function: str, named: Mapping[str, Array]) -> Namespace:
    """Return the namespace of arrays that agree in library, real floating dtype and device."""
    items = iter(named.items())
    first_name, first = next(items)
    xp = _namespace(function, first_name, first)
    dtype = first.dtype
    if not xp.isdtype(dtype, "real floating"):
        raise TypeError(
            f"{function}: `{first_name}` must have a real floating dtype; got {dtype}. "
            "Convert it first, e.g. with `astype`."
        )
    if not getattr(dtype, "isnative", True):
        raise TypeError(
            f"{function}: `{first_name}` must have the byte order of this machine; got dtype {dtype}. "
            'Convert it first, with `x.astype(x.dtype.newbyteorder("="))`.'
        )
    for name, array in items:
        agree(function, name, array, first_name, first)
    return xp


def alike(array: Array, x: Array) -> bool:
    """Tell whether two arrays are of one type, dtype and device, as nearly always: of others `agree` finds it out."""
    return (
        type(array) is type(x)
        and array.dtype is x.dtype
        and getattr(array, "device", None) is getattr(x, "device", None)
    )


def agree(function: str, name: str, array: Array, like: str, x: Array) -> None:
    """Require an array of the library, the dtype and the device of x, which `like` names."""
    if alike(array, x):
        return
    if type(array) is not type(x):
        _same_library(function, name, array, like, x)
    if array.dtype != x.dtype:
        raise TypeError(
            f"{function}: `{name}` must have the dtype of `{like}`, {x.dtype}; got {array.dtype}. "
            "Nothing is cast silently: convert one of them."
        )
    _same_device(function, name, array, like, x)


def _namespace(function: str, name: str, array: Array) -> Namespace:
    try:
        return array_namespace(array)
    except TypeError:
        raise TypeError(
            f"{function}: `{name}` must be an array of a library that follows the array API standard; "
            f"got {type(array).__name__}."
        ) from None


def _same_library(function: str, name: str, array: Array, like: str, x: Array) -> Namespace:
    xp, other = _namespace(function, like, x), _namespace(function, name, array)
    if other is not xp:
        raise TypeError(
            f"{function}: `{name}` must come from the library of `{like}`, {library_name(xp)}; "
            f"got {library_name(other)}."
        )
    return xp


def _same_device(function: str, name: str, array: Array, like: str, x: Array) -> None:
    here, there = device(array), device(x)
    if here is there or here is None or there is None or here == there:
        return
    # An array sharded over several devices has a device *set*; how such sets combine is its library's rule.
    if not (hasattr(here, "device_set") or hasattr(there, "device_set")):
        raise TypeError(f"{function}: `{name}` must be on the device of `{like}`, {there}; got {here}.")


def mapping(function: str, name: str, value: object, keys: Sequence[str]) -> None:
    """Require a mapping that has all the keys."""
    if not isinstance(value, Mapping):
        raise TypeError(
            f"{function}: `{name}` must be a mapping with the keys {', '.join(keys)}; got {type(value).__name__}."
        )
    if not all(map(value.__contains__, keys)):
        missing = [key for key in keys if key not in value]
        raise ValueError(f"{function}: `{name}` must have the keys {', '.join(keys)}; missing: {', '.join(missing)}.")


def rank(function: str, name: str, array: Array, symbols: str) -> None:
    """Require as many dimensions as there are symbols."""
    wanted = symbols.count(",") + 1
    if len(array.shape) != wanted:
        raise ValueError(
            f"{function}: `{name}` must have {wanted} dimensions ({symbols}); got shape {tuple(array.shape)}."
        )


def known(function: str, name: str, size: int | None, axis: str) -> None:
    """Require a size that is known before anything is computed: the loop over time is written out."""
    if size is None:
        raise ValueError(
            f"{function}: `{name}` must have a known size along {axis}, as the loop over it is written out; got None. "
            "Leave the batch free only."
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


def instance(function: str, name: str, value: object, kind: type, what: str) -> None:
    """Require an object that another function made."""
    if not isinstance(value, kind):
        raise TypeError(f"{function}: `{name}` must be {what}; got {type(value).__name__}.")


def integer(function: str, name: str, value: object, least: int) -> None:
    """Require an integer that is large enough."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{function}: `{name}` must be an integer of at least {least}; got {value!r}.")


def shape(function: str, name: str, array: Array, symbols: str, size: tuple[int, ...]) -> None:
    """Require one exact shape."""
    if tuple(array.shape) != size:
        raise ValueError(f"{function}: `{name}` must have shape ({symbols}) = {size}; got {tuple(array.shape)}.")


def companion(function: str, name: str, array: Array, like: str, x: Array, kind: str) -> None:
    """Require an array of another kind of dtype, from the library and on the device of `x`."""
    xp = _same_library(function, name, array, like, x)
    if not xp.isdtype(array.dtype, kind):
        raise TypeError(f"{function}: `{name}` must have dtype {kind}; got {array.dtype}.")
    _same_device(function, name, array, like, x)
