/**
 * The numbers of every layer as a table that a keyboard and a screen reader reach, and as a
 * tooltip over the bars, and the turns of knobs; the kernel writes all of its state. The
 * charts' names point to the table.
 */
import type { AnyModel, Render } from "@anywidget/types";
import { nameEveryChart } from "./charts";
import type { Layer, LayerNumbers, TimeNumbers } from "./layers";
import { Paced } from "./paced";
import { insideRoot } from "./root";
import { LayerRows, TimeRows, TurnRows } from "./rows";
import { BarTooltip } from "./tooltip";

/**
 * The synced traits. Numbers are float64, little endian: `values` has a row for each layer,
 * `note_values` one of three for each note, `time_values` one for each time step.
 */
export interface LayerTableState {
  layers: Layer[];
  columns: string[];
  values: DataView;
  states: string[][];
  problems: string[];
  note_names: string[][];
  note_values: DataView;
  bars_show: string;
  time_layers: string[];
  time_values: DataView;
  /** Step and text of each turn of a knob. */
  turns: string[][];
}

/** Four times a second is as fast as a person reads numbers. */
const INTERVAL = 250;

function numbersOf(model: AnyModel<LayerTableState>): LayerNumbers {
  return {
    layers: model.get("layers"),
    columns: model.get("columns"),
    values: model.get("values"),
    states: model.get("states"),
    problems: model.get("problems"),
    notes: { names: model.get("note_names"), values: model.get("note_values") },
  };
}

function timesOf(model: AnyModel<LayerTableState>): TimeNumbers {
  return { layers: model.get("time_layers"), values: model.get("time_values") };
}

/** By this the style sheet shows the view "through time". */
const HAS_TIME_STEPS = "data-time-steps";

function tablesIn(details: HTMLDetailsElement): [HTMLTableElement, HTMLTableElement, HTMLTableElement] {
  const summary = document.createElement("summary");
  summary.textContent = "Layer table";
  const scroll = document.createElement("div");
  scroll.className = "gradflow-table-scroll";
  scroll.tabIndex = 0;
  // A region within the widget's own would have the same name in every widget of a page.
  scroll.setAttribute("role", "group");
  scroll.setAttribute("aria-label", "Layer table");
  const layers = document.createElement("table");
  layers.className = "gradflow-layers";
  const times = document.createElement("table");
  times.className = "gradflow-times";
  const turns = document.createElement("table");
  turns.className = "gradflow-turns";
  scroll.append(layers, times, turns);
  details.append(summary, scroll);
  return [layers, times, turns];
}

const render: Render<LayerTableState> = ({ model, el }) => {
  const details = document.createElement("details");
  details.className = "gradflow-table";
  const [layers, times, turns] = tablesIn(details);
  const rows = new LayerRows(layers);
  const timeRows = new TimeRows(times);
  const turnRows = new TurnRows(turns);
  el.append(details);

  const refresh = new Paced(INTERVAL, () => {
    rows.update(numbersOf(model));
    timeRows.update(timesOf(model));
    turnRows.update(model.get("turns"));
  });
  const bars = () => ({ numbers: numbersOf(model), time: timesOf(model), show: model.get("bars_show") });
  let tooltip: BarTooltip | null = null;
  let around: HTMLElement | null = null;
  const tellTimeSteps = () =>
    around?.toggleAttribute(HAS_TIME_STEPS, model.get("time_layers").length > 0);
  const leaveRoot = insideRoot(el, (root) => {
    const placed = new BarTooltip(root, bars);
    tooltip = placed;
    around = root;
    tellTimeSteps();
    const leaveCharts = nameEveryChart(root);
    return () => {
      leaveCharts();
      root.removeAttribute(HAS_TIME_STEPS);
      placed.close();
    };
  });

  const onToggle = () => {
    if (details.open) refresh.now();
    else refresh.cancel();
  };
  const onChange = () => {
    tellTimeSteps();
    if (details.open) refresh.request();
    tooltip?.refresh();
  };
  details.addEventListener("toggle", onToggle);
  model.on("change", onChange);
  return () => {
    model.off("change", onChange);
    details.removeEventListener("toggle", onToggle);
    refresh.cancel();
    leaveRoot();
  };
};

export default { render };
