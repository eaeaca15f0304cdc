import { afterEach, beforeEach, expect, it, vi } from "vitest";
import folds, { type FoldsState } from "./folds";
import { FakeModel, Layout } from "./testing";

let layout: Layout;
let widget: HTMLElement;
let model: FakeModel<FoldsState>;
let remove: (() => void)[];

/** A widget with a row of headings, as another cell or another page would show it. */
function show(): HTMLElement {
  const around = document.createElement("div");
  around.className = "gradflow";
  around.innerHTML = `<div class="gradflow-place"><div class="gradflow-knobs"><div class="row"></div>
    <div class="gradflow-folded gradflow-folded-network"></div>
    <div class="gradflow-folded gradflow-folded-training"></div></div></div>`;
  const el = around.querySelector(".row") as HTMLElement;
  const context = { model: model.asAnyModel, el, signal: new AbortController().signal };
  const leave = folds.render(context as unknown as Parameters<typeof folds.render>[0]);
  remove.push(leave as () => void, () => around.remove());
  document.body.append(around);
  layout.settle();
  return around;
}

function heading(around: HTMLElement, name: string): HTMLButtonElement {
  const found = [...around.querySelectorAll("button")].find((button) => button.textContent?.startsWith(name));
  return found as HTMLButtonElement;
}

beforeEach(() => {
  localStorage.clear();
  layout = new Layout();
  remove = [];
  model = new FakeModel<FoldsState>({
    headings: [
      ["network", "Network"],
      ["training", "Optimizer and data"],
    ],
    in_short: {},
    tooltips: {},
  });
  widget = show();
});

afterEach(() => {
  for (const each of remove) each();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

it("begins closed; a press opens what belongs to the heading, and closes it again", () => {
  const network = heading(widget, "Network");
  expect(network.getAttribute("aria-expanded")).toBe("false");
  network.click();
  expect(network.getAttribute("aria-expanded")).toBe("true");
  expect(widget.hasAttribute("data-open-network")).toBe(true);
  expect(widget.hasAttribute("data-open-training")).toBe(false);
  network.click();
  expect(network.getAttribute("aria-expanded")).toBe("false");
  expect(widget.hasAttribute("data-open-network")).toBe(false);
});

it("tells a screen reader which part a heading opens, and that part which heading it has", () => {
  const network = heading(widget, "Network");
  const part = widget.querySelector(".gradflow-folded-network");
  expect(part?.id).not.toBe("");
  expect(network.getAttribute("aria-controls")).toBe(part?.id);
  expect(part?.getAttribute("role")).toBe("group");
  expect(part?.getAttribute("aria-labelledby")).toBe(network.id);
});

it("what was left open is open in the next widget and after a reload", () => {
  heading(widget, "Optimizer").click();
  const next = show();
  expect(heading(next, "Optimizer").getAttribute("aria-expanded")).toBe("true");
  expect(next.hasAttribute("data-open-training")).toBe(true);
  expect(next.hasAttribute("data-open-network")).toBe(false);
  heading(next, "Optimizer").click();
  expect(show().hasAttribute("data-open-training")).toBe(false);
});

it("opens and closes in a page that is denied its storage", () => {
  vi.spyOn(Storage.prototype, "getItem").mockImplementation(() => {
    throw new DOMException("denied");
  });
  vi.spyOn(Storage.prototype, "setItem").mockImplementation(() => {
    throw new DOMException("denied");
  });
  const denied = show();
  heading(denied, "Network").click();
  expect(denied.hasAttribute("data-open-network")).toBe(true);
});

it("says beside the heading what is turned below it", () => {
  model.set({ in_short: { network: "skips 1" } });
  expect(heading(widget, "Network").textContent).toBe("Networkskips 1");
  expect(heading(widget, "Network").querySelector(".gradflow-in-short")?.textContent).toBe("skips 1");
  model.set({ in_short: { network: "" } });
  expect(heading(widget, "Network").textContent).toBe("Network");
});

it("removed, it leaves no listener and no observer", () => {
  for (const each of remove.splice(0)) each();
  expect(model.listenerCount).toBe(0);
  expect(layout.observed).toBe(0);
});
