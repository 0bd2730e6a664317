"""Whether the tests see small changes of the code: ``python -m tests.mutants [folders or files]``.

Each change is made in a process of its own, where the tests that run its line are run, the fastest first, until one
fails. What no test sees is printed, unless `equivalent.txt` says why nothing could see it.
"""

import argparse
import hashlib
import json
import os
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import accumulate, chain
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "KERAS_BACKEND": "torch"}

from tests.mutants.changes import Mutant, changed, mutants_of
from tests.mutants.session import ROOT, Change, Chosen, Collected, Forked, Recorder, for_children, replaced_codes, run

CORE = ["lstm_xp/_equations", "lstm_xp/_seams", "lstm_xp/_checks", "lstm_xp/_kernels"]
# Imported before anything is forked; nothing of them runs before, as threads do not survive a fork.
HEAVY = ("numpy", "torch", "jax", "array_api_strict", "dask.array", "ndonnx", "mlx.core", "onnx", "hypothesis", "h5py")
ELSEWHERE = "elsewhere"  # the lines of tests that run the package in processes of their own alone: any
EQUIVALENT = Path(__file__).with_name("equivalent.txt")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("places", nargs="*", default=CORE, help="folders and files of the package; by default its core")
    parser.add_argument("--tests", nargs="+", default=["tests/equations", "tests/libraries", "tests/house"])
    parser.add_argument("--sample", type=int, help="so many mutants, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--seconds", type=float, default=60, help="of tests, for one mutant")
    parser.add_argument("--results", type=Path, default=Path("mutants.jsonl"), help="where a run goes on")
    parser.add_argument("--again", action="store_true", help="try again what no test has seen")
    parser.add_argument("--anew", action="store_true", help="import the package anew for each, not only for some")
    parser.add_argument("--slow", action="store_true", help="with the tests that the quick loop leaves out")
    options = parser.parse_args()
    options.marks = ["-m", "not gpu and not models" + " and not slow" * (not options.slow)]
    return options


def chosen(options: argparse.Namespace) -> list[Mutant]:
    """Return the mutants of the places, or a sample of them."""
    paths = [ROOT / place for place in options.places]
    files = [file for path in paths for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    mutants = [m for file in files for m in mutants_of(str(file.relative_to(ROOT)), file.read_text())]
    if options.sample is None or options.sample >= len(mutants):
        return mutants
    return sorted(random.Random(options.seed).sample(mutants, options.sample))


def recorded(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return which tests run each line, with their seconds: from a file beside the results, or from a run."""
    sources = sorted(ROOT.glob("lstm_xp/**/*.py"))
    tests = [*options.marks, *options.tests]
    state = hashlib.sha256(b"".join(map(Path.read_bytes, sources)) + " ".join(tests).encode()).hexdigest()[:12]
    path = options.results.with_suffix(f".{state}.lines.json")
    if not path.exists():
        print("recording which tests run which lines", file=sys.stderr)

        def record() -> int:
            recorder = Recorder()
            run(tests, [recorder])
            lines = {test: places for test, places in recorder.lines.items() if test not in recorder.failed}
            path.write_text(json.dumps([lines, recorder.seconds, sorted(recorder.failed)]))
            return 0

        _wait(Forked(record, 3600))
    lines, seconds, failed = json.loads(path.read_text())
    print(f"{len(lines)} tests, and {len(failed)} that fail without any change:", *failed, sep="\n", file=sys.stderr)
    found: dict[str, dict[str, float]] = {}
    for test, places in lines.items():
        for place in places or [ELSEWHERE]:
            found.setdefault(place, {})[test] = seconds[test]
    return found


def _wait(process: Forked) -> int:
    while (status := process.status()) is None:
        time.sleep(0.01)
    return status


def stages(mutant: Mutant, lines: dict[str, dict[str, float]], seconds: float) -> list[dict[str, float]]:
    """Return the tests for a mutant with their seconds, by turns, the quick ones first: as many as the seconds allow.

    In the first turn are those of one file: to collect all tests takes longer than to run what mostly sees the change.
    """
    reached = lines.get(f"{mutant.file}:{mutant.line}", {})
    if not reached:  # what runs at import, and what nothing runs
        of_file = [tests for place, tests in lines.items() if place.startswith(f"{mutant.file}:")]
        reached = {test: second for tests in of_file or lines.values() for test, second in tests.items()}
    reached = {**reached, **lines.get(ELSEWHERE, {})}
    # By turns the quickest, which refuse what is wrong, and any, as neighbours in a file see the same.
    quickest = sorted(reached, key=lambda test: (reached[test], test))
    others = sorted(reached, key=lambda test: (reached[test] > 0.1, hashlib.sha256(test.encode()).digest()))
    order = list(dict.fromkeys(chain.from_iterable(zip(quickest, others, strict=True))))
    sums = accumulate(reached[test] for test in order)
    order = [test for test, sum_ in zip(order, sums, strict=True) if sum_ <= seconds]
    files = Counter(test.split("::")[0] for test in order)
    first, rest = {}, {}
    for test in order:
        (first if test.split("::")[0] == files.most_common(1)[0][0] else rest)[test] = reached[test]
    return [turn for turn in (first, rest) if turn]


def imported(mutant: Mutant, tests: list[dict[str, float]], marks: list[str]) -> int:
    """Return whether a test sees a change of what runs at import: pytest collects all anew."""
    tree = changed((ROOT / mutant.file).read_text(), mutant.number)
    for turn in tests:

        def run_tests(turn: dict[str, float] = turn) -> int:
            files = dict.fromkeys(test.split("::")[0] for test in turn)
            with for_children(mutant.file, tree):
                return run(["-x", *marks, *files], [Chosen(list(turn))], Change(mutant.file, tree))

        if _wait(Forked(run_tests, 20 + 5 * sum(turn.values()))) not in (0, 5):
            return 1
    return 0


Trial = Callable[[Mutant], Forked]


def tried(mutants: list[Mutant], start: Trial, options: argparse.Namespace) -> None:
    """Try each mutant in a process that ends with 0 where no test has seen it, and write down what came of it."""
    random.Random(options.seed).shuffle(mutants)  # so that what is done at any time is a sample
    running: dict[Mutant, Forked] = {}
    with options.results.open("a") as log:
        while mutants or running:
            while mutants and len(running) < options.jobs:
                mutant = mutants.pop()
                running[mutant] = start(mutant)
            time.sleep(0.005)
            for mutant, process in list(running.items()):
                status = process.status()
                if status is not None:
                    log.write(json.dumps([str(mutant), "seen" if status else "survived"]) + "\n")
                    log.flush()
                    del running[mutant]


def results_of(options: argparse.Namespace) -> dict[str, str]:
    """Return what came of each mutant so far, by its words."""
    path = options.results
    return dict(json.loads(line) for line in path.read_text().splitlines()) if path.exists() else {}


def try_all(mutants: list[Mutant], lines: dict[str, dict[str, float]], options: argparse.Namespace) -> None:
    """Try the mutants: first those that only give functions other code, then those that have to be imported."""
    at_import, codes, seconds = [], {}, options.seconds
    for mutant in mutants:
        source = (ROOT / mutant.file).read_text()
        new = replaced_codes(source, changed(source, mutant.number))
        if new is None or options.anew:  # what importing calls has done its work before it gets other code
            at_import.append(mutant)
        else:
            codes[mutant] = new

    def start(suite: Collected, mutant: Mutant) -> Forked:
        tests = {test: second for turn in stages(mutant, lines, seconds) for test, second in turn.items()}

        def run_tests() -> int:
            with for_children(mutant.file, changed((ROOT / mutant.file).read_text(), mutant.number)):
                return suite.sees(codes[mutant], list(tests))

        return Forked(run_tests, 20 + 5 * sum(tests.values()))

    def try_codes() -> int:
        # So that its code is found; no sooner, as what changes at import has to be imported anew.
        for file in {mutant.file for mutant in codes}:
            import_module(".".join(Path(file).with_suffix("").parts).removesuffix(".__init__"))
        return run(
            [*options.marks, *options.tests],
            [Collected(lambda suite: tried(list(codes), partial(start, suite), options))],
        )

    if codes:
        assert _wait(Forked(try_codes, float("inf"))) == 0

    def start_anew(mutant: Mutant) -> Forked:
        return Forked(partial(imported, mutant, stages(mutant, lines, seconds), options.marks), 3600)

    tried(at_import, start_anew, options)


def equivalents() -> dict[str, str]:
    """Return the mutants that compute the same, each with its reason: without the number of the line, which moves."""
    lines = [line for line in EQUIVALENT.read_text().splitlines() if line and line[0] != "#"]
    return dict(line.split("  # ", 1) for line in lines)


def key(mutant: Mutant) -> str:
    """Return what tells a mutant wherever its line moves."""
    return f"{mutant.file}: {mutant.old}  ->  {mutant.new}"


def main() -> None:
    options = arguments()
    warnings.filterwarnings("ignore", message=".*fork.*")
    for name in HEAVY:
        if find_spec(name.split(".")[0]):
            import_module(name)
    mutants, done = chosen(options), results_of(options)
    known = equivalents()
    left = [
        m
        for m in mutants
        if str(m) not in done or (options.again and done[str(m)] == "survived" and key(m) not in known)
    ]
    if left:
        try_all(left, recorded(options), options)
    results = results_of(options)
    same = [m for m in mutants if key(m) in known and results[str(m)] != "seen"]
    survived = [m for m in mutants if results[str(m)] == "survived" and m not in same]
    print(f"\nNo test has seen {len(survived)}:\n", *survived, sep="\n")
    others = len(mutants) - len(same)
    print(f"\n{len(mutants)} mutants, {len(same)} of them equivalent; of the others {others - len(survived)} seen,")
    print(f"{100 * (others - len(survived)) / max(1, others):.1f} percent")


main()
