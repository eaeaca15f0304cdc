import { afterEach, beforeEach, expect, it } from "vitest";
import { Successor } from "./successor";

let root: HTMLElement;
let knobs: HTMLElement;
let successor: Successor | null;

function add(name: string): void {
  const button = document.createElement("button");
  button.className = "gradflow-preset";
  button.textContent = name;
  knobs.append(button);
  successor?.look();
}

/** Exchanges the knobs, as loading a preset does: the buttons come one by one. */
function exchange(...presets: string[]): void {
  successor?.leave();
  knobs = document.createElement("div");
  root.replaceChildren(knobs);
  successor = new Successor(knobs, root);
  successor.look();
  for (const name of presets) add(name);
}

function preset(name: string): HTMLButtonElement {
  return [...root.querySelectorAll("button")].find((b) => b.textContent === name) as HTMLButtonElement;
}

function press(name: string): void {
  preset(name).focus();
  preset(name).click();
}

beforeEach(() => {
  successor = null;
  root = document.createElement("div");
  document.body.append(root);
  exchange("one", "two", "three");
});

afterEach(() => {
  successor?.leave();
  document.body.replaceChildren();
});

it("the focus goes on to the button of the preset that was pressed", () => {
  press("two");
  exchange("one", "two", "three");
  expect(document.activeElement).toBe(preset("two"));
});

it("it is handed on once", () => {
  press("two");
  exchange("one", "two", "three");
  preset("two").blur();
  exchange("one", "two", "three");
  expect(document.activeElement).toBe(document.body);
});

it("what has the focus elsewhere keeps it", () => {
  const elsewhere = document.createElement("input");
  document.body.append(elsewhere);
  press("two");
  elsewhere.focus();
  exchange("one", "two", "three");
  expect(document.activeElement).toBe(elsewhere);
});

it("a preset that is offered no more leaves the focus where it is", () => {
  press("two");
  exchange("one", "three");
  expect(document.activeElement).toBe(document.body);
});

it("it listens no more when it is left", () => {
  successor?.leave();
  press("one");
  expect(root.attributes).toHaveLength(0);
});
