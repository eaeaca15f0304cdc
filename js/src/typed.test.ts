import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type Limits, checkTyped, readNumber } from "./typed";

const RATE: Limits = { name: "learning rate", low: 0.000001, high: 10, whole: false };
const DEPTH: Limits = { name: "depth", low: 1, high: 64, whole: true };

describe("what is read", () => {
  it.each([
    ["0.05", "0.05"],
    ["0,05", "0.05"],
    ["1,5e-3", "1.5e-3"],
    ["0,001", "0.001"],
    [" .5 ", ".5"],
    ["2e−3", "2e-3"],
    ["1e-6", "1e-6"],
    ["10", "10"],
  ])("%j is the rate %s", (text, number) => {
    expect(readNumber(text, RATE)).toEqual({ number });
  });

  it.each([
    ["12", "12"],
    ["1e1", "10"],
    ["8.0", "8"],
  ])("%j is the depth %s", (text, number) => {
    expect(readNumber(text, DEPTH)).toEqual({ number });
  });

  it.each(["1/100", "1e-2x", "abc", "1.5.2", "0", "-1", "11", "Infinity", "0x1"])("%j is no rate", (text) => {
    expect(readNumber(text, RATE)).toEqual({
      refusal: `learning rate must be a number from 0.000001 to 10, not “${text}”; it stays as it was.`,
    });
  });

  it.each(["200", "0", "12.5", "12,5", "abc"])("%j is no depth", (text) => {
    expect(readNumber(text, DEPTH)).toEqual({
      refusal: `depth must be a whole number from 1 to 64, not “${text}”; it stays as it was.`,
    });
  });

  it("a comma that may stand for thousands is not guessed at", () => {
    expect(readNumber("1,000", RATE)).toEqual({
      refusal: "learning rate: “1,000” may mean 1 or 1000; type it without the comma.",
    });
  });
});

describe("in the page", () => {
  let root: HTMLElement;
  let readout: HTMLElement;
  /** What ipywidgets' own listener then found there. */
  let found: string[];
  let refusals: string[];
  let leave: () => void;

  beforeEach(() => {
    root = document.createElement("div");
    root.innerHTML = `<div class="widget-inline-hbox gradflow-logarithmic">
      <label class="widget-label">learning rate</label>
      <div class="noUi-handle" aria-valuemin="-6.0" aria-valuemax="1.0"></div>
      <div class="widget-readout" contenteditable="true" tabindex="0">0.10</div></div><button></button>`;
    document.body.append(root);
    readout = root.querySelector(".widget-readout") as HTMLElement;
    found = [];
    refusals = [];
    for (const event of ["keydown", "blur"]) {
      readout.parentElement?.addEventListener(event, () => found.push(readout.textContent ?? ""));
    }
    leave = checkTyped(root, (sentence) => refusals.push(sentence));
  });

  afterEach(() => {
    leave();
    root.remove();
  });

  function type(text: string): void {
    readout.textContent = text;
    readout.dispatchEvent(new Event("input", { bubbles: true }));
  }

  function press(key: string): void {
    readout.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  }

  it("a comma has become a point before ipywidgets reads it", () => {
    type("0,05");
    press("Enter");
    expect(found).toEqual(["0.05"]);
    expect(refusals.at(-1)).toBe("");
  });

  it("what is refused is no number to ipywidgets, and said until the next key", () => {
    type("1/100");
    press("Enter");
    expect(found).toEqual([""]);
    expect(refusals.at(-1)).toContain("not “1/100”");
    press("Tab");
    expect(refusals.at(-1)).toContain("not “1/100”");
    press("1");
    expect(refusals.at(-1)).toBe("");
  });

  it("what is left without Enter is read as well, and once", () => {
    type("0,2");
    readout.dispatchEvent(new FocusEvent("blur"));
    readout.dispatchEvent(new FocusEvent("blur"));
    expect(found).toEqual(["0.2"]);
    expect(refusals).toEqual([]);
  });

  it("what nobody has typed is not read back, for it is rounded", () => {
    readout.dispatchEvent(new FocusEvent("blur"));
    expect(readout.textContent).toBe("0.10");
    press("Enter");
    expect(found).toEqual([""]);
  });

  it("a press elsewhere has become a click before a refusal moves what was pressed", async () => {
    const button = root.querySelector("button") as HTMLElement;
    type("abc");
    button.dispatchEvent(new Event("pointerdown", { bubbles: true }));
    readout.dispatchEvent(new FocusEvent("blur"));
    expect(refusals).toEqual([]);
    button.dispatchEvent(new Event("pointerup", { bubbles: true }));
    button.click();
    await new Promise((resolve) => setTimeout(resolve));
    expect(refusals.at(-1)).toContain("not “abc”");
    button.click();
    expect(refusals.at(-1)).toBe("");
  });

  it("leaves nothing behind", () => {
    leave();
    type("0,05");
    press("Enter");
    expect(found).toEqual(["0,05"]);
  });
});
