import { beforeEach, describe, expect, it } from "vitest";
import { type Confirmation, FrameQueue } from "./frames";
import { SteppedStage, settled } from "./testing";
import type { Frame, Update } from "./wire";

class RecordingTargets {
  applied: number[] = [];
  ready = true;
  waiting: (() => void)[] = [];

  settled(): boolean {
    return this.ready;
  }

  whenSettled(): Promise<void> {
    return new Promise((resolve) => this.waiting.push(resolve));
  }

  apply(updates: readonly Update[]): void {
    for (const { state } of updates) this.applied.push(state.step as number);
  }

  arrive(): void {
    this.ready = true;
    for (const resolve of this.waiting.splice(0)) resolve();
  }
}

function frame(number: number): Frame {
  return { number, updates: [{ target: "bars", state: { step: number } }] };
}

let stage: SteppedStage;
let targets: RecordingTargets;
let confirmed: Confirmation[];
let queue: FrameQueue;

beforeEach(() => {
  stage = new SteppedStage();
  targets = new RecordingTargets();
  confirmed = [];
  queue = new FrameQueue(targets, stage, (confirmation) => confirmed.push(confirmation));
  queue.visible = true;
});

describe("a visible page", () => {
  it("applies a frame ahead of its animation frame and confirms it from there", () => {
    for (const number of [1, 2, 3]) queue.push(frame(number));
    expect(targets.applied).toEqual([1]);
    expect(confirmed).toEqual([]);
    stage.animate();
    expect(confirmed).toEqual([
      { type: "confirm", frame: 1, animation_frame: 1, applied_at: 16, waited: 0, painted: [] },
    ]);
    expect(targets.applied).toEqual([1, 2]);
    stage.animate();
    stage.animate();
    expect(targets.applied).toEqual([1, 2, 3]);
    expect(confirmed.map((each) => each.frame)).toEqual([1, 2, 3]);
  });

  it("applies no frame between another's animation frame and its paint", () => {
    const appliedBeforePaint: number[][] = [];
    queue = new FrameQueue(targets, stage, () => appliedBeforePaint.push([...targets.applied]));
    queue.visible = true;
    for (const number of [1, 2]) queue.push(frame(number));
    stage.animate();
    stage.animate();
    expect(appliedBeforePaint).toEqual([[1], [1, 2]]);
  });

  it("asks for its animation frame after what applying has asked for", () => {
    const order: string[] = [];
    targets.apply = () => void stage.requestFrame(() => order.push("transition"));
    queue = new FrameQueue(targets, stage, () => order.push("confirmation"));
    queue.visible = true;
    queue.push(frame(1));
    stage.animate();
    expect(order).toEqual(["transition", "confirmation"]);
  });

  it("counts only the animation frames in which a frame was applied", () => {
    queue.push(frame(1));
    for (let times = 0; times < 5; times += 1) stage.animate();
    queue.push(frame(2));
    stage.animate();
    expect(confirmed.at(-1)).toMatchObject({ frame: 2, animation_frame: 2 });
  });

  it("asks for no animation frame while nothing waits", () => {
    expect(stage.framesRequested).toBe(0);
    queue.push(frame(1));
    stage.animate();
    stage.animate();
    expect(stage.framesRequested).toBe(0);
  });

  it("times a frame's paint in its own animation frame, and tells with the next", () => {
    queue.push(frame(1));
    stage.animate();
    stage.animate();
    queue.push(frame(2));
    stage.animate();
    expect(confirmed.at(-1)).toMatchObject({ frame: 2, painted: [[1, 16]] });
  });

  it("tells for how long a frame has waited for those before it", () => {
    for (const number of [1, 2, 3]) queue.push(frame(number));
    for (let times = 0; times < 3; times += 1) stage.animate();
    expect(confirmed.map((each) => ("waited" in each ? each.waited : null))).toEqual([0, 16, 32]);
  });

  it("reports the paint of every frame once, in order", () => {
    for (let number = 1; number <= 5; number += 1) queue.push(frame(number));
    for (let times = 0; times < 5; times += 1) stage.animate();
    const painted = confirmed.map((each) => ("painted" in each ? each.painted : null));
    expect(painted).toEqual([[], [[1, 16]], [[2, 32]], [[3, 48]], [[4, 64]]]);
  });
});

describe("a page that can't keep up", () => {
  const updates = (step: number, other: string) => [
    { target: "bars", state: { step } },
    { target: "loss", state: { step: 100 + step, [other]: step } },
  ];

  it("draws in one what has waited for a second, and counts only that as drawn", () => {
    for (let number = 1; number <= 5; number += 1) queue.push({ number, updates: updates(number, "early") });
    expect(confirmed).toEqual([]);
    stage.time += 1001;
    queue.push({ number: 6, updates: updates(6, "late") });
    expect(confirmed.map((each) => [each.frame, "dropped" in each])).toEqual([2, 3, 4, 5].map((n) => [n, true]));
    let drawn: readonly Update[] = [];
    targets.apply = (applied) => {
      drawn = applied;
    };
    stage.animate();
    expect(drawn).toEqual([
      { target: "bars", state: { step: 6 } },
      { target: "loss", state: { step: 106, early: 5, late: 6 } },
    ]);
    stage.animate();
    expect(confirmed.slice(4)).toMatchObject([{ frame: 1 }, { frame: 6, waited: 16 }]);
    expect(stage.framesRequested).toBe(0);
  });

  it("draws each of a few, however long they wait", () => {
    for (let number = 1; number <= 3; number += 1) queue.push(frame(number));
    stage.time += 5000;
    queue.push(frame(4));
    for (let times = 0; times < 4; times += 1) stage.animate();
    expect(targets.applied).toEqual([1, 2, 3, 4]);
  });
});

describe("targets that are not there yet", () => {
  it("keep a frame waiting, in its place", async () => {
    targets.ready = false;
    queue.push(frame(1));
    queue.push(frame(2));
    stage.animate();
    expect(confirmed).toEqual([]);
    targets.arrive();
    await settled();
    stage.animate();
    stage.animate();
    expect(targets.applied).toEqual([1, 2]);
  });
});

describe("a hidden page", () => {
  it("confirms frames as dropped, and draws none", () => {
    queue.visible = false;
    queue.push(frame(1));
    stage.animate();
    expect(confirmed).toEqual([{ type: "confirm", frame: 1, dropped: true }]);
    expect(targets.applied).toEqual([]);
  });

  it("confirms what waited for an animation frame that will not come", () => {
    queue.push(frame(1));
    queue.push(frame(2));
    queue.visible = false;
    expect(confirmed).toEqual([
      { type: "confirm", frame: 1, dropped: true },
      { type: "confirm", frame: 2, dropped: true },
    ]);
    expect(stage.framesRequested).toBe(0);
  });

  it("reports no paint that it was hidden during", () => {
    queue.push(frame(1));
    stage.animate();
    queue.visible = false;
    stage.animate(60_000);
    queue.visible = true;
    queue.push(frame(2));
    stage.animate();
    expect(confirmed.at(-1)).toMatchObject({ frame: 2, painted: [] });
  });

  it("draws again once it is shown", () => {
    queue.visible = false;
    queue.push(frame(1));
    queue.visible = true;
    queue.push(frame(2));
    stage.animate();
    expect(targets.applied).toEqual([2]);
  });
});

it("a closed queue applies and confirms nothing more", () => {
  queue.push(frame(1));
  queue.push(frame(2));
  queue.close();
  stage.animate();
  expect(targets.applied).toEqual([1]);
  expect(confirmed).toEqual([]);
});
