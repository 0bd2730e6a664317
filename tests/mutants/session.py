"""One run of pytest in a forked process, of the package as it is or with one change."""

import ast
import contextlib
import gc
import inspect
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from importlib.machinery import PathFinder, SourceFileLoader
from itertools import pairwise
from pathlib import Path
from types import CodeType, FunctionType

import pytest

ROOT = Path(__file__).parents[2]
_OPTIONS = [
    "-o",
    "addopts=--strict-markers --import-mode=importlib --assert=plain",
    "-q",
    "--tb=no",
]
_OPTIONS += [option for name in ("xdist", "randomly", "cacheprovider") for option in ("-p", f"no:{name}")]


FAULT = 70  # of this program, and not of a test


class _Changed(SourceFileLoader):
    tree: ast.Module

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.tree, self.path, "exec", dont_inherit=True)


class Change:
    """Finds one module, and loads other code in its place."""

    def __init__(self, file: str, tree: ast.Module) -> None:
        parts = Path(file).with_suffix("").parts
        self._name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        self._tree = tree

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        if name != self._name:
            return None
        spec = PathFinder.find_spec(name, path)  # type: ignore[arg-type]
        spec.loader = _Changed(name, spec.origin)
        spec.loader.tree = self._tree
        return spec


class Chosen:
    """A plugin of pytest that keeps some tests, in their order."""

    def __init__(self, tests: list[str]) -> None:
        self._order = {test: k for k, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self._order), key=lambda i: self._order[i.nodeid])


class Recorder:
    """A plugin of pytest that notes of each test which lines of the package it runs, and its seconds."""

    def __init__(self) -> None:
        self.lines: dict[str, list[str]] = {}
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()
        self._seen: set[tuple[str, int]] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.add(report.nodeid)

    def _trace(self, frame: object, event: str, argument: object) -> Callable[..., object] | None:
        code = frame.f_code  # type: ignore[attr-defined]
        if not code.co_filename.startswith(f"{ROOT}/lstm_xp/"):
            return None
        self._seen.add((code.co_filename, frame.f_lineno))  # type: ignore[attr-defined]
        return self._trace

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: object) -> Iterator[None]:
        self._seen, start = set(), time.perf_counter()
        sys.settrace(self._trace)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            self.lines[item.nodeid] = sorted(f"{Path(f).relative_to(ROOT)}:{line}" for f, line in self._seen)
            self.seconds[item.nodeid] = time.perf_counter() - start


def run(arguments: list[str], plugins: list[object], change: Change | None = None) -> int:
    """Run pytest here, without a word, and return its exit status."""
    if change is not None:
        sys.meta_path.insert(0, change)  # type: ignore[arg-type]
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        return int(pytest.main([*_OPTIONS, *arguments], plugins=plugins))


@contextlib.contextmanager
def for_children(file: str, tree: ast.Module) -> Iterator[None]:
    """Let processes that a test starts have the change: a copy of the package comes before this one."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        shutil.copytree(ROOT / "lstm_xp", Path(folder, "lstm_xp"), copy_function=os.symlink)
        Path(folder, file).unlink()
        Path(folder, file).write_text(ast.unparse(tree))
        sys.path.insert(0, folder)  # a test may hand it on, or the environment
        os.environ |= {"PYTHONPATH": os.pathsep.join([folder, str(ROOT)]), "PYTHONSAFEPATH": "1"}
        yield


class Forked:
    """A process that runs a function and ends with the status it returns."""

    def __init__(self, function: Callable[[], int], limit: float) -> None:
        self._end = time.monotonic() + limit
        self.note = Path(tempfile.gettempdir(), f"mutants-{os.getpid()}.txt")
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.setsid()
                os._exit(function())
            except BaseException:
                self.note.write_text(traceback.format_exc())
            finally:
                os._exit(FAULT)

    def status(self) -> int | None:
        """Return the status, None while it runs, and -1 where its time was over."""
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            if code == FAULT:
                raise RuntimeError(self.note.read_text())
            return code
        if time.monotonic() < self._end:
            return None
        os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        return -1


# Most changes need no new import: the functions that are there get other code.


def _codes(code: CodeType, at_import: bool = True) -> Iterator[tuple[CodeType, bool]]:
    """Yield a code and all within it, each with whether importing runs it."""
    yield code, at_import
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            comprehension = inner.co_name.endswith(("comp>", "genexpr>"))
            yield from _codes(inner, at_import and (comprehension or not inner.co_flags & inspect.CO_OPTIMIZED))


def _own(code: CodeType) -> CodeType:
    """Return a code without those within it."""
    return code.replace(co_consts=tuple(c for c in code.co_consts if not isinstance(c, CodeType)))


def replaced_codes(source: str, tree: ast.Module) -> dict[CodeType, CodeType] | None:
    """Return the codes of functions that change, old to new; None where importing the module runs what changes."""
    old, new = (list(_codes(compile(code, "", "exec", dont_inherit=True))) for code in (source, tree))
    if len(old) != len(new) or any(a.co_freevars != b.co_freevars for (a, _), (b, _) in zip(old, new, strict=True)):
        return None
    if any(_own(a) != _own(b) and at_import for (a, at_import), (b, _) in zip(old, new, strict=True)):
        return None
    return {a: b for (a, at_import), (b, _) in zip(old, new, strict=True) if a != b and not at_import}


class Collected:
    """A plugin of pytest that collects the tests once, and then does other work in the place of running them."""

    def __init__(self, work: Callable[["Collected"], None]) -> None:
        self._work, self._failed = work, False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._failed |= report.failed

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._items = {item.nodeid: item for item in session.items}
        functions = [f for f in gc.get_objects() if type(f) is FunctionType]
        self._functions = [f for f in functions if f.__code__.co_filename.startswith(f"{ROOT}/lstm_xp/")]
        self._work(self)
        return True

    def sees(self, codes: dict[CodeType, CodeType], tests: list[str]) -> int:
        """Change the functions here, and return whether one of the tests fails then: not to be taken back."""
        for function in self._functions:
            function.__code__ = codes.get(function.__code__, function.__code__)
        items = [self._items[test] for test in tests if test in self._items]
        for item, after in pairwise((*items, None)):
            item.ihook.pytest_runtest_protocol(item=item, nextitem=after)
            if self._failed:
                return 1
        return 0
