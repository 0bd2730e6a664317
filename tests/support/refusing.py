"""An array library that gives nothing away: its dtypes and devices can be compared by ``==``, and no more.

It stands for the libraries that cannot be run here. Arrays are NumPy's inside.
"""

import operator
from types import ModuleType

import numpy as np
from array_api_compat import numpy as inner


class Opaque:
    """A dtype or a device: no hash, no order, no length, no truth."""

    __hash__ = None

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return isinstance(other, Opaque) and self.value == other.value

    def __repr__(self):
        return f"opaque {self.value}"

    def _refuse(self, *_):
        raise TypeError("this library's dtypes and devices can only be compared by ==")

    __lt__ = __le__ = __gt__ = __ge__ = __len__ = __bool__ = __iter__ = _refuse


class Array:
    """An array: what the standard says of one, and nothing else."""

    __hash__ = None

    def __init__(self, value):
        self.value = np.asarray(value)

    def __array_namespace__(self, api_version=None):
        return xp

    dtype = property(lambda self: Opaque(self.value.dtype))
    device = property(lambda self: Opaque("here"))
    shape = property(lambda self: self.value.shape)
    ndim = property(lambda self: self.value.ndim)
    size = property(lambda self: self.value.size)
    T = property(lambda self: Array(self.value.T))

    def __getitem__(self, key):
        return Array(self.value[key])

    def __bool__(self):
        raise TypeError("an array of this library has no truth")


def _operator(name):
    function = getattr(operator, name)
    setattr(Array, f"__{name}__", lambda a, b: Array(function(a.value, _inside(b))))
    if name not in ("lt", "gt"):
        setattr(Array, f"__r{name}__", lambda a, b: Array(function(_inside(b), a.value)))


for _name in ("add", "sub", "mul", "truediv", "pow", "matmul", "lt", "gt"):
    _operator(_name)


def _inside(x):
    if isinstance(x, Array | Opaque):
        return x.value
    return type(x)(map(_inside, x)) if isinstance(x, tuple | list) else x


def _outside(x):
    if isinstance(x, np.ndarray | np.generic):
        return Array(x)
    return tuple(map(_outside, x)) if isinstance(x, tuple | list) else x


class _Namespace(ModuleType):
    def __getattr__(self, name):
        found = getattr(inner, name)
        if isinstance(found, type):
            return Opaque(np.dtype(found))

        def function(*args, device=None, **options):
            return _outside(found(*map(_inside, args), **{key: _inside(option) for key, option in options.items()}))

        return function


xp = _Namespace("refusing")
