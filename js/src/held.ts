/**
 * Keeps an element as tall as it has been at its present width: with every line that comes and
 * goes in it, all that stands below would jump.
 */
export class HeldHeight {
  #element: HTMLElement;
  #width = 0;
  // Before the page is painted, so that not even one picture shows it lower.
  #resizes = new ResizeObserver(() => this.#hold());

  constructor(element: HTMLElement) {
    this.#element = element;
    this.#resizes.observe(element);
  }

  close(): void {
    this.#resizes.disconnect();
  }

  #hold(): void {
    const { style } = this.#element;
    const { width } = this.#element.getBoundingClientRect();
    if (width === 0) return; // not shown now
    if (width !== this.#width) style.minHeight = "";
    this.#width = width;
    style.minHeight = `${this.#element.getBoundingClientRect().height}px`;
  }
}
