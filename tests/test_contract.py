"""The contract between Python and TypeScript: what is synced is what the page knows."""

from __future__ import annotations

import re
from pathlib import Path

import anywidget
import pytest
import traitlets

from gradflow_widget.display.folds import Folds
from gradflow_widget.display.panel import LayerTable, Panel

SOURCES = Path(__file__).parents[1] / "js" / "src"

# What a trait is in JSON, or beside it.
TYPES: dict[type[traitlets.TraitType], str] = {  # type: ignore[type-arg]
    traitlets.Unicode: "string",
    traitlets.Bool: "boolean",
    traitlets.Int: "number",
    traitlets.Float: "number",
    traitlets.Bytes: "DataView",
}


def fields(interface: str, source: str) -> dict[str, str]:
    """The fields of a TypeScript interface and their types, as they are written."""
    text = (SOURCES / source).read_text()
    body = re.search(rf"export interface {interface} {{(.*?)\n}}", text, re.DOTALL)
    assert body is not None, f"{source} has no interface {interface}"
    return dict(re.findall(r"^\s*(\w+): (.+);$", body[1], re.MULTILINE))


def synced(widget: type[anywidget.AnyWidget]) -> dict[str, traitlets.TraitType]:  # type: ignore[type-arg]
    """The traits that a widget syncs and its base does not, but for the front end itself."""
    base = anywidget.AnyWidget.class_traits(sync=True)
    own = widget.class_traits(sync=True)
    return {n: t for n, t in own.items() if n not in base and n not in ("_esm", "_css")}


@pytest.mark.parametrize(
    ("widget", "interface", "source"),
    [
        (Panel, "PanelState", "panel.ts"),
        (LayerTable, "LayerTableState", "table.ts"),
        (Folds, "FoldsState", "folds.ts"),
    ],
)
def test_synced_traits_are_the_fields_that_the_page_knows(
    widget: type[anywidget.AnyWidget], interface: str, source: str
) -> None:
    assert synced(widget).keys() == fields(interface, source).keys()


@pytest.mark.parametrize(
    ("widget", "interface", "source"),
    [
        (Panel, "PanelState", "panel.ts"),
        (LayerTable, "LayerTableState", "table.ts"),
        (Folds, "FoldsState", "folds.ts"),
    ],
)
def test_their_types_agree(widget: type[anywidget.AnyWidget], interface: str, source: str) -> None:
    written = fields(interface, source)
    for name, trait in synced(widget).items():
        if isinstance(trait, traitlets.List):
            assert written[name].endswith("[]"), name
        elif isinstance(trait, traitlets.Dict):
            assert written[name].startswith("Record<"), name
        else:
            assert written[name] == TYPES[type(trait)], name


def test_the_keys_of_a_layer_are_the_fields_that_the_page_knows() -> None:
    from gradflow_widget.display.frame import FrameWriter
    from gradflow_widget.display.panel import draw_table
    from tests.display.readings import reading

    table = LayerTable()
    writer = FrameWriter({"table": table})
    draw_table(writer, reading([1.0, 2.0]))
    writer.settle()

    assert table.layers[0].keys() == fields("Layer", "layers.ts").keys()
    # A row for each layer and a column for each quantity, in float64.
    assert len(table.values) == 8 * len(table.layers) * len(table.columns)
