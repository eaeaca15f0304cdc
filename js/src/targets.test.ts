import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { type Target, Targets } from "./targets";
import { settled } from "./testing";
import type { State } from "./wire";

class RecordingTarget implements Target {
  states: State[] = [];
  set(state: State): void {
    this.states.push(state);
  }
}

const bars = new RecordingTarget();
const line = new RecordingTarget();
const onBars = [{ target: "bars", state: { y: [1] } }];
let models: Record<string, Target>;
let asked: string[];
let targets: Targets;

beforeEach(() => {
  vi.spyOn(console, "error").mockImplementation(() => undefined);
  bars.states = [];
  line.states = [];
  models = { a: bars, b: line };
  asked = [];
  targets = new Targets(async (id) => {
    asked.push(id);
    const model = models[id];
    if (model === undefined) throw new Error("widget model not found");
    return model;
  });
});

afterEach(() => vi.restoreAllMocks());

it("finds each model once, by its id without the prefix", async () => {
  targets.assign({ bars: "IPY_MODEL_a" });
  expect(targets.settled(onBars)).toBe(false);
  await targets.whenSettled(onBars);
  targets.apply(onBars);
  targets.apply(onBars);
  expect(asked).toEqual(["a"]);
  expect(bars.states).toHaveLength(2);
});

it("a new model under an old name is found anew, the others are kept", async () => {
  targets.assign({ bars: "IPY_MODEL_a", line: "IPY_MODEL_b" });
  await settled();
  models.c = new RecordingTarget();
  targets.assign({ bars: "IPY_MODEL_c", line: "IPY_MODEL_b" });
  await settled();
  expect(asked).toEqual(["a", "b", "c"]);
  targets.apply(onBars);
  expect(bars.states).toEqual([]);
  expect((models.c as RecordingTarget).states).toEqual([{ y: [1] }]);
});

describe("a model that is not in the page", () => {
  it("is reported, and holds up nothing", async () => {
    targets.assign({ bars: "IPY_MODEL_gone", line: "IPY_MODEL_b" });
    const updates = [...onBars, { target: "line", state: { x: 1 } }];
    await targets.whenSettled(updates);
    expect(targets.settled(updates)).toBe(true);
    expect(console.error).toHaveBeenCalledTimes(1);
    targets.apply(updates);
    expect(line.states).toEqual([{ x: 1 }]);
  });

  it("is looked for again when the names are given again", async () => {
    targets.assign({ bars: "IPY_MODEL_late" });
    await settled();
    models.late = bars;
    targets.assign({ bars: "IPY_MODEL_late" });
    await settled();
    expect(asked).toEqual(["late", "late"]);
    targets.apply(onBars);
    expect(bars.states).toHaveLength(1);
  });
});

it("a name that nobody gave is reported once", () => {
  targets.assign({});
  targets.apply(onBars);
  targets.apply(onBars);
  expect(console.error).toHaveBeenCalledTimes(1);
});

it("an error in one target leaves the others drawn", async () => {
  models.a = {
    set() {
      throw new Error("bad data");
    },
  };
  targets.assign({ bars: "IPY_MODEL_a", line: "IPY_MODEL_b" });
  await settled();
  targets.apply([...onBars, { target: "line", state: { x: 1 } }]);
  expect(line.states).toEqual([{ x: 1 }]);
});
