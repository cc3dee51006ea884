// Two sockets, many requests under way: each is sent again until it is answered, as the protocol allows.

import { Dealer } from "zeromq";
import { MAX_REPLY, WorldsimError, pack, unpack } from "./message.mjs";

/** Codes of refusals after which nothing was done: the same request may be sent again. */
export const RETRYABLE = new Set(["UNAVAILABLE", "DRAINING"]);
const FIRST_RETRY_MS = 1000;
const LONGEST_RETRY_MS = 10000;

/** The control address that belongs to a data address. */
export function controlAddress(address) {
  if (address.startsWith("ipc://")) return `${address}.control`;
  const [, head, port] = /^(tcp:\/\/.*):(\d+)$/.exec(address) ?? [];
  if (head) return `${head}:${Number(port) + 1}`;
  const rule = "an address must be ipc://PATH or tcp://HOST:PORT";
  throw new WorldsimError({ code: "ADDRESS", rule, value: address });
}

function dealer(address, keys) {
  const socket = new Dealer({
    linger: 0,
    sendHighWaterMark: 64,
    // With a bound, and heartbeats, libzmq aborts where a connection fails while the queue is full.
    receiveHighWaterMark: 0,
    maxMessageSize: MAX_REPLY,
    heartbeatInterval: 1000,
    heartbeatTimeout: 3000,
    reconnectInterval: 50 + Math.random() * 100,
    reconnectMaxInterval: 5000,
    ...(keys && { curveServerKey: keys.server, curvePublicKey: keys.public, curveSecretKey: keys.secret }),
  });
  socket.connect(address);
  return socket;
}

/** One socket and the requests on it that wait for their replies. */
export class ServerConnection {
  #socket;
  #timeout;
  #inFlight = new Map();
  #outbox = [];
  #sending = false;
  #nextId = 1;
  #refusal = null;

  /** keys: `{server, public, secret}`, Z85; timeout: milliseconds after which a request is given up. */
  constructor(address, { keys, timeout }) {
    this.#socket = dealer(address, keys);
    this.#timeout = timeout;
    this.#receive();
    this.#resendOnReconnect();
    this.#failOnRefusal();
  }

  /** Sends `header` until it is answered; a reply `{header, payloads}`, or a WorldsimError. */
  request(header, payloads = [], timeout = this.#timeout) {
    const id = this.#nextId++;
    const parts = pack({ ...header, id }, payloads);
    if (this.#refusal) return Promise.reject(this.#refusal);
    return new Promise((resolve, reject) => {
      const giveUp = setTimeout(() => this.#settle(id, () => reject(unanswered(header.op))), timeout);
      this.#inFlight.set(id, { parts, resolve, reject, giveUp, retry: null, tries: 0 });
      this.#send(id);
    });
  }

  close() {
    this.#fail(unanswered("close"));
    this.#socket.close();
  }

  #send(id) {
    const request = this.#inFlight.get(id);
    if (request === undefined) return;
    const pause = Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** request.tries++);
    this.#scheduleSend(id, pause * (0.75 + Math.random() / 2));
    this.#outbox.push(id);
    this.#drainOutbox();
  }

  #scheduleSend(id, milliseconds) {
    const request = this.#inFlight.get(id);
    clearTimeout(request.retry);
    request.retry = setTimeout(() => this.#send(id), milliseconds);
  }

  /** Sends what is in the outbox, one message after another: a socket takes no two at a time. */
  async #drainOutbox() {
    if (this.#sending) return;
    this.#sending = true;
    while (this.#outbox.length && !this.#socket.closed) {
      const request = this.#inFlight.get(this.#outbox.shift());
      if (request) await this.#socket.send(request.parts).catch(() => {});
    }
    this.#sending = false;
  }

  /** A new connection knows nothing of what was under way on the old one. */
  #resendOnReconnect() {
    let lost = false;
    this.#socket.events.on("disconnect", () => (lost = true));
    this.#socket.events.on("handshake", () => {
      if (lost) for (const id of this.#inFlight.keys()) this.#send(id);
      lost = false;
    });
  }

  /** An unknown key is told once, maybe before the first request: it is remembered for those that follow. */
  #failOnRefusal() {
    this.#socket.events.on("handshake:error:auth", () => {
      this.#refusal = new WorldsimError({
        code: "PERMISSION_DENIED",
        rule: "a client's key must be known to the server",
        remedy: "give the server its public key",
      });
      this.#fail(this.#refusal);
    });
    this.#socket.events.on("handshake", () => (this.#refusal = null));
  }

  async #receive() {
    for await (const parts of this.#socket) {
      try {
        this.#handleReply(unpack(parts));
      } catch (error) {
        this.#fail(error);
      }
    }
  }

  #handleReply({ header, payloads }) {
    const request = this.#inFlight.get(header.id);
    if (request === undefined) return; // the second answer to a request that was sent twice
    if (header.ok) return this.#settle(header.id, () => request.resolve({ header, payloads }));
    const { code, retry_after_ms: pause } = header.error;
    if (RETRYABLE.has(code)) {
      return this.#scheduleSend(header.id, (pause ?? FIRST_RETRY_MS) * (1 + Math.random() / 2));
    }
    return this.#settle(header.id, () => request.reject(new WorldsimError(header.error)));
  }

  #fail(error) {
    for (const [id, { reject }] of [...this.#inFlight]) this.#settle(id, () => reject(error));
  }

  #settle(id, answer) {
    const { giveUp, retry } = this.#inFlight.get(id);
    clearTimeout(giveUp);
    clearTimeout(retry);
    this.#inFlight.delete(id);
    answer();
  }
}

function unanswered(op) {
  return new WorldsimError({
    code: "UNANSWERED",
    rule: "a request must be answered in time",
    value: op,
    remedy: "see whether the server runs; resume() tells which steps it has taken",
  });
}
