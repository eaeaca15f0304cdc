import type { Confirmation } from "./frames";
import type { DroppedMessage, ShownMessage } from "./messages";

/** A frame confirmed together with those before it that could wait for it. */
export type Joint = Omit<ShownMessage, "page"> | Omit<DroppedMessage, "page">;

type Shown = Exclude<Confirmation, { dropped: true }>;

/** In ms: frames further apart than this are confirmed one by one. */
const LONGEST = 250;

/**
 * Confirmations that wait for one another, for a moment. Every message to the kernel has JupyterLab
 * show it as busy and idle again, which costs the page and the server more than drawing a frame does.
 */
export class Confirmations {
  #send: (joint: Joint) => void;
  #mayWait = new Set<number>();
  #held: Shown[] = [];
  #timer: ReturnType<typeof setTimeout> | null = null;

  constructor(send: (joint: Joint) => void) {
    this.#send = send;
  }

  /** The confirmation of this frame is sent together with that of a later one, if that comes soon. */
  mayWait(frame: number): void {
    this.#mayWait.add(frame);
  }

  take(confirmation: Confirmation): void {
    const holds = this.#mayWait.delete(confirmation.frame);
    if ("dropped" in confirmation) {
      this.#send({ ...confirmation, earlier: this.#release().map(({ frame }) => frame) });
      return;
    }
    this.#held.push(confirmation);
    if (!holds) this.#sendHeld();
    else this.#timer ??= setTimeout(() => this.#sendHeld(), LONGEST);
  }

  close(): void {
    this.#release();
  }

  #sendHeld(): void {
    const held = this.#release();
    const latest = held.at(-1);
    if (latest === undefined) return;
    this.#send({
      ...latest,
      waited: Math.max(...held.map(({ waited }) => waited)),
      painted: held.flatMap(({ painted }) => painted),
      earlier: held.slice(0, -1).map(({ frame }) => frame),
    });
  }

  #release(): Shown[] {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    const held = this.#held;
    this.#held = [];
    return held;
  }
}
