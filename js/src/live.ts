import { Paced } from "./paced";

/** A screen reader that is told of every step never finishes a sentence. */
const INTERVAL = 2000;
/** While it plays nothing but numbers change: a listener wants to know that it goes on. */
const WHILE_PLAYING = 10_000;
/** Of the parts of the status line: step and loss. */
const BRIEFLY = 2;

export interface Announcement {
  status: string;
  playing: boolean;
  verdict: string;
  problem: string;
  notice: string;
}

/**
 * The text that a screen reader speaks, at a pace one can follow: status and verdict, but only step
 * and loss while it plays and its problem stays the same.
 */
export class LiveText {
  #element: HTMLElement;
  #latest: Announcement = { status: "", playing: false, verdict: "", problem: "", notice: "" };
  #isUrgent = false;
  #paced = new Paced(INTERVAL, () => this.#write());

  constructor(element: HTMLElement) {
    this.#element = element;
  }

  /** Speaks in its turn; at once when the problem changes, a notice appears or training stops. */
  update(announcement: Announcement): void {
    const { problem, notice, playing } = this.#latest;
    this.#latest = announcement;
    this.#paced.interval = announcement.playing ? WHILE_PLAYING : INTERVAL;
    this.#isUrgent =
      announcement.problem !== problem ||
      (announcement.notice !== "" && announcement.notice !== notice) ||
      (playing && !announcement.playing);
    if (this.#isUrgent) this.#paced.now();
    else this.#paced.request();
  }

  close(): void {
    this.#paced.cancel();
  }

  #write(): void {
    const { status, verdict, playing } = this.#latest;
    const text =
      playing && !this.#isUrgent
        ? status.split(" · ").slice(0, BRIEFLY).join(", ")
        : [status, verdict].filter(Boolean).join(". ");
    if (this.#element.textContent !== text) this.#element.textContent = text;
  }
}
