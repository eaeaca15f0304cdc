import { HeldHeight } from "./held";
import { LiveText } from "./live";
import type { PanelState } from "./panel";

/** A shape for each problem, so that no verdict is told by its colour alone. */
const SYMBOLS: Readonly<Record<string, string>> = {
  healthy: "●",
  vanishing: "▼",
  exploding: "▲",
  severed: "✕",
  "non-finite": "!",
};

function appendTo(parent: Element, tag: string, className: string): HTMLElement {
  const element = document.createElement(tag);
  element.className = className;
  parent.append(element);
  return element;
}

/** Leaves an element alone that says so already: it would be laid out, and a live region spoken, again. */
function say(element: HTMLElement, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

/** The row under the controls: status line, verdict, notice, what was changed in the model, and a text for screen readers. */
export class StatusRow {
  #status: HTMLElement;
  #badge: HTMLElement;
  #symbol: HTMLElement;
  #verdict: HTMLElement;
  #notice: HTMLElement;
  #changes: HTMLElement;
  #live: LiveText;
  #held: HeldHeight;
  #state: PanelState | null = null;
  /** Of what was typed in this page: the kernel knows nothing of it. */
  #refusal = "";

  constructor(parent: HTMLElement) {
    parent.classList.add("gradflow-panel");
    const words = appendTo(parent, "div", "gradflow-words");
    this.#held = new HeldHeight(words);
    this.#status = appendTo(words, "span", "gradflow-status");
    this.#badge = appendTo(words, "span", "gradflow-verdict");
    this.#symbol = appendTo(this.#badge, "span", "gradflow-symbol");
    this.#symbol.ariaHidden = "true";
    this.#verdict = appendTo(this.#badge, "span", "gradflow-verdict-text");
    this.#notice = appendTo(parent, "span", "gradflow-notice");
    // Never hidden: a live region that appears together with its text may not be spoken.
    this.#changes = appendTo(parent, "p", "gradflow-changes");
    this.#changes.setAttribute("aria-live", "polite");
    const live = appendTo(parent, "span", "gradflow-live");
    live.setAttribute("aria-live", "polite");
    this.#live = new LiveText(live);
  }

  /** Says why what was typed is not taken, ahead of the kernel's notice; "" ends that. */
  refuse(sentence: string): void {
    if (sentence === this.#refusal) return;
    this.#refusal = sentence;
    if (this.#state !== null) this.update(this.#state);
  }

  update(state: PanelState): void {
    this.#state = state;
    say(this.#status, state.status);

    this.#badge.hidden = state.verdict === "";
    this.#badge.dataset.problem = state.verdict_problem;
    this.#badge.dataset.severity = state.verdict_severity;
    say(this.#symbol, SYMBOLS[state.verdict_problem] ?? "");
    say(this.#verdict, state.verdict);

    const notice = this.#refusal || state.notice;
    const role = this.#refusal !== "" || state.notice_is_error ? "alert" : "status";
    if (this.#notice.getAttribute("role") !== role) this.#notice.setAttribute("role", role);
    this.#notice.hidden = notice === "";
    say(this.#notice, notice);
    say(this.#changes, state.changes.join(" "));

    this.#live.update({
      status: state.status,
      playing: state.playing,
      verdict: state.verdict,
      problem: state.verdict_problem,
      notice,
    });
  }

  close(): void {
    this.#held.close();
    this.#live.close();
  }
}
