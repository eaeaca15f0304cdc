import { markInWords, scientific } from "./format";
import { type LayerNumbers, valueAt } from "./layers";

function cell(tag: "td" | "th", text: string, scope?: "row" | "col"): HTMLTableCellElement {
  const element = document.createElement(tag);
  element.textContent = text;
  if (scope !== undefined) element.scope = scope;
  return element;
}

function rowOf(...cells: HTMLTableCellElement[]): HTMLTableRowElement {
  const row = document.createElement("tr");
  row.append(...cells);
  return row;
}

/** The rows of the layer table: built once for a model, then written in place. */
export class LayerRows {
  #table: HTMLTableElement;
  /** The cells that change, row by row: one for each column, and the remark. */
  #cells: HTMLTableCellElement[][] = [];
  #built = "";

  constructor(table: HTMLTableElement) {
    this.#table = table;
  }

  update(numbers: LayerNumbers): void {
    const headings = JSON.stringify([numbers.layers, numbers.columns]);
    if (headings !== this.#built) {
      this.#build(numbers);
      this.#built = headings;
    }
    this.#cells.forEach((cells, row) => {
      cells.forEach((element, column) => {
        const text =
          column < numbers.columns.length
            ? scientific(valueAt(numbers, row, column))
            : markInWords(numbers.marks[row] ?? "");
        if (element.textContent !== text) element.textContent = text;
      });
    });
  }

  #build({ layers, columns }: LayerNumbers): void {
    const caption = document.createElement("caption");
    caption.textContent = "Layers from input to output, with the latest numbers";
    const head = document.createElement("thead");
    const titles = ["#", "layer", "kind", "shape", ...columns, "gradient"];
    head.append(rowOf(...titles.map((title) => cell("th", title, "col"))));
    const body = document.createElement("tbody");
    this.#cells = layers.map((layer, index) => {
      const changing = [...columns, "gradient"].map(() => cell("td", ""));
      const number = cell("td", String(index + 1));
      const name = cell("th", layer.name, "row");
      body.append(rowOf(number, name, cell("td", layer.kind), cell("td", layer.shape), ...changing));
      return changing;
    });
    this.#table.replaceChildren(caption, head, body);
  }
}
