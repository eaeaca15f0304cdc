"""The statements that make what a constructor gives into the model that is there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import groupby
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from ..tweaks.computed import computed_as
from ..tweaks.nonlinearities import as_nonlinearity
from ..tweaks.normalization import Normalized, RemovedNorm
from ..tweaks.norms import is_norm
from ..tweaks.rewriting import rewritten_sites
from ..tweaks.skips import Residual, SkippedBlock, TakenPlace
from .comparing import shape_of
from .constructors import plain_attributes
from .expressions import Expressions, comprehension
from .layers import called, is_torch_class, plain_class
from .sources import is_installed
from .statements import Path, Statement
from .values import Unwritable, quoted, same, written
from .workbench import Workbench


class Patching:
    """Compares a model with what an expression has built, and mends the difference.

    Args:
        expressions: writes the parts that are to be put in.
        workbench: where the statements are tried out; the built model is called ``model`` there.
        refer: names classes and functions.
    """

    def __init__(self, expressions: Expressions, workbench: Workbench, refer: Any) -> None:
        self._expressions, self._workbench, self._refer = expressions, workbench, refer
        self._done: set[int] = set()
        self.statements: list[Statement] = []

    def mend(self, actual: nn.Module) -> None:
        """Make ``model`` on the workbench like ``actual``, noting the statements.

        Raises:
            Unwritable: something in it can't be written as source.
        """
        self._mend(("model",), actual, put=True)
        self._tie(actual)
        self._set_modes(("model",), actual)
        self._freeze(("model",), actual)

    def _built(self, path: Path) -> Any:
        return self._workbench.evaluate("".join(path))

    def _say(self, path: Path, text: str) -> None:
        self._workbench.run(text.replace("HERE", "".join(path)))
        self.statements.append(Statement(path, text))

    def _mend(self, path: Path, actual: Any, *, put: bool = False) -> None:
        """``put``: what is at ``path`` has been written for ``actual`` just before."""
        if id(actual) in self._done and not put:
            return None
        self._done.add(id(actual))
        built = self._built(path)
        if not put:
            self._wrap(path, built, actual)
            built = self._built(path)
            lists = (nn.Sequential, nn.ModuleList)
            if type(built) in lists and isinstance(actual, lists):
                self._edit_list(path, built, actual)
                built = self._built(path)
            if self._must_be_replaced(built, actual):
                self._say(path, f"HERE = {self._expressions.of(actual)}")
                return self._mend(path, actual, put=True)
        if _is_foreign(actual) and self._expressions.class_in_text(actual) != type(built).__name__:
            self._say(path, f"HERE.__class__ = {self._expressions.class_of(actual)}")
        self._mend_attributes(path, built, actual)
        self._mend_parametrizations(path, built, actual)
        self._mend_children(path, built, actual)
        return None

    def _wrap(self, path: Path, built: Any, actual: Any) -> None:
        """Put a skip, or a norm behind a layer, around what is there."""
        if isinstance(actual, Residual) and not isinstance(actual.body, SkippedBlock):
            inner = actual.body
        elif isinstance(actual, Normalized):
            inner = actual.layer
        else:
            return
        if self._expressions.class_in_text(actual) != type(built).__name__:
            self._wrap(path, built, inner)
            built = self._built(path)
            if type(built).__name__ == self._expressions.class_in_text(inner):
                self._say(path, f"HERE = {self._expressions.around(actual, 'HERE')}")

    def _edit_list(self, path: Path, built: Any, actual: Any) -> None:
        """Take out, put in and bring together members, where the others can stay."""
        if type(built).__name__ != self._expressions.class_in_text(actual):
            return
        wanted = [part for child in actual for part in _without_skips(child)]
        before, after = [_key(child) for child in built], [_key(child) for child in wanted]
        if before != after:
            changes = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
            if any(change[0] == "replace" for change in changes):
                return
            if not any(change[0] == "equal" for change in changes):
                return
            # From the end, so that the places of the others hold.
            for kind, start, stop, first, last in reversed(changes):
                if kind == "delete":
                    self._say(path, f"del HERE[{start}{f':{stop}' if stop > start + 1 else ''}]")
                elif kind == "insert":
                    new = [self._expressions.of(part) for part in wanted[first:last]]
                    if start == len(before):
                        self._say(path, called("HERE.extend", [f"[{', '.join(new)}]"]))
                        continue
                    for text in reversed(new):
                        self._say(path, f"HERE.insert({start}, {text})")
        if any(_block_of(child) is not None for child in actual):
            self._skip_blocks(path, actual)

    def _skip_blocks(self, path: Path, actual: Any) -> None:
        """Put skips around neighbouring members of a list."""
        pieces: list[str] = []
        at = 0
        skips = [
            (len(block), child) if (block := _block_of(child)) is not None else (0, child)
            for child in actual
        ]
        for (size, _), group in groupby(skips, lambda one: (one[0], _scale(one[1]))):
            members = [child for _, child in group]
            count = len([child for child in members if not isinstance(child, TakenPlace)])
            if not size:
                pieces.append(f"*HERE[{at or ''}:{at + count}]" if count else "")
                at += count
                continue
            text = f"nn.Sequential(*HERE[index : index + {size}])"
            around = self._expressions.around(members[0], text)
            stop = at + size * len(members)
            pieces.append(comprehension(around, [f"for index in range({at}, {stop}, {size})"]))
            at = stop
        if type(actual) is nn.ModuleList:
            return  # places are kept there, so it is written anew
        self._say(path, "HERE = " + called("nn.Sequential", [piece for piece in pieces if piece]))

    def _must_be_replaced(self, built: Any, actual: nn.Module) -> bool:
        if not isinstance(built, nn.Module):
            return True
        found = plain_class(built)
        if self._expressions.class_in_text(actual) != found.__name__:
            return not (_is_foreign(actual) and found is plain_class(actual).__bases__[0])
        is_list = isinstance(built, nn.Sequential | nn.ModuleList | nn.ModuleDict)
        if is_list and list(actual._modules) != list(built._modules):
            return True
        return _shapes(actual) != _shapes(built) and not parametrize.is_parametrized(actual)

    def _mend_attributes(self, path: Path, built: Any, actual: nn.Module) -> None:
        ours = plain_class(actual)
        if ours.__module__.startswith("gradflow_widget."):
            return
        there = plain_attributes(built)
        for key, value in plain_attributes(actual).items():
            if key in there and same(there[key], value):
                continue
            private = key.startswith("_") and is_torch_class(ours)
            if private or key in ("dynamo_ctx", "forward", "get_compiler_config"):
                continue
            try:
                text = written(value, self._refer)
            except Unwritable as error:
                if key in there and (is_torch_class(ours) or _is_foreign(actual)):
                    continue
                if type(there.get(key)).__name__ == type(value).__name__:
                    continue
                raise Unwritable(f"in {type(actual).__name__}.{key}, {error}") from None
            self._say(path, f"HERE.{key} = {text}")

    def _mend_parametrizations(self, path: Path, built: Any, actual: nn.Module) -> None:
        if not parametrize.is_parametrized(actual):
            return
        for key in actual.get_submodule("parametrizations")._modules:
            if computed_as(built, key):
                continue
            self._say(path, self._expressions.computed(actual, key))

    def _mend_children(self, path: Path, built: Any, actual: nn.Module) -> None:
        for key in built._modules:
            if key not in actual._modules and key != "parametrizations":
                self._say(path, f"del HERE.{key}")
        for key, child in actual._modules.items():
            if key == "parametrizations":
                continue
            at = (*path, _step(actual, key))
            if child is None:
                if built._modules.get(key) is not None:
                    self._say(at, "HERE = None")
            elif built._modules.get(key) is None:
                self._say(at, f"HERE = {self._expressions.of(child)}")
                self._mend(at, child, put=True)
            else:
                self._mend(at, child)
        self._put_in_order(path, actual)

    def _put_in_order(self, path: Path, actual: nn.Module) -> None:
        """Optimizers count parameters in the order of the children."""
        there, wanted = (
            [key for key in module._modules if key != "parametrizations"]
            for module in (self._built(path), actual)
        )
        pairs = enumerate(zip(there, wanted, strict=True))
        first = next((place for place, (one, other) in pairs if one != other), None)
        for key in wanted[first:] if first is not None else []:
            self._say(path, f"HERE.{key} = HERE._modules.pop({quoted(key)})")

    # -- parameters ----------------------------------------------------------------------

    def _tie(self, actual: nn.Module) -> None:
        """Make parameters one where they are one in ``actual``."""
        built = self._built(("model",))
        first: dict[int, str] = {}
        found = dict(built.named_parameters(remove_duplicate=False))
        for name, parameter in actual.named_parameters(remove_duplicate=False):
            if name not in found:
                continue
            source = first.setdefault(id(parameter), name)
            if found[name] is not found[source]:
                self._say(_path_to(actual, name), f"HERE = {''.join(_path_to(actual, source))}")

    def _set_modes(self, path: Path, actual: nn.Module) -> None:
        built = self._built(path)
        if not isinstance(built, nn.Module):
            return
        modes = [module.training for module in actual.modules()]
        if all(module.training == modes[0] for module in built.modules()) and (
            len(set(modes)) == 1 and built.training == modes[0]
        ):
            return
        if len(set(modes)) == 1:
            self._say(path, "HERE.train()" if modes[0] else "HERE.eval()")
            return
        if built.training != actual.training:
            self._say(path, f"HERE.training = {actual.training}")
        for key, child in actual._modules.items():
            if child is not None and key != "parametrizations":
                self._set_modes((*path, _step(actual, key)), child)

    def _freeze(self, path: Path, actual: nn.Module) -> None:
        wanted = [p.requires_grad for p in actual.parameters()]
        built = self._built(path)
        if wanted == [p.requires_grad for p in built.parameters()]:
            return
        if len(set(wanted)) == 1:
            self._say(path, f"HERE.requires_grad_({wanted[0]})")
            return
        for key, parameter in actual._parameters.items():
            there = built._parameters.get(key)
            if parameter is None or there is None:
                continue
            if there.requires_grad != parameter.requires_grad:
                self._say(path, f"HERE.{key}.requires_grad_({parameter.requires_grad})")
        for key, child in actual._modules.items():
            if child is not None:
                self._freeze((*path, _step(actual, key)), child)


def _block_of(child: nn.Module) -> SkippedBlock | None:
    body = child.body if isinstance(child, Residual) else None
    return body if isinstance(body, SkippedBlock) else None


def _scale(child: nn.Module) -> Any:
    if not isinstance(child, Residual):
        return None
    return "learned" if child.is_learned else child.scale


def _without_skips(child: nn.Module) -> Iterator[nn.Module]:
    """Yield the members of a list that a tweak has made into ``child``."""
    block = _block_of(child)
    if block is not None:
        yield from block
    elif not isinstance(child, TakenPlace):
        yield child


def _key(module: Any) -> Any:
    """Return what is the same of a module before and after tweaks."""
    while isinstance(module, Residual | Normalized):
        module = module.body if isinstance(module, Residual) else module.layer
    if type(module).__name__ in ("Skip", "Normalized"):
        return None
    known = map(shape_of, module.parameters())
    shapes = [shape for shape in known if shape is not None and len(shape) > 1]
    # Activations and norms are exchanged for one another, and for nothing at all.
    place = (nn.Identity, RemovedNorm)
    if is_norm(module) or isinstance(module, place) or as_nonlinearity(module) is not None:
        return "activation or norm"
    # Of a computed weight there are several tensors; the largest has the weight's shape.
    return plain_class(module).__name__, max(shapes, key=math.prod, default=None)


def _is_foreign(module: nn.Module) -> bool:
    """Whether a module's class is an installed one whose activations were swapped."""
    cls = plain_class(module)
    return bool(rewritten_sites(cls)) and is_installed(cls.__bases__[0])


def _shapes(module: nn.Module) -> dict[str, Any]:
    return {
        name: None if tensor is None else shape_of(tensor)
        for tensors in (module._parameters, module._buffers)
        for name, tensor in tensors.items()
    }


def _step(parent: nn.Module, key: str) -> str:
    if isinstance(parent, nn.ModuleDict):
        return f"[{quoted(key)}]"
    if isinstance(parent, nn.Sequential | nn.ModuleList):
        names = list(parent._modules)
        if names == [str(index) for index in range(len(names))]:
            return f"[{key}]"
    return f".{key}" if key.isidentifier() else f"._modules[{quoted(key)}]"


def _path_to(model: nn.Module, name: str) -> Path:
    path: Path = ("model",)
    module = model
    *parents, last = name.split(".")
    for key in parents:
        path = (*path, _step(module, key))
        module = module.get_submodule(key)
    return (*path, f".{last}")


def cast(model: nn.Module) -> str:
    """Return the statement that gives a model its dtype and device; "" where they are usual.

    Raises:
        Unwritable: its parameters have several.
    """
    tensors = [p for p in model.parameters() if p.is_floating_point()]
    dtypes = {p.dtype for p in tensors}
    devices = {str(p.device) for p in model.parameters()}
    if len(dtypes) > 1 or len(devices) > 1:
        raise Unwritable("its parameters have several dtypes or devices")
    device = next(iter(devices), "cpu")
    dtype = next(iter(dtypes), torch.float32)
    arguments = [*([f'"{device}"'] if device != "cpu" else [])]
    if dtype != torch.float32:
        arguments.append(str(dtype))
    return f"model.to({', '.join(arguments)})\n" if arguments else ""
