"""What a reader lets pass, at the very bound and just beyond it: each by the function that says no."""

import errno
import io
import os
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lstm_xp.formats import _files, _pickles
from lstm_xp.formats._pickles import Tensor

# Memory, and the machine


@pytest.mark.parametrize("size", [0, 1 << 22, 1 << 23])
def test_the_budget_of_a_file(size):
    most = {0: 1 << 26, 1 << 22: 1 << 26, 1 << 23: 1 << 27}[size]
    _files.require_budget(size, most, "it")
    with pytest.raises(ValueError, match=f"it takes {most + 1} bytes of memory, more than a file of {size} bytes"):
        _files.require_budget(size, most + 1, "it")


@pytest.mark.parametrize("name", [None, "temporary", "other"])
def test_an_error_that_names_another_file_keeps_its_name(name):
    with (
        pytest.raises(OSError, match="slow") as caught,
        _files.naming(Path("model.npz"), Path("temporary")),
    ):
        raise OSError(errno.EIO, "slow", name, None, "second")
    other = ("other", "second")
    assert (caught.value.filename, caught.value.filename2) == (other if name == "other" else ("model.npz", None))


@pytest.mark.parametrize(
    ("error", "said"),
    [(ValueError(" two\nlines"), "two"), (KeyError(), "KeyError"), (OSError("no number"), "no number")],
    ids=repr,
)
def test_what_is_said_of_damage(error, said):
    assert _files.damage(error) == said


@pytest.mark.parametrize("fault", [ImportError, MemoryError, RecursionError])
def test_faults_of_the_machine_are_no_damage(fault):
    with pytest.raises(fault):
        _files.damage(fault("of the machine"))


def test_the_size_of_a_file():
    assert _files.size_of(io.BytesIO(b"abc")) == 3


# JSON


@pytest.mark.parametrize("text", ["[" * 100 + "]" * 100, '{"a":' * 100 + "1" + "}" * 100, "[" + "{}," * 200 + "[]]"])
def test_json_as_deep_as_it_may_be(text):
    assert _files.parsed(text) == _files.parsed(text.encode())
    assert _files.parsed('["' + "[" * 200 + '\\"["]') == ["[" * 200 + '"[']


@pytest.mark.parametrize(
    "text", ["[" * 101, '{"a":' * 101, "[" + "{}," * 60 + "[" * 100, "[" + "[]," * 60 + '{"a":' * 100]
)
def test_json_that_is_deeper(text):
    with pytest.raises(ValueError, match="its JSON has a recursion of brackets, more than 100 deep"):
        _files.parsed(text)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-le"])
def test_json_in_each_encoding(encoding):
    assert _files.parsed('["é"]'.encode(encoding)) == ["é"]


# Arrays of NumPy


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_each_version(version, order):
    array, out = np.asarray(np.arange(6.0).reshape(2, 3), order=order), io.BytesIO()
    np.lib.format.write_array(out, array, version)
    np.testing.assert_array_equal(_files._npy(out.getvalue()), array)


@pytest.mark.parametrize("length", [500, 501])
def test_the_longest_header_of_an_array(length):
    text = "{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }"
    header = text.ljust(length - 1).encode() + b"\n"
    content = b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + header + np.ones(1).tobytes()
    if length == 500:
        assert _files._npy(content) == 1
    else:
        with pytest.raises(ValueError, match="Header info length"):
            _files._npy(content)


def test_an_archive_whose_end_is_far_from_its_beginning():
    """What zipfile reads of it is read before: a comment of the longest kind, and more."""
    reads = []

    class File(io.BytesIO):
        def read(self, *size):
            if not size:
                reads.append(self.tell())
            return super().read(*size)

    file = File()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", bytes(1 << 18))
    with _files.opened_zip(file):
        pass
    assert reads[0] == _files.size_of(file) - (1 << 17)
    small = File(file.getvalue()[-22:])  # the end alone, which is an archive of nothing
    reads.clear()
    with pytest.raises(zipfile.BadZipFile), _files.opened_zip(small):
        pass
    assert reads[0] == 0


def test_a_member_is_asked_for_no_more_than_it_says():
    """Whatever else there is of it would be unpacked, too."""

    class Archive:
        def getinfo(self, name):
            return SimpleNamespace(file_size=3)

        def open(self, name):
            return io.BytesIO(b"content")

    assert _files.unpacked_member(Archive(), "a") == b"con"


def test_all_is_on_the_disk_before_the_file_takes_its_place(tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(os, "fsync", lambda number: sizes.append(os.fstat(number).st_size))
    with _files.writing(tmp_path / "a") as file:
        file.write(b"content")
    assert sizes == [7]


# Tensors of pickles

STORAGE = np.arange(16.0)
WITHIN = {
    # Start, shape, strides: from the first to the last number of the storage.
    "one axis": (0, (16,), (1,)),
    "one number": (15, (), ()),
    "its end": (4, (12,), (1,)),
    "two axes": (0, (2, 8), (8, 1)),
    "columns": (0, (4, 4), (1, 4)),
    "every fifth": (0, (4,), (5,)),
    "steps of another size": (1, (3, 2), (2, 10)),
    "repeated": (15, (3, 5), (0, 0)),
    "no numbers": (16, (3, 0), (1000, 1)),
}


@pytest.mark.parametrize("case", WITHIN)
def test_a_tensor_at_the_end_of_its_storage(case):
    start, shape, strides = WITHIN[case]
    got = Tensor("0", "<float64", start, shape, strides).within(STORAGE)
    places = start + sum(np.indices(shape)[k] * step for k, step in enumerate(strides)) if shape else start
    np.testing.assert_array_equal(got, STORAGE[places] if got.size else np.zeros(shape))
    assert not got.flags.writeable
    if got.size:
        with pytest.raises(ValueError, match="must lie within its storage"):
            Tensor("0", "<float64", start + 1, shape, strides).within(STORAGE)


@pytest.mark.parametrize("size", [0, 1])
def test_a_tensor_of_no_numbers(size):
    assert Tensor("0", "<float64", 0, (0, 3), (3, 1)).within(np.zeros(size)).shape == (0, 3)


@pytest.mark.parametrize(
    ("start", "shape", "strides"),
    [(-1, (4,), (1,)), (0, (-1, 2), (1, 1)), (0, (-2, -2), (1, 1)), (3, (2,), (-1,)), (-1, (0,), (1,))],
)
def test_a_tensor_that_goes_backwards(start, shape, strides):
    with pytest.raises(ValueError, match="must lie within its storage"):
        Tensor("0", "<float64", start, shape, strides).within(STORAGE)


@pytest.mark.parametrize(("kind", "key"), [(3, "0"), ("Float", 0), (None, None)])
def test_a_storage_that_is_not_named(kind, key):
    with pytest.raises(ValueError, match="must have a kind and a name that are texts"):
        _pickles.Unpickler(io.BytesIO()).persistent_load(("storage", kind, key, "cpu", 1))


# What a pickle says


def unpickled(content, **options):
    return _pickles.Unpickler(io.BytesIO(b"\x80\x02" + content + b"."), **options).load()


def test_texts_of_python_2():
    assert unpickled("U\2é".encode()) == "é"


def test_the_storages_of_pytorch_have_their_size():
    torch = pytest.importorskip("torch")
    reader = _pickles.Unpickler(io.BytesIO())
    for dtype, kind in torch.storage._dtype_to_storage_type_map().items():
        reader.persistent_load(("storage", kind.removesuffix("Storage"), "0", "cpu", 1))
        assert reader.sizes == {"0": torch._utils._element_size(dtype)}, kind


def test_the_names_that_a_pickle_has():
    reader = _pickles.Unpickler(io.BytesIO())
    assert [reader.find_class(module, "FloatStorage") for module in ("torch", "torch.storage")] == ["Float"] * 2
    for module, name in (("torch", "Size"), ("torch.cuda", "FloatStorage"), ("collections", "Storage")):
        assert reader.find_class(module, name) is _pickles._Mapping
    with pytest.raises(ValueError, match=r"it holds an object of os\.system"):
        reader.find_class("os", "system")
    assert _pickles.Unpickler(io.BytesIO(), objects=True).find_class("os", "system") is _pickles._Mapping


@pytest.mark.parametrize(
    ("rest", "whole"),
    [((), True), ((True, {1: 2}), True), ((False, {}, {}), True), ((False, {}, {"neg": True}), False)],
)
def test_a_tensor_of_another_sign_is_none(rest, whole):
    storage = Tensor("0", "<float32", 2)
    wanted = Tensor("0", "<float32", 5, (4,), (1,)) if whole else None
    assert _pickles._tensor(storage, 3, (4,), (1,), *rest) == wanted


def test_a_storage_that_is_a_view():
    reader = _pickles.Unpickler(io.BytesIO(), ">")
    for view, start in (((), 0), ((None,), 0), ((("1", 7, 2),), 7)):
        assert reader.persistent_load(("storage", "Half", "0", "cpu", 9, *view)) == Tensor("0", ">float16", start)


OBJECT = b"ccollections\nOrderedDict\n)R"


def test_what_an_object_is_given_fills_no_other():
    """Nor do keys that are neither texts nor numbers count, and what is no mapping says nothing."""
    state = b"}q\0(X\1\0\0\0aK\1K\2K\3)K\4u"
    assert unpickled(state) == {"a": 1, 2: 3}
    first, second = unpickled(b"]q\1(" + OBJECT + state + b"b" + OBJECT + b"h\0be")
    assert (first, second) == ({"a": 1, 2: 3}, {})
    assert unpickled(OBJECT + b"K\1b") == {}
    assert unpickled(b"]" + state + b"b") == []
