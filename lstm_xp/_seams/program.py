"""A namespace that computes nothing: of each operation on its arrays it writes a line, for a compiler.

An equation called with it leaves what it does with the numbers of one unit and one sequence, for whatever cell. It has
what of the standard elementwise equations use. Its lines are Python and C++ alike, but for what a `Language` says.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from math import comb, perm
from typing import Any, NamedTuple


class Language(NamedTuple):
    """How a language writes what is not written alike in all."""

    let: str  # before a new name
    element: str  # of an array: its name, the row block
    where: str  # condition, x, other
    within: str  # x between both signs of a bound: a NaN stays one


@dataclass(frozen=True)
class Program:
    """What an equation does with one number of each row block, in the dtype T."""

    language: Language
    dtype: str
    inputs: dict[str, int]  # the row blocks of each array that goes in
    lines: dict[str, str] = field(default_factory=dict)  # the name of what each computes, by its text: none comes twice
    results: dict[str, Sequence[str]] = field(default_factory=dict)  # of each array that comes out, the row blocks

    def statements(self) -> list[str]:
        """Return what is done at one element."""
        blocks = [(y, j, name) for y, names in self.results.items() for j, name in enumerate(names)]
        return [
            *(f"{self.language.let}{name} = {line}" for line, name in self.lines.items()),
            *(f"{self.language.element.format(y, j)} = {name}" for y, j, name in blocks),
        ]


def written(
    equation: Callable[..., Any], rows: Sequence[int], dtype: str, language: Language, **options: Any
) -> Program:
    """Return an equation over arrays x0, x1, ... of so many row blocks each; those that it returns are y0, y1, ..."""
    program = Program(language, dtype, {f"x{k}": blocks for k, blocks in enumerate(rows)})
    arrays = (
        Block([language.element.format(x, j) for j in range(blocks)], program) for x, blocks in program.inputs.items()
    )
    found = equation(*arrays, xp=sys.modules[__name__], **options)
    program.results.update({f"y{k}": y.names for k, y in enumerate(found) if isinstance(y, Block)})
    return program


def _operation(text: str) -> Callable[..., "Block"]:
    """Return the operation that writes the text, with the names of its arguments, for each row block."""

    def operation(x: "Block", *others: Any) -> "Block":
        blocks = [other if isinstance(other, Block) else full_like(x, other) for other in (x, *others)]
        texts = [text.format(*names) for names in zip(*(block.names for block in blocks), strict=True)]
        lines = x.program.lines
        return replace(x, names=[lines.setdefault(each, f"v{len(lines)}") for each in texts])

    return operation


@dataclass(frozen=True)
class Block:
    """An array of the namespace: of each of its row blocks, the name of a number."""

    names: Sequence[str]
    program: Program

    @property
    def shape(self) -> tuple[int]:
        """As if a row block were one row."""
        return (len(self.names),)

    def __getitem__(self, key: tuple[Any, ...]) -> "Block":
        """Return some of the row blocks: ``block[rows, ...]``."""
        return replace(self, names=self.names[key[0]])

    __add__ = __radd__ = _operation("{} + {}")
    __mul__ = __rmul__ = _operation("{} * {}")
    __sub__, __rsub__ = _operation("{} - {}"), _operation("{1} - {0}")
    __truediv__, __rtruediv__ = _operation("{} / {}"), _operation("{1} / {0}")
    __lt__, __gt__, __pow__ = _operation("{} < {}"), _operation("{} > {}"), _operation("pow({}, {})")
    __neg__, __abs__ = _operation("-{}"), _operation("fabs({})")


def full_like(x: Block, number: float) -> Block:
    """Return a number in the place of each of x: in their dtype, as the standard has a number of Python."""
    return replace(x, names=[f"T({float(number)!r})"] * len(x.names))


def concat(blocks: Sequence[Block]) -> Block:
    """Join row blocks."""
    return replace(blocks[0], names=[name for block in blocks for name in block.names])


zeros_like, ones_like, abs = partial(full_like, number=0), partial(full_like, number=1), abs
exp, expm1, log1p = _operation("exp({})"), _operation("expm1({})"), _operation("log1p({})")


def tanh(x: Block) -> Block:
    """Return the hyperbolic tangent: by one division and without a branch, so that many are computed at once.

    Of Pade's quotient for exp(2 x), N(x) / N(-x), it is the odd part of N over the even one: near 0, x itself.
    """
    # Beyond the bound it is 1: and there the quotient is no less, however it is rounded.
    bound, n = {"float32": (9.8, 13), "float64": (20.1, 29)}[x.program.dtype]
    x = _within(x, bound)
    N = [2**k * comb(n, k) / perm(2 * n, k) for k in range(n, -1, -1)]
    odd, even = (reduce(lambda total, term: total * (x * x) + term, N[k::2]) for k in (0, 1))
    return _within(x * odd / even, 1)


def where(condition: Block, x: Block, other: Block) -> Block:
    """Choose between two."""
    return _operation(condition.program.language.where)(condition, x, other)


def _within(x: Block, bound: float) -> Block:
    return _operation(x.program.language.within)(x, bound)
