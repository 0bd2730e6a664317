"""Records of arrays: a map over them, and what lets the transforms of JAX and PyTorch see into them."""

import dataclasses
import importlib
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, TypeAlias, TypeVar

Tree = TypeVar("Tree")
Rebuild: TypeAlias = Callable[[Iterable[Any], Iterable[Any]], Any]  # of static fields and the others, a record


def mapped(function: Callable[[Any], Any], tree: Tree) -> Tree:
    """Return a tree of tuples, named or not, with `function` of each array; what is None stays None."""
    if not isinstance(tree, tuple):
        return tree if tree is None else function(tree)
    items = [None if item is None else mapped(function, item) for item in tree]
    make: Any = getattr(tree, "_make", tuple)
    return make(items)  # type: ignore[no-any-return]


def leaves(tree: object) -> list[Any]:
    """Return the arrays of a tree of tuples: all that is not None."""
    if not isinstance(tree, tuple):
        return [] if tree is None else [tree]
    return [leaf for item in tree for leaf in leaves(item)]


def filled(tree: Tree, arrays: Iterable[Any]) -> Tree:
    """Return the tree with these arrays in the place of its own."""
    rest = iter(arrays)
    return mapped(lambda _: next(rest), tree)


def register(record: type, *, static: Sequence[str] = ()) -> None:
    """Let a frozen dataclass of arrays pass through the transforms of JAX and PyTorch; `static` fields hold no arrays.

    A transform may put anything in the place of an array, so it makes a record without the record's own checks.
    """
    data = [field.name for field in dataclasses.fields(record) if field.name not in static]

    def rebuilt(options: Iterable[Any], values: Iterable[Any]) -> Any:
        made: Any = object.__new__(record)
        for name, item in zip((*data, *static), (*values, *options), strict=True):
            object.__setattr__(made, name, item)
        return made

    def parts_of(x: Any) -> tuple[list[Any], tuple[Any, ...]]:
        return [getattr(x, name) for name in data], tuple(getattr(x, name) for name in static)

    when_imported("jax", lambda jax: _register_jax(jax, record, data, parts_of, rebuilt))
    when_imported("torch", lambda torch: _register_torch(torch.utils._pytree, record, parts_of, rebuilt))


def _register_jax(jax: Any, record: type, data: list[str], parts_of: Callable[..., Any], rebuilt: Rebuild) -> None:
    def with_keys(x: Any) -> Any:
        values, options = parts_of(x)
        return list(zip(map(jax.tree_util.GetAttrKey, data), values, strict=True)), options

    jax.tree_util.register_pytree_with_keys(record, with_keys, rebuilt, parts_of)


def _register_torch(pytree: Any, record: type, parts_of: Callable[..., Any], rebuilt: Rebuild) -> None:
    def flatten(x: Any) -> tuple[list[Any], Any]:
        fields, options = parts_of(x)
        values, tree = pytree.tree_flatten(fields)
        absent = tuple(value is None for value in values)  # to torch None is a leaf, which its transforms refuse
        return [value for value in values if value is not None], (tree, absent, options)

    def unflatten(values: Iterable[Any], context: Any) -> Any:
        tree, absent, options = context
        rest = iter(values)
        return rebuilt(options, pytree.tree_unflatten([None if none else next(rest) for none in absent], tree))

    pytree.register_pytree_node(record, flatten, unflatten)


def when_imported(name: str, then: Callable[[Any], None]) -> None:
    """Call ``then(module)`` once the module has been imported: now, if it has.

    So it does not matter what a program imports first, nor in how many threads.
    """
    if name in sys.modules:
        then(importlib.import_module(name))
    else:
        sys.meta_path.insert(0, _Waiting(name, then))


class _Waiting:
    """Stands before the finders of modules until one module is imported, and finds nothing by itself."""

    def __init__(self, name: str, then: Callable[[ModuleType], None]) -> None:
        self._name, self._then = name, then

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != self._name or self not in sys.meta_path:
            return None
        behind = sys.meta_path[sys.meta_path.index(self) + 1 :]
        specs = (finder.find_spec(name, path, target) for finder in behind if hasattr(finder, "find_spec"))
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                if self in sys.meta_path:  # once, whoever else has found the module or changed the list
                    sys.meta_path.remove(self)
                    self._then(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign] # of this one loader
        return spec
