/**
 * The numbers of every layer as a table that a keyboard and a screen reader reach, and as a
 * tooltip over the bars; the kernel writes all of its state.
 */
import type { AnyModel, Render } from "@anywidget/types";
import type { Layer, LayerNumbers } from "./layers";
import { Paced } from "./paced";
import { insideRoot } from "./root";
import { LayerRows } from "./rows";
import { LayerTooltip } from "./tooltip";

/** The synced traits. `values` holds float64, little endian, a row for each layer. */
export interface LayerTableState {
  layers: Layer[];
  columns: string[];
  values: DataView;
  marks: string[];
}

/** Four times a second is as fast as a person reads numbers. */
const INTERVAL = 250;

function numbersOf(model: AnyModel<LayerTableState>): LayerNumbers {
  return {
    layers: model.get("layers"),
    columns: model.get("columns"),
    values: model.get("values"),
    marks: model.get("marks"),
  };
}

function tableIn(details: HTMLDetailsElement): HTMLTableElement {
  const summary = document.createElement("summary");
  summary.textContent = "Layer table";
  const scroll = document.createElement("div");
  scroll.className = "gradflow-table-scroll";
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", "Layer table");
  const table = document.createElement("table");
  scroll.append(table);
  details.append(summary, scroll);
  return table;
}

const render: Render<LayerTableState> = ({ model, el }) => {
  const numbers = () => numbersOf(model);
  const details = document.createElement("details");
  details.className = "gradflow-table";
  const rows = new LayerRows(tableIn(details));
  el.append(details);

  const refresh = new Paced(INTERVAL, () => rows.update(numbers()));
  let tooltip: LayerTooltip | null = null;
  const removeTooltip = insideRoot(el, (root) => {
    const placed = new LayerTooltip(root, numbers);
    tooltip = placed;
    return () => placed.close();
  });

  const onToggle = () => {
    if (details.open) refresh.now();
    else refresh.cancel();
  };
  const onChange = () => {
    if (details.open) refresh.request();
    tooltip?.refresh();
  };
  details.addEventListener("toggle", onToggle);
  model.on("change", onChange);
  return () => {
    model.off("change", onChange);
    details.removeEventListener("toggle", onToggle);
    refresh.cancel();
    removeTooltip();
  };
};

export default { render };
