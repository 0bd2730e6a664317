"""A namespace that computes nothing: of each operation on its arrays it writes a line, for a compiler.

An equation called with it leaves what it does with the numbers of one unit and one sequence, for whatever cell. It has
what of the standard elementwise equations use.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from math import comb, perm
from typing import Any


def _written(text: str) -> Callable[..., "Block"]:
    """Return the operation that writes the text, with the names of its arguments, for each row block."""

    def operation(x: "Block", *others: Any) -> "Block":
        blocks = [other if isinstance(other, Block) else full_like(x, other) for other in (x, *others)]
        lines = [text.format(*names) for names in zip(*(block.names for block in blocks), strict=True)]
        return replace(x, names=[x.lines.setdefault(line, f"v{len(x.lines)}") for line in lines])

    return operation


@dataclass(frozen=True)
class Block:
    """An array of the namespace: of each of its row blocks, the name of a number."""

    names: Sequence[str]
    lines: dict[str, str]  # of the program: the name of what each computes, by its text, so that none comes twice
    dtype: str

    @property
    def shape(self) -> tuple[int]:
        """As if a row block were one row."""
        return (len(self.names),)

    def __getitem__(self, key: tuple[Any, ...]) -> "Block":
        """Return some of the row blocks: ``block[rows, ...]``."""
        return replace(self, names=self.names[key[0]])

    __add__ = __radd__ = _written("{} + {}")
    __mul__ = __rmul__ = _written("{} * {}")
    __sub__, __rsub__ = _written("{} - {}"), _written("{1} - {0}")
    __truediv__, __rtruediv__ = _written("{} / {}"), _written("{1} / {0}")
    __lt__, __gt__, __pow__ = _written("{} < {}"), _written("{} > {}"), _written("{} ** {}")
    __neg__, __abs__ = _written("-{}"), _written("abs({})")


def full_like(x: Block, number: float) -> Block:
    """Return a number in the place of each of x: in their dtype, as the standard has a number of Python."""
    return replace(x, names=[f"dtype({float(number)!r})"] * len(x.names))


def concat(blocks: Sequence[Block]) -> Block:
    """Join row blocks."""
    return replace(blocks[0], names=[name for block in blocks for name in block.names])


zeros_like, ones_like, abs = partial(full_like, number=0), partial(full_like, number=1), abs
exp, expm1, log1p = _written("exp({})"), _written("expm1({})"), _written("log1p({})")
where = _written("{1} if {0} else {2}")
_within = _written("min(max({0}, -{1}), {1})")  # a NaN stays one


def tanh(x: Block) -> Block:
    """Return the hyperbolic tangent: by one division and without a branch, so that many are computed at once.

    Of Pade's quotient for exp(2 x), N(x) / N(-x), it is the odd part of N over the even one: near 0, x itself.
    """
    bound, n = {"float32": (9.1, 13), "float64": (19.1, 29)}[x.dtype]  # beyond what number it is 1; up to there
    x = _within(x, bound)
    N = [2**k * comb(n, k) / perm(2 * n, k) for k in range(n, -1, -1)]
    odd, even = (reduce(lambda total, term: total * (x * x) + term, N[k::2]) for k in (0, 1))
    return _within(x * odd / even, 1)


def source(equation: Callable[..., Any], rows: Sequence[int], dtype: str, **options: Any) -> str:
    """Return the text of a function that runs an equation over arrays (features, batch) of so many row blocks each.

    One of them has one row block. Of the equation's results it returns those that are arrays.
    """
    inputs = {f"x{k}": [f"x{k}[{j}, n]" for j in range(blocks)] for k, blocks in enumerate(rows)}
    lines: dict[str, str] = {}
    found = equation(*(Block(names, lines, dtype) for names in inputs.values()), xp=sys.modules[__name__], **options)
    results = {f"y{k}": y.names for k, y in enumerate(found) if isinstance(y, Block)}
    text = (
        f"def fused({', '.join(inputs)}):",
        f"    H, batch = x{rows.index(1)}.shape",
        *(f"    {x} = {x}.reshape({len(names)}, H * batch)" for x, names in inputs.items()),
        *(f"    {y} = empty(({len(names)}, H * batch), dtype)" for y, names in results.items()),
        "    for n in range(H * batch):",
        *(f"        {name} = {line}" for line, name in lines.items()),
        *(f"        {y}[{j}, n] = {name}" for y, names in results.items() for j, name in enumerate(names)),
        "    return " + "".join(f"{y}.reshape({len(names)} * H, batch), " for y, names in results.items()),
    )
    return "\n".join(text)
