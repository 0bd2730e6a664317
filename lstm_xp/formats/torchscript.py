"""TorchScript archives: the attributes of the modules, without their code, which is neither run nor compiled."""

from functools import partial

from ._model import Files, Format
from .torch import read

_ARCHIVE = Files("TorchScript", partial(read, format="TorchScript", objects=True), member=r"constants\.pkl")
FORMAT = Format("TorchScript", (_ARCHIVE,))
