/** In ms: an answer takes a few round trips where nothing is lost. */
const FIRST_WAIT = 1000;

/**
 * Asks again until it is answered, each time after twice as long. What a page says just after it
 * was opened may be lost: ipykernel routes it to a subshell that ended with the page before.
 */
export class Asking {
  #ask: () => void;
  #timer: ReturnType<typeof setTimeout> | null = null;

  constructor(ask: () => void) {
    this.#ask = ask;
  }

  /** The question has just been put for the first time. */
  begin(wait = FIRST_WAIT): void {
    this.end();
    this.#timer = setTimeout(() => {
      this.#ask();
      this.begin(2 * wait);
    }, wait);
  }

  /** It was answered, or no longer matters. */
  end(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }
}
