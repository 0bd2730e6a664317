"""Many inputs in one run: where the outputs go, and files side by side."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

from . import packed, stored
from .stored import Stored

T = TypeVar("T")
R = TypeVar("R")


def outputs(text: str, found: Sequence[Stored], read: Iterable[Path], *, many: bool) -> dict[str, Stored]:
    """Return what each output is made of, by its `.npy` or its path in a file of many.

    None comes twice, and none is an input or one of the other files that are read.
    """
    path, inside = stored.split(text)
    inputs = {(os.path.realpath(each.path), each.key) for each in found}
    others = set(map(os.path.realpath, read))
    made: dict[str, Stored] = {}
    for each in found:
        if inside is None:
            name = str(path / f"{each.name}.npy") if many else text
        else:
            name = "/".join(filter(None, (inside, each.name if many or not inside else "")))
        file, key = os.path.realpath(name if inside is None else path), None if inside is None else name
        if name in made:
            raise ValueError(f"{each.where} and {made[name].where} must have names that differ; both become {name}")
        if (file, key) in inputs or file in others:
            raise ValueError(f"--output must not be an input; got {text}, which would write over {name}")
        made[name] = each
    return made


def there(text: str, made: Iterable[str]) -> set[str]:
    """Return which outputs are there already; require a file of many that can take all of them."""
    path, inside = stored.split(text)
    if inside is None:
        return {name for name in made if Path(name).exists()}
    for name in made:
        if set(name.split("/")) & {"", ".", ".."} or name != name.encode(errors="replace").decode():
            raise ValueError(f"--output must be FILE::PATH with a plain path; got {name!r} in {path}")
    if not path.exists():
        return set()
    with packed.opened(path) as root:
        return {name for name in made if _is_there(path, root, name)}


def _is_there(path: Path, root: Any, name: str) -> bool:
    """Tell whether an array has this name in a file; raise where nothing can have it."""
    for above in ("", *accumulate(name.split("/")[:-1], "{}/{}".format)):
        if packed.is_array(packed.at(root, above)):
            raise ValueError(f"{path} has an array {above!r}, so that there is no place for {name!r}")
    here = packed.at(root, name)
    if packed.is_group(here):
        raise ValueError(f"{path} has a group {name!r}, so that there is no place for an array")
    return here is not None


def side_by_side(work: Callable[[T], R], items: Iterable[T], jobs: int, stop: Event) -> list[R]:
    """Return the results of work on each item, in threads: products and files do not wait for Python.

    Where one raises, or a signal does, `stop` is set for the others, and none that has not begun will.
    """
    if jobs == 1:
        return list(map(work, items))
    with ThreadPoolExecutor(jobs) as pool:
        try:
            return list(pool.map(work, items))
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
