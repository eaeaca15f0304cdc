"""The contract between Python and TypeScript: what one side syncs or sends, the other knows."""

from __future__ import annotations

import json
import queue
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import pytest
import torch
import traitlets
from torch import nn

from gradflow_widget import GradientFlow
from gradflow_widget.display.folds import Folds
from gradflow_widget.display.frame import FrameWriter
from gradflow_widget.display.panel import LayerTable, Panel
from gradflow_widget.display.publisher import Publisher

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


def union(name: str, source: str) -> list[str]:
    """The members of a TypeScript union, as they are written."""
    found = re.search(rf"export type {name} = (.*?);", (SOURCES / source).read_text(), re.DOTALL)
    assert found is not None, f"{source} has no union {name}"
    return [member.strip() for member in found[1].split("|")]


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
    from gradflow_widget.display.panel import draw_table
    from tests.display.readings import reading

    table = LayerTable()
    writer = FrameWriter({"table": table})
    draw_table(writer, reading([1.0, 2.0]), ["", "healthy"])
    writer.settle()

    assert table.layers[0].keys() == fields("Layer", "layers.ts").keys()
    # A row for each layer and a column for each quantity, in float64.
    assert len(table.values) == 8 * len(table.layers) * len(table.columns)
    assert [len(row) for row in table.states] == [len(table.columns)] * len(table.layers)
    assert len(table.problems) == len(table.layers)


# -- messages ----------------------------------------------------------------------------

# Told to whoever looks at the page, such as the benchmark of what is drawn.
NOT_READ_BY_THE_KERNEL = {"applied_at", "painted"}


def has_type(value: Any, written: str) -> bool:
    """Whether a value in JSON is of a type as TypeScript writes it."""
    if written.startswith('"'):
        return bool(value == json.loads(written))
    if written.endswith("[]"):
        return isinstance(value, list)
    kinds = {"number": int, "boolean": bool, "string": str, "State": dict}
    return type(value) is kinds[written]


def some(written: str) -> Any:
    """A value of a type as TypeScript writes it."""
    if written.startswith('"'):
        return json.loads(written)
    if written.endswith("[]"):
        return []
    return {"number": 1, "boolean": True, "true": True, "string": "page"}[written]


class ReadMessage(dict[str, Any]):
    """A message that remembers which of its fields were asked for."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.asked.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return super().get(name, default)


def test_every_message_has_a_type_of_its_own() -> None:
    assert union("FromKernel", "messages.ts") == ["FrameMessage", "PingMessage"]
    read = {name for names in READ_BY_THE_PUBLISHER.values() for name in names}
    assert set(union("FromPage", "messages.ts")) == {*read, "KeyMessage"}


def test_what_the_kernel_sends_are_the_fields_that_the_page_knows() -> None:
    sent: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    writer = FrameWriter({"table": LayerTable()})
    writer.set("table", columns=["dead share"])
    publisher = Publisher(
        lambda whole: writer.message(whole=whole), lambda message, _: sent.put(message)
    )
    publisher.receive({"type": "view", "page": "page", "visible": True})
    messages = [sent.get(timeout=30) for _ in range(2)]
    publisher.close()

    for message, interface in zip(messages, union("FromKernel", "messages.ts"), strict=True):
        known = fields(interface, "messages.ts")
        assert message.keys() == known.keys()
        assert all(has_type(message[name], written) for name, written in known.items()), message
    (update,) = messages[0]["updates"]
    known = fields("Update", "wire.ts")
    assert update.keys() == known.keys()
    assert all(has_type(update[name], written) for name, written in known.items())


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "i8", "u1", "bytes"])
def test_what_travels_beside_a_message_is_found_and_read_by_the_page(dtype: str) -> None:
    writer = FrameWriter({"table": LayerTable()})
    writer.set("table", values=b"numbers" if dtype == "bytes" else np.zeros(2, dtype))
    ((update,), buffers) = writer.message(whole=True)

    reference = update["state"]["values"]
    source = (SOURCES / "wire.ts").read_text()
    body = re.search(r"interface BufferReference {(.*?)\n}", source, re.DOTALL)
    assert body is not None
    assert reference.keys() == set(re.findall(r"(\w+):", body[1]))
    assert len(buffers) == 1
    readers = re.search(r"const READERS.*?= {(.*?)\n}", source, re.DOTALL)
    assert readers is not None
    assert reference["dtype"] in re.findall(r"^\s*(\w+):", readers[1], re.MULTILINE)


# By their type: what is read of the others depends on it.
READ_BY_THE_PUBLISHER = {
    "view": ["ViewMessage"],
    "confirm": ["ShownMessage", "DroppedMessage"],
    "pong": ["PongMessage"],
}


@pytest.mark.parametrize("kind", READ_BY_THE_PUBLISHER)
def test_what_the_publisher_reads_are_the_fields_that_the_page_sends(kind: str) -> None:
    publisher = Publisher(lambda _: ([], []), lambda message, buffers: None)
    sent, read = set(), set()
    for interface in READ_BY_THE_PUBLISHER[kind]:
        known = fields(interface, "messages.ts")
        assert known["type"] == f'"{kind}"'
        message = ReadMessage({name: some(written) for name, written in known.items()})
        publisher.receive(message)
        sent |= known.keys()
        read |= message.asked
    publisher.close()

    assert read - sent == set()
    assert sent - read <= NOT_READ_BY_THE_KERNEL


def test_the_keys_that_the_page_tells_do_what_they_say(
    make_flow: Callable[..., GradientFlow],
) -> None:
    model = nn.Linear(3, 2)
    data = torch.randn(8, 3), torch.randn(8, 2)
    flow = make_flow(model, torch.optim.SGD(model.parameters(), 0.1), nn.MSELoss(), data)
    known = fields("KeyMessage", "messages.ts")

    def press(action: str) -> None:
        message = ReadMessage({"type": json.loads(known["type"]), "action": action})
        flow._stage._on_message(None, message, None)
        assert message.asked == known.keys()

    press("toggle")
    assert flow.playing
    press("toggle")
    assert not flow.playing
    press("reset")
    press("step")
    flow.wait(timeout=30)
    assert flow.step_number == 1
    assert {json.loads(action) for action in union(known["action"], "keys.ts")} == {
        "toggle",
        "reset",
        "step",
    }
