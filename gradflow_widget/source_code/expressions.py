"""Modules as expressions: what would be written to make them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from ..tweaks.computed import computed_as
from ..tweaks.normalization import Normalized, RemovedNorm
from ..tweaks.norms import BatchNormOver, ChannelRMSNorm, GroupNormOver
from ..tweaks.orthogonality import OrthogonalKernel
from ..tweaks.rewriting import rewritten_sites
from ..tweaks.skips import Residual, SkippedBlock, TakenPlace
from . import templates
from .constructors import Constructors
from .definitions import Definitions
from .layers import called, is_torch_class, layer_call, plain_class
from .rewritten import class_name, replace_classes
from .values import Unwritable, quoted
from .workbench import Workbench

_TWEAKS = (Residual, Normalized, BatchNormOver, GroupNormOver, ChannelRMSNorm)
_WIDTH = 88


class Expressions:
    """Writes modules as expressions.

    Args:
        definitions: takes in what the expressions need.
        workbench: where candidates are tried out.
        model: the model that the modules are part of.
    """

    def __init__(self, definitions: Definitions, workbench: Workbench, model: nn.Module) -> None:
        self._definitions = definitions
        self._constructors = Constructors(definitions, workbench, self.of)
        self._written: dict[int, str] = {}
        replace_classes(model, definitions)
        parents = [(m, child) for m in model.modules() for child in m._modules.values()]
        # Where a list, or PyTorch's own code, calls a block, nobody asks it for attributes.
        self._asked = {
            id(child)
            for parent, child in parents
            if type(parent) not in (nn.Sequential, SkippedBlock)
        }
        self._places = Counter(id(child) for _, child in parents if child is not None)

    def class_of(self, module: nn.Module) -> str:
        """Return the name of a module's class."""
        return class_name(module, self._definitions)

    def class_in_text(self, module: nn.Module) -> str:
        """Return the name of the class that a module has in the text.

        Raises:
            Unwritable: the class can't be written as source.
        """
        cls = plain_class(module)
        if cls in (RemovedNorm, TakenPlace):
            return "Identity"
        if cls is SkippedBlock:
            return "Sequential"
        if cls in _TWEAKS:
            return self._of_a_tweak(module).partition("(")[0].rpartition(".")[2]
        return self.class_of(module) if rewritten_sites(cls) else cls.__name__

    def of(self, module: nn.Module) -> str:
        """Return source that makes a module like ``module``, with weights as they are drawn.

        Raises:
            Unwritable: it can't be written as source.
        """
        if id(module) not in self._written:
            text = self._of(module)
            for key in self._weight_norms(module):
                text = self.computed(module, key).replace("HERE", text)
            if self._places[id(module)] > 1:
                text = self._definitions.variable(type(module).__name__.lower(), text)
            self._written[id(module)] = text
        return self._written[id(module)]

    def _of(self, module: Any) -> str:
        cls = plain_class(module)
        refer = self._definitions.refer
        if cls in (nn.Sequential, SkippedBlock):
            return self._sequential(module)
        if cls is nn.ModuleList:
            text = f"nn.ModuleList([{self._items(list(module), 'nn.ModuleList([])')}])"
            alone = re.fullmatch(r"nn\.ModuleList\(\[\*(\[[^*]*\])\]\)", text)
            return f"nn.ModuleList({alone[1]})" if alone else text
        if cls is nn.ModuleDict:
            members = (f"{quoted(name)}: {self.of(part)}" for name, part in module.items())
            return f"nn.ModuleDict({{{', '.join(members)}}})"
        if cls in (nn.ParameterList, nn.ParameterDict):
            return self._constructors.assembled(module)
        if cls in (RemovedNorm, TakenPlace):
            return "nn.Identity()"
        if cls.__name__ == "OptimizedModule":
            return f"torch.compile({self.of(module._orig_mod)}{_backend(module)})"
        if cls in _TWEAKS:
            return self._of_a_tweak(module)
        if is_torch_class(cls):
            return layer_call(module, refer, self.of)
        return self._constructors.call(module)

    # -- containers --------------------------------------------------------------------

    def _sequential(self, module: nn.Sequential) -> str:
        names, parts = list(module._modules), list(module)
        if names == [str(index) for index in range(len(names))]:
            return f"nn.Sequential({self._items(parts, 'nn.Sequential()')})"
        self._definitions.imports.add("from collections import OrderedDict")
        if all(name.isidentifier() for name in names):
            members = [f"{name}={self.of(part)}" for name, part in zip(names, parts, strict=True)]
            return called("nn.Sequential", [called("OrderedDict", members)])
        pairs = [
            f"({quoted(name)}, {self.of(part)})" for name, part in zip(names, parts, strict=True)
        ]
        listed = called("OrderedDict", pairs).replace("(", "([", 1)[:-1] + "])"
        return called("nn.Sequential", [listed])

    def _items(self, parts: list[nn.Module], around: str) -> str:
        """Return the members of a list, repeated ones as a comprehension."""
        texts = [self.of(part) for part in parts]
        pieces: list[str] = []
        for block, times in _runs(texts):
            joined = ", ".join(block)
            if times == 1:
                pieces += block
            elif len(block) == 1:
                pieces.append(comprehension(joined, [f"for _ in range({times})"]))
            else:
                if len(joined) > _WIDTH - 20:
                    joined = "".join(f"\n{_indented(text)}," for text in block) + "\n"
                loops = [f"for _ in range({times})", f"for layer in ({joined})"]
                pieces.append(comprehension("layer", loops))
        text = ", ".join(pieces)
        if "\n" not in text and (len(text) + len(around) <= _WIDTH or len(pieces) < 2):
            return text
        lines = ",\n".join(_indented(piece) for piece in pieces)
        return f"\n{lines},\n"

    # -- what the tweaks put in --------------------------------------------------------

    def _of_a_tweak(self, module: Any) -> str:
        template = self._definitions.template
        if isinstance(module, Residual):
            return self.around(module, self.of(module.body))
        if isinstance(module, Normalized):
            return self.around(module, self.of(module.layer))
        if isinstance(module, BatchNormOver):
            dim = "" if module.dim == -1 else f", dim={module.dim}"
            name = template("BatchNorm", templates.BATCH_NORM)
            return f"{name}({module.num_features}{dim})"
        if isinstance(module, GroupNormOver):
            name = template("GroupNormLast", templates.GROUP_NORM)
            return f"{name}({module.num_groups}, {module.num_channels})"
        name = template("ChannelRMSNorm", templates.RMS_NORM, ("import math",))
        eps = "" if module.eps == 1e-5 else f", eps={module.eps!r}"
        return f"{name}({module.weight.numel()}{eps})"

    def around(self, module: Any, inner: str) -> str:
        """Return source of a skip or a normalised layer around what ``inner`` gives."""
        template = self._definitions.template
        asked = id(module) in self._asked
        if isinstance(module, Residual):
            scale = "nn.Parameter(torch.zeros(()))" if module.is_learned else repr(module.scale)
            name = template("Skip", templates.SKIP_OF_A_BLOCK if asked else templates.SKIP)
            return called(name, [inner, scale])
        norm = self.of(module.norm)
        if asked:
            return called(template("Normalized", templates.NORMALIZED), [inner, norm])
        self._definitions.imports.add("from collections import OrderedDict")
        members = called("OrderedDict", [f"layer={inner}", f"norm={norm}"])
        return called("nn.Sequential", [members])

    def _weight_norms(self, module: nn.Module) -> Iterator[str]:
        """Yield the names of weights whose parametrization draws nothing when it is put on."""
        if parametrize.is_parametrized(module):
            for key in module.get_submodule("parametrizations")._modules:
                if computed_as(module, key) == "weight":
                    yield key

    def computed(self, module: nn.Module, key: str) -> str:
        """Return the statements that put the parametrization of a weight on; HERE is the module.

        What draws random numbers draws them as the tweaks do.

        Raises:
            Unwritable: it is none of torch's nor of the tweaks'.
        """
        kind = computed_as(module, key)
        steps = list(module.get_submodule(f"parametrizations.{key}").children())
        step: Any = steps[0]
        given = "" if key == "weight" else f', "{key}"'
        self._definitions.imports.add("from torch.nn.utils import parametrizations")
        if len(steps) > 1 or kind == "other":
            raise Unwritable(
                f"the parametrization {type(step).__name__} can't be written as source"
            )
        if kind == "weight":
            dim = "" if step.dim == 0 else f", dim={step.dim}"
            return f"parametrizations.weight_norm(HERE{given}{dim})"
        seeded = "torch.manual_seed(0)  # the start is random\n"
        if isinstance(step, OrthogonalKernel):
            self._definitions.imports |= {"from torch.nn.utils import parametrize", "import math"}
            name = self._definitions.template("OrthogonalKernel", templates.ORTHOGONAL_KERNEL)
            kernel = f"{name}(HERE.{key})"
            return f'{seeded}parametrize.register_parametrization(HERE, "{key}", {kernel})'
        if kind == "spectral":
            dim = "" if step.dim == 0 else f", dim={step.dim}"
            if step.n_power_iterations != 1:
                dim += f", n_power_iterations={step.n_power_iterations}"
            # In train mode it would go on from its start when it is put on.
            return f"{seeded}parametrizations.spectral_norm(HERE.eval(){given}{dim}).train()"
        given += f', orthogonal_map="{step.orthogonal_map.name}"'
        return f"{seeded}parametrizations.orthogonal(HERE{given})"


def _runs(texts: list[str]) -> Iterator[tuple[list[str], int]]:
    """Yield the texts as blocks and how many times each follows on itself."""
    start = 0
    while start < len(texts):
        best = (1, 1)
        for period in range(1, (len(texts) - start) // 2 + 1):
            block = texts[start : start + period]
            times = 1
            while texts[start + times * period : start + (times + 1) * period] == block:
                times += 1
            if times > 1 and times * period > math.prod(best):
                best = (period, times)
        period, times = best
        if times < 3 and times * period < 6:
            period, times = 1, 1
        yield texts[start : start + period], times
        start += period * times


def comprehension(first: str, loops: list[str]) -> str:
    """Return a comprehension to be spread into a call, on several lines where it is long."""
    line = " ".join([first, *loops])
    if len(line) <= _WIDTH and "\n" not in line:
        return f"*[{line}]"
    return "*[\n" + "\n".join(_indented(part) for part in [first, *loops]) + "\n]"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else line for line in text.split("\n"))


def _backend(module: Any) -> str:
    """Return the argument that names the backend of a compiled module; "" for the usual one."""
    step = getattr(getattr(module, "dynamo_ctx", None), "callback", None)
    name = None
    while step is not None and name is None:
        name = getattr(step, "compiler_name", None)
        step = getattr(step, "_torchdynamo_orig_backend", None)
    return "" if name in (None, "inductor") else f", backend={quoted(str(name))}"
