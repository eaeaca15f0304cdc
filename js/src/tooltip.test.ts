import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { nearest } from "./bars";
import type { LayerNumbers, TimeNumbers } from "./layers";
import { Layout } from "./testing";
import { BarTooltip, place } from "./tooltip";

const WIDTH = 20;
let root: HTMLElement;
let numbers: LayerNumbers;
let time: TimeNumbers;
let show: string;
let tooltip: BarTooltip;
let layout: Layout;

function withValues(...values: number[]): LayerNumbers {
  return {
    layers: [
      { name: "layers.0", kind: "Linear", shape: "64×64" },
      { name: "act", kind: "PReLU", shape: "1" },
      { name: "head", kind: "Linear", shape: "10×64" },
    ],
    columns: ["weight gradient"],
    values: new DataView(Float64Array.from(values).buffer),
    states: [[""], [""], ["frozen"]],
    problems: ["vanishing", "", "healthy"],
    notes: { names: [], values: new DataView(new ArrayBuffer(0)) },
  };
}

/** A mark with bars of no height at 10, 30, 50, ... px from the left. */
function mark(count: number): string {
  const bars = Array.from({ length: count }, (_, index) => `<rect class="bar" data-left="${index * WIDTH}"/>`);
  return `<g>${bars.map((bar) => `<g class="bargroup">${bar}</g>`).join("")}</g>`;
}

function point(x: number, y: number, on = ".plotarea_background"): void {
  const event = new MouseEvent("pointermove", { clientX: x, clientY: y, bubbles: true });
  root.querySelector(on)?.dispatchEvent(event);
}

function shown(): string | null {
  const element = document.querySelector<HTMLElement>(".gradflow-tooltip");
  if (element === null || element.hidden) return null;
  return [...element.querySelectorAll("strong, span, dt, dd")].map((part) => part.textContent).join(" | ");
}

beforeEach(() => {
  layout = new Layout();
  vi.spyOn(Element.prototype, "getBoundingClientRect").mockImplementation(function (this: Element) {
    if (this.classList.contains("bar")) {
      return new DOMRect(Number((this as SVGElement).dataset.left), 100, WIDTH, 0);
    }
    return new DOMRect(0, 0, 200, 100);
  });
  root = document.createElement("div");
  root.innerHTML = `
    <div class="gradflow-chart-bars">
      <svg><rect class="plotarea_background"/>${mark(1)}${mark(3)}</svg>
    </div>
    <div class="gradflow-chart-loss"></div>`;
  document.body.append(root);
  numbers = withValues(1.5e-5, Number.NaN, 0);
  time = { layers: [], values: new DataView(new ArrayBuffer(0)) };
  show = "layers";
  tooltip = new BarTooltip(root, () => ({ numbers, time, show }));
});

afterEach(() => {
  tooltip.close();
  root.remove();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

it("tells a layer's exact numbers wherever the pointer is above its bar", () => {
  point(12, 5);
  expect(shown()).toBe("1 · layers.0 | Linear · 64×64 | verdict | vanishing | weight gradient | 1.50000e-5");
});

it("a bar of no height is found by its place", () => {
  point(190, 50);
  expect(shown()).toBe("3 · head | Linear · 10×64 | verdict | healthy | weight gradient | frozen");
});

it("tells what a norm has of its own, by mean and range over its units", () => {
  numbers.notes = {
    names: [["skip scale"], ["batch mean", "batch deviation"]],
    values: new DataView(Float64Array.of(0.25, 0.25, 0.25, -0.0123, -1.5, 2e-5, 1, 1, 1).buffer),
  };
  point(32, 5);
  expect(shown()).toContain("batch mean | −0.0123 (−1.50 … 2.00e-5) | batch deviation | 1.00");
  point(12, 5);
  expect(shown()).toContain("skip scale | 0.250");
});

it("tells a time step where the bars are time steps, even if there are as many layers", () => {
  show = "time steps";
  time = {
    layers: ["rnn.l0", "rnn.l1"],
    values: new DataView(Float64Array.of(1e-5, 1, 1e-3, 2, 0.1, Number.NaN).buffer),
  };
  point(12, 5);
  expect(shown()).toBe(
    "time step 1 of 3 | norm of the signal gradient | rnn.l0 | 1.00000e-5 | rnn.l1 | 1.00000",
  );
  point(52, 5);
  expect(shown()).toContain("time step 3 of 3");
  expect(shown()).toContain("rnn.l1 | –");
});

it("follows the numbers while the pointer rests", () => {
  point(12, 5);
  numbers = withValues(0.25, 0, 0);
  tooltip.refresh();
  expect(shown()).toContain("weight gradient | 0.250000");
});

it("goes when the pointer leaves the plot, the chart or the widget", () => {
  for (const leave of [
    () => point(12, 150),
    () => point(12, 5, ".gradflow-chart-loss"),
    () => root.dispatchEvent(new MouseEvent("pointerleave")),
  ]) {
    point(12, 5);
    expect(shown()).not.toBeNull();
    leave();
    expect(shown()).toBeNull();
  }
});

it("goes by Escape, wherever that is pressed, until the pointer moves again", () => {
  point(12, 5);
  const press = (key: string) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  press("s");
  expect(shown()).not.toBeNull();
  press("Escape");
  tooltip.refresh();
  expect(shown()).toBeNull();
  point(13, 5);
  expect(shown()).not.toBeNull();
});

it("goes when the widget is folded up under a pointer at rest", () => {
  point(12, 5);
  layout.settle();
  expect(shown()).not.toBeNull();
  root.hidden = true;
  layout.settle();
  tooltip.refresh();
  expect(shown()).toBeNull();
});

it("goes when its layer is gone", () => {
  point(50, 5);
  numbers = { ...numbers, layers: numbers.layers.slice(0, 1) };
  tooltip.refresh();
  expect(shown()).toBeNull();
});

it("closed, it takes its element and its listeners along", () => {
  tooltip.close();
  point(12, 5);
  expect(document.querySelector(".gradflow-tooltip")).toBeNull();
  expect(layout.observed).toBe(0);
});

describe("the place of the tooltip", () => {
  it("is after the pointer where there is room, else before it", () => {
    expect(place(100, 200, 1000)).toBe(114);
    expect(place(900, 200, 1000)).toBe(686);
  });

  it("is always within the window", () => {
    expect(place(100, 200, 250)).toBe(4);
    expect(place(0, 400, 250)).toBe(4);
  });
});

it("the nearest of no centres is none", () => {
  expect(nearest([], 3)).toBeNull();
  expect(nearest([10, 30, 50], 41)).toBe(2);
});
