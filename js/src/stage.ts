/** What the queue of frames needs from the page; tests put a stage of their own in its place. */
export interface Stage {
  requestFrame(callback: () => void): number;
  cancelFrame(handle: number): void;
  /** Calls back once the page has painted the animation frame that is being prepared. */
  afterPaint(callback: () => void): void;
  /** Milliseconds since the epoch, finer than Date.now(). */
  now(): number;
  close(): void;
}

export function browserStage(): Stage {
  const { port1, port2 } = new MessageChannel();
  const painting: (() => void)[] = [];
  port1.onmessage = () => painting.shift()?.();
  return {
    requestFrame: (callback) => requestAnimationFrame(callback),
    cancelFrame: (handle) => cancelAnimationFrame(handle),
    afterPaint(callback) {
      painting.push(callback);
      // A message posted from an animation frame is the first task that runs after its paint;
      // a timeout would wait for 4 ms or more on top.
      port2.postMessage(null);
    },
    now: () => performance.timeOrigin + performance.now(),
    close() {
      port1.onmessage = null;
      port1.close();
      painting.length = 0;
    },
  };
}
