"""The values of an ONNX graph that hang on constants alone.

Each is computed by the package onnx itself, one node at a time, and only by nodes that put numbers in another form or
place, or multiply them. What a node makes is bounded before it runs.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import TypeAlias

import numpy as np

from .._files import naming_damage, needed, require_budget
from .._model import unpacked
from ._graph import FORMS, PICKS, ROUNDS, Key, Node, Scope, Tensor, is_op, label

Value: TypeAlias = np.ndarray | str  # the array, or what it hangs on that is not constant

_RANK = 32  # more axes than any weight has
_FOLDED = 4096  # nodes that are computed
_REPEATED = 256  # nodes behind an initial state
_FOLDS = (*FORMS, *PICKS, *ROUNDS[:2], "Concat", "ConstantOfShape", "Expand", "Mul", "Shape")
_REPEATS = (*FORMS, "Cast", "Concat", "Expand", "Gather", "Slice", "Tile")  # the same numbers, more or less often


class Constants:
    """The values of a graph that hang on constants alone, each computed once.

    All that is made stays within the budget of a file of `size` bytes. Tensors that lie in other files are read from
    inside `folder` only, and the size of these files counts.
    """

    def __init__(self, size: int, folder: Path | None = None) -> None:
        self._size, self._folder = size, folder
        self._beside: set[Path] = set()
        self._spent = self._folded = 0
        self._known: dict[Key, Value] = {}

    def spend(self, wanted: int) -> None:
        """Count bytes that are about to be made."""
        self._require_room(wanted)
        self._spent += wanted

    def _require_room(self, wanted: int) -> None:
        require_budget(self._size, self._spent + wanted, "what its graph makes")

    def value(self, scope: Scope, name: str, example: Mapping[Key, Value] | None = None) -> Value:
        """Return an array, or what it hangs on that is not constant and has no example."""
        known: dict[Key, Value] = self._known if example is None else dict(example)
        # Not by recursion: a damaged file may nest without end.
        opened: set[Key] = set()
        wanted = scope.source(name)
        waiting = [wanted]
        while waiting:
            there, own = key = waiting.pop()
            if key in known:
                continue
            made = there.made[own]
            names = made.input if is_op(made, *_FOLDS) else []
            inputs = [there.source(each) if each else None for each in names]  # without a name those left out
            missing = [each for each in inputs if each is not None and each not in known]
            if not missing:
                known[key] = self._made(*key, [None if each is None else known[each] for each in inputs])
            elif key in opened:
                raise ValueError(f"the graph is cyclic: {own!r} hangs on itself.")
            else:
                opened.add(key)
                waiting += [key, *missing]
        return known[wanted]

    def starts(self, scope: Scope, name: str) -> Iterator[np.ndarray]:
        """Yield the constant numbers that a value repeats, also where its shape hangs on something else."""
        seen: set[Key] = set()
        waiting = [scope.source(name)]
        while waiting:
            there, own = key = waiting.pop()
            made = there.made[own]
            if key in seen or made is None:
                continue
            seen.add(key)
            if len(seen) > _REPEATED:
                raise ValueError(f"{name!r} hangs on more than {_REPEATED} nodes.")
            if is_op(made, "ConstantOfShape"):
                yield from (self.tensor(attribute.t) for attribute in there.resolved(made).attribute)
            elif is_op(made, *_REPEATS):
                repeated = made.input if made.op_type == "Concat" else made.input[:1]
                waiting.extend(there.source(each) for each in repeated)
            elif not hasattr(made, "op_type") or is_op(made, "Constant"):
                yield np.asarray(self.value(*key))

    def _made(self, scope: Scope, name: str, inputs: Sequence[Value | None]) -> Value:
        """Return a value, of the values that it is made of."""
        made = scope.made[name]
        if made is None:
            return f"the input {name!r}"
        if not hasattr(made, "op_type"):
            return self.tensor(made)
        if is_op(made, "Constant"):
            return self._constant(scope.resolved(made))
        if not is_op(made, *_FOLDS):
            return f"{name!r}, which a node {made.op_type} makes"
        return self._computed(scope, made, inputs)

    def _computed(self, scope: Scope, node: Node, inputs: Sequence[Value | None]) -> Value:
        """Return the first output of a node, by the package onnx."""
        arrays = [value for value in inputs if not isinstance(value, str)]
        if len(arrays) < len(inputs):
            return next(value for value in inputs if isinstance(value, str))
        self._folded += 1
        if self._folded > _FOLDED:
            raise ValueError(f"its weights hang on more than {_FOLDED} nodes.")
        node = scope.resolved(node)
        # A damaged node makes what computes it raise almost anything.
        with naming_damage(f"the node {label(node)!r} ({node.op_type}) cannot be computed"):
            self._require_room(_bytes(node, arrays))
            result = _run(node, scope.opset, arrays)
        self._spent += result.nbytes
        return result

    def tensor(self, tensor: Tensor) -> np.ndarray:
        """Return the array of a tensor, once its size is known to be that of its data."""
        onnx = needed("onnx", "onnx")
        dims = _sizes(tensor.dims)
        if tensor.data_type not in _numbers():
            raise ValueError(f"the tensor {tensor.name!r} must hold numbers; got those of type {tensor.data_type}.")
        bfloat16 = tensor.data_type == onnx.TensorProto.BFLOAT16
        width = 2 if bfloat16 else onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        count = math.prod(dims)
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            content = self._outside(tensor, count * width)
            tensor = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=dims, raw_data=content)
        if tensor.HasField("raw_data"):
            have = len(tensor.raw_data) / width
        else:
            have = len(getattr(tensor, onnx.helper.tensor_dtype_to_field(tensor.data_type)))
        if have != count:
            raise ValueError(f"the tensor {tensor.name!r} of shape {dims} must have {count} numbers; got {have:g}.")
        self.spend(count * width)
        if not bfloat16:  # versions of the package differ in it
            return np.asarray(onnx.numpy_helper.to_array(tensor))
        raw = tensor.HasField("raw_data")
        halves = tensor.raw_data if raw else np.asarray(tensor.int32_data).astype("<u2").tobytes()
        return unpacked(halves, "<bfloat16", dims)

    def _constant(self, node: Node) -> np.ndarray:
        onnx = needed("onnx", "onnx")
        types = onnx.AttributeProto
        dtypes = {types.FLOAT: "f4", types.FLOATS: "f4", types.INT: "i8", types.INTS: "i8"}
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.type == types.TENSOR:
                return self.tensor(attribute.t)
            if attribute.name.startswith("value_") and attribute.type in dtypes:
                return np.asarray(onnx.helper.get_attribute_value(attribute), dtypes[attribute.type])
        raise ValueError(f"the node {label(node)!r} (Constant) must hold numbers.")

    def _outside(self, tensor: Tensor, wanted: int) -> bytes:
        """Return the bytes of a tensor that lies in a file beside the model."""
        info = {entry.key: entry.value for entry in tensor.external_data}
        path = _beside(self._folder, info.get("location", ""))
        size, offset, length = path.stat().st_size, int(info.get("offset") or 0), int(info.get("length") or wanted)
        if not 0 <= offset <= offset + wanted <= size or length != wanted:
            raise ValueError(f"{path.name} must hold {wanted} bytes for the tensor {tensor.name!r}, from {offset}.")
        if path not in self._beside:
            self._beside.add(path)
            self._size += size
        self._require_room(wanted)
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(wanted)


def _numbers() -> set[int]:
    """Return the types of tensors with one number a place, of whole bytes."""
    types = needed("onnx", "onnx").TensorProto
    whole = {getattr(types, f"{kind}{bits}") for kind in ("INT", "UINT") for bits in (8, 16, 32, 64)}
    return whole | {types.FLOAT16, types.BFLOAT16, types.FLOAT, types.DOUBLE, types.BOOL}


def _beside(folder: Path | None, location: str) -> Path:
    """Return the file of that name inside a folder; it is not looked for elsewhere, not even along links."""
    if folder is None:
        raise ValueError(f"weights lie in another file, {location!r}: read it with `lstm_xp.load`.")
    words = PureWindowsPath(location)  # of both kinds of slashes
    # By the words first, as to look along a path may already reach out to another machine.
    path = None if words.anchor or ".." in words.parts else (folder / location).resolve()
    if path is None or not path.is_relative_to(folder.resolve()):
        raise ValueError(f"weights must lie inside of the model's folder; got {location!r}.")
    if not path.is_file():
        raise ValueError(f"weights lie in another file, {location!r}, which is not there.")
    return path


def _sizes(dims: Sequence[int] | np.ndarray) -> tuple[int, ...]:
    """Return the sizes of axes as numbers, not too many and not negative."""
    if len(dims) > _RANK or any(n < 0 for n in dims):
        raise ValueError(f"an array must have at most {_RANK} axes of sizes from 0; got {tuple(dims[:4])} ...")
    return tuple(int(n) for n in dims)


def _bytes(node: Node, inputs: Sequence[np.ndarray | None]) -> int:
    """Return how many bytes a node makes, or more."""
    arrays = [array for array in inputs if array is not None]
    match node.op_type:
        case "ConstantOfShape":
            return 8 * math.prod(_sizes(arrays[0]))
        case "Expand":
            return 8 * math.prod(np.broadcast_shapes(_sizes(arrays[0].shape), _sizes(arrays[1])))
        case "Gather" | "GatherND" | "Mul":
            return 8 * math.prod(int(array.size) or 1 for array in arrays)
    return 8 * sum(int(array.size) for array in arrays)  # no dtype is wider


def _run(node: Node, opset: int, inputs: Sequence[np.ndarray | None]) -> np.ndarray:
    """Compute a node as the body of a function."""
    helper, reference = needed("onnx", "onnx").helper, needed("onnx.reference", "onnx")
    copy = type(node)()
    copy.CopyFrom(node)
    copy.domain = ""
    if node.op_type == "DequantizeLinear":  # the older ones compute the same, and the package lacks them
        opset = max(opset, 19)
    feeds = {name: array for name, array in zip(node.input, inputs, strict=True) if name}
    body = helper.make_function("own", "node", feeds, node.output[:1], [copy], [helper.make_opsetid("", opset)])
    with np.errstate(all="ignore"):
        (result,) = reference.ReferenceEvaluator(body).run(None, feeds, attributes={})
    return np.asarray(result)
