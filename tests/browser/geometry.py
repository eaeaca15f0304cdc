"""Where the parts of a page stand: on each other, out of the widget, cut off."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from playwright.sync_api import Locator


def boxes_of(parts: Locator) -> list[tuple[str, dict[str, Any]]]:
    """Return the places of those parts that are seen, each with what it says."""
    return [
        (part.text_content() or str(part.get_attribute("class")), dict(box))
        for part in parts.all()
        if (box := part.bounding_box()) is not None and box["width"] and box["height"]
    ]


def overlap(one: dict[str, float], other: dict[str, float]) -> bool:
    """Whether two boxes share more than a pixel's width of rounding."""
    across = min(one["x"] + one["width"], other["x"] + other["width"]) - max(one["x"], other["x"])
    down = min(one["y"] + one["height"], other["y"] + other["height"]) - max(one["y"], other["y"])
    return across > 1 and down > 1


def overlapping(parts: Locator) -> list[tuple[str, str]]:
    """Return the pairs of parts that stand on each other."""
    return [
        (name, other)
        for (name, box), (other, beside) in combinations(boxes_of(parts), 2)
        if overlap(box, beside)
    ]


def cut_or_outside(root: Locator, parts: str) -> list[str]:
    """Return what of ``parts`` is wider than its place, or reaches out of ``root`` to its side."""
    found: list[str] = root.evaluate(
        """(root, parts) => {
            const {left, right} = root.getBoundingClientRect();
            return [...root.querySelectorAll(parts)].filter(part => {
                const box = part.getBoundingClientRect();
                if (box.width === 0 || part.closest(".gradflow-live")) return false;
                const cut = part.scrollWidth > part.clientWidth + 1 && part.clientWidth > 0
                    && getComputedStyle(part).overflowX !== "visible";
                return cut || box.left < left - 1 || box.right > right + 1;
            }).map(part => `${part.className} ${part.textContent}`);
        }""",
        parts,
    )
    return found
