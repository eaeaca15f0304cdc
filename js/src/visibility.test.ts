import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { Layout, hideBrowserTab } from "./testing";
import { Visibility } from "./visibility";

let layout: Layout;
let changes: boolean[];
let visibility: Visibility;
const tab = document.createElement("div");
const view = document.createElement("div");

beforeEach(() => {
  layout = new Layout();
  changes = [];
  visibility = new Visibility((visible) => changes.push(visible));
  tab.hidden = false;
  tab.replaceChildren(view);
  document.body.append(tab);
});

afterEach(() => {
  visibility.close();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

it("tells of the first view, shown or not yet in the page", () => {
  expect(changes).toEqual([]);
  view.remove();
  visibility.watch(view);
  expect(changes).toEqual([false]);
  tab.append(view);
  layout.settle();
  expect(changes).toEqual([false, true]);
});

it("a background tab of JupyterLab hides its views", () => {
  visibility.watch(view);
  tab.hidden = true;
  layout.settle();
  tab.hidden = false;
  layout.settle();
  expect(changes).toEqual([true, false, true]);
});

it("a hidden browser tab hides all views", () => {
  visibility.watch(view);
  hideBrowserTab(true);
  hideBrowserTab(false);
  expect(changes).toEqual([true, false, true]);
});

it("one shown view of two is enough, and the last to go leaves nobody", () => {
  const other = document.createElement("div");
  document.body.append(other);
  const unwatch = visibility.watch(view);
  const unwatchOther = visibility.watch(other);
  unwatch();
  expect(changes).toEqual([true]);
  unwatchOther();
  expect(changes).toEqual([true, false]);
});

it("closed, it listens to nothing", () => {
  visibility.watch(view);
  visibility.close();
  hideBrowserTab(true);
  expect(layout.observed).toBe(0);
  expect(changes).toEqual([true]);
});
