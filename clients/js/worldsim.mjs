// Client of a `worldsim serve` process, written from docs/protocol.md.
//
//     const client = await Client.connect("ipc:///tmp/worldsim-doom-maze.sock");
//     const session = await client.open({ seed: 7 });
//     const step = await session.step({ keys: ["forward"] });   // step.frame.data: Uint8Array [H * W * 3]
//     await client.close();

import { setTimeout as sleep } from "node:timers/promises";

import { ServerConnection, RETRYABLE, controlAddress } from "./connection.mjs";
import { MAX_REPLY, Payloads, WorldsimError } from "./message.mjs";
import { Session, encodeControl, newName, readStep, readSteps } from "./session.mjs";

export { Session, WorldsimError };

const MAX_ITEMS = 256;
const HEARTBEAT_MS = 1000;

export class Client {
  #data;
  #control;
  #name;
  #heartbeat = null;
  #sessions = new Map();

  /** Use `connect`. */
  constructor(address, { name, keys, timeout }) {
    this.#name = name;
    this.#data = new ServerConnection(address, { keys, timeout });
    this.#control = new ServerConnection(controlAddress(address), { keys, timeout });
  }

  /**
   * A client of the server at a data address.
   *
   * keys: `{server, public, secret}`, Z85, where the server asks for them; lease: that of a client that was
   * cut off, whose sessions are then in `sessions`; timeout: milliseconds after which a request is given up.
   */
  static async connect(address, { name = "js", keys = null, lease = null, timeout = 60000 } = {}) {
    const client = new Client(address, { name, keys, timeout });
    try {
      await client.resume(lease);
    } catch (error) {
      client.#disconnect();
      throw error;
    }
    client.#heartbeat = setInterval(() => client.#sendHeartbeat(), HEARTBEAT_MS);
    client.#heartbeat.unref();
    return client;
  }

  /** Open sessions by name. */
  get sessions() {
    return new Map(this.#sessions);
  }

  /** Sends `hello`, with the old lease if there is one; `world` is the server's description. */
  async resume(lease = this.lease) {
    const { header } = await this.#control.request({ op: "hello", client: this.#name, lease: lease ?? null });
    const { lease: given, sessions = {}, ...world } = header;
    Object.assign(this, { lease: given, world });
    const known = this.#sessions;
    this.#sessions = new Map();
    for (const [name, seq] of Object.entries(sessions ?? {})) {
      const session = known.get(name) ?? new Session(this, name);
      this.#sessions.set(name, Object.assign(session, { seq }));
    }
    return world;
  }

  /**
   * Begins a session. seed: a number, or a BigInt up to 2^64 - 1; start: the number of one of the world's
   * starts; context: `{frames: Uint8Array, controls: Float32Array, poses: Float64Array or null, length}`;
   * temperature: factor of the sampled noise, 0 to 10 (1, as trained).
   */
  async open({ seed = 0, start, context, temperature } = {}) {
    const payloads = new Payloads();
    const fields = { seed, start, temperature, context: context && this.#context(context, payloads) };
    return this.#begin("open", fields, payloads.list);
  }

  /** A session that goes on from a snapshot bit for bit. */
  async restore(snapshot) {
    return this.#begin("restore", {}, [snapshot]);
  }

  /**
   * Steps many sessions at once. items: `[session, control]`s. Answers, in their order, `{session, step}` or
   * `{session, error}`: the others go on where one is refused.
   */
  async stepMany(items, { codec = "raw", deadline } = {}) {
    const most = this.#itemsPerMessage(codec);
    const parts = [];
    for (let i = 0; i < items.length; i += most) parts.push(items.slice(i, i + most));
    return (await Promise.all(parts.map((part) => this.#stepInOrder(part, codec, deadline)))).flat();
  }

  /** What the server is and how busy. */
  async info() {
    return (await this.#control.request({ op: "info" })).header;
  }

  /** Shape of a frame by codec. */
  get shapes() {
    return { raw: [...this.world.size, 3], jpeg: [...this.world.size, 3], latent: this.world.latent };
  }

  /** A request on the data socket, under the lease. */
  request(header, payloads = []) {
    return this.#data.request({ ...header, lease: this.lease }, payloads);
  }

  /** Keeps a session in `sessions`. */
  register(session) {
    this.#sessions.set(session.name, session);
    return session;
  }

  /** Takes a session out of `sessions`. */
  unregister(session) {
    this.#sessions.delete(session.name);
  }

  /** Closes all sessions, unless they are kept for a client that resumes with the lease, and hangs up. */
  async close({ keep = false } = {}) {
    const open = keep ? [] : [...this.#sessions.values()];
    await Promise.allSettled(open.map((session) => session.close()));
    this.#disconnect();
  }

  async #begin(op, fields, payloads) {
    const name = newName();
    const ask = () => this.request({ op, session: name, ...fields }, payloads);
    const { header, payloads: frames } = await ask().catch(async (error) => {
      if (error.code !== "UNKNOWN_SESSION") throw error;
      await this.resume(); // the lease ended: this machine slept, or the server began anew
      return ask();
    });
    const session = new Session(this, name);
    session.accept(readStep(header.step, frames));
    return this.register(session);
  }

  #context({ frames, controls, poses = null, length }, payloads) {
    return {
      frames: payloads.add(frames, [length, ...this.world.size, 3]),
      controls: payloads.add(controls, [length, controls.length / length]),
      poses: poses && payloads.add(poses, [length, 4, 4]),
    };
  }

  /** As many items as the frames of which fit into one payload. */
  #itemsPerMessage(codec) {
    const [height, width] = this.world.size;
    const room = Math.floor(MAX_REPLY / (height * width * 3));
    return codec === "none" ? MAX_ITEMS : Math.max(1, Math.min(MAX_ITEMS, room));
  }

  /** One message's worth, once it is the turn of each of its sessions. */
  #stepInOrder(part, codec, deadline) {
    return Session.inOrder(part.map(([session]) => session), async () => {
      const answers = await this.#stepNow(part, codec, deadline);
      const busy = answers.flatMap(({ error }, i) => (RETRYABLE.has(error?.code) ? [i] : []));
      if (!busy.length) return answers;
      await sleep(Math.max(...busy.map((i) => answers[i].error.retryAfter ?? HEARTBEAT_MS)));
      const again = await this.#stepNow(busy.map((i) => part[i]), codec, deadline);
      busy.forEach((i, j) => (answers[i] = again[j]));
      return answers;
    });
  }

  async #stepNow(part, codec, deadline) {
    const items = part.map(([session, control]) => ({
      session: session.name,
      seq: session.seq + 1,
      control: encodeControl(control),
    }));
    const header = { op: "step_many", items, codec, deadline_ms: deadline };
    const asked = await (async () => this.request(header))().catch((error) => {
      if (error.code !== "RESOURCE_EXHAUSTED" || part.length === 1) throw error;
    });
    if (asked === undefined) return this.#stepHalves(part, codec, deadline);
    return readSteps(asked.header.items, asked.payloads, codec, this.shapes).map(({ step, error }, i) => {
      const [session] = part[i];
      return error ? { session, error: new WorldsimError(error) } : { session, step: session.accept(step) };
    });
  }

  /** Two messages, where the controls are too long for one. */
  async #stepHalves(part, codec, deadline) {
    const half = part.length >> 1;
    const halves = [part.slice(0, half), part.slice(half)];
    return (await Promise.all(halves.map((one) => this.#stepNow(one, codec, deadline)))).flat();
  }

  #sendHeartbeat() {
    const lost = () => {}; // the next request will tell
    this.#control.request({ op: "heartbeat", lease: this.lease }, [], 3 * HEARTBEAT_MS).catch(lost);
  }

  #disconnect() {
    clearInterval(this.#heartbeat);
    this.#data.close();
    this.#control.close();
  }
}
