/** The element that holds the whole widget: Python gives it this class. */
const ROOT = ".gradflow";

/**
 * Calls `enter` with the widget's root once `view` stands in it: a view is rendered before it is
 * put into the page. The returned function undoes what `enter` did.
 */
export function insideRoot(view: Element, enter: (root: HTMLElement) => () => void): () => void {
  let leave: (() => void) | null = null;
  const placed = new ResizeObserver(tryToEnter);

  function tryToEnter(): void {
    const root = view.closest<HTMLElement>(ROOT);
    if (root === null || leave !== null) return;
    placed.disconnect();
    leave = enter(root);
  }

  placed.observe(view);
  tryToEnter();
  return () => {
    placed.disconnect();
    leave?.();
  };
}
