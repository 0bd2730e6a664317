"""Many inputs in one run: where the outputs go, and files side by side."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import TypeVar

from . import stored
from .stored import Stored

T = TypeVar("T")


def outputs(text: str, found: Sequence[Stored], model: Path, *, many: bool) -> dict[str, Stored]:
    """Return what each output is made of, by its `.npy` or its path in a file of many: none twice, none an input."""
    path, inside = stored.split(text)
    inputs: set[tuple[Path, str | None]] = {(each.path.resolve(), each.key) for each in found}
    made: dict[str, Stored] = {}
    for each in found:
        if inside is None:
            name = str(path / f"{each.name}.npy") if many else text
        else:
            name = "/".join(filter(None, (inside, each.name if many or not inside else "")))
        place = (Path(name).resolve(), None) if inside is None else (path.resolve(), name)
        if name in made:
            raise ValueError(f"{each.where} and {made[name].where} must have names that differ; both become {name}")
        if place in inputs or place[0] == model.resolve():
            raise ValueError(f"--output must not be an input; got {text}, which would write over {name}")
        made[name] = each
    return made


def there(text: str, made: Iterable[str]) -> set[str]:
    """Return which outputs are there already; require a file of many that can take all of them."""
    path, inside = stored.split(text)
    if inside is None:
        return {name for name in made if Path(name).exists()}
    for name in made:
        if set(name.split("/")) & {"", ".", ".."}:
            raise ValueError(f"--output must be FILE::PATH with a plain path; got {name!r} in {path}")
    if not path.exists():
        return set()
    with stored.opened(path) as arrays:
        for name in made:
            for key in arrays:
                if key != name and (f"{key}/".startswith(f"{name}/") or f"{name}/".startswith(key and f"{key}/")):
                    raise ValueError(f"{path} has {key!r}, so that there is no place for {name!r}")
        return set(made) & set(arrays)


def side_by_side(work: Callable[[T], str], items: Iterable[T], jobs: int, stop: Event) -> list[str]:
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
