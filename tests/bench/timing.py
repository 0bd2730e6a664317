"""Two tasks measured in turns, A B A B ..., in this process or in one worker process each."""

import multiprocessing
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

TURN_SECONDS = 0.2
MOST_CALLS = 500
# Of the largest number. A GPU multiplies float32 with the bits of a shorter float, where its library lets it.
TOLERANCE = {"cpu": 1e-4, "gpu": 2e-2}


@dataclass(frozen=True)
class Task:
    """One side of a comparison: `call` it, `wait` for its device, and compare the `numbers` of its result."""

    call: Callable[[], Any]
    numbers: Callable[[Any], tuple[np.ndarray, ...]] = lambda result: ()
    wait: Callable[[Any], Any] = lambda result: None


Build = Callable[[], Task]


def seconds(task: Task) -> float:
    """Return the time of one call; freeing its result is not counted."""
    start = time.perf_counter()
    result = task.call()
    task.wait(result)
    stop = time.perf_counter()
    del result
    return stop - start


def compile_seconds(task: Task) -> float:
    """Return the time of one call of JAX's compiler that finds nothing done before."""
    import jax

    jax.clear_caches()
    return seconds(task)


def extra_bytes(task: Task) -> float:
    """Return the highest memory during one call, less the results; NumPy tells tracemalloc what it allocates."""
    tracemalloc.start()
    try:
        result = task.call()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak - sum(array.nbytes for array in task.numbers(result))


Measure = Callable[[Task], float]


class Runner:
    """A task and how it is measured."""

    def __init__(self, build: Build, measure: Measure) -> None:
        self._task = build()
        self._measure = measure

    def numbers(self) -> tuple[np.ndarray, ...]:
        return self._task.numbers(self._task.call())

    def turn(self, calls: int, pause: float = 0.0) -> list[float]:
        time.sleep(pause)
        self._measure(self._task)  # brings back caches and threads, and is not counted
        return [self._measure(self._task) for _ in range(calls)]


class _Remote:
    """A `Runner` in another process."""

    # The threads of the other side's products keep spinning for a while after its turn.
    PAUSE = 0.1

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def _ask(self, method: str, *arguments: Any) -> Any:
        self._connection.send((method, *arguments))
        return self._connection.recv()

    def numbers(self) -> tuple[np.ndarray, ...]:
        return self._ask("numbers")

    def turn(self, calls: int) -> list[float]:
        return self._ask("turn", calls, self.PAUSE)


def _serve(connection: Any, build: Build, measure: Measure) -> None:
    runner = Runner(build, measure)
    for method, *arguments in iter(connection.recv, None):
        connection.send(getattr(runner, method)(*arguments))


@contextmanager
def _worker(build: Build, measure: Measure) -> Iterator[_Remote]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, build, measure), daemon=True)
    process.start()
    there.close()  # so that a worker that died is an EOFError here, not a long wait
    yield _Remote(here)
    here.send(None)
    process.join()


def interleave(
    builds: tuple[Build, ...], measure: Measure, *, tolerance: float | None, apart: bool, turns: int
) -> list[list[float]]:
    """Return the measurements of each build, taken in turns; first require the same numbers, within a tolerance."""
    with ExitStack() as stack:
        runners: list[Any]
        if apart:
            runners = [stack.enter_context(_worker(build, measure)) for build in builds]
        else:
            runners = [Runner(build, measure) for build in builds]
        if tolerance is not None:
            assert_same(*(runner.numbers() for runner in runners), tolerance=tolerance)
        calls = [_calls_per_turn(runner) for runner in runners]
        samples: list[list[float]] = [[] for _ in runners]
        for _ in range(turns):
            for k, runner in enumerate(runners):
                samples[k] += runner.turn(calls[k])
    return samples


def _calls_per_turn(runner: Any) -> int:
    runner.turn(1)
    start = time.perf_counter()
    runner.turn(1)
    # Two calls: the one that is not counted and the one that is.
    each = (time.perf_counter() - start - getattr(runner, "PAUSE", 0.0)) / 2
    return min(MOST_CALLS, max(1, int(TURN_SECONDS / max(each, 1e-9))))


def assert_same(
    first: tuple[np.ndarray, ...], *others: tuple[np.ndarray, ...], tolerance: float = TOLERANCE["cpu"]
) -> None:
    """Require the same numbers from all sides."""
    for other in others:
        for a, b in zip(first, other, strict=True):
            if a.shape != b.shape or not np.max(np.abs(a - b)) <= tolerance * max(1.0, np.max(np.abs(b))):
                raise AssertionError(f"the sides differ: shapes {a.shape} and {b.shape}, or their numbers")
