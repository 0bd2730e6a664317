"""Small changes of a module's code, each of which a test should see: one mutant is one of them."""

import ast
import copy
from collections.abc import Iterator
from typing import NamedTuple

_COMPARE = {
    ast.Eq: [ast.NotEq], ast.NotEq: [ast.Eq], ast.Is: [ast.IsNot], ast.IsNot: [ast.Is], ast.In: [ast.NotIn],
    ast.NotIn: [ast.In], ast.Lt: [ast.LtE, ast.GtE], ast.LtE: [ast.Lt, ast.Gt], ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
}  # fmt: skip
_ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
}  # fmt: skip


_SYMMETRIC = ("max", "min", "logical_and", "array_equal", "broadcast_shapes", "swapaxes")


class Mutant(NamedTuple):
    """One change: where it is, the line it changes before and after, and which of the changes of its file it is."""

    file: str
    line: int
    old: str
    new: str
    number: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.old}  ->  {self.new}"


def _with(node: ast.AST, **fields: object) -> ast.AST:
    """Return a copy of a node with other fields."""
    return ast.copy_location(type(node)(**{**dict(ast.iter_fields(node)), **fields}), node)


def _of_expression(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what may stand in the place of an expression."""
    match node:
        case ast.Compare(ops=[op]):
            yield from (_with(node, ops=[other()]) for other in _COMPARE[type(op)])
        case ast.BoolOp(op=op, values=values):
            yield _with(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
            for k in range(len(values)):
                rest = values[:k] + values[k + 1 :]
                yield rest[0] if len(rest) == 1 else _with(node, values=rest)
        case ast.BinOp(op=op) if type(op) in _ARITHMETIC:
            yield _with(node, op=_ARITHMETIC[type(op)]())
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.Constant(value=bool(value)):
            yield _with(node, value=not value)
        case ast.Constant(value=int(value) | float(value)):
            yield _with(node, value=value + 1)
        case ast.IfExp(body=body, orelse=orelse):
            yield from (body, orelse)
        case ast.Call(args=args, keywords=keywords):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if (
                len({ast.dump(a) for a in args[:2]}) > 1
                and name not in _SYMMETRIC
                and not any(isinstance(a, ast.Starred) for a in args[:2])
            ):
                yield _with(node, args=[args[1], args[0], *args[2:]])
            for k, keyword in enumerate(keywords):
                if keyword.arg not in ("xp", "strict", None):
                    yield _with(node, keywords=keywords[:k] + keywords[k + 1 :])


def _of_statement(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what may stand in the place of a statement."""
    nothing = ast.copy_location(ast.Pass(), node)
    match node:
        case ast.If(test=test) | ast.While(test=test) if not isinstance(test, ast.Constant):
            yield from (_with(node, test=ast.copy_location(ast.Constant(value), test)) for value in (True, False))
        case ast.Expr(value=ast.Call()) | ast.Raise() | ast.Continue() | ast.Break():
            yield nothing
        case ast.AugAssign(op=op):
            yield nothing
            if type(op) in _ARITHMETIC:
                yield _with(node, op=_ARITHMETIC[type(op)]())
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]) | ast.Delete():
            yield nothing
        case ast.Return(value=value) if value is not None and not (
            isinstance(value, ast.Constant) and value.value is None
        ):
            yield _with(node, value=ast.copy_location(ast.Constant(None), value))


def _is_words(node: ast.AST) -> bool:
    """Tell whether there is nothing to change: words of errors, and what is said to a type checker or in a list."""
    match node:
        case ast.JoinedStr() | ast.Assert() | ast.Import() | ast.ImportFrom():
            return True
        case ast.Call(func=ast.Name(id="TypeVar" | "ParamSpec" | "refusal") | ast.Attribute(attr="refusal")):
            return True
        case ast.AnnAssign(annotation=ast.Name(id="TypeAlias")) | ast.Assign(targets=[ast.Name(id="__all__")]):
            return True
        case ast.FunctionDef(decorator_list=[ast.Name(id="overload")]):
            return True
    return False


def _places(node: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """Yield every child that may change, below a node, as (parent, field, place in the field's list, child)."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list") or (isinstance(node, ast.Raise) and field != "body"):
            continue
        items = enumerate(value) if isinstance(value, list) else [(None, value)]
        for k, child in items:
            if isinstance(child, ast.AST) and not _is_words(child):
                yield node, field, k, child
                yield from _places(child)


def _changes(tree: ast.Module) -> Iterator[tuple[ast.AST, str, int | None, ast.AST, ast.AST]]:
    """Yield every change, in an order that depends on the code alone."""
    for parent, field, k, child in list(_places(tree)):
        if isinstance(child, ast.Constant) and isinstance(parent, ast.keyword) and parent.arg == "strict":
            continue
        for other in (*_of_expression(child), *_of_statement(child)):
            yield parent, field, k, child, other


def _put(parent: ast.AST, field: str, k: int | None, node: ast.AST) -> None:
    if k is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[k] = node


def _shown(tree: ast.Module, line: int) -> str:
    """Return the statement that has a line, in one line: of one with a body its head, of a long one what is there."""
    nodes = [n for n in ast.walk(tree) if getattr(n, "lineno", line + 1) <= line <= (getattr(n, "end_lineno", 0) or 0)]
    found = [n for n in nodes if isinstance(n, ast.stmt)]
    node = copy.copy(max(found, key=lambda n: (n.lineno, -(n.end_lineno or 0))))
    if isinstance(node, ast.Assign) and (node.end_lineno or 0) > node.lineno + 3:
        node = next((n for n in nodes if isinstance(n, ast.expr) and n.lineno == line == n.end_lineno), node)
    if hasattr(node, "decorator_list") or isinstance(getattr(node, "body", None), list):
        node.body, node.decorator_list, node.orelse = [ast.Expr(ast.Constant(...))], [], []
    return " ".join(ast.unparse(node).split())


def mutants_of(file: str, source: str) -> list[Mutant]:
    """Return all mutants of a file."""
    tree, found = ast.parse(source), []
    for number, (parent, field, k, child, other) in enumerate(_changes(tree)):
        old = _shown(tree, child.lineno)
        _put(parent, field, k, other)
        new = _shown(tree, child.lineno)
        _put(parent, field, k, child)
        found.append(Mutant(file, child.lineno, old, new, number))
    return found


def changed(source: str, number: int) -> ast.Module:
    """Return the code with one change."""
    tree = ast.parse(source)
    parent, field, k, _, other = next(change for n, change in enumerate(_changes(tree)) if n == number)
    _put(parent, field, k, other)
    return ast.fix_missing_locations(tree)
