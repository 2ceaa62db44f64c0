"""Values to a digest that every process finds again, the user's own code included."""

import copyreg
import functools
import hashlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, MappingProxyType, ModuleType

import numpy as np
import torch
from torch import Tensor

_OWN = __name__.partition(".")[0]
_INSTALLED = {"dist-packages", "site-packages"}  # folders that code is installed to
# Attributes that depend on the text around a class, or on who has looked, not on what it does.
_INCIDENTAL = {
    "__annotate__",
    "__annotate_func__",
    "__annotations__",
    "__annotations_cache__",
    "__conditional_annotations__",
    "__doc__",
    "__firstlineno__",
    "__module__",
    "__static_attributes__",
}


def fingerprint(values: dict[str, object]) -> str:
    """Return a digest of named values, 32 hexadecimal digits.

    It is the same in every process, on every machine and after cloning, pickling or copying.
    Objects count by what they hold. Functions and classes count by their names where they are
    installed, the user's own by their code and by whatever that refers to: defaults, closures and
    globals.

    Parameters
    ----------
    values : dict
        Plain values, arrays, tensors, parameter objects, modules, functions, and all that can be
        pickled, by names for the error.

    Raises
    ------
    ValueError
        If a value, named by the error, cannot be described.

    Examples
    --------
    >>> from sklearn_simclr._fingerprint import fingerprint
    >>> fingerprint({"temperature": 0.5, "batch_size": 256})
    'aebabfd193c42cc92ed69307db025237'
    """
    digests = []
    for name, value in values.items():
        try:
            digests += [name.encode(), _Reader().read(value)]
        except Exception as error:  # whatever objects raise that do not want to be pickled
            raise ValueError(
                f"{name}={value!r} cannot be described so that another process would know it "
                f"again: {type(error).__name__}: {error}. Make it of plain values, arrays, "
                "functions and modules, or pass checkpoint_dir=None."
            ) from error
    return _digest("values", *digests).hex()


def _digest(kind: str, *parts) -> bytes:
    """Digest of bytes-like parts, each with its length, so that they cannot run together."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (kind.encode(), *parts):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


class _Reader:
    """Reads one value; an object met again within it is named by its number."""

    def __init__(self) -> None:
        self._met: dict[int, tuple[int, object]] = {}  # by address; holds it, so it stays its own
        self._number = itertools.count()

    def read(self, value) -> bytes:
        """Return the digest of any value."""
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or type(value) in (bool, int, float, complex, str, bytes):
            return _digest(type(value).__name__, repr(value).encode())
        if isinstance(value, Tensor):
            return _read_tensor(value)
        if type(value) in (np.ndarray, np.memmap) and not value.dtype.hasobject:
            array = f"{value.dtype} {value.shape}"
            return _digest("array", array.encode(), value.tobytes())
        if id(value) in self._met:
            return _digest("again", str(self._met[id(value)][0]).encode())
        self._met[id(value)] = next(self._number), value
        try:
            return self._read_compound(value)
        finally:
            if not isinstance(value, FunctionType | type):  # two of equal parts are the same
                del self._met[id(value)]

    def _read_compound(self, value) -> bytes:
        if isinstance(value, FunctionType):
            return self._read_function(value)
        if isinstance(value, type):
            return self._read_class(value)
        if isinstance(value, CodeType):
            return self._read_code(value)
        if isinstance(value, ModuleType):
            return _digest("module", value.__name__.encode())
        if type(value) in (list, tuple):
            return self._all(type(value).__name__, *value)
        if type(value) in (dict, MappingProxyType):
            return self._all("dict", *itertools.chain.from_iterable(value.items()))
        if type(value) in (set, frozenset):
            return self._read_set(value)
        if isinstance(value, property):
            return self._all("property", value.fget, value.fset, value.fdel)
        if isinstance(value, classmethod | staticmethod):
            return self._all(type(value).__name__, value.__func__)
        if isinstance(value, functools.cached_property):
            return self._all("cached_property", value.func)
        if isinstance(value, functools.singledispatchmethod):
            return self._all("singledispatchmethod", value.func, value.dispatcher)
        return self._read_object(value)

    def _read_set(self, value: set | frozenset) -> bytes:
        """Read elements, whose order differs between processes, as if each were the first."""
        start, digests = next(self._number), []
        for each in value:
            reader = _Reader()
            reader._met, reader._number = dict(self._met), itertools.count(start)
            digests.append(reader.read(each))
        return _digest("set", *sorted(digests))

    def _all(self, kind: str, *parts) -> bytes:
        return _digest(kind, *map(self.read, parts))

    def _read_object(self, value) -> bytes:
        """Read an object by what a pickle would hold of it."""
        reduce = copyreg.dispatch_table.get(type(value))
        reduced = reduce(value) if reduce else value.__reduce_ex__(4)
        if isinstance(reduced, str):  # the name of something global, such as a function's cache
            wrapped = getattr(value, "__wrapped__", None)
            return self._all("global", getattr(value, "__module__", None), reduced, wrapped)
        make, args, state, items, pairs = (*reduced, None, None, None)[:5]
        return self._all("object", make, args, state, list(items or ()), list(pairs or ()))

    def _read_function(self, function: FunctionType) -> bytes:
        module, name, own = function.__module__, function.__qualname__, vars(function)
        if "_torchdynamo_orig_callable" in own:  # torch.compile has numbered what it returned
            return self._all("compiled", own["_torchdynamo_orig_callable"])
        if {"dispatch", "registry"} <= own.keys():  # functools.singledispatch keeps a cache
            return self._all("singledispatch", own["registry"])
        held = (
            function.__defaults__,
            function.__kwdefaults__,
            [_content(cell) for cell in function.__closure__ or ()],
        )
        if _is_installed(module):  # those made by another function differ in what they hold
            return self._all("installed", module, name, *(held if "<locals>" in name else ()))
        globals_ = self._read_named(function.__globals__, set(_names(function.__code__)))
        return self._all("function", name, function.__code__, *held, own, globals_)

    def _read_code(self, code: CodeType) -> bytes:
        variables = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        arguments = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount)
        return self._all(
            "code", code.co_code, code.co_consts, *variables, *arguments, code.co_flags
        )

    def _read_class(self, cls: type) -> bytes:
        if _is_installed(cls.__module__):
            return self._all("installed", cls.__module__, cls.__qualname__)
        own = {name: value for name, value in vars(cls).items() if name not in _INCIDENTAL}
        return self._all(
            "class", cls.__qualname__, type(cls), cls.__bases__, self._read_named(own, own.keys())
        )

    def _read_named(self, namespace: dict, names) -> list[bytes]:
        """Read the objects that names refer to, and in the user's modules those of the same names.

        What cannot be described, such as a lock, counts by its class, and if that is the user's, by
        what else it holds.
        """
        digests = []
        for name in sorted(names & namespace.keys()):
            value = namespace[name]
            if id(value) in self._met:
                digests += [name.encode(), self.read(value)]
            elif isinstance(value, ModuleType) and not _is_installed(value.__name__):
                self._met[id(value)] = next(self._number), value
                digests += [name.encode(), *self._read_named(vars(value), names)]
            else:
                start = next(self._number)
                try:
                    digests += [name.encode(), self.read(value)]
                except Exception:
                    # What was met on the way is in no digest yet.
                    self._met = {key: met for key, met in self._met.items() if met[0] < start}
                    digests += [name.encode(), *self._read_rest(value)]
        return digests

    def _read_rest(self, value) -> list[bytes]:
        """Read what can be of a value that cannot be described."""
        kind = type(value)
        if _is_installed(kind.__module__):
            return [kind.__qualname__.encode()]
        self._met[id(value)] = next(self._number), value
        held = {"": kind, **getattr(value, "__dict__", {})}
        return self._read_named(held, held.keys())


def _read_tensor(value: Tensor) -> bytes:
    head = f"{value.dtype} {tuple(value.shape)} {value.requires_grad}"
    flat = value.detach().cpu().contiguous().flatten()
    return _digest("tensor", head.encode(), flat.view(torch.uint8).numpy())


def _is_installed(module: str | None) -> bool:
    """Whether a module is part of Python, of this package or of an installed one."""
    root = (module or "").partition(".")[0]
    if root in sys.stdlib_module_names or root == _OWN:
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    return bool(file) and not _INSTALLED.isdisjoint(Path(file).parts)


def _names(code: CodeType) -> Iterator[str]:
    """Names that code looks up, that of the functions within it included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _content(cell):
    try:
        return cell.cell_contents
    except ValueError:  # not yet assigned
        return None
