"""Layout: which controls a widget has, and where its parts stand."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from .display.closing import close_tree
from .display.controls import Actions, Controls, Offer, legend
from .display.stage import Stage
from .training.optimizers import KINDS
from .tweaks.depth import DEEPEST, SHALLOWEST
from .tweaks.knobs import AS_GIVEN

if TYPE_CHECKING:
    from .widget import GradientFlow

_ROWS = ("toolbar", "knobs", "views")
_CHOICES = ("measure_choice", "relative_choice", "loss_choice")


def controls_of(flow: GradientFlow) -> Controls:
    """Return new controls for what a widget now trains."""
    session = flow._training
    no_other_optimizer = session.refusals.of_optimizer(session.learning_rate)
    given = f"as given ({type(session.optimizer).__name__})"
    return Controls(
        flow,
        Actions(
            toggle=lambda: flow._press("toggle"),
            step=lambda: flow._press("step"),
            reset=lambda: flow._press("reset"),
            new_seed=lambda: flow._press("new seed"),
            look_at=flow._stage.look_at,
            failed=flow._backstage.say_error,
            load_preset=flow.load_preset,
        ),
        cold={
            name: Offer(knob.value, knob.reason, knob.options)
            for name, knob in flow._construction.knobs.items()
        },
        hot={
            "optimizer_kind": Offer(
                AS_GIVEN,
                _sentence(no_other_optimizer),
                ((given, AS_GIVEN), *((kind, kind) for kind in KINDS)),
            ),
            "weight_decay": Offer(flow.weight_decay, _sentence(flow._refusal("weight_decay"))),
        },
        depths=(SHALLOWEST, DEEPEST),
        samples=flow._samples,
        can_train=session.can_train,
        # Asked often: not found anew in the model, which takes long where it has many.
        layers=lambda: len(flow._training.layers),
        regime=Offer(flow.regime, _sentence(session.refusals.of_all_regimes())),
        presets=tuple(flow.presets().items()) if flow._offers_presets else (),
        showing=flow._stage.hearing.keeping,
    )


def laid_out(stage: Stage, controls: Controls) -> list[Any]:
    """Return the parts of a widget, from top to bottom."""
    charts = widgets.Box([stage.bars.figure, stage.loss.figure])
    charts.add_class("gradflow-charts")
    return [
        place_of(controls.toolbar),
        place_of(controls.knobs),
        stage.panel,
        place_of(controls.views),
        charts,
        legend(),
        stage.table,
    ]


def place_of(row: Any) -> Any:
    """Return a box in which a row of controls can be exchanged.

    Exchanged among the charts, it would have ipywidgets render all that stands below it anew,
    and the old charts' marks, which bqplot leaves listening, draw on unseen.
    """
    place = widgets.Box([row])
    place.add_class("gradflow-place")
    return place


def exchange(shown: Any, before: Controls, controls: Controls) -> None:
    """Show other controls in the place of those before; what is looked at stays.

    The buttons of those before stay open: they may have been pressed in the meantime.
    """
    for name in _CHOICES:
        getattr(controls, name).value = getattr(before, name).value
    others = {id(getattr(before, row)): getattr(controls, row) for row in _ROWS}
    for place in shown.children:
        row = others.get(id(place.children[0])) if getattr(place, "children", ()) else None
        if row is not None:
            place.children = [row]
    for row in _ROWS:
        close_tree(getattr(before, row), but=before.buttons)


def close_buttons(buttons: list[Any]) -> None:
    """Close the buttons of controls that were exchanged."""
    for button in buttons:
        close_tree(button)


def close_parts(flow: GradientFlow, stage: Stage, controls: Controls | None) -> None:
    """Close every part of a widget, also of one whose construction has failed."""
    roots = [flow, stage.panel, stage.table, stage.bars.figure, stage.loss.figure]
    if controls is not None:
        roots += [getattr(controls, row) for row in _ROWS]
    with ExitStack() as closed:
        for root in roots:
            closed.callback(close_tree, root)


def _sentence(clause: str) -> str:
    return clause[:1].upper() + clause[1:]
