/** Whether a person could see this element by scrolling at most. */
function isShown(element: Element): boolean {
  return element.isConnected && element.getClientRects().length > 0;
}

/**
 * Whether any of a widget's views is shown: in the document, not in a hidden tab of JupyterLab,
 * and the browser's own tab in front. Out of the viewport still counts, since the figure below
 * may be in it.
 */
export class Visibility {
  #views = new Set<Element>();
  #visible: boolean | null = null;
  #onChange: (visible: boolean) => void;
  #check = (): void => this.#update();
  // The observers fire when an element is put into the page, taken out, shown or hidden.
  #resizes = new ResizeObserver(this.#check);
  #intersections = new IntersectionObserver(this.#check);

  /** `onChange` is called for the first view, and then whenever the answer changes. */
  constructor(onChange: (visible: boolean) => void) {
    this.#onChange = onChange;
    document.addEventListener("visibilitychange", this.#check);
  }

  /** Counts this view in until the returned function is called. */
  watch(view: Element): () => void {
    this.#views.add(view);
    this.#resizes.observe(view);
    this.#intersections.observe(view);
    this.#update();
    return () => {
      this.#views.delete(view);
      this.#resizes.unobserve(view);
      this.#intersections.unobserve(view);
      this.#update();
    };
  }

  close(): void {
    this.#resizes.disconnect();
    this.#intersections.disconnect();
    document.removeEventListener("visibilitychange", this.#check);
  }

  #update(): void {
    const visible = !document.hidden && [...this.#views].some(isShown);
    if (visible === this.#visible) return;
    // Before the first view there is nobody to tell about: the kernel sends no frame yet.
    if (this.#visible === null && this.#views.size === 0) return;
    this.#visible = visible;
    this.#onChange(visible);
  }
}
