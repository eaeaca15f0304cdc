import type { State, Update } from "./wire";

/** A widget's model, as far as a frame needs it. */
export interface Target {
  set(state: State): void;
}

interface Resolution {
  model?: Target;
  failed: boolean;
  settled: Promise<void>;
}

const MODEL_PREFIX = "IPY_MODEL_";

/** The models that frames set, by the names that the kernel gave them. */
export class Targets {
  #names: Readonly<Record<string, string>> = {};
  #resolutions = new Map<string, Resolution>();
  #unknown = new Set<string>();
  #resolve: (modelId: string) => Promise<Target>;

  constructor(resolve: (modelId: string) => Promise<Target>) {
    this.#resolve = resolve;
  }

  /** Takes names and model ids; ids that resolved before keep their model, failed ones are tried again. */
  assign(names: Readonly<Record<string, string>>): void {
    this.#names = names;
    this.#unknown.clear();
    const kept = new Map<string, Resolution>();
    for (const id of Object.values(names)) {
      const known = this.#resolutions.get(id);
      kept.set(id, known && !known.failed ? known : (kept.get(id) ?? this.#start(id)));
    }
    this.#resolutions = kept;
  }

  /** Whether every target of these updates has been found or given up. */
  settled(updates: readonly Update[]): boolean {
    return this.#resolutionsOf(updates).every(({ model, failed }) => model !== undefined || failed);
  }

  /** Resolves when `settled` holds for these updates; never rejects. */
  async whenSettled(updates: readonly Update[]): Promise<void> {
    await Promise.all(this.#resolutionsOf(updates).map(({ settled }) => settled));
  }

  /**
   * Sets each target's state. `save_changes` is never called: bqplot redraws, nothing echoes.
   * An error in one target is reported and leaves the others drawn.
   */
  apply(updates: readonly Update[]): void {
    for (const { target, state } of updates) {
      const id = this.#names[target];
      if (id === undefined) {
        this.#reportUnknown(target);
        continue;
      }
      try {
        this.#resolutions.get(id)?.model?.set(state);
      } catch (error) {
        console.error(`[gradflow] drawing "${target}" failed`, error);
      }
    }
  }

  #resolutionsOf(updates: readonly Update[]): Resolution[] {
    return updates.flatMap(({ target }) => {
      const id = this.#names[target];
      const resolution = id === undefined ? undefined : this.#resolutions.get(id);
      return resolution ? [resolution] : [];
    });
  }

  #start(id: string): Resolution {
    const resolution: Resolution = { failed: false, settled: Promise.resolve() };
    const modelId = id.startsWith(MODEL_PREFIX) ? id.slice(MODEL_PREFIX.length) : id;
    resolution.settled = this.#find(modelId, resolution);
    return resolution;
  }

  async #find(modelId: string, resolution: Resolution): Promise<void> {
    try {
      resolution.model = await this.#resolve(modelId);
    } catch (error) {
      resolution.failed = true;
      console.error(`[gradflow] no model ${modelId} in this page`, error);
    }
  }

  #reportUnknown(name: string): void {
    if (this.#unknown.has(name)) return;
    this.#unknown.add(name);
    console.error(`[gradflow] a frame sets "${name}", which frame_targets does not name`);
  }
}
