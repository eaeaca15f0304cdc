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

/** The row under the controls: status line, verdict, notice, what was changed in the model, and a text for screen readers. */
export class StatusRow {
  #status: HTMLElement;
  #badge: HTMLElement;
  #symbol: HTMLElement;
  #verdict: HTMLElement;
  #notice: HTMLElement;
  #changes: HTMLElement;
  #live: LiveText;

  constructor(parent: HTMLElement) {
    parent.classList.add("gradflow-panel");
    this.#status = appendTo(parent, "span", "gradflow-status");
    this.#badge = appendTo(parent, "span", "gradflow-verdict");
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

  update(state: PanelState): void {
    this.#status.textContent = state.status;

    this.#badge.hidden = state.verdict === "";
    this.#badge.dataset.problem = state.verdict_problem;
    this.#badge.dataset.severity = state.verdict_severity;
    this.#symbol.textContent = SYMBOLS[state.verdict_problem] ?? "";
    this.#verdict.textContent = state.verdict;

    this.#notice.setAttribute("role", state.notice_is_error ? "alert" : "status");
    this.#notice.hidden = state.notice === "";
    // A live region that is written again is spoken again, changed or not.
    if (this.#notice.textContent !== state.notice) this.#notice.textContent = state.notice;

    const changes = state.changes.join(" ");
    if (this.#changes.textContent !== changes) this.#changes.textContent = changes;

    this.#live.update({
      status: state.status,
      verdict: state.verdict,
      problem: state.verdict_problem,
      notice: state.notice,
    });
  }

  close(): void {
    this.#live.close();
  }
}
