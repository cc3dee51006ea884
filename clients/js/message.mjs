// Messages of the wire protocol, sections 2 and 3: bytes to headers and payloads, and back.

import { decode, encode } from "@msgpack/msgpack";

const VERSION = 1;
const MAX_HEADER = 64 * 1024;
const MAX_PAYLOAD = 8 * 1024 * 1024;
const MAX_PAYLOADS = 4;
export const MAX_REPLY = 64 * 1024 * 1024;

const MAGIC = Uint8Array.of(0x57, 0x53, 0x49, 0x4d, VERSION); // "WSIM" and the version

const ARRAYS = { u1: Uint8Array, f4: Float32Array, f8: Float64Array };

/** A refusal of the server, or of this client: the rule, the value that broke it, and the remedy. */
export class WorldsimError extends Error {
  constructor({ code, rule, value = null, remedy = "", retry_after_ms: retryAfter = null }) {
    const got = value === null ? "" : `got ${value}`;
    super([rule, got, remedy].filter(Boolean).join("; "));
    this.name = "WorldsimError";
    Object.assign(this, { code, rule, value, remedy, retryAfter });
  }
}

/** The parts of a message. Seeds above 2^53 are BigInts; entries that are undefined are left out. */
export function pack(header, payloads = []) {
  const bytes = encode(header, { useBigInt64: true, ignoreUndefined: true });
  const tooLarge = payloads.some((payload) => payload.byteLength > MAX_PAYLOAD);
  if (bytes.byteLength > MAX_HEADER || payloads.length > MAX_PAYLOADS || tooLarge) {
    throw new WorldsimError({
      code: "RESOURCE_EXHAUSTED",
      rule: "a message must have a header of at most 64 KiB and at most 4 payloads of 8 MiB",
      value: `${bytes.byteLength} and ${payloads.map((payload) => payload.byteLength)} bytes`,
      remedy: "send less at a time",
    });
  }
  return [MAGIC, bytes, ...payloads];
}

/** The header and payloads of the parts of a message. */
export function unpack(parts) {
  const [magic, header, ...payloads] = parts;
  if (magic?.length !== 5 || MAGIC.some((byte, i) => magic[i] !== byte) || header === undefined) {
    const rule = `a message must be of protocol version ${VERSION}`;
    throw new WorldsimError({ code: "VERSION", rule, value: `${magic}`, remedy: "use another client" });
  }
  return { header: decode(header), payloads };
}

/** Gathers typed arrays into payloads; `add` answers what goes into the header. */
export class Payloads {
  list = [];

  add(array, shape) {
    const dtype = Object.keys(ARRAYS).find((name) => array instanceof ARRAYS[name]);
    this.list.push(new Uint8Array(array.buffer, array.byteOffset, array.byteLength));
    return { dtype, shape, part: this.list.length - 1 };
  }
}

/** `{data, shape}` of an array, or `{jpeg, shape}` of an image, that a header describes. */
export function readArray(described, payloads) {
  const payload = payloads[described.part];
  if (described.codec === "jpeg") return { jpeg: payload, shape: described.shape };
  return { data: toTypedArray(described.dtype, payload, described.shape), shape: described.shape };
}

/** Bytes as numbers: copied, for a payload need not begin where such a number may begin. */
export function toTypedArray(dtype, bytes, shape) {
  const Kind = ARRAYS[dtype];
  const count = shape.reduce((a, b) => a * b, 1);
  if (Kind === undefined || bytes.byteLength !== count * Kind.BYTES_PER_ELEMENT) {
    const rule = `a ${dtype} array must have a known type and the bytes of its shape`;
    throw new WorldsimError({ code: "BAD_REPLY", rule, value: `${shape}: ${bytes.byteLength} bytes` });
  }
  return new Kind(new Uint8Array(bytes).buffer);
}
