"""with_normalization: norms put in, exchanged or taken out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..deep_copies import refer_to_new
from ..quoting import counted, quoted
from .computed import computed_as, divided_by_zero, register_norm, uncompute
from .copying import copied, is_in_hand, refuse_lazy
from .errors import CannotTweak
from .following import Following, following
from .lineage import descend
from .norms import Place, is_norm, kind_of, new_norm, place_of_norm
from .record import forget, record
from .stand_in import StandIn
from .weights import computed_by_a_hook, is_gpt_conv1d

KINDS = ("batch", "layer", "group", "rms", "weight", "spectral")
OF_WEIGHTS = ("weight", "spectral")
_ORIGINAL, _FAST_PATH = "_gradflow_original_norm", "_gradflow_fast_path"
_TITLES = {
    "batch": "Batch norm",
    "layer": "Layer norm",
    "group": "Group norm",
    "rms": "RMS norm",
    "weight": "Weight norm",
    "spectral": "Spectral norm",
}


class Normalized(StandIn):
    """A layer and the norm of its output.

    Attributes of the layer, such as ``weight``, are found here too; methods that initialise
    it are not, for whoever goes through all modules would call them twice.
    """

    def __init__(self, layer: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.norm = norm
        self.training = layer.training

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return ``norm(layer(...))``."""
        normal: Tensor = self.norm(self.layer(*args, **kwargs))
        return normal

    def _other(self) -> nn.Module:
        # Not through the class's own, which would ask here for what is not there yet.
        return cast(nn.Module, nn.Module.__getattr__(self, "layer"))


class RemovedNorm(StandIn):
    """The place of a norm that was taken out: hands its input on."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.__dict__[_ORIGINAL] = original
        like = next(original.parameters(), None)
        # The original is in no list of modules any more; this goes where .to() sends the model.
        empty = torch.empty(0) if like is None else torch.empty_like(like.detach()[:0])
        self.register_buffer("like", empty, persistent=False)

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the input."""
        return input

    def _other(self) -> nn.Module:
        original: nn.Module = self.__dict__[_ORIGINAL]
        return original

    def extra_repr(self) -> str:
        """Say which norm it was."""
        return repr(self.__dict__.get(_ORIGINAL, ""))


def with_normalization(model: nn.Module, kind: str | None) -> nn.Module:
    """Return a copy of ``model`` with the normalisation ``kind``.

    A model without norms gets one before each hidden activation: behind each linear or
    convolutional layer that a nonlinearity follows and that is not the output. In a model
    that has norms, they are exchanged where they stand. A linear layer may serve
    (batch, features) as well as (batch, time, features): see ``norms.new_norm``.

    Args:
        model: the model, which is left as it is.
        kind: ``"batch"``, ``"layer"``, ``"group"`` (16 features or more in a group, 32 groups
            at most) or ``"rms"``; ``"weight"`` or ``"spectral"`` compute the weights of those
            layers by torch.nn.utils.parametrizations and take other norms out; None takes
            out every norm and every weight or spectral norm, ours and the model's own, but
            for those in hooks (torch.nn.utils.weight_norm and spectral_norm), which stay.

    An exchanged norm is remembered: asking for its kind again brings it back as it was, and
    None takes back what was put in, so that outputs are bit for bit those from before.

    Raises:
        ValueError: the kind is unknown.
        TypeError: ``model`` is no module.
        CannotTweak: there is no hidden activation, or it can't be seen where they are; or the
            kind is of weights, and these are computed already, or some are 0, by whose norm
            they would be divided.
    """
    if kind is not None and (not isinstance(kind, str) or kind not in KINDS):
        raise ValueError(
            f"normalization {quoted(kind)} is unknown: choose one of {', '.join(KINDS)}, or None."
        )
    refuse_lazy(model)
    twin = copied(model)
    of_weights = kind in OF_WEIGHTS
    has_norms = any(True for _ in _own_norms(twin))
    taken = _take_out(twin, kind)
    exchanged = _exchange(twin, None if of_weights else kind)
    _set_fast_paths(twin)
    if kind is None:
        if any(isinstance(module, RemovedNorm) for module in twin.modules()):
            return record(twin, "normalization", "Normalisation: the model's norms are out.")
        if taken and all(was_own for was_own in taken):
            return record(twin, "normalization", "Normalisation: the weights' norms are out.")
        return forget(twin, "normalization")
    title = _TITLES[kind]
    if has_norms and not of_weights:
        if not exchanged:
            return forget(twin, "normalization")
        return record(
            twin, "normalization", f"{title} in place of {counted(exchanged, 'norm')}.", kind
        )
    layers = _layers_before_activations(twin, kind)
    put = _compute_norms(twin, layers, kind) if of_weights else _put_in(twin, layers, kind)
    _set_fast_paths(twin)
    # The next tweak of a copy in hand may draw the weights anew.
    if not is_in_hand(twin):
        check_norms_of_weights(twin)
    also = f", {counted(exchanged, 'norm')} taken out" if exchanged else ""
    where = "of the weights of" if of_weights else "behind"
    sentence = f"{title} {where} {counted(put, 'hidden layer')}{also}."
    return record(twin, "normalization", sentence, kind)


def has_normalization(model: nn.Module) -> bool:
    """Return whether there is anything that ``with_normalization(model, None)`` takes out."""
    return any(
        is_norm(module) or isinstance(module, RemovedNorm) or computed_as(module) in OF_WEIGHTS
        for module in model.modules()
    )


def check_normalizable(model: nn.Module) -> None:
    """Raise where ``with_normalization`` finds no place for a norm; ``model`` is untouched.

    Raises:
        CannotTweak: as ``with_normalization`` does.
    """
    refuse_lazy(model)
    put_in = any(isinstance(module, Normalized) for module in model.modules())
    if not put_in and not any(True for _ in _own_norms(model)):
        _layers_before_activations(model, "batch")


def check_norms_of_weights(model: nn.Module) -> None:
    """Raise where weight or spectral norm divides by 0; ``model`` is untouched.

    Raises:
        CannotTweak: as ``with_normalization`` does.
    """
    if kind := divided_by_zero(model):
        raise CannotTweak(
            f"{_TITLES[kind]} divides weights by their norm, which is 0 for some of these: "
            "initialise the model anew before."
        )


def normalization_of(model: nn.Module) -> str | None:
    """Return the kind of the norms in use, or None where there are none or several kinds."""
    kinds = {kind_of(norm) for _, _, norm in _own_norms(model) if not isinstance(norm, RemovedNorm)}
    for module in model.modules():
        if isinstance(module, Normalized):
            kinds.add(kind_of(module.norm))
        elif computed_as(module) in OF_WEIGHTS:
            kinds.add(computed_as(module))
    return kinds.pop() or None if len(kinds) == 1 else None


def _own_norms(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Yield parent, name and norm wherever the model itself has, or had, one."""
    for parent in model.modules():
        if isinstance(parent, Normalized):
            continue
        for name, child in parent._modules.items():
            if child is not None and (is_norm(child) or isinstance(child, RemovedNorm)):
                yield parent, name, child


def _take_out(model: nn.Module, kind: str | None) -> list[bool]:
    """Undo what is not ``kind``: put-in norms, computed weights; tell which were the model's."""
    taken: list[bool] = []
    pairs: list[tuple[nn.Module, nn.Module]] = []
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if isinstance(child, Normalized) and kind_of(child.norm) != kind:
                parent._modules[name] = child.layer
                pairs.append((child, child.layer))
                taken.append(False)
    refer_to_new(model, pairs)
    for module in list(model.modules()):
        found = computed_as(module)
        if found in OF_WEIGHTS and found != kind:
            taken.append(not uncompute(module))
    return taken


def _exchange(model: nn.Module, kind: str | None) -> int:
    """Exchange the model's own norms for ``kind``; return how many are not its own now."""
    made: dict[nn.Module, nn.Module] = {}
    for parent, name, norm in list(_own_norms(model)):
        if norm not in made:
            made[norm] = _exchanged(norm, kind)
        parent._modules[name] = made[norm]
    refer_to_new(model, made.items())
    return sum(_ORIGINAL in norm.__dict__ for norm in made.values())


def _exchanged(norm: nn.Module, kind: str | None) -> nn.Module:
    original: nn.Module = norm.__dict__.get(_ORIGINAL, norm)
    if kind is not None and kind_of(original) == kind:
        new = original
    elif kind is None:
        new = norm if isinstance(norm, RemovedNorm) else RemovedNorm(original)
    else:
        new = norm if kind_of(norm) == kind else new_norm(kind, place_of_norm(original))
    if new is norm:
        return norm
    # A norm that is out has been passed by when the model moved or changed its mode.
    like = next(norm.parameters(), next(norm.buffers(), None))
    _settle(new, like, norm.training)
    if new is not original:
        new.__dict__[_ORIGINAL] = original
        descend(new, original, kind or "out")
        owned = list(original.parameters())
        new.requires_grad_(not owned or any(parameter.requires_grad for parameter in owned))
    for parameter in original.parameters():
        parameter.grad = None
    return new


def _settle(new: nn.Module, like: Tensor | None, training: bool) -> None:
    if like is not None and like.is_floating_point():
        new.to(like.device, like.dtype)
    new.train(training)


def _layers_before_activations(model: nn.Module, kind: str) -> list[nn.Module]:
    behind = following(model)
    hidden = {
        layer: after
        for layer, after in behind.items()
        if after.is_hidden and _place_behind(layer) is not None
    }
    layers = [layer for layer, after in hidden.items() if after.evidence != "code"]
    if layers:
        return layers
    unseen = any(_is_unseen(layer, after) for layer, after in behind.items())
    if unseen:
        raise CannotTweak(
            "It can't be seen where the activations are, for the model's forward does not trace: "
            "make them modules, such as self.act = nn.ReLU() used as self.act(x)."
        )
    raise CannotTweak(
        "The model has no hidden activation behind a linear or convolutional layer, before which "
        f"{_TITLES[kind].lower()} could stand."
    )


def _is_unseen(layer: nn.Module, after: Following) -> bool:
    return after.evidence in ("", "code") and _place_behind(layer) is not None


def _place_behind(layer: nn.Module) -> Place | None:
    if isinstance(layer, nn.Linear):
        return Place(layer.out_features, -1)
    if isinstance(layer, nn.modules.conv._ConvNd):
        return Place(layer.out_channels, 1, len(layer.kernel_size))
    if is_gpt_conv1d(layer):
        return Place(layer.get_parameter("weight").shape[1], -1)
    return None


def _put_in(model: nn.Module, layers: list[nn.Module], kind: str) -> int:
    wrapped: dict[nn.Module, nn.Module] = {}
    for parent in list(model.modules()):
        if isinstance(parent, Normalized):
            continue
        for name, child in parent._modules.items():
            if child in layers:
                if child not in wrapped:
                    wrapped[child] = _normalized(child, kind)
                parent._modules[name] = wrapped[child]
    refer_to_new(model, wrapped.items())
    return sum(isinstance(module, Normalized) for module in model.modules())


def _normalized(layer: nn.Module, kind: str) -> Normalized:
    place = _place_behind(layer)
    assert place is not None
    norm = new_norm(kind, place)
    parameters = list(layer.parameters())
    _settle(norm, parameters[0], layer.training)
    norm.requires_grad_(any(parameter.requires_grad for parameter in parameters))
    wrapper = Normalized(layer, norm)
    descend(norm, layer, kind)
    return wrapper


def _compute_norms(model: nn.Module, layers: list[nn.Module], kind: str) -> int:
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    count = 0
    for layer in layers:
        found = computed_as(layer) or computed_by_a_hook(layer)
        if found not in ("", kind):
            raise CannotTweak(
                f"The weights are computed already, by {found}: take that off before "
                f"{_TITLES[kind].lower()}."
            )
        weight = layer._parameters.get("weight")
        if not found and weight is not None and owners[id(weight)] > 1:
            # A parametrization would untie it.
            continue
        count += 1
        if not found:
            transposed = isinstance(layer, nn.modules.conv._ConvNd) and layer.transposed
            register_norm(layer, kind, 1 if transposed or is_gpt_conv1d(layer) else 0)
    if not count:
        raise CannotTweak(
            f"{_TITLES[kind]} would untie weights, for every hidden layer shares its weight with "
            "another."
        )
    return count


def _set_fast_paths(model: nn.Module) -> None:
    # In eval mode TransformerEncoderLayer hands its weights to a fused kernel, past its own
    # children, if its activation is one of two; this flag is the one that tells it not to.
    for layer in model.modules():
        if isinstance(layer, nn.TransformerEncoderLayer):
            parts = (layer.norm1, layer.norm2, layer.linear1, layer.linear2)
            changed = any(
                isinstance(part, Normalized | RemovedNorm) or _ORIGINAL in part.__dict__
                for part in parts
            )
            if changed and _FAST_PATH not in layer.__dict__:
                layer.__dict__[_FAST_PATH] = layer.activation_relu_or_gelu
                layer.activation_relu_or_gelu = 0
            elif not changed and _FAST_PATH in layer.__dict__:
                layer.activation_relu_or_gelu = layer.__dict__.pop(_FAST_PATH)
