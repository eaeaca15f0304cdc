/**
 * Runs work at most once in `interval` ms; what was asked for in between is done at its end. Another
 * interval holds from the next time the work is done.
 */
export class Paced {
  #timer: ReturnType<typeof setTimeout> | null = null;
  #asked = false;

  constructor(
    public interval: number,
    readonly work: () => void,
  ) {}

  /** Does the work now, or as soon as the interval allows. */
  request(): void {
    if (this.#timer === null) this.now();
    else this.#asked = true;
  }

  /** Does the work at once and begins a new interval. */
  now(): void {
    this.cancel();
    this.#timer = setTimeout(() => {
      this.#timer = null;
      if (this.#asked) this.now();
    }, this.interval);
    this.work();
  }

  cancel(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    this.#asked = false;
  }
}
