/** The messages between the kernel and a page; Python's side of them is in publisher.py and stage.py. */
import type { Action } from "./keys";
import type { Update } from "./wire";

/** What the kernel sends. */
export type FromKernel = FrameMessage | PingMessage;

export interface FrameMessage {
  type: "frame";
  number: number;
  /** Whether its confirmation may not wait for that of a later frame. */
  at_once: boolean;
  /** Whether it sets every trait, not only those that have changed. */
  whole: boolean;
  updates: Update[];
}

export interface PingMessage {
  type: "ping";
  id: number;
}

/** What a page sends. */
export type FromPage = ViewMessage | ShownMessage | DroppedMessage | PongMessage | KeyMessage;

export interface ViewMessage {
  type: "view";
  page: string;
  visible: boolean;
  /** Whether a whole frame is wanted though nothing has changed. */
  asks: boolean;
}

/** A frame's number and the time, in ms since the epoch, by which its pixels were on the screen. */
export type Painted = [frame: number, at: number];

/** A frame was shown. */
export interface ShownMessage {
  type: "confirm";
  page: string;
  frame: number;
  /** The frames before it whose confirmation has waited for this one. */
  earlier: number[];
  /** How many animation frames had a frame applied in them, this one included. */
  animation_frame: number;
  applied_at: number;
  /** For how many ms it has waited for frames before it. */
  waited: number;
  /** The frames painted and not reported before. */
  painted: Painted[];
}

/** A frame came to a page that shows nothing. */
export interface DroppedMessage {
  type: "confirm";
  page: string;
  frame: number;
  earlier: number[];
  dropped: true;
}

export interface PongMessage {
  type: "pong";
  id: number;
}

export interface KeyMessage {
  type: "key";
  action: Action;
}
