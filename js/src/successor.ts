/**
 * A preset's button takes itself away: all knobs are exchanged for those of another network. Who
 * has pressed it by keyboard goes on from the button that stands in its place.
 */
const PRESET = "button.gradflow-preset";
/** On the widget's root, which stays: the name of the preset that was pressed. */
const PRESSED = "data-gradflow-pressed";

/** Hands the focus on to the button, among new knobs, of the preset that was pressed. */
export class Successor {
  #pressed: string | null;
  #onClick = (event: Event): void => {
    const button = event.target instanceof Element ? event.target.closest(PRESET) : null;
    if (button !== null) this.root.setAttribute(PRESSED, button.textContent ?? "");
  };

  constructor(
    readonly knobs: Element,
    readonly root: Element,
  ) {
    this.#pressed = root.getAttribute(PRESSED);
    root.removeAttribute(PRESSED);
    knobs.addEventListener("click", this.#onClick);
  }

  /** To be called whenever something has been added to the knobs: buttons come one by one. */
  look(): void {
    if (this.#pressed === null) return;
    const focused = document.activeElement;
    if (focused !== null && focused !== document.body) {
      this.#pressed = null; // Nothing was lost.
      return;
    }
    const buttons = [...this.knobs.querySelectorAll<HTMLButtonElement>(PRESET)];
    const successor = buttons.find((button) => button.textContent === this.#pressed);
    successor?.focus({ preventScroll: true });
  }

  leave(): void {
    this.knobs.removeEventListener("click", this.#onClick);
  }
}
