/**
 * Says to pointers and to screen readers what ipywidgets tells neither: the tooltip of a slider
 * stands on its label alone and that of a menu nowhere, a slider has no name and tells its place
 * (the exponent on a logarithmic one) instead of its value, and a toggle does not say whether it is
 * pressed, nor a preset whether it is the one that was loaded.
 */
import { newId } from "./ids";

/** Where a row of controls stands, and may be exchanged for another: children of the widget's root. */
const ROWS = ":scope > .gradflow-place";
const CONTROL = ".widget-inline-hbox, .widget-toggle-buttons";
const OPERATED = "select, input, .noUi-handle, .widget-readout[contenteditable='true']";
/** A slider from place to place: ipywidgets lets one type beside it, and then takes no notice. */
const PLACES = ".gradflow-places";
/** What has no label of its own. */
const NAMELESS = ".noUi-handle, .widget-readout";
/** What a readout has only while one can type in it: without a role it may not have a name. */
const TEXTBOX = ["role", "aria-label", "aria-describedby"];

/** A text for `aria-describedby`: unlike `aria-description`, every screen reader knows it. */
function descriptionIn(control: Element): HTMLElement {
  const known = control.querySelector<HTMLElement>(":scope > .gradflow-description");
  if (known !== null) return known;
  const description = document.createElement("span");
  description.id = newId("description");
  description.className = "gradflow-description";
  description.hidden = true;
  control.append(description);
  return description;
}

function set(element: Element, attribute: string, value: string): void {
  if (element.getAttribute(attribute) !== value) element.setAttribute(attribute, value);
}

function describe(control: HTMLElement, tooltips: Readonly<Record<string, string>>): void {
  const label = control.querySelector<HTMLElement>(":scope > .widget-label");
  if (label === null) return;
  const name = label.textContent ?? "";
  const tooltip = tooltips[name] ?? "";
  if (tooltip !== "" && control.title !== tooltip) control.title = tooltip;
  const description = tooltip === "" ? null : descriptionIn(control);
  if (description !== null && description.textContent !== tooltip) description.textContent = tooltip;
  if (control.matches(".widget-toggle-buttons")) {
    // Each of its buttons has a tooltip of its own.
    set(control, "role", "group");
    set(control, "aria-label", name);
    if (description !== null) set(control, "aria-describedby", description.id);
    for (const button of control.querySelectorAll(".widget-toggle-button")) {
      set(button, "aria-pressed", String(button.classList.contains("mod-active")));
    }
  }
  const readout = control.querySelector(".widget-readout");
  if (readout !== null) {
    if (control.matches(PLACES)) set(readout, "contenteditable", "false");
    if (readout.getAttribute("contenteditable") === "true") set(readout, "role", "textbox");
    else for (const attribute of TEXTBOX) readout.removeAttribute(attribute);
  }
  for (const operated of control.querySelectorAll<HTMLElement>(OPERATED)) {
    if (description !== null) set(operated, "aria-describedby", description.id);
    if (operated.matches(NAMELESS)) set(operated, "aria-label", name);
    if (operated.matches(".noUi-handle")) {
      const base = operated.closest(".noUi-target");
      set(operated, "aria-disabled", String(base?.hasAttribute("disabled") ?? false));
      const value = control.querySelector(".widget-readout")?.textContent ?? "";
      if (value !== "") set(operated, "aria-valuetext", value);
    }
  }
}

/**
 * Describes every control in the widget by the tooltip for its label, now and when one is added
 * or changed, and calls `changed` along with it; the returned function ends that.
 */
export function describeControls(
  root: Element,
  tooltips: Readonly<Record<string, string>>,
  changed: () => void,
): () => void {
  const observer = new MutationObserver(all);
  function all(): void {
    // Each row by itself: what changes beside them, at every step, is no control.
    for (const row of root.querySelectorAll(ROWS)) {
      observer.observe(row, {
        subtree: true,
        childList: true,
        attributes: true,
        attributeFilter: ["class", "disabled", "aria-valuetext", "contenteditable"],
      });
      for (const control of row.querySelectorAll<HTMLElement>(CONTROL)) describe(control, tooltips);
      for (const preset of row.querySelectorAll(".gradflow-preset")) {
        set(preset, "aria-current", String(preset.classList.contains("gradflow-loaded")));
      }
    }
    changed();
  }
  // Rows come one by one.
  observer.observe(root, { childList: true });
  all();
  return () => observer.disconnect();
}
