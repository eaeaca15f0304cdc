/**
 * The page's half of the flow control between training and drawing.
 *
 * The kernel sends numbered frames (what changes in which model) while a `view` message says that
 * somebody can see them; each is set in the models themselves ahead of an animation frame, so that
 * what a step shows is painted together and is not echoed to the kernel.
 * From inside that animation frame, which it shares with no other, the page confirms the frame's
 * number (some together with the next), and with it reports when earlier frames were painted and
 * how long frames have waited for one another; the kernel keeps few unconfirmed frames in flight
 * and a pace that the page can hold, and so never draws faster than the page can show.
 * A page that appears, or has reconnected, is answered with a whole frame, and asks again until it
 * has got one.
 * A hidden page draws nothing and confirms at once, as dropped, so that training never waits for it.
 * Keys pressed in the widget go to the kernel as actions, and a ping is answered as soon as it is
 * read, so that the kernel can measure the way there and back.
 */
import type { AnyModel, Initialize, Render } from "@anywidget/types";
import { Asking } from "./asking";
import { Confirmations } from "./confirmations";
import { FrameQueue } from "./frames";
import { takeKeys } from "./keys";
import { removeLeftovers } from "./leftovers";
import type { FromKernel, FromPage } from "./messages";
import { insideRoot } from "./root";
import { browserStage } from "./stage";
import { StatusRow } from "./status";
import { type Target, Targets } from "./targets";
import { checkTyped } from "./typed";
import { Visibility } from "./visibility";
import { type Update, decodeFrame } from "./wire";

/** The synced traits; the kernel writes them all. */
export interface PanelState {
  frame_targets: Record<string, string>;
  status: string;
  /** Whether steps follow one another now. */
  playing: boolean;
  verdict: string;
  verdict_problem: string;
  verdict_severity: string;
  notice: string;
  notice_is_error: boolean;
  /** Whether frames have set everything; the kernel's own copy, which a page loads, says no. */
  is_current: boolean;
  changes: string[];
}

function tell(model: AnyModel<PanelState>, content: FromPage): void {
  try {
    model.send(content);
  } catch {
    // The kernel has gone, or begins again: nobody is there to be told.
  }
}

function stateOf(model: AnyModel<PanelState>): PanelState {
  return {
    frame_targets: model.get("frame_targets"),
    status: model.get("status"),
    playing: model.get("playing"),
    verdict: model.get("verdict"),
    verdict_problem: model.get("verdict_problem"),
    verdict_severity: model.get("verdict_severity"),
    notice: model.get("notice"),
    notice_is_error: model.get("notice_is_error"),
    is_current: model.get("is_current"),
    changes: model.get("changes"),
  };
}

/** One call for each model: its queue and its visibility are shared by all of its views. */
export default () => {
  let visibility: Visibility | null = null;
  const roots = new Set<HTMLElement>();

  const initialize: Initialize<PanelState> = ({ model }) => {
    let visible = false;
    // Several pages may show one kernel's widgets: each speaks for itself.
    const page = Math.random().toString(36).slice(2);
    const view = (asks: boolean) => tell(model, { type: "view", page, visible, asks });
    const announce = () => view(false);
    const asking = new Asking(() => view(true));
    const targets = new Targets(async (id) => (await model.widget_manager.get_model(id)) as unknown as Target);
    const stage = browserStage();
    const drawing = {
      settled: (updates: Update[]) => targets.settled(updates),
      whenSettled: (updates: Update[]) => targets.whenSettled(updates),
      apply(updates: Update[]) {
        targets.apply(updates);
        for (const root of roots) removeLeftovers(root);
      },
    };
    const confirmations = new Confirmations((joint) => tell(model, { ...joint, page }));
    const queue = new FrameQueue(drawing, stage, (confirmation) => confirmations.take(confirmation));
    const watched = new Visibility((now) => {
      visible = now;
      queue.visible = now;
      announce();
      if (now) asking.begin();
      else asking.end();
    });

    const onTargets = () => targets.assign(model.get("frame_targets"));
    const onMessage = (message: FromKernel, buffers: DataView[]) => {
      if (message.type === "ping") tell(model, { type: "pong", id: message.id });
      if (message.type === "frame") {
        if (message.whole) asking.end();
        if (message.at_once === false) confirmations.mayWait(message.number);
        queue.push(decodeFrame(message, buffers));
      }
    };

    // JupyterLab has reconnected to the kernel, and set all models to what they are there.
    const onCurrent = () => {
      if (model.get("is_current") || !visible) return;
      view(true);
      asking.begin();
    };

    visibility = watched;
    onTargets();
    model.on("change:frame_targets", onTargets);
    model.on("change:is_current", onCurrent);
    model.on("msg:custom", onMessage);
    return () => {
      model.off("msg:custom", onMessage);
      model.off("change:frame_targets", onTargets);
      model.off("change:is_current", onCurrent);
      watched.close();
      asking.end();
      queue.close();
      confirmations.close();
      stage.close();
    };
  };

  const render: Render<PanelState> = ({ model, el }) => {
    const row = new StatusRow(el);
    const update = () => row.update(stateOf(model));
    update();
    model.on("change", update);
    const leaveRoot = insideRoot(el, (root) => {
      const releaseKeys = takeKeys(root, (action) => tell(model, { type: "key", action }));
      const endChecking = checkTyped(root, (sentence) => row.refuse(sentence));
      roots.add(root);
      return () => {
        roots.delete(root);
        endChecking();
        releaseKeys();
      };
    });
    const unwatch = visibility?.watch(el);
    return () => {
      unwatch?.();
      leaveRoot();
      model.off("change", update);
      row.close();
    };
  };

  return { initialize, render };
};
