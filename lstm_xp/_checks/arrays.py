"""What every public function checks first, and the words of every error.

Shapes, dtypes, libraries and devices only: nothing here looks at a value, so nothing here stops a trace.
"""

from collections.abc import Mapping, Sequence

from .._seams.namespace import Array, Namespace, array_namespace, device, library_name


def refusal(function: str, name: str, rule: str, got: object, *, hint: str = "") -> str:
    """Return the words of every error: whose argument, what it must be, and what came."""
    return f"{function}: `{name}` must {rule}; got {got}.{hint and ' ' + hint}"


def arrays(function: str, named: Mapping[str, Array]) -> Namespace:
    """Return the namespace of arrays that agree in library, real floating dtype and device."""
    items = iter(named.items())
    first_name, first = next(items)
    xp = _namespace(function, first_name, first)
    dtype = first.dtype
    if not xp.isdtype(dtype, "real floating"):
        hint = "Convert it first, e.g. with `astype`."
        raise TypeError(refusal(function, first_name, "have a real floating dtype", dtype, hint=hint))
    if not getattr(dtype, "isnative", True):
        hint = 'Convert it first, with `x.astype(x.dtype.newbyteorder("="))`.'
        raise TypeError(
            refusal(function, first_name, "have the byte order of this machine", f"dtype {dtype}", hint=hint)
        )
    for name, array in items:
        if not alike(array, first):
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
    if type(array) is not type(x):
        _same_library(function, name, array, like, x)
    if array.dtype != x.dtype:
        hint = "Nothing is cast silently: convert one of them."
        raise TypeError(refusal(function, name, f"have the dtype of `{like}`, {x.dtype}", array.dtype, hint=hint))
    _same_device(function, name, array, like, x)


def companion(function: str, name: str, array: Array, like: str, x: Array, kind: str) -> None:
    """Require an array of another kind of dtype, from the library and on the device of `x`."""
    xp = _same_library(function, name, array, like, x)
    if not xp.isdtype(array.dtype, kind):
        raise TypeError(refusal(function, name, f"have dtype {kind}", array.dtype))
    _same_device(function, name, array, like, x)


def _namespace(function: str, name: str, array: Array) -> Namespace:
    try:
        return array_namespace(array)
    except TypeError:
        rule = "be an array of a library that follows the array API standard"
        raise TypeError(refusal(function, name, rule, type(array).__name__)) from None


def _same_library(function: str, name: str, array: Array, like: str, x: Array) -> Namespace:
    xp, other = _namespace(function, like, x), _namespace(function, name, array)
    if other is not xp:
        raise TypeError(
            refusal(function, name, f"come from the library of `{like}`, {library_name(xp)}", library_name(other))
        )
    return xp


def _same_device(function: str, name: str, array: Array, like: str, x: Array) -> None:
    here, there = device(array), device(x)
    if here is there or here is None or there is None or here == there:
        return
    # An array sharded over several devices has a device *set*; how such sets combine is its library's rule.
    if not (hasattr(here, "device_set") or hasattr(there, "device_set")):
        raise TypeError(refusal(function, name, f"be on the device of `{like}`, {there}", here))


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
        raise ValueError(
            refusal(function, name, f"have {wanted} dimensions ({symbols})", f"shape {tuple(array.shape)}")
        )


def known(function: str, name: str, size: int | None) -> None:
    """Require a size along time that is known before anything is computed."""
    if size is None:
        rule = "have a known size along time, as the loop over it is written out"
        raise ValueError(refusal(function, name, rule, size, hint="Leave the batch free only."))


def shape(function: str, name: str, array: Array, symbols: str, size: tuple[int, ...]) -> None:
    """Require one exact shape."""
    if tuple(array.shape) != size:
        raise ValueError(refusal(function, name, f"have shape ({symbols}) = {size}", tuple(array.shape)))


def at_least_one(function: str, name: str, array: Array, symbols: str, **sizes: int) -> None:
    """Require that each of the sizes, which come from the array's shape, is at least one."""
    for symbol, size in sizes.items():
        if size < 1:
            raise ValueError(
                refusal(function, name, f"have shape ({symbols}) with {symbol} at least 1", tuple(array.shape))
            )


def axis(function: str, name: str, array: Array, axis: int) -> None:
    """Require an axis of the array, with something along it."""
    size = tuple(array.shape)
    if not isinstance(axis, int) or not -array.ndim <= axis < array.ndim:
        rule = f"be one of the {array.ndim} axes of `{name}`"
        raise ValueError(refusal(function, "axis", rule, f"{axis!r}, and shape {size}"))
    if size[axis] == 0:
        raise ValueError(refusal(function, name, f"have at least one entry along axis {axis}", f"shape {size}"))


def instance(function: str, name: str, value: object, kind: type, what: str) -> None:
    """Require an object that another function made."""
    if not isinstance(value, kind):
        raise TypeError(refusal(function, name, f"be {what}", type(value).__name__))


def integer(function: str, name: str, value: object, least: int) -> None:
    """Require an integer that is large enough."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(refusal(function, name, f"be an integer of at least {least}", repr(value)))
