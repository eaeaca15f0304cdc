import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type Action, takeKeys } from "./keys";

let root: HTMLElement;
let actions: Action[];
let release: () => void;

beforeEach(() => {
  root = document.createElement("div");
  root.innerHTML = `
    <button>Play</button> <details><summary>Table</summary></details> <div role="slider" tabindex="0"></div>
    <input> <textarea></textarea> <select></select> <div contenteditable="true"><b>0.1</b></div>
    <div class="gradflow-table-scroll"></div> <p>text</p>`;
  document.body.append(root);
  actions = [];
  release = takeKeys(root, (action) => actions.push(action));
});

afterEach(() => {
  release();
  root.remove();
});

function press(key: string, on: string | null = null, options: KeyboardEventInit = {}): KeyboardEvent {
  const event = new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...options });
  (on === null ? root : root.querySelector(on))?.dispatchEvent(event);
  return event;
}

it.each([
  [" ", "toggle"],
  ["s", "step"],
  ["r", "reset"],
])("%j asks for %s, and the page does nothing else with it", (key, action) => {
  expect(press(key, "p").defaultPrevented).toBe(true);
  expect(actions).toEqual([action]);
});

it.each(["button", "summary", "[role=slider]", ".gradflow-table-scroll"])(
  "space on %s keeps its native meaning",
  (element) => {
    expect(press(" ", element).defaultPrevented).toBe(false);
    expect(actions).toEqual([]);
  },
);

it("letters on a button are still actions", () => {
  press("s", "button");
  expect(actions).toEqual(["step"]);
});

it.each(["input", "textarea", "select", "[contenteditable]", "[contenteditable] b"])(
  "keys typed into %s are text",
  (element) => {
    for (const key of [" ", "s", "r"]) expect(press(key, element).defaultPrevented).toBe(false);
    expect(actions).toEqual([]);
  },
);

it.each(["ctrlKey", "altKey", "metaKey", "shiftKey"])("a key with %s is somebody else's", (modifier) => {
  expect(press("s", null, { [modifier]: true }).defaultPrevented).toBe(false);
  expect(actions).toEqual([]);
});

describe("a key that is held down", () => {
  it("steps on", () => {
    press("s");
    press("s", null, { repeat: true });
    expect(actions).toEqual(["step", "step"]);
  });

  it.each([" ", "r"])("does not repeat %j, and does not scroll the page", (key) => {
    expect(press(key, null, { repeat: true }).defaultPrevented).toBe(true);
    expect(actions).toEqual([]);
  });
});

it("the root can be focused, has a name, and keeps JupyterLab's shortcuts out", () => {
  expect(root.tabIndex).toBe(0);
  expect(root.getAttribute("role")).toBe("region");
  expect(root.getAttribute("aria-label")).toBe("Gradient flow");
  press("x");
  expect(root.hasAttribute("data-lm-suppress-shortcuts")).toBe(true);
});

it("a second widget in the page has a name of its own, until the first has gone", () => {
  const second = document.createElement("div");
  document.body.append(second);
  const name = () => {
    const releaseSecond = takeKeys(second, () => {});
    const told = second.getAttribute("aria-label");
    releaseSecond();
    return told;
  };
  expect(name()).toBe("Gradient flow 2");
  release();
  expect(name()).toBe("Gradient flow");
  second.remove();
});

it("released, the root is as it was", () => {
  release();
  press("s");
  expect(actions).toEqual([]);
  expect(root.getAttributeNames()).toEqual([]);
});

/** Whether JupyterLab, which listens on the document before anything below does, may have a key. */
function isLeftToJupyterLab(key: string, on: string, options: KeyboardEventInit = {}): boolean {
  const target = root.querySelector(on);
  let left = false;
  const look = () => {
    left = ![root, target].some((element) => element?.hasAttribute("data-lm-suppress-shortcuts"));
  };
  document.addEventListener("keydown", look, true);
  press(key, on, options);
  document.removeEventListener("keydown", look, true);
  return left;
}

describe.each(["button", "summary", "select", "input", "[role=slider]"])("on %s", (element) => {
  it("JupyterLab leaves plain keys alone, as long as the widget is there", () => {
    expect(isLeftToJupyterLab("x", element)).toBe(false);
    expect(isLeftToJupyterLab("ArrowDown", element, { shiftKey: true })).toBe(false);
    release();
    expect(isLeftToJupyterLab("x", element)).toBe(true);
  });

  it("JupyterLab has its shortcuts, such as the one that saves", () => {
    expect(isLeftToJupyterLab("x", element)).toBe(false);
    expect(isLeftToJupyterLab("s", element, { ctrlKey: true })).toBe(true);
    expect(isLeftToJupyterLab("s", element, { metaKey: true })).toBe(true);
    expect(isLeftToJupyterLab("Enter", element, { shiftKey: true })).toBe(true);
    expect(isLeftToJupyterLab("x", element)).toBe(false);
  });
});

it("a key pressed elsewhere in the page is not looked at", () => {
  const elsewhere = document.createElement("button");
  document.body.append(elsewhere);
  elsewhere.dispatchEvent(new KeyboardEvent("keydown", { key: "x", bubbles: true }));
  expect(elsewhere.getAttributeNames()).toEqual([]);
  elsewhere.remove();
});
