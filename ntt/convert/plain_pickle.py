"""Reads pickles of unknown origin that hold nothing but plain containers, numbers and text.

A pickle is a program: loading one may run anything. Here it is read twice. First its instructions are gone through
without being carried out, and any that is not needed for plain data is refused; then it is loaded with a reader that
knows one name, `collections.OrderedDict`, and makes a plain dictionary of it. Tuples become lists.
"""

import io
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from ntt.errors import DataError

_MAX_BYTES = 64 << 20
# fmt: off
_PLAIN = frozenset(
    (
        "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT",
        "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
        "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "EMPTY_DICT",
        "EMPTY_LIST", "EMPTY_TUPLE", "DICT", "LIST", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
        "APPEND", "APPENDS", "SETITEM", "SETITEMS", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE",
        "GET", "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "REDUCE",
    )
)
# fmt: on
_ALLOWED_NAME = ("collections", "OrderedDict")
_BROKEN = (
    pickle.UnpicklingError,
    ValueError,
    TypeError,
    EOFError,
    IndexError,
    KeyError,
    AttributeError,
    MemoryError,
    OverflowError,
    RecursionError,
    AssertionError,
)


def load_plain(path: Path) -> Any:
    """Load a pickle of dictionaries, lists, numbers, text and None; tuples become lists, ordered dictionaries plain.

    Raises:
        DataError: if it cannot be read, or holds anything else; nothing of it has been carried out then.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}. A readable pickle file is needed.") from error
    if len(data) > _MAX_BYTES:
        raise DataError(f"{path} has {len(data)} bytes; lists of references of up to {_MAX_BYTES} bytes are read.")
    try:
        _check_instructions(data, path)
        return _PlainReader(path, data).load()
    except _BROKEN as error:
        raise DataError(f"{path} is not a whole pickle file ({error}). Copy it again from its source.") from error


def _check_instructions(data: bytes, path: Path) -> None:
    """Refuse any instruction that plain data does not need."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if opcode.name not in _PLAIN:
            raise _refusal(path, f"the instruction {opcode.name}")
        if opcode.name == "GLOBAL" and tuple(str(argument).split(" ")) != _ALLOWED_NAME:
            raise _refusal(path, f"the name {str(argument).replace(' ', '.')!r}")
        # The memo is an array as long as the largest place used: a small file could ask for gigabytes.
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > count:
            raise _refusal(path, f"the memo place {argument} after {count} instructions")


def _as_list(load_tuple: Callable[[Any], None]) -> Callable[[Any], None]:
    def load(reader: Any) -> None:
        load_tuple(reader)
        reader.stack[-1] = list(reader.stack[-1])

    return load


_TUPLES = (pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)


class _PlainReader(pickle._Unpickler):
    """The reader that is written in Python, because its instructions can be replaced: no tuple is ever made.

    A tuple may be the key of a dictionary, and to hash it is to walk through it without any bound: one nested a million
    deep overflows the stack of the process, one whose parts are shared takes for ever.
    """

    dispatch: ClassVar[Any] = {
        **pickle._Unpickler.dispatch,
        **{op[0]: _as_list(pickle._Unpickler.dispatch[op[0]]) for op in _TUPLES},
    }

    def __init__(self, path: Path, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        """Give a plain dictionary for an ordered one and nothing else."""
        if (module, name) != _ALLOWED_NAME:
            raise _refusal(self._path, f"the name {f'{module}.{name}'!r}")
        return dict

    def persistent_load(self, pid: Any) -> Any:
        """Refuse references to things outside the file."""
        raise _refusal(self._path, "a reference to something outside the file")


def _refusal(path: Path, what: str) -> DataError:
    return DataError(
        f"{path} is refused: it contains {what}, which lists of references do not need. Only dictionaries, lists, "
        "numbers and text are read from pickles, because anything else could run a program. Nothing was carried out; "
        "make the list again with a script you trust."
    )
