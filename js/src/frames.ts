import type { DroppedMessage, Painted, ShownMessage } from "./messages";
import type { Stage } from "./stage";
import type { Targets } from "./targets";
import type { Frame, State } from "./wire";

/** What is to be said of one frame, before it is joined with what is said of others. */
export type Confirmation = Omit<ShownMessage, "page" | "earlier"> | Omit<DroppedMessage, "page" | "earlier">;

/** A frame and when it came, in ms since the epoch. */
type Arrived = Frame & { at: number };

/** More than a page that keeps up has waiting, and for longer, in ms. */
const MOST_WAITING = 4;
const LONGEST_WAIT = 1000;

/**
 * Frames that wait for the page: each is painted in, and confirmed from, an animation frame of its
 * own. A page that can't keep up, since a quicker one beside it sets the pace or it was held up for
 * long, draws what the waiting ones set together, with the newest.
 */
export class FrameQueue {
  #targets: Pick<Targets, "settled" | "whenSettled" | "apply">;
  #stage: Stage;
  #confirm: (confirmation: Confirmation) => void;
  #waiting: Arrived[] = [];
  #handle: number | null = null;
  #visible = false;
  #animationFrames = 0;
  #painted: Painted[] = [];
  /** Counts the times that the page was hidden: a paint begun before is not timed after. */
  #absences = 0;

  constructor(
    targets: Pick<Targets, "settled" | "whenSettled" | "apply">,
    stage: Stage,
    confirm: (confirmation: Confirmation) => void,
  ) {
    this.#targets = targets;
    this.#stage = stage;
    this.#confirm = confirm;
  }

  push(frame: Frame): void {
    const now = this.#stage.now();
    this.#waiting.push({ ...frame, at: now });
    const [first, ...others] = this.#waiting;
    if (first !== undefined && others.length >= MOST_WAITING && now - first.at > LONGEST_WAIT) {
      this.#waiting = [first, this.#joined(others)];
    }
    if (this.#visible) this.#schedule();
    else this.#drop();
  }

  set visible(visible: boolean) {
    this.#visible = visible;
    // No animation frame comes to a hidden page: what waits for one would wait until it is shown.
    if (!visible) this.#drop();
  }

  close(): void {
    this.#cancel();
    this.#waiting = [];
  }

  #schedule(): void {
    const next = this.#waiting[0];
    if (next === undefined || this.#handle !== null) return;
    if (!this.#targets.settled(next.updates)) {
      void this.#targets.whenSettled(next.updates).then(() => this.#schedule());
      return;
    }
    // Ahead of the animation frame, not in it: bqplot moves bars and lines in a d3 transition,
    // which even with a duration of 0 sets the attributes in the animation frame after the one
    // that started it. d3 asks for that one first, so it has run when ours comes.
    const waited = this.#stage.now() - next.at;
    this.#targets.apply(next.updates);
    this.#handle = this.#stage.requestFrame(() => this.#shown(next.number, waited));
  }

  #shown(frame: number, waited: number): void {
    this.#handle = null;
    this.#waiting.shift();
    this.#animationFrames += 1;
    this.#confirm({
      type: "confirm",
      frame,
      animation_frame: this.#animationFrames,
      applied_at: this.#stage.now(),
      waited,
      painted: this.#painted.splice(0),
    });
    const absences = this.#absences;
    this.#stage.afterPaint(() => {
      if (absences === this.#absences) this.#painted.push([frame, this.#stage.now()]);
      this.#schedule();
    });
  }

  /** One frame with all that these set, as the newest of them; the others are not drawn. */
  #joined(frames: Arrived[]): Arrived {
    return frames.reduce((joined, next) => {
      this.#confirm({ type: "confirm", frame: joined.number, dropped: true });
      const states = new Map<string, State>();
      for (const { target, state } of [...joined.updates, ...next.updates]) {
        states.set(target, { ...states.get(target), ...state });
      }
      return { ...next, updates: [...states].map(([target, state]) => ({ target, state })) };
    });
  }

  #drop(): void {
    this.#cancel();
    const dropped = this.#waiting;
    this.#waiting = [];
    for (const { number } of dropped) {
      this.#confirm({ type: "confirm", frame: number, dropped: true });
    }
  }

  #cancel(): void {
    if (this.#handle !== null) this.#stage.cancelFrame(this.#handle);
    this.#handle = null;
    this.#absences += 1;
    this.#painted = [];
  }
}
