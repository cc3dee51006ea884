// Remote session: a session of a server's engine.

import { Payloads, WorldsimError, readArray, toTypedArray } from "./message.mjs";

/** Names of sessions are chosen by the client, so that making one can be repeated safely. */
export function newName() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Buffer.from(bytes).toString("hex");
}

/** A control as the header wants it; what is left out is not sent. */
export function encodeControl({ keys, yaw, pose, prompt, action } = {}) {
  return { keys: list(keys), yaw, pose: list(pose), prompt, action: list(action) };
}

function list(given) {
  return given && [...given];
}

/** A step with its frame: `{data, shape}`, `{jpeg, shape}` or null. */
export function readStep(step, payloads) {
  return { ...step, frame: step.frame ? readArray(step.frame, payloads) : null };
}

/** The steps of a step_many or step_chunk: frames of items that succeeded lie one by one in payload 0. */
export function readSteps(items, payloads, codec, shapes) {
  let at = 0;
  return items.map(({ session, step, error }) => {
    if (error) return { session, error };
    if (codec === "none") return { session, step: { ...step, frame: null } };
    const shape = shapes[codec];
    const size = codec === "jpeg" ? step.bytes : shape.reduce((a, b) => a * b, codec === "latent" ? 4 : 1);
    const bytes = payloads[0].subarray(at, (at += size));
    const dtype = codec === "latent" ? "f4" : "u1";
    const data = codec === "jpeg" ? { jpeg: bytes } : { data: toTypedArray(dtype, bytes, shape) };
    return { session, step: { ...step, frame: { ...data, shape } } };
  });
}

/** Made by `Client.open`, `fork`, `Client.restore`; `last` is the newest step, `seq` the last one taken. */
export class Session {
  #client;
  #queue = Promise.resolve();

  constructor(client, name, { seq = 0, last = null } = {}) {
    this.#client = client;
    Object.assign(this, { name, seq, last, closed: false });
  }

  /**
   * Imagines one frame. codec: "raw", "jpeg", "latent" or "none"; deadline: milliseconds; budget:
   * milliseconds within which it should be answered, with fewer denoising steps if need be.
   */
  step(control = {}, { codec, deadline, budget } = {}) {
    return this.inOrder(async () => {
      const rest = { control: encodeControl(control), codec, deadline_ms: deadline, budget_ms: budget };
      return this.#accept(await this.#ask("step", { seq: this.seq + 1, ...rest }));
    });
  }

  /**
   * Imagines as many frames as there are controls, in order, by one request; answers their steps.
   *
   * Where the world imagines several frames at a time (`world.unit_frames`), they are imagined under all
   * their controls, while `step` holds its one control. Each frame counts as one step in `seq`. Rejects with
   * the first failure; the session has then taken the frames before it, see `last`.
   *
   * controls: one or more, at most `world.limits.chunk`; codec, deadline: as of `step`.
   */
  stepChunk(controls, { codec = "raw", deadline } = {}) {
    const entries = Array.from(controls, (control) => encodeControl(control));
    return this.inOrder(async () => {
      const fields = { seq: this.seq + 1, controls: entries, codec, deadline_ms: deadline };
      const { header, payloads } = await this.#ask("step_chunk", fields);
      const answers = readSteps(header.items, payloads, codec, this.#client.shapes);
      const steps = answers.filter(({ error }) => !error).map(({ step }) => this.accept(step));
      const failed = answers.find(({ error }) => error);
      if (failed) throw new WorldsimError(failed.error);
      return steps;
    });
  }

  /**
   * Observes a real frame as the next one; later frames are imagined from it. `rewind` takes it back.
   *
   * frame: Uint8Array [H * W * 3], copied; control: what was held while getting there, and in `pose` the
   * frame's own, which a world with poses needs; deadline: milliseconds.
   */
  async observe(frame, control = {}, { deadline } = {}) {
    if (!(frame instanceof Uint8Array)) {
      const rule = "a frame must be a Uint8Array of H * W * 3 bytes";
      throw new WorldsimError({ code: "BAD_REQUEST", rule, value: frame?.constructor?.name ?? frame });
    }
    const shape = [...this.#client.world.size, 3];
    const data = new Uint8Array(frame);
    const payloads = new Payloads();
    const rest = { frame: payloads.add(data, shape), control: encodeControl(control), deadline_ms: deadline };
    return this.inOrder(async () => {
      const fields = { seq: this.seq + 1, ...rest, codec: "none" };
      const { header } = await this.#ask("observe", fields, payloads.list);
      return this.accept({ ...header.step, frame: { data, shape } });
    });
  }

  /** Takes back frames; the same controls give the same frames again. */
  rewind(frames = 1) {
    return this.inOrder(async () => this.#accept(await this.#ask("rewind", { seq: this.seq + 1, frames })));
  }

  /** `count` sessions with this one's past; the same controls give the same future. */
  fork(count = 1) {
    return this.inOrder(async () => {
      const children = Array.from({ length: count }, newName);
      const { header, payloads } = await this.#ask("fork", { seq: this.seq, children });
      const last = { ...readStep(header.step, payloads), seq: 0 }; // each counts its own
      return children.map((name) => this.#client.register(new Session(this.#client, name, { last })));
    });
  }

  /** All that the session's future depends on, as bytes; `Client.restore` goes on from them. */
  snapshot() {
    return this.inOrder(async () => (await this.#ask("snapshot")).payloads[0]);
  }

  close() {
    return this.inOrder(async () => {
      if (!this.closed) await this.#ask("close");
      this.closed = true;
      this.#client.unregister(this);
    });
  }

  /** Runs `action` after all earlier ones of this session: their order is that of the calls. */
  inOrder(action) {
    return Session.inOrder([this], action);
  }

  /** Runs `action` after all earlier ones of each of `sessions`. */
  static inOrder(sessions, action) {
    const done = Promise.all(sessions.map((session) => session.#queue)).then(action);
    for (const session of sessions) session.#queue = done.catch(() => {});
    return done;
  }

  /** Takes a step of the server's as the newest one. */
  accept(step) {
    this.seq = step.seq;
    this.last = step;
    return step;
  }

  #accept({ header, payloads }) {
    return this.accept(readStep(header.step, payloads));
  }

  #ask(op, fields = {}, payloads = []) {
    return this.#client.request({ op, session: this.name, ...fields }, payloads);
  }
}
