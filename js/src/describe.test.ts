import { afterEach, beforeEach, expect, it } from "vitest";
import { describeControls } from "./describe";

const REASON = "The model repeats no block.";
let root: HTMLElement;
let knobs: HTMLElement;
let changes: number;
let leave: () => void;

async function mutated(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve));
}

const TOOLTIPS = { skips: REASON, depth: "From 1 to 64", optimizer: "Which optimizer" };

function menu(label: string): string {
  return `<div class="widget-inline-hbox widget-dropdown">
    <label class="widget-label">${label}</label><select disabled></select></div>`;
}

const SLIDER = `<div class="widget-inline-hbox widget-slider">
  <label class="widget-label">depth</label>
  <div class="noUi-target" disabled="true"><div class="noUi-handle" role="slider"></div></div>
  <div class="widget-readout" contenteditable="true">8</div></div>`;

const TOGGLE = `<div class="widget-toggle-buttons">
  <label class="widget-label">a step sees</label>
  <div><button class="widget-toggle-button mod-active">1</button>
  <button class="widget-toggle-button">full batch</button></div></div>`;

function row(controls: string): HTMLElement {
  const place = document.createElement("div");
  place.className = "gradflow-place";
  place.innerHTML = controls;
  return place;
}

beforeEach(() => {
  root = document.createElement("div");
  knobs = row(menu("skips") + SLIDER + TOGGLE);
  root.append(knobs);
  document.body.append(root);
  changes = 0;
  leave = describeControls(root, TOOLTIPS, () => (changes += 1));
});

afterEach(() => {
  leave();
  root.remove();
});

function described(element: Element | null): string {
  return document.getElementById(element?.getAttribute("aria-describedby") ?? "")?.textContent ?? "";
}

it("a reason is a tooltip of the whole control, and read with what is operated", () => {
  expect(knobs.querySelector<HTMLElement>(".widget-dropdown")?.title).toBe(REASON);
  expect(described(knobs.querySelector("select"))).toBe(REASON);
});

it("a slider has a name and a description, and says that it is disabled", async () => {
  const handle = knobs.querySelector(".noUi-handle") as Element;
  expect(handle.getAttribute("aria-label")).toBe("depth");
  expect(knobs.querySelector(".widget-readout")?.getAttribute("aria-label")).toBe("depth");
  expect(described(handle)).toBe("From 1 to 64");
  expect(handle.getAttribute("aria-disabled")).toBe("true");
  knobs.querySelector(".noUi-target")?.removeAttribute("disabled");
  await mutated();
  expect(handle.getAttribute("aria-disabled")).toBe("false");
});

it("a slider tells the value that stands beside it, not its place", async () => {
  const handle = knobs.querySelector(".noUi-handle") as Element;
  expect(handle.getAttribute("aria-valuetext")).toBe("8");
  handle.setAttribute("aria-valuetext", "-1");
  (knobs.querySelector(".widget-readout") as Element).textContent = "0.10";
  await mutated();
  expect(handle.getAttribute("aria-valuetext")).toBe("0.10");
});

it("what one can type in is a text box with the slider's name, and nothing of the kind once it rests", async () => {
  const readout = knobs.querySelector(".widget-readout") as Element;
  const told = () => ["role", "aria-label"].map((attribute) => readout.getAttribute(attribute));
  expect(told()).toEqual(["textbox", "depth"]);
  expect(described(readout)).toBe("From 1 to 64");
  readout.setAttribute("contenteditable", "false"); // as ipywidgets does where a slider is disabled
  await mutated();
  expect(told()).toEqual([null, null]);
  expect(described(readout)).toBe("");
  readout.setAttribute("contenteditable", "true");
  await mutated();
  expect(told()).toEqual(["textbox", "depth"]);
});

it("nobody can type beside a slider that goes from place to place", async () => {
  const readout = knobs.querySelector(".widget-readout") as Element;
  expect(readout.getAttribute("contenteditable")).toBe("true");
  knobs.querySelector(".widget-slider")?.classList.add("gradflow-places");
  await mutated();
  expect(readout.getAttribute("contenteditable")).toBe("false");
  readout.setAttribute("contenteditable", "true"); // as ipywidgets does where a slider is enabled
  await mutated();
  expect(readout.getAttribute("contenteditable")).toBe("false");
});

it("a toggle says which one is pressed", async () => {
  const [one, full] = [...knobs.querySelectorAll("button")] as unknown as [Element, Element];
  const pressed = () => [one, full].map((button) => button.getAttribute("aria-pressed"));
  expect(pressed()).toEqual(["true", "false"]);
  one.classList.remove("mod-active");
  full.classList.add("mod-active");
  await mutated();
  expect(pressed()).toEqual(["false", "true"]);
  const group = one.closest(".widget-toggle-buttons");
  expect([group?.getAttribute("role"), group?.getAttribute("aria-label")]).toEqual(["group", "a step sees"]);
});

it("a row of controls that comes later, or is exchanged, says which one is pressed too", async () => {
  const views = row(TOGGLE);
  const told = () => [...views.querySelectorAll("button")].map((button) => button.getAttribute("aria-pressed"));
  root.append(views);
  await mutated();
  expect(told()).toEqual(["true", "false"]);
  views.innerHTML = TOGGLE;
  await mutated();
  expect(told()).toEqual(["true", "false"]);
});

it("what changes beside the rows of controls is not looked at", async () => {
  root.append(document.createElement("p"));
  await mutated();
  const before = changes;
  (root.querySelector("p") as HTMLElement).className = "chart";
  await mutated();
  expect(changes).toBe(before);
});

it("says which preset was loaded last", async () => {
  knobs.innerHTML = `<button class="gradflow-preset"></button><button class="gradflow-preset"></button>`;
  const presets = [...knobs.querySelectorAll("button")];
  presets[1]?.classList.add("gradflow-loaded");
  await Promise.resolve();
  expect(presets.map((button) => button.getAttribute("aria-current"))).toEqual(["false", "true"]);
});

it("describes a control that comes later", async () => {
  knobs.insertAdjacentHTML("beforeend", menu("optimizer"));
  await mutated();
  expect([...knobs.querySelectorAll("select")].map(described)).toEqual([REASON, "Which optimizer"]);
});

it("says nothing of a control that has no tooltip", () => {
  const toggle = knobs.querySelector(".widget-toggle-buttons") as HTMLElement;
  expect(toggle.title).toBe("");
  expect(toggle.querySelector("button")?.hasAttribute("aria-describedby")).toBe(false);
});

it("comes to rest by itself, and ends when it is left", async () => {
  await mutated();
  const before = changes;
  await mutated();
  expect(changes).toBe(before);
  leave();
  knobs.insertAdjacentHTML("beforeend", menu("optimizer"));
  await mutated();
  expect(changes).toBe(before);
});
