import type { Confirmation } from "./frames";

/** A frame confirmed together with those before it that could wait for it. */
export type Joint = Confirmation & { earlier: number[] };

/**
 * Confirmations that wait for one another. Every message to the kernel has JupyterLab show it as
 * busy and idle again, which costs the page and the server more than drawing a frame does.
 */
export class Confirmations {
  #send: (joint: Joint) => void;
  #mayWait = new Set<number>();
  #held: Exclude<Confirmation, { dropped: true }>[] = [];

  constructor(send: (joint: Joint) => void) {
    this.#send = send;
  }

  /** The confirmation of this frame is sent together with that of a later one. */
  mayWait(frame: number): void {
    this.#mayWait.add(frame);
  }

  take(confirmation: Confirmation): void {
    const holds = this.#mayWait.delete(confirmation.frame);
    const held = this.#held;
    if ("dropped" in confirmation) {
      this.#send({ ...confirmation, earlier: held.map(({ frame }) => frame) });
    } else if (holds) {
      held.push(confirmation);
      return;
    } else {
      const all = [...held, confirmation];
      this.#send({
        ...confirmation,
        waited: Math.max(...all.map(({ waited }) => waited)),
        painted: all.flatMap(({ painted }) => painted),
        earlier: held.map(({ frame }) => frame),
      });
    }
    this.#held = [];
  }
}
