/**
 * The headings under which knobs fold. Which are open is the page's own affair: it is kept in the
 * browser's storage, so that every widget of every kernel opens as the last one was left.
 */
import type { AnyModel, Render } from "@anywidget/types";
import { describeControls } from "./describe";
import { newId } from "./ids";
import { Successor } from "./successor";

/** The synced traits; the kernel writes them all. */
export interface FoldsState {
  /** Name and title of each, in their order. */
  headings: [name: string, title: string][];
  in_short: Record<string, string>;
  tooltips: Record<string, string>;
}

/** What holds the headings and what they open. */
const KNOBS = ".gradflow-knobs";
const ROOT = ".gradflow";
const STORED = "gradflow-open-";

function isOpen(name: string): boolean {
  try {
    return localStorage.getItem(STORED + name) === "true";
  } catch {
    return false; // A page may be denied its storage.
  }
}

function remember(name: string, open: boolean): void {
  try {
    localStorage.setItem(STORED + name, String(open));
  } catch {
    // Then it is open until the page is left.
  }
}

/** One heading: a button that opens and closes the box of the class gradflow-folded-NAME. */
class Heading {
  readonly button = document.createElement("button");
  #open: boolean;
  #inShort = document.createElement("span");
  #root: () => Element | null;

  constructor(
    readonly name: string,
    title: string,
    root: () => Element | null,
  ) {
    this.#root = root;
    this.#open = isOpen(name);
    this.button.type = "button";
    this.button.className = "gradflow-heading";
    this.button.id = newId("heading");
    const text = document.createElement("span");
    text.textContent = title;
    this.#inShort.className = "gradflow-in-short";
    this.button.append(text, this.#inShort);
    this.button.addEventListener("click", () => {
      this.#open = !this.#open;
      remember(name, this.#open);
      this.show();
    });
  }

  /**
   * The attribute by which the style sheet shows what is open. On the widget's root, which stays
   * where the knobs are exchanged: what is open among the new ones is shown from the first.
   */
  get attribute(): string {
    return `data-open-${this.name}`;
  }

  tell(inShort: string): void {
    if (this.#inShort.textContent !== inShort) this.#inShort.textContent = inShort;
  }

  show(): void {
    this.button.setAttribute("aria-expanded", String(this.#open));
    const root = this.#root();
    if (root === null) return;
    root.toggleAttribute(this.attribute, this.#open);
    const folded = root.querySelector(`.gradflow-folded-${this.name}`);
    if (folded === null) return;
    folded.id ||= `${this.button.id}-opens`;
    folded.setAttribute("role", "group");
    folded.setAttribute("aria-labelledby", this.button.id);
    this.button.setAttribute("aria-controls", folded.id);
  }
}

const render: Render<FoldsState> = ({ model, el }) => {
  el.classList.add("gradflow-folds");
  const root = () => el.closest(ROOT);
  const shown = model.get("headings").map(([name, title]) => new Heading(name, title, root));
  el.append(...shown.map(({ button }) => button));

  const tell = () => {
    for (const heading of shown) heading.tell(inShort(model, heading.name));
  };
  tell();
  model.on("change:in_short", tell);

  // The view is rendered before it is put into the page, and so may what it opens be.
  let leave: (() => void) | null = null;
  const placed = new ResizeObserver(() => {
    const [around, widget] = [el.closest(KNOBS), root()];
    if (around === null || widget === null || leave !== null) return;
    const successor = new Successor(around, widget);
    const endDescribing = describeControls(widget, model.get("tooltips"), () => {
      for (const heading of shown) heading.show();
      successor.look();
    });
    leave = () => {
      endDescribing();
      successor.leave();
    };
  });
  placed.observe(el);
  for (const heading of shown) heading.show();
  return () => {
    placed.disconnect();
    leave?.();
    model.off("change:in_short", tell);
  };
};

function inShort(model: AnyModel<FoldsState>, name: string): string {
  return model.get("in_short")[name] ?? "";
}

export default { render };
