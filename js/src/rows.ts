import { meanAndRange, numberOrReason, scientific } from "./format";
import {
  type LayerNumbers,
  type TimeNumbers,
  notesOf,
  stateAt,
  timeSteps,
  timeValueAt,
  valueAt,
  verdictOn,
} from "./layers";

function cell(tag: "td" | "th", text: string, scope?: "row" | "col"): HTMLTableCellElement {
  const element = document.createElement(tag);
  element.textContent = text;
  if (scope !== undefined) element.scope = scope;
  return element;
}

/** By its class the style sheet sets words unlike numbers. */
function inWords(element: HTMLTableCellElement): HTMLTableCellElement {
  element.className = "gradflow-in-words";
  return element;
}

function rowOf(...cells: HTMLTableCellElement[]): HTMLTableRowElement {
  const row = document.createElement("tr");
  row.append(...cells);
  return row;
}

function write(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

function hasNotes({ notes }: LayerNumbers): boolean {
  return notes.names.some((names) => names.length > 0);
}

function textAt(numbers: LayerNumbers, row: number, column: number): string {
  const beyond = column - numbers.columns.length;
  if (beyond < 0) {
    return numberOrReason(valueAt(numbers, row, column), stateAt(numbers, row, column), scientific);
  }
  if (beyond === 0) return verdictOn(numbers, row);
  return notesOf(numbers, row)
    .map(({ name, mean, low, high }) => `${name} ${meanAndRange(mean, low, high)}`)
    .join("; ");
}

/** The rows of the layer table: built once for a model, then written in place. */
export class LayerRows {
  #table: HTMLTableElement;
  /** The cells that change, row by row: one for each column, the verdict, and the notes. */
  #cells: HTMLTableCellElement[][] = [];
  #built = "";

  constructor(table: HTMLTableElement) {
    this.#table = table;
  }

  update(numbers: LayerNumbers): void {
    const headings = JSON.stringify([numbers.layers, numbers.columns, hasNotes(numbers)]);
    if (headings !== this.#built) {
      this.#build(numbers);
      this.#built = headings;
    }
    this.#cells.forEach((cells, row) => {
      cells.forEach((element, column) => write(element, textAt(numbers, row, column)));
    });
  }

  #build(numbers: LayerNumbers): void {
    const { layers, columns } = numbers;
    const words = hasNotes(numbers) ? ["verdict", "norm and skip"] : ["verdict"];
    const caption = document.createElement("caption");
    caption.textContent = "Layers from input to output, with the latest numbers";
    const head = document.createElement("thead");
    const title = (text: string) => cell("th", text, "col");
    const titleInWords = (text: string) => inWords(title(text));
    const described = ["layer", "kind", "shape"].map(titleInWords);
    head.append(rowOf(title("#"), ...described, ...columns.map(title), ...words.map(titleInWords)));
    const body = document.createElement("tbody");
    this.#cells = layers.map((layer, index) => {
      const changing = [
        ...columns.map(() => cell("td", "")),
        ...words.map(() => inWords(cell("td", ""))),
      ];
      const number = cell("td", String(index + 1));
      const name = inWords(cell("th", layer.name, "row"));
      const described = [layer.kind, layer.shape].map((text) => inWords(cell("td", text)));
      body.append(rowOf(number, name, ...described, ...changing));
      return changing;
    });
    this.#table.replaceChildren(caption, head, body);
  }
}

/** A table of the signal gradient at each time step; hidden where no layer has any. */
export class TimeRows {
  #table: HTMLTableElement;
  #cells: HTMLTableCellElement[][] = [];
  #built = "";

  constructor(table: HTMLTableElement) {
    this.#table = table;
  }

  update(numbers: TimeNumbers): void {
    const steps = timeSteps(numbers);
    this.#table.hidden = steps === 0;
    const headings = JSON.stringify([numbers.layers, steps]);
    if (headings !== this.#built) {
      this.#build(numbers.layers, steps);
      this.#built = headings;
    }
    this.#cells.forEach((cells, step) => {
      cells.forEach((element, layer) => write(element, scientific(timeValueAt(numbers, step, layer))));
    });
  }

  #build(layers: readonly string[], steps: number): void {
    const caption = document.createElement("caption");
    caption.textContent = "Norm of the signal gradient at each time step";
    const head = document.createElement("thead");
    head.append(rowOf(...["time step", ...layers].map((title) => cell("th", title, "col"))));
    const body = document.createElement("tbody");
    this.#table.replaceChildren();
    this.#cells = Array.from({ length: steps }, (_, step) => {
      const changing = layers.map(() => cell("td", ""));
      body.append(rowOf(cell("th", String(step + 1), "row"), ...changing));
      return changing;
    });
    if (steps > 0) this.#table.append(caption, head, body);
  }
}

/** A table of the turns of knobs, also of those without a marker or a label on the chart; hidden where there is none. */
export class TurnRows {
  #table: HTMLTableElement;
  #built = "";

  constructor(table: HTMLTableElement) {
    this.#table = table;
  }

  update(turns: readonly (readonly string[])[]): void {
    this.#table.hidden = turns.length === 0;
    const told = JSON.stringify(turns);
    if (told === this.#built) return;
    this.#built = told;
    this.#table.replaceChildren();
    if (turns.length === 0) return;
    const caption = document.createElement("caption");
    caption.textContent = "Turns of knobs, each at the first step that it acts on";
    const head = document.createElement("thead");
    head.append(rowOf(...["step", "turned"].map((title) => cell("th", title, "col"))));
    const body = document.createElement("tbody");
    for (const [step = "", text = ""] of turns) body.append(rowOf(cell("th", step, "row"), cell("td", text)));
    this.#table.append(caption, head, body);
  }
}
