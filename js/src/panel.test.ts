import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import panel, { type PanelState } from "./panel";
import { FakeModel, Layout, hideBrowserTab, settled } from "./testing";

const bars = { set: vi.fn() };
let layout: Layout;
let root: HTMLElement;
let model: FakeModel<PanelState>;
let views: (() => void)[];
let destroy: () => void;
let addView: () => HTMLElement;

async function animationFrame(): Promise<void> {
  await settled();
  await new Promise((resolve) => requestAnimationFrame(resolve));
}

beforeEach(() => {
  vi.spyOn(console, "error").mockImplementation(() => undefined);
  layout = new Layout();
  bars.set.mockReset();
  root = document.createElement("div");
  root.className = "gradflow";
  document.body.append(root);
  const state: PanelState = {
    frame_targets: { bars: "IPY_MODEL_a", panel: "IPY_MODEL_p" },
    status: "",
    verdict: "",
    verdict_problem: "",
    verdict_severity: "",
    playing: false,
    notice: "",
    notice_is_error: false,
    is_current: false,
    changes: [],
  };
  const models: Record<string, unknown> = { a: bars };
  model = new FakeModel(state, models);
  models.p = model;
  views = [];
  const { initialize, render } = panel();
  const context = { model: model.asAnyModel, signal: new AbortController().signal };
  destroy = initialize(context as Parameters<typeof initialize>[0]) as () => void;
  addView = () => {
    const el = document.createElement("div");
    views.push(render({ ...context, el } as unknown as Parameters<typeof render>[0]) as () => void);
    root.append(el);
    layout.settle();
    return el;
  };
});

afterEach(() => {
  for (const remove of views) remove();
  destroy();
  root.remove();
  vi.useRealTimers();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

it("a frame sets the models that it names, and is confirmed without an echo", async () => {
  addView();
  const updates = [
    { target: "bars", state: { y: { buffer: 0, dtype: "float32" } } },
    { target: "panel", state: { status: "step 7" } },
  ];
  model.receive({ type: "frame", number: 7, updates }, [new DataView(Float32Array.of(2).buffer)]);
  await animationFrame();
  expect(bars.set).toHaveBeenCalledExactlyOnceWith({ y: Float32Array.of(2) });
  expect(root.querySelector(".gradflow-status")?.textContent).toBe("step 7");
  expect(model.sentOf("confirm")).toMatchObject([{ frame: 7, animation_frame: 1, painted: [] }]);
  expect(model.saved).toBe(0);
});

it("takes away what bqplot leaves behind at each draw", async () => {
  addView();
  root.insertAdjacentHTML("beforeend", '<svg><g><g></g><g><line class="zeroLine"/></g></g></svg>');
  model.receive({ type: "frame", number: 1, updates: [{ target: "bars", state: {} }] });
  await animationFrame();
  expect(root.querySelectorAll("svg g")).toHaveLength(2);
});

it("two views of one panel draw each frame once", async () => {
  addView();
  addView();
  model.receive({ type: "frame", number: 1, updates: [{ target: "bars", state: {} }] });
  await animationFrame();
  expect(bars.set).toHaveBeenCalledTimes(1);
  expect(model.sentOf("confirm")).toHaveLength(1);
});

it("tells the kernel whether somebody can see it", () => {
  addView();
  hideBrowserTab(true);
  expect(model.sentOf("view")).toMatchObject([
    { type: "view", visible: false },
    { type: "view", visible: true },
    { type: "view", visible: false },
  ]);
});

describe("a page that appears", () => {
  beforeEach(() => {
    vi.useFakeTimers();
  });

  const questions = () => model.sentOf("view").filter(({ asks }) => asks);

  it("asks until it has got everything", () => {
    addView();
    vi.advanceTimersByTime(1000);
    expect(questions()).toMatchObject([{ type: "view", visible: true, asks: true }]);
    model.receive({ type: "frame", number: 8, whole: false, updates: [] });
    vi.advanceTimersByTime(2000);
    expect(questions()).toHaveLength(2);
    model.receive({ type: "frame", number: 9, whole: true, updates: [] });
    vi.advanceTimersByTime(60_000);
    expect(questions()).toHaveLength(2);
  });

  it("asks nothing while it is hidden, and again when it is shown", () => {
    addView();
    hideBrowserTab(true);
    vi.advanceTimersByTime(60_000);
    expect(questions()).toEqual([]);
    hideBrowserTab(false);
    vi.advanceTimersByTime(1000);
    expect(questions()).toHaveLength(1);
  });
});

describe("a page that has reconnected, with all traits as they are in the kernel", () => {
  beforeEach(async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    addView();
    const updates = [{ target: "panel", state: { is_current: true, status: "step 7" } }];
    model.receive({ type: "frame", number: 1, whole: true, updates });
    await animationFrame();
    model.sent = [];
  });

  const reconnect = () => model.set({ is_current: false, status: "" });

  it("asks at once for a whole frame, and until it gets one", () => {
    reconnect();
    expect(model.sentOf("view")).toMatchObject([{ visible: true, asks: true }]);
    vi.advanceTimersByTime(1000);
    expect(model.sentOf("view")).toHaveLength(2);
    model.receive({ type: "frame", number: 2, whole: true, updates: [] });
    vi.advanceTimersByTime(60_000);
    expect(model.sentOf("view")).toHaveLength(2);
  });

  it("waits with that until it is shown", () => {
    hideBrowserTab(true);
    model.sent = [];
    reconnect();
    expect(model.sent).toEqual([]);
    hideBrowserTab(false);
    expect(model.sentOf("view")).toMatchObject([{ visible: true }]);
  });
});

it("a hidden tab confirms frames as dropped", async () => {
  addView();
  model.receive({ type: "frame", number: 1, updates: [{ target: "bars", state: {} }] });
  hideBrowserTab(true);
  model.receive({ type: "frame", number: 2, updates: [{ target: "bars", state: {} }] });
  await animationFrame();
  expect(model.sentOf("confirm")).toMatchObject([
    { type: "confirm", frame: 1, dropped: true },
    { type: "confirm", frame: 2, dropped: true },
  ]);
  expect(bars.set).toHaveBeenCalledTimes(1); // by the first, ahead of the animation frame
});

it("training never waits for a target that is not in the page", async () => {
  addView();
  model.set({ frame_targets: { bars: "IPY_MODEL_gone" } });
  model.receive({ type: "frame", number: 1, updates: [{ target: "bars", state: {} }] });
  await animationFrame();
  expect(model.sentOf("confirm")).toMatchObject([{ frame: 1, animation_frame: 1 }]);
});

it("answers a ping at once", () => {
  model.receive({ type: "ping", id: 3 });
  expect(model.sent).toEqual([{ type: "pong", id: 3 }]);
});

it("sends keys that are pressed in its root", () => {
  addView();
  root.dispatchEvent(new KeyboardEvent("keydown", { key: " " }));
  expect(model.sentOf("key")).toEqual([{ type: "key", action: "toggle" }]);
});

describe("the status row", () => {
  it("shows a verdict by a symbol beside its colour", () => {
    const el = addView();
    const badge = el.querySelector<HTMLElement>(".gradflow-verdict");
    expect(badge?.hidden).toBe(true);
    model.set({
      verdict: "vanishing: the signal falls 5.1 decades",
      verdict_problem: "vanishing",
      verdict_severity: "fault",
    });
    expect(badge?.hidden).toBe(false);
    expect(badge?.textContent).toBe("▼vanishing: the signal falls 5.1 decades");
    expect(badge?.dataset).toMatchObject({ problem: "vanishing", severity: "fault" });
  });

  it("tells politely what was changed in the model", () => {
    const changes = addView().querySelector<HTMLElement>(".gradflow-changes");
    expect(changes?.textContent).toBe("");
    expect(changes?.getAttribute("aria-live")).toBe("polite");
    model.set({ changes: ["Skips: 3 blocks compute x + 1.0·f(x).", "Activation: 4 × relu."] });
    expect(changes?.textContent).toBe("Skips: 3 blocks compute x + 1.0·f(x). Activation: 4 × relu.");
    model.set({ changes: [] });
    expect(changes?.textContent).toBe("");
  });

  it("raises an error as an alert, and a plain notice as a status", () => {
    const notice = addView().querySelector<HTMLElement>(".gradflow-notice");
    model.set({ notice: "your loop trains" });
    expect(notice?.getAttribute("role")).toBe("status");
    model.set({ notice: "the data ran out", notice_is_error: true });
    expect(notice?.getAttribute("role")).toBe("alert");
    expect(notice?.textContent).toBe("the data ran out");
  });

  it("a refusal of what was typed stays while it trains, ahead of the kernel's notice", () => {
    const notice = addView().querySelector(".gradflow-notice") as HTMLElement;
    const slider = document.createElement("div");
    slider.className = "widget-inline-hbox";
    slider.innerHTML = `<label class="widget-label">depth</label>
      <div class="noUi-handle" aria-valuemin="1.0" aria-valuemax="64.0"></div>
      <div class="widget-readout" contenteditable="true">8</div>`;
    root.append(slider);
    const readout = slider.querySelector(".widget-readout") as HTMLElement;
    const press = (key: string) => readout.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    readout.textContent = "200";
    readout.dispatchEvent(new Event("input", { bubbles: true }));
    press("Enter");
    model.set({ status: "step 2", notice: "your loop trains" });
    expect(notice.getAttribute("role")).toBe("alert");
    expect(notice.textContent).toContain("depth must be a whole number from 1 to 64, not “200”");
    press("Backspace");
    expect([notice.getAttribute("role"), notice.textContent]).toEqual(["status", "your loop trains"]);
  });
});

it("removed and destroyed, it leaves no listener, no observer and nothing to ask", () => {
  vi.useFakeTimers();
  addView();
  addView();
  for (const remove of views.splice(0)) remove();
  destroy();
  const said = model.sent.length;
  vi.advanceTimersByTime(60_000);
  expect(model.sent).toHaveLength(said);
  expect(model.listenerCount).toBe(0);
  expect(layout.observed).toBe(0);
  expect(root.getAttributeNames()).toEqual(["class"]);
});

it("two pages on one kernel speak under names of their own", () => {
  addView();
  const { initialize } = panel();
  const elsewhere = new FakeModel(model.state, { a: bars });
  const context = { model: elsewhere.asAnyModel, signal: new AbortController().signal };
  const leave = initialize(context as Parameters<typeof initialize>[0]) as () => void;
  hideBrowserTab(true);
  elsewhere.receive({ type: "frame", number: 1, updates: [] });
  model.receive({ type: "frame", number: 1, updates: [] });
  const here = (model.sentOf("confirm")[0] as { page: string }).page;
  const there = (elsewhere.sentOf("confirm")[0] as { page: string }).page;
  expect(here).not.toBe(there);
  leave();
});

it("frames that may wait are confirmed with the next one that may not", async () => {
  addView();
  for (const [number, at_once] of [
    [1, false],
    [2, false],
    [3, true],
  ]) {
    model.receive({ type: "frame", number, at_once, updates: [{ target: "bars", state: {} }] });
    await animationFrame();
  }
  expect(bars.set).toHaveBeenCalledTimes(3);
  expect(model.sentOf("confirm")).toMatchObject([{ frame: 3, earlier: [1, 2], animation_frame: 3 }]);
});

it("a page that is hidden confirms at once the frames that it had shown", async () => {
  addView();
  model.receive({ type: "frame", number: 1, at_once: false, updates: [] });
  await animationFrame();
  model.receive({ type: "frame", number: 2, at_once: false, updates: [] });
  hideBrowserTab(true);
  expect(model.sentOf("confirm")).toMatchObject([{ frame: 2, earlier: [1], dropped: true }]);
});
