export type Action = "toggle" | "step" | "reset";

const ACTIONS: Readonly<Record<string, Action>> = { " ": "toggle", s: "step", r: "reset" };
const TEXT_ENTRY = "input, textarea, select, [contenteditable]:not([contenteditable='false'])";
const TAKES_SPACE = "button, summary, a[href], [role='button'], [role='slider'], .gradflow-table-scroll";

/** What a key pressed inside the widget asks for, or null where it keeps its native meaning. */
export function actionOf(event: KeyboardEvent): Action | null {
  if (event.defaultPrevented || event.isComposing) return null;
  if (event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return null;
  const action = ACTIONS[event.key];
  if (action === undefined || !(event.target instanceof Element)) return null;
  if (event.target.closest(TEXT_ENTRY)) return null;
  if (event.key === " " && event.target.closest(TAKES_SPACE)) return null;
  return action;
}

const NAME = "Gradient flow";
const REGION = { tabindex: "0", role: "region" };
// Else JupyterLab's command mode takes R as "make this cell raw", X as "cut it" and the arrows for
// itself. targetDistance in @lumino/commands looks for the attribute on its way up from where the
// focus is, and stops at the first match: JupyterLab's `:focus` is one, so it has to be there.
const SUPPRESSES = "data-lm-suppress-shortcuts";

/** Whether JupyterLab may have a key that is pressed inside the widget, such as Ctrl+S to save. */
function isForNotebook(event: KeyboardEvent): boolean {
  return event.ctrlKey || event.metaKey || event.altKey || (event.shiftKey && event.key === "Enter");
}

/** A name that no other widget in the page has: a screen reader lists regions by their names. */
function freeName(): string {
  for (let number = 1; ; number += 1) {
    const name = number === 1 ? NAME : `${NAME} ${number}`;
    if (document.querySelector(`[role="region"][aria-label="${name}"]`) === null) return name;
  }
}

/** Makes the root a place that takes keys, until the returned function is called. */
export function takeKeys(root: HTMLElement, act: (action: Action) => void): () => void {
  function onKeyDown(event: KeyboardEvent): void {
    const action = actionOf(event);
    if (action === null) return;
    event.preventDefault();
    // A key that is held down steps on and on, but does not play and pause by turns.
    if (event.repeat && action !== "step") return;
    act(action);
  }

  // On the window, which is before the document, where JupyterLab listens.
  function keepKeys(event: KeyboardEvent): void {
    const { target } = event;
    if (!(target instanceof Element) || !root.contains(target)) return;
    for (const element of [root, target]) element.toggleAttribute(SUPPRESSES, !isForNotebook(event));
  }

  const attributes: Readonly<Record<string, string>> = { ...REGION, "aria-label": freeName() };
  for (const [name, value] of Object.entries(attributes)) root.setAttribute(name, value);
  root.addEventListener("keydown", onKeyDown);
  window.addEventListener("keydown", keepKeys, true);
  return () => {
    root.removeEventListener("keydown", onKeyDown);
    window.removeEventListener("keydown", keepKeys, true);
    for (const name of Object.keys(attributes)) root.removeAttribute(name);
    for (const element of [root, ...root.querySelectorAll(`[${SUPPRESSES}]`)]) {
      element.removeAttribute(SUPPRESSES);
    }
  };
}
