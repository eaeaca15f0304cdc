import { afterEach, beforeEach, expect, it, vi } from "vitest";
import table, { type LayerTableState } from "./table";
import { FakeModel, Layout } from "./testing";

let layout: Layout;
let root: HTMLElement;
let model: FakeModel<LayerTableState>;
let remove: () => void;

function bytes(...values: number[]): DataView {
  return new DataView(Float64Array.from(values).buffer);
}

function details(): HTMLDetailsElement {
  return root.querySelector("details") as HTMLDetailsElement;
}

function open(isOpen: boolean): void {
  details().open = isOpen;
  details().dispatchEvent(new Event("toggle"));
}

function texts(): string[][] {
  return [...root.querySelectorAll("tbody tr")].map((row) =>
    [...row.children].map((cell) => cell.textContent ?? ""),
  );
}

beforeEach(() => {
  vi.useFakeTimers();
  layout = new Layout();
  root = document.createElement("div");
  root.className = "gradflow";
  document.body.append(root);
  model = new FakeModel<LayerTableState>({
    layers: [
      { name: "layers.0", kind: "Linear", shape: "64×64" },
      { name: "head", kind: "Linear", shape: "10×64" },
    ],
    columns: ["weight gradient", "update ratio"],
    values: bytes(1.234e-4, Number.NaN, 0, 0.5),
    states: [
      ["", ""],
      ["zero", ""],
    ],
    problems: ["vanishing", ""],
    note_names: [[], []],
    note_values: bytes(),
    bars_show: "layers",
    time_layers: [],
    time_values: bytes(),
    turns: [],
  });
  const context = { model: model.asAnyModel, el: root, signal: new AbortController().signal };
  remove = table.render(context as unknown as Parameters<typeof table.render>[0]) as () => void;
});

afterEach(() => {
  remove();
  root.remove();
  vi.useRealTimers();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

it("mirrors every layer once it is opened, with its verdict in a word", () => {
  expect(texts()).toEqual([]);
  open(true);
  expect(texts()).toEqual([
    ["1", "layers.0", "Linear", "64×64", "1.23e-4", "–", "vanishing"],
    ["2", "head", "Linear", "10×64", "0", "5.00e-1", "not judged"],
  ]);
});

it("names its rows and columns for a screen reader, and scrolls by keyboard", () => {
  open(true);
  expect(root.querySelector("caption")?.textContent).not.toBe("");
  const scopes = [...root.querySelectorAll("th")].map(({ scope }) => scope);
  expect(scopes).toEqual([...Array<string>(7).fill("col"), "row", "row"]);
  const scroll = root.querySelector<HTMLElement>(".gradflow-table-scroll");
  expect(scroll?.tabIndex).toBe(0);
  expect(scroll?.getAttribute("aria-label")).toBe("Layer table");
});

it("lists the turns of knobs, and nothing where none was turned", () => {
  open(true);
  const turns = root.querySelector<HTMLTableElement>(".gradflow-turns");
  expect(turns?.hidden).toBe(true);
  model.set({ turns: [["5", "lr 0.1, batch 32"], ["1,200", "clip norm 0.2"]] });
  vi.advanceTimersByTime(300);
  expect(turns?.hidden).toBe(false);
  expect(texts().slice(-2)).toEqual([["5", "lr 0.1, batch 32"], ["1,200", "clip norm 0.2"]]);
  model.set({ turns: [] });
  vi.advanceTimersByTime(300);
  expect(turns?.hidden).toBe(true);
});

it("refreshes at most four times a second, in place, and ends with the latest values", () => {
  open(true);
  const row = root.querySelector("tbody tr");
  const seen = new Set<string>();
  for (let step = 1; step <= 40; step += 1) {
    model.set({ values: bytes(step, 1, 1, 1) });
    seen.add(texts()[0]?.[4] ?? "");
    vi.advanceTimersByTime(25);
  }
  expect(seen.size).toBeLessThanOrEqual(5);
  vi.advanceTimersByTime(250);
  expect(texts()[0]?.[4]).toBe("4.00e+1");
  expect(root.querySelector("tbody tr")).toBe(row);
});

it("does nothing while closed, and shows the latest when opened again", () => {
  open(true);
  open(false);
  model.set({ values: bytes(7, 7, 7, 7) });
  vi.advanceTimersByTime(1000);
  expect(texts()[0]?.[4]).toBe("1.23e-4");
  open(true);
  expect(texts()[0]?.[4]).toBe("7.00e+0");
});

it("takes another model's layers", () => {
  open(true);
  model.set({
    layers: [{ name: "conv", kind: "Conv2d", shape: "8×1×3×3" }],
    values: bytes(2, Number.NaN),
    states: [["", "nan"]],
    problems: ["healthy"],
  });
  vi.advanceTimersByTime(250);
  expect(texts()).toEqual([["1", "conv", "Conv2d", "8×1×3×3", "2.00e+0", "NaN", "healthy"]]);
});

it("shows no number where the kernel has sent none yet", () => {
  model.set({ values: new DataView(new ArrayBuffer(0)) });
  open(true);
  expect(texts()[0]?.slice(4, 6)).toEqual(["–", "–"]);
});

it("removed, it leaves no listener, observer or tooltip", () => {
  layout.settle();
  remove();
  expect(model.listenerCount).toBe(0);
  expect(layout.observed).toBe(0);
  expect(document.querySelector(".gradflow-tooltip")).toBeNull();
});

it("tells what a norm or a skip has of its own in a column, where any layer has such", () => {
  open(true);
  expect(root.querySelector("thead")?.textContent).not.toContain("norm and skip");
  model.set({ note_names: [[], ["batch mean", "scale"]], note_values: bytes(0.5, -1, 2, 1, 1, 1) });
  vi.advanceTimersByTime(250);
  expect(root.querySelector("thead")?.textContent).toContain("norm and skip");
  expect(texts().map((row) => row.at(-1))).toEqual(["", "batch mean 0.500 (−1.00 … 2.00); scale 1.00"]);
});

it("lists the time steps of recurrent layers in a table of their own", () => {
  open(true);
  const times = root.querySelectorAll("table")[1] as HTMLTableElement;
  expect(times.hidden).toBe(true);
  expect(root.hasAttribute("data-time-steps")).toBe(false);
  model.set({ time_layers: ["rnn.l0", "rnn.l1"], time_values: bytes(1e-5, 0.1, 1, Number.NaN) });
  vi.advanceTimersByTime(250);
  expect(times.hidden).toBe(false);
  expect([...times.rows].map((row) => [...row.cells].map((cell) => cell.textContent))).toEqual([
    ["time step", "rnn.l0", "rnn.l1"],
    ["1", "1.00e-5", "1.00e-1"],
    ["2", "1.00e+0", "–"],
  ]);
  // By this the view "through time" is offered.
  expect(root.hasAttribute("data-time-steps")).toBe(true);
});
