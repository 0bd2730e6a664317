"""The graph of an ONNX model: which name means what where.

Graphs inside of nodes see the names of the graph around them, and a function has only those of its call.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

# Protocol buffers, as the package onnx has them.
Model: TypeAlias = Any
Graph: TypeAlias = Any
Node: TypeAlias = Any
Tensor: TypeAlias = Any
Attribute: TypeAlias = Any
Function: TypeAlias = Any
Info: TypeAlias = Any  # of an input or an output

Made: TypeAlias = Any  # what makes a value: a node, a tensor, None for an input, a `Key` if it is the same as another
Key: TypeAlias = tuple["Scope", str]  # a value: the graph that makes it, and its name there

FORMS = ("Squeeze", "Unsqueeze", "Transpose", "Reshape")  # the same numbers in another shape
ROUNDS = ("Cast", "DequantizeLinear", "QuantizeLinear")  # in another type
PICKS = ("Compress", "Gather", "GatherElements", "GatherND", "ReverseSequence", "Slice")  # some, by place

_DOMAINS = ("", "ai.onnx")
_CALLED = 100_000  # nodes in the bodies of functions, counted once for each call
_DEPTH = 100  # graphs inside of each other
_BEHIND = 256  # nodes between two layers


@dataclass(eq=False)
class Scope:
    """A graph, or the body of a function at one of its calls: its nodes, and what makes the values that it names.

    `made` has None for an input, a tensor, a node, or the same value under another name. The names of the graph around
    are visible inside, where no inner name hides them.
    """

    where: str
    nodes: Sequence[Node]
    opset: int
    outer: "Scope | None" = None
    depth: int = 0
    called: bool = False
    attributes: dict[str, Attribute] = field(default_factory=dict)  # of the call
    made: dict[str, Made] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Enter what the nodes make."""
        for node in self.nodes:
            self.made.update((name, node) for name in node.output if name)
            if is_op(node, "Identity", "Dropout") and node.input and node.output:
                self.made[node.output[0]] = (self, node.input[0])

    def source(self, name: str) -> Key:
        """Return the value that a name stands for."""
        scope = self
        passed: dict[Key, None] = {}
        while True:
            while name not in scope.made:
                if scope.outer is None:
                    raise ValueError(f"nothing in the graph makes {name!r}.")
                scope = scope.outer
            if not isinstance(scope.made[name], tuple):
                break
            if (scope, name) in passed:
                raise ValueError(f"the graph is cyclic: {name!r} is itself.")
            passed[scope, name] = None
            scope, name = scope.made[name]
        for there, own in passed:  # so that no chain of names is followed twice
            there.made[own] = (scope, name)
        return scope, name

    def resolved(self, node: Node) -> Node:
        """Return the node, with the values of the call where it names attributes of the function."""
        if not any(attribute.ref_attr_name for attribute in node.attribute):
            return node
        copy = type(node)()
        copy.CopyFrom(node)
        del copy.attribute[:]
        for attribute in node.attribute:
            given = self.attributes.get(attribute.ref_attr_name) if attribute.ref_attr_name else attribute
            if given is not None:
                copy.attribute.add().CopyFrom(given)
                copy.attribute[-1].name = attribute.name
        return copy


def is_op(node: Node, *names: str) -> bool:
    """Tell whether something is a node of one of these operators of the standard."""
    return getattr(node, "op_type", None) in names and node.domain in _DOMAINS


def label(node: Node) -> str:
    """Return the name of a node; if it has none, that of its first output."""
    return str(node.name or next((name for name in node.output if name), node.op_type))


def scopes(model: Model) -> list[Scope]:
    """Return the graph of a model, those inside of its nodes, and the bodies of the functions that they call."""
    functions = {(function.domain, function.name, function.overload): function for function in model.functions}
    found: list[Scope] = []
    waiting = [Scope("", model.graph.node, _opset(model, 1), made=_named(model.graph))]
    called = 0
    while waiting:
        scope = waiting.pop()
        found.append(scope)
        called += len(scope.nodes) if scope.called else 0
        if called > _CALLED or scope.depth > _DEPTH:
            raise ValueError(
                f"its graphs and functions must lie at most {_DEPTH} deep, with {_CALLED} nodes in all that is called."
            )
        waiting.extend(reversed(list(_inside(scope, functions))))
    return found


def _opset(owner: Model | Function, default: int) -> int:
    return next((int(entry.version) for entry in owner.opset_import if entry.domain in _DOMAINS), default)


def _named(graph: Graph) -> dict[str, Made]:
    """Return what is there before the nodes; an input with a tensor of its name has that by default."""
    return dict.fromkeys(value.name for value in graph.input) | {tensor.name: tensor for tensor in graph.initializer}


def _inside(scope: Scope, functions: dict[tuple[str, str, str], Function]) -> Iterator[Scope]:
    """Yield the graphs inside of a graph's nodes, and the bodies of the functions that they call."""
    for node in scope.nodes:
        function = functions.get((node.domain, node.op_type, node.overload))
        if function is not None:
            yield _call(scope, node, function)
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                where, depth = f"{scope.where}{label(node)}.{attribute.name}/", scope.depth + 1
                yield replace(scope, where=where, nodes=graph.node, outer=scope, depth=depth, made=_named(graph))


def _call(scope: Scope, node: Node, function: Function) -> Scope:
    """Return the body of a function, with the names of the call bound to those of the body on both sides."""
    made: dict[str, Made] = dict.fromkeys(function.input)
    made.update((inner, (scope, name)) for inner, name in zip(function.input, node.input, strict=False) if name)
    given = (*function.attribute_proto, *scope.resolved(node).attribute)  # the defaults, then the call's own
    attributes = {attribute.name: attribute for attribute in given}
    opset = _opset(function, scope.opset)
    body = Scope(f"{scope.where}{label(node)}/", function.node, opset, None, scope.depth + 1, True, attributes, made)
    scope.made.update((name, (body, inner)) for name, inner in zip(node.output, function.output, strict=False))
    return body


def behind(scope: Scope, name: str) -> tuple[Key, list[tuple[Scope, Node]]]:
    """Return the value that another one has its numbers of, and the nodes in between, the last one first."""
    passed: list[tuple[Scope, Node]] = []
    key = scope.source(name)
    while len(passed) < _BEHIND:
        there, own = key
        made = there.made[own]
        if not (is_op(made, *FORMS, *ROUNDS, *PICKS) and made.input and made.output[0] == own):
            return key, passed
        passed.append((there, made))
        key = there.source(made.input[0])
    raise ValueError(f"the graph is cyclic, or {name!r} hangs on {_BEHIND} nodes in a row.")
