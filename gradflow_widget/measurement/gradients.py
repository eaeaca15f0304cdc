"""The gradients of a model's parameters, from a backward pass to the step that uses them."""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass
from operator import attrgetter, mul

import torch

from .ahead import Ahead
from .norms import Norms, dense
from .step import HiddenEdits, Step, Watched, same

# Quicker than a comprehension, and every microsecond counts that is spent at every step.
_gradient_of, _version_of = attrgetter("grad"), attrgetter("_version")
# Gradients that look unchanged are looked at in turn, one in so many steps.
_LOOK_AROUND_EVERY = 4
# On a device all of them are measured again in the first steps, and in one step of so many.
_FIRST_LOOKS, _LOOK_AGAIN_EVERY = 8, 8

_Marks = tuple[list[int], list[int]]
_NO_MARKS: _Marks = ([], [])


def _marks(gradients: list[torch.Tensor]) -> _Marks:
    """Return what tells gradients from others, and from themselves before a change in place.

    The identity and the version of each.
    """
    try:
        versions = list(map(_version_of, gradients))
    except RuntimeError:  # those made in inference mode have none
        versions = [-1 if gradient.is_inference() else gradient._version for gradient in gradients]
    return list(map(id, gradients)), versions


@dataclass(slots=True)
class _Measured:
    """Which parameters have a gradient, what it measures, and how to tell it has changed."""

    present: list[int]
    marks: _Marks
    norms: torch.Tensor | Norms


class Gradients:
    """Measures what each backward pass leaves, and before the step what has changed since.

    Args:
        watched: the layers whose gradients they are.
        stepped: ids of the parameters that the optimizer steps over. Others, such as those of
            the other network of a GAN, are cleared by somebody else, and tell nothing of
            whether a sum begins anew.

    Attributes:
        nothing_comes_between: nobody changes gradients between a backward pass and the step,
            so that one look at them tells all.
    """

    def __init__(self, watched: Watched, stepped: Set[int]) -> None:
        self.nothing_comes_between = False
        self._stepped = stepped
        self._take_up(watched)
        self._ahead: Ahead | None = None
        # Norms taken ahead in the last backward pass, by the parameter's place.
        self._known: dict[int, float] = {}
        self._looks = self._largest = 0
        self._hidden_edits = HiddenEdits()
        self._before: _Marks | None = None
        self._after: _Measured | None = None
        self._mine_after: _Marks = _NO_MARKS
        # What a backward pass has left, until it is measured.
        self._left: list[torch.Tensor | None] | None = None
        self._sum_is_done = True
        self._begins_with_none = False

    def watch(self, watched: Watched) -> None:
        """Go on with the same parameters in another order."""
        self._take_up(watched)
        self._after = self._left = None
        self._end_ahead()

    def _take_up(self, watched: Watched) -> None:
        self._watched = watched
        mine = [one for one in watched.parameters if id(one) in self._stepped]
        self._mine = watched.parameters if len(mine) == len(watched.parameters) else mine

    def close(self) -> None:
        """End the thread that may be at work, and let go of what was measured."""
        self._end_ahead()
        self._after = self._left = None

    def _end_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    # -- a backward pass -------------------------------------------------------------

    def before_backward(self) -> bool:
        """Note what is there; return whether what was summed so far has been thrown away."""
        held: list[torch.Tensor] = []
        if not self._are_none_again():
            gradients = list(map(_gradient_of, self._watched.parameters))
            held = [gradient for gradient in gradients if gradient is not None]
            self._begins_with_none = not held
        self._before = _marks(held) if held else None
        mine = held
        if self._mine is not self._watched.parameters:
            mine = [one.grad for one in self._mine if one.grad is not None]
        if not (self._sum_is_done or not mine or self._were_zeroed(mine)):
            return False
        self._after = None
        return True

    def take_ahead(self) -> None:
        """Let norms be taken while the backward pass goes on that begins now."""
        if self._ahead is None:
            self._ahead = Ahead(self._watched.parameters)
        self._ahead.begin()

    def after_backward(self) -> bool:
        """See what the backward pass has left; return whether it gave any gradient."""
        before, self._before = self._before, None
        gradients = list(map(_gradient_of, self._watched.parameters))
        self._known = {} if self._ahead is None else self._ahead.end(gradients)
        held = [gradient for gradient in gradients if gradient is not None]
        touched = bool(held) if before is None else before != _marks(held)
        if touched:
            self._sum_is_done = False
            self._left = gradients
        return touched

    def measure_what_it_left(self, *, within_step: bool) -> None:
        """Measure the gradients that a backward pass has given, if anybody may change them.

        ``within_step``: a closure has made the pass, at the end of which they may be clipped.
        """
        gradients, self._left = self._left, None
        if self.nothing_comes_between and not within_step:
            self._after = None
            return
        if gradients is None:  # the parameters have been put in order since
            gradients = list(map(_gradient_of, self._watched.parameters))
        self._after = self._measure(gradients, is_scaled=False)
        if self._after is not None:
            self._mine_after = self._after.marks
            if self._mine is not self._watched.parameters:
                self._mine_after = _marks([o.grad for o in self._mine if o.grad is not None])

    def _are_none_again(self) -> bool:
        """Whether the gradients have gone since the last step, as they had before the one before.

        Looking at every parameter takes 1 % of a small step; the first and the last will do
        where all were None the last time.
        """
        if not (self._begins_with_none and self._sum_is_done):
            return False
        parameters = self._watched.parameters
        return parameters[0].grad is None and parameters[-1].grad is None

    def _were_zeroed(self, held: list[torch.Tensor]) -> bool:
        """Whether gradients that are held were set to zero since the last backward pass."""
        last = self._after
        if last is None or self._mine_after == _marks(held):
            return False
        # Looking at the values would stall a device; zeroing is why gradients change
        # between two backward passes.
        return any(g.device.type != "cpu" for g in held) or not any(
            bool(dense(g).any()) for g in held
        )

    # -- a step ----------------------------------------------------------------------

    def read(self, step: Step, scale: torch.Tensor | None) -> None:
        """Add the gradients that a step is about to use, and those of the last backward pass.

        Args:
            step: to add to.
            scale: what a GradScaler multiplied them by; None without one.
        """
        gradients = list(map(_gradient_of, self._watched.parameters))
        last, measured = self._after, self._measure(gradients, is_scaled=scale is not None)
        if measured is not None:
            step.present = measured.present
            step.add("used", measured.norms)
            if last is not None and measured is not last:
                step.present_after_backward = last.present
                step.add("backward", last.norms)
                if measured.marks == last.marks:
                    step.hidden_edits = self._hidden_edits
                if scale is not None:
                    step.add("scale", scale.reshape(1))
            if step.full:
                held = [gradient for gradient in gradients if gradient is not None]
                step.add("largest", self._watched.plan.largest(held))
        if len(step.present) < len(self._watched.parameters):
            step.requires_grad = [parameter.requires_grad for parameter in self._watched.parameters]

    def read_again(self, step: Step) -> None:
        """Add them once more, for a step that has read them before somebody clipped them."""
        gradients = [g for i in step.present if (g := self._watched.parameters[i].grad) is not None]
        if len(gradients) == len(step.present):
            step.add("clipped", self._watched.plan.norms(gradients))
            if step.full:
                step.add("largest", self._watched.plan.largest(gradients))

    def after_step(self) -> None:
        """Note that the step has used them."""
        self._after = None
        self._sum_is_done = True

    def _measure(
        self, gradients: list[torch.Tensor | None], *, is_scaled: bool
    ) -> _Measured | None:
        """Measure the gradients; those of the last backward pass only where they changed."""
        held = [gradient for gradient in gradients if gradient is not None]
        if not held:
            return None
        last = self._after
        # Nobody will ask whether they have changed where nothing comes between.
        marks = _NO_MARKS if self.nothing_comes_between else _marks(held)
        is_marked = last is None or last.marks != marks
        if last is not None and not (is_marked or is_scaled) and self._are_as_measured(held, last):
            return last
        known, self._known = self._known, {}
        present = self._watched.every_index
        if len(held) < len(present):
            present = [index for index in present if gradients[index] is not None]
            known = {here: known[there] for here, there in enumerate(present) if there in known}
        return _Measured(present, marks, self._watched.plan.norms(held, known))

    def _are_as_measured(self, gradients: list[torch.Tensor], last: _Measured) -> bool:
        """Whether gradients of the same identity and version may count as unchanged.

        GradScaler.unscale_ and whatever goes through ``.data`` change them without a new
        version. On the CPU the one that had the largest elements of late, which a clip would
        touch first, is measured again, and now and then another in its turn. On a device looking
        would stall it: all are measured again now and then, and compared when they have
        arrived. One difference, and this loop's gradients are always measured twice.
        """
        norms = last.norms
        if self._hidden_edits.seen:
            return False
        if isinstance(norms, torch.Tensor):
            self._looks += 1
            return self._looks > _FIRST_LOOKS and self._looks % _LOOK_AGAIN_EVERY > 0
        if self._looks % _LOOK_AROUND_EVERY == 0 or self._largest >= len(gradients):
            factors = self._watched.per_element(norms, last.present)
            per_element = list(map(mul, norms.values, factors))
            self._largest = per_element.index(max(per_element))
            looks = [self._largest, self._looks // _LOOK_AROUND_EVERY % len(gradients)]
        else:
            looks = [self._largest]
        self._looks += 1
        for look in looks:
            place = look if norms.order is None else norms.order[look]
            again = self._watched.plan.norm(gradients[place])
            if not (same(norms.values[look], again) or math.isnan(again)):
                self._hidden_edits.seen = True
                return False
        return True
