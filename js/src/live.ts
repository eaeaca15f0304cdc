import { Paced } from "./paced";

/** A screen reader that is told of every step never finishes a sentence. */
const INTERVAL = 2000;

export interface Announcement {
  status: string;
  verdict: string;
  problem: string;
  notice: string;
}

/** The text that a screen reader speaks: the status and the verdict, at a pace one can follow. */
export class LiveText {
  #element: HTMLElement;
  #latest: Announcement = { status: "", verdict: "", problem: "", notice: "" };
  #paced = new Paced(INTERVAL, () => this.#write());

  constructor(element: HTMLElement) {
    this.#element = element;
  }

  /** Speaks in its turn; at once when the problem changes or a new notice appears. */
  update(announcement: Announcement): void {
    const { problem, notice } = this.#latest;
    this.#latest = announcement;
    const urgent =
      announcement.problem !== problem || (announcement.notice !== "" && announcement.notice !== notice);
    if (urgent) this.#paced.now();
    else this.#paced.request();
  }

  close(): void {
    this.#paced.cancel();
  }

  #write(): void {
    const { status, verdict } = this.#latest;
    const text = [status, verdict].filter(Boolean).join(". ");
    if (this.#element.textContent !== text) this.#element.textContent = text;
  }
}
