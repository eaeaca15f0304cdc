/** Stand-ins for the page and for a widget's model, for the tests. */
import type { AnyModel } from "@anywidget/types";
import { vi } from "vitest";
import type { Stage } from "./stage";

/** A page whose animation frames and paints happen when the test says so. */
export class SteppedStage implements Stage {
  time = 0;
  #handles = 0;
  #frames = new Map<number, () => void>();
  #paints: (() => void)[] = [];

  requestFrame(callback: () => void): number {
    this.#handles += 1;
    this.#frames.set(this.#handles, callback);
    return this.#handles;
  }

  cancelFrame(handle: number): void {
    this.#frames.delete(handle);
  }

  afterPaint(callback: () => void): void {
    this.#paints.push(callback);
  }

  now(): number {
    return this.time;
  }

  close(): void {}

  get framesRequested(): number {
    return this.#frames.size;
  }

  /** One animation frame and its paint, `ms` after the last. */
  animate(ms = 16): void {
    this.time += ms;
    const callbacks = [...this.#frames.values()];
    this.#frames.clear();
    for (const callback of callbacks) callback();
    for (const painted of this.#paints.splice(0)) painted();
  }
}

type Listener = (...values: any[]) => void;

/** A widget's model that keeps what the page sent, and plays the kernel. */
export class FakeModel<T extends object> {
  sent: Record<string, unknown>[] = [];
  saved = 0;
  #listeners = new Map<string, Set<Listener>>();
  widget_manager: { get_model(id: string): Promise<unknown> };

  constructor(
    readonly state: T,
    models: Record<string, unknown> = {},
  ) {
    this.widget_manager = {
      async get_model(id) {
        if (!(id in models)) throw new Error("widget model not found");
        return models[id];
      },
    };
  }

  /** The same object as anywidget hands it to a widget. */
  get asAnyModel(): AnyModel<T> {
    return this as unknown as AnyModel<T>;
  }

  get<K extends keyof T>(trait: K): T[K] {
    return this.state[trait];
  }

  set(state: Partial<T>): void {
    Object.assign(this.state, state);
    for (const trait of Object.keys(state)) this.#emit(`change:${trait}`);
    this.#emit("change");
  }

  save_changes(): void {
    this.saved += 1;
  }

  send(message: Record<string, unknown>): void {
    this.sent.push(message);
  }

  on(event: string, listener: Listener): void {
    const listeners = this.#listeners.get(event) ?? new Set();
    this.#listeners.set(event, listeners.add(listener));
  }

  off(event: string, listener: Listener): void {
    this.#listeners.get(event)?.delete(listener);
  }

  receive(message: object, buffers: DataView[] = []): void {
    this.#emit("msg:custom", message, buffers);
  }

  sentOf(type: string): Record<string, unknown>[] {
    return this.sent.filter((message) => message.type === type);
  }

  get listenerCount(): number {
    return [...this.#listeners.values()].reduce((count, listeners) => count + listeners.size, 0);
  }

  #emit(event: string, ...values: unknown[]): void {
    for (const listener of this.#listeners.get(event) ?? []) listener(...values);
  }
}

/** jsdom lays nothing out: an element counts as laid out here unless it or a parent is hidden. */
export class Layout {
  observers = new Set<{ callback: () => void; targets: Set<Element> }>();

  constructor() {
    const observers = this.observers;
    class Observer {
      #entry: { callback: () => void; targets: Set<Element> };
      constructor(callback: () => void) {
        this.#entry = { callback, targets: new Set() };
        observers.add(this.#entry);
      }
      observe(target: Element): void {
        this.#entry.targets.add(target);
      }
      unobserve(target: Element): void {
        this.#entry.targets.delete(target);
      }
      disconnect(): void {
        this.#entry.targets.clear();
      }
    }
    vi.stubGlobal("ResizeObserver", Observer);
    vi.stubGlobal("IntersectionObserver", Observer);
    vi.spyOn(Element.prototype, "getClientRects").mockImplementation(function (this: Element) {
      const shown = this.isConnected && this.closest("[hidden]") === null;
      return (shown ? [new DOMRect()] : []) as unknown as DOMRectList;
    });
  }

  /** Tells the observers that something was laid out anew. */
  settle(): void {
    for (const { callback, targets } of [...this.observers]) if (targets.size > 0) callback();
  }

  get observed(): number {
    return [...this.observers].reduce((count, { targets }) => count + targets.size, 0);
  }
}

export function hideBrowserTab(hidden: boolean): void {
  vi.spyOn(document, "hidden", "get").mockReturnValue(hidden);
  document.dispatchEvent(new Event("visibilitychange"));
}

/** Lets pending promises run. */
export async function settled(): Promise<void> {
  for (let turn = 0; turn < 10; turn += 1) await Promise.resolve();
}
