/**
 * Looks at what was typed beside a slider before ipywidgets reads it, which takes as much of a text
 * as is a number ("0,05" for 0, "1/100" for 1), moves what lies outside to the slider's end, and
 * says nothing of either.
 */
const READOUT = ".widget-readout[contenteditable='true']";
/** A slider over exponents of ten: so Python marks it. */
const LOGARITHMIC = ".gradflow-logarithmic";
const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
/** Where a comma may as well stand for thousands. */
const AMBIGUOUS = /^[+-]?[1-9]\d{0,2},\d{3}$/;

/** What a slider takes. */
export interface Limits {
  name: string;
  low: number;
  high: number;
  whole: boolean;
}

/** The number that a text says, as ipywidgets reads it, or else why it is not taken. */
export function readNumber(text: string, limits: Limits): { number: string } | { refusal: string } {
  const { name, low, high, whole } = limits;
  const typed = text.trim();
  if (AMBIGUOUS.test(typed)) {
    const [one, other] = [".", ""].map((point) => Number(typed.replace(",", point)));
    return { refusal: `${name}: “${typed}” may mean ${one} or ${other}; type it without the comma.` };
  }
  const number = typed.replace("−", "-").replace(",", ".");
  const value = Number(number);
  if (!NUMBER.test(number) || (whole && !Number.isInteger(value)) || value < low || value > high) {
    const kind = whole ? "a whole number" : "a number";
    return { refusal: `${name} must be ${kind} from ${low} to ${high}, not “${typed}”; it stays as it was.` };
  }
  // Of a whole number ipywidgets reads digits alone.
  return { number: whole ? String(value) : number };
}

function limitsOf(readout: Element): Limits | null {
  const control = readout.closest(".widget-inline-hbox");
  const handle = control?.querySelector(".noUi-handle");
  if (!control || !handle?.hasAttribute("aria-valuemin")) return null;
  const low = Number(handle.getAttribute("aria-valuemin"));
  const high = Number(handle.getAttribute("aria-valuemax"));
  const name = control.querySelector(":scope > .widget-label")?.textContent ?? "";
  if (!control.matches(LOGARITHMIC)) return { name, low, high, whole: true };
  // Not 10 ** low, which is a little off for some exponents.
  return { name, low: Number(`1e${low}`), high: Number(`1e${high}`), whole: false };
}

/**
 * Checks what is typed anywhere in `root`, and calls `refuse` with why it is not taken, or with ""
 * once the next thing is done; the returned function ends that.
 */
export function checkTyped(root: HTMLElement, refuse: (sentence: string) => void): () => void {
  let typedIn: Element | null = null;
  let isPressed = false;
  let waiting = "";

  function onInput(event: Event): void {
    if (event.target instanceof Element && event.target.matches(READOUT)) typedIn = event.target;
  }

  /** Ahead of ipywidgets, whose listeners are further down; what is no number it puts back itself. */
  function read(readout: Element): void {
    const limits = limitsOf(readout);
    if (limits === null) return;
    const text = (readout.textContent ?? "").trim();
    // What stands there is rounded: read back, it would turn a knob that nobody has touched.
    const answer = typedIn === readout && text !== "" ? readNumber(text, limits) : { number: "" };
    typedIn = null;
    readout.textContent = "number" in answer ? answer.number : "";
    if ("refusal" in answer) say(answer.refusal);
  }

  function say(sentence: string): void {
    // A line that comes up under a press would move away what is being clicked on.
    if (isPressed) waiting = sentence;
    else refuse(sentence);
  }

  function onKeyDown(event: KeyboardEvent): void {
    if (event.key === "Tab" || event.key === "Shift") return;
    refuse("");
    const isEntered = event.key === "Enter" && !event.isComposing;
    if (isEntered && event.target instanceof Element && event.target.matches(READOUT)) read(event.target);
  }

  /** ipywidgets waits for a blur at a parent, which none reaches: what was typed would stay, unread. */
  function onBlur(event: FocusEvent): void {
    const readout = event.target;
    if (!(readout instanceof Element) || typedIn !== readout) return;
    if (event.bubbles) read(readout);
    else readout.dispatchEvent(new FocusEvent("blur", { bubbles: true }));
  }

  function onPress(): void {
    isPressed = true;
  }

  function onRelease(): void {
    isPressed = false;
    // The click comes after this, and ends what was said before it.
    setTimeout(() => {
      if (waiting !== "") refuse(waiting);
      waiting = "";
    });
  }

  const done = () => refuse("");
  const ending = new AbortController();
  const ahead = { capture: true, signal: ending.signal };
  root.addEventListener("input", onInput, ahead);
  root.addEventListener("keydown", onKeyDown, ahead);
  root.addEventListener("blur", onBlur, ahead);
  root.addEventListener("click", done, ahead);
  // Anywhere in the page.
  window.addEventListener("pointerdown", onPress, ahead);
  window.addEventListener("pointerup", onRelease, ahead);
  window.addEventListener("pointercancel", onRelease, ahead);
  return () => ending.abort();
}
