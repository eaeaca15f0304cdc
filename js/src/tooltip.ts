import { barAt } from "./bars";
import { exact, meanAndRange, numberOrReason } from "./format";
import {
  type LayerNumbers,
  type TimeNumbers,
  notesOf,
  stateAt,
  timeSteps,
  timeValueAt,
  valueAt,
  verdictOn,
} from "./layers";

const CHART = ".gradflow-chart-bars";
/** Between the pointer and the tooltip, and between the tooltip and the window's edge, in px. */
const GAP = 14;
const MARGIN = 4;

/** What the tooltip says of a bar: a title, what it is, and a value for each name. */
export interface Facts {
  title: string;
  subtitle: string;
  facts: [name: string, value: string][];
}

/** What the bars stand for: layers, or the time steps of recurrent ones. */
export type Bars = { numbers: LayerNumbers; time: TimeNumbers; show: string };

function countOf({ numbers, time, show }: Bars): number {
  return show === "layers" ? numbers.layers.length : timeSteps(time);
}

export function describe(bars: Bars, index: number): Facts | null {
  return bars.show === "layers" ? describeLayer(bars.numbers, index) : describeTimeStep(bars.time, index);
}

function describeTimeStep(time: TimeNumbers, index: number): Facts | null {
  const steps = timeSteps(time);
  if (index >= steps) return null;
  return {
    title: `time step ${index + 1} of ${steps}`,
    subtitle: "norm of the signal gradient",
    facts: time.layers.map((name, layer) => [name, exact(timeValueAt(time, index, layer))]),
  };
}

function describeLayer(numbers: LayerNumbers, index: number): Facts | null {
  const layer = numbers.layers[index];
  if (layer === undefined) return null;
  const facts: Facts["facts"] = [["verdict", verdictOn(numbers, index)]];
  numbers.columns.forEach((name, column) => {
    const value = valueAt(numbers, index, column);
    facts.push([name, numberOrReason(value, stateAt(numbers, index, column), exact)]);
  });
  for (const { name, mean, low, high } of notesOf(numbers, index)) {
    facts.push([name, meanAndRange(mean, low, high)]);
  }
  return {
    title: `${index + 1} · ${layer.name}`,
    subtitle: [layer.kind, layer.shape].filter(Boolean).join(" · "),
    facts,
  };
}

/** A start that leaves room for `size` before `limit`: after the pointer, else before it. */
export function place(pointer: number, size: number, limit: number): number {
  const after = pointer + GAP;
  const before = pointer - GAP - size;
  const start = after + size + MARGIN <= limit ? after : before;
  return Math.max(MARGIN, Math.min(start, limit - size - MARGIN));
}

function textElement(tag: string, text: string): HTMLElement {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}

/** The exact numbers of the bar under the pointer. */
export class BarTooltip {
  #root: HTMLElement;
  #bars: () => Bars;
  #element = document.createElement("div");
  #pointer: { x: number; y: number; bar: number } | null = null;
  // No pointer leaves a widget that is folded up, or taken away, under a pointer at rest.
  #resizes = new ResizeObserver(() => {
    if (this.#root.getClientRects().length === 0) this.#hide();
  });

  constructor(root: HTMLElement, bars: () => Bars) {
    this.#root = root;
    this.#bars = bars;
    this.#element.className = "gradflow-tooltip";
    this.#element.setAttribute("role", "tooltip");
    this.#element.hidden = true;
    // In the body, since a notebook's cells clip what reaches out of them.
    document.body.append(this.#element);
    root.addEventListener("pointermove", this.#onMove);
    root.addEventListener("pointerdown", this.#onMove);
    root.addEventListener("pointerleave", this.#hide);
    // Wherever the focus is, and before JupyterLab takes the key for itself.
    window.addEventListener("keydown", this.#onKey, true);
    this.#resizes.observe(root);
  }

  /** Writes the latest numbers, where the tooltip is shown. */
  refresh(): void {
    if (this.#pointer === null) return;
    const described = describe(this.#bars(), this.#pointer.bar);
    if (described === null) {
      this.#hide();
      return;
    }
    const list = document.createElement("dl");
    for (const [name, value] of described.facts) {
      list.append(textElement("dt", name), textElement("dd", value));
    }
    this.#element.replaceChildren(
      textElement("strong", described.title),
      textElement("span", described.subtitle),
      list,
    );
    this.#element.hidden = false;
    const { width, height } = this.#element.getBoundingClientRect();
    this.#element.style.left = `${place(this.#pointer.x, width, window.innerWidth)}px`;
    this.#element.style.top = `${place(this.#pointer.y, height, window.innerHeight)}px`;
  }

  close(): void {
    this.#resizes.disconnect();
    this.#root.removeEventListener("pointermove", this.#onMove);
    this.#root.removeEventListener("pointerdown", this.#onMove);
    this.#root.removeEventListener("pointerleave", this.#hide);
    window.removeEventListener("keydown", this.#onKey, true);
    this.#element.remove();
  }

  #onMove = ({ target, clientX: x, clientY: y }: PointerEvent): void => {
    const chart = target instanceof Element ? target.closest(CHART) : null;
    const bar = chart && barAt(chart, countOf(this.#bars()), x, y);
    if (bar === null) {
      this.#hide();
      return;
    }
    this.#pointer = { x, y, bar };
    this.refresh();
  };

  #onKey = ({ key }: KeyboardEvent): void => {
    if (key === "Escape") this.#hide();
  };

  #hide = (): void => {
    this.#pointer = null;
    this.#element.hidden = true;
  };
}
