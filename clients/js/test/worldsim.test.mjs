// Runs against the server at WORLDSIM_ADDRESS: `worldsim serve` of any world.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Client, WorldsimError } from "../worldsim.mjs";

const ADDRESS = process.env.WORLDSIM_ADDRESS;
const FORWARD = { keys: ["forward"] };

let client;

before(async () => {
  client = await Client.connect(ADDRESS, { timeout: 30000 });
});

after(() => client.close());

/** Width and height of a JPEG, from its start-of-frame segment. */
function sizeOfJpeg(bytes) {
  assert.deepEqual([...bytes.subarray(0, 2)], [0xff, 0xd8]);
  assert.deepEqual([...bytes.subarray(-2)], [0xff, 0xd9]);
  for (let at = 2; ; at += 2 + ((bytes[at + 2] << 8) | bytes[at + 3])) {
    if (bytes[at + 1] >= 0xc0 && bytes[at + 1] <= 0xc2) {
      return [(bytes[at + 5] << 8) | bytes[at + 6], (bytes[at + 7] << 8) | bytes[at + 8]];
    }
  }
}

test("hello tells of the world", () => {
  const { world, size, fps, keys, discrete_actions, codecs, ops, limits } = client.world;
  assert.match(client.lease, /^[0-9a-f]{32}$/);
  assert.equal(typeof world, "string");
  assert.equal(size.length, 2);
  assert.ok(fps > 0 && limits !== null);
  assert.ok(keys.includes("forward"));
  assert.deepEqual(discrete_actions[0], []);
  assert.deepEqual(codecs, ["raw", "jpeg", "latent", "none"]);
  assert.ok(ops.includes("observe") && ops.includes("step_chunk"));
});

test("info is answered", async () => {
  const info = await client.info();
  assert.equal(info.world, client.world.world);
  assert.ok(info.sessions >= 0);
});

test("twenty steps, raw and jpeg by turns", async () => {
  const [height, width] = client.world.size;
  const session = await client.open({ seed: 7 });
  const first = session.last;
  assert.deepEqual(first.frame.shape, [height, width, 3]);
  for (let i = 1; i <= 20; i++) {
    const step = await session.step(FORWARD, { codec: i % 2 ? "raw" : "jpeg" });
    assert.equal(step.seq, i);
    assert.equal(step.index, first.index + i);
    assert.equal(typeof step.reward, "number");
    if (i % 2) assert.equal(step.frame.data.length, height * width * 3);
    else assert.deepEqual(sizeOfJpeg(step.frame.jpeg), [height, width]);
  }
  await session.close();
});

test("latents and no frames at all", async () => {
  const session = await client.open({ seed: 2n ** 64n - 1n, start: 0 });
  const step = await session.step({}, { codec: "latent" });
  assert.deepEqual(step.frame.shape, client.world.latent);
  assert.ok(step.frame.data instanceof Float32Array);
  assert.equal((await session.step({ yaw: 0.1 }, { codec: "none" })).frame, null);
  await session.close();
});

test("the same seq again gives the same bytes and moves nothing", async () => {
  const session = await client.open({ seed: 3 });
  for (const codec of ["raw", "jpeg"]) {
    const request = { op: "step", session: session.name, seq: session.seq + 1, control: FORWARD, codec };
    const [once, again] = [await client.request(request), await client.request(request)];
    assert.deepEqual(again.header.step, once.header.step);
    assert.deepEqual(Buffer.from(again.payloads[0]), Buffer.from(once.payloads[0]));
    session.accept({ ...session.last, seq: once.header.step.seq });
  }
  assert.equal((await session.step(FORWARD)).seq, 3);
  const gap = { op: "step", session: session.name, seq: 9, control: FORWARD };
  await assert.rejects(client.request(gap), { code: "OUT_OF_ORDER" });
  await session.close();
});

test("opening again under the same name answers the same", async () => {
  const session = await client.open({ seed: 5 });
  const { payloads } = await client.request({ op: "open", session: session.name, seed: 5, start: null });
  assert.deepEqual(Buffer.from(payloads[0]), Buffer.from(session.last.frame.data.buffer));
  await session.close();
});

test("twins, a rewind and a snapshot see the same future", async () => {
  const session = await client.open({ seed: 11 });
  await session.step(FORWARD);
  const snapshot = await session.snapshot();
  const twins = await session.fork(2);
  const restored = await client.restore(snapshot);
  const future = await session.step(FORWARD);
  for (const other of [...twins, restored]) {
    const step = await other.step(FORWARD);
    assert.deepEqual(step.frame.data, future.frame.data);
    assert.deepEqual([step.seq, step.index], [1, future.index]);
  }
  const back = await session.rewind(1);
  assert.deepEqual([back.seq, back.index], [3, future.index - 1]);
  assert.deepEqual((await session.step(FORWARD)).frame.data, future.frame.data);
  await Promise.all([session, restored, ...twins].map((one) => one.close()));
});

test("many at once", async () => {
  const sessions = await Promise.all([1, 2, 3].map((seed) => client.open({ seed })));
  const [alone] = await sessions[2].fork(1);
  const expected = await alone.step(FORWARD);
  const answers = await client.stepMany(sessions.map((session) => [session, FORWARD]));
  assert.deepEqual(answers.map(({ session }) => session), sessions);
  assert.deepEqual(answers[2].step.frame.data, expected.frame.data);
  const pictures = await client.stepMany(sessions.map((session) => [session, {}]), { codec: "jpeg" });
  for (const { step } of pictures) assert.deepEqual(sizeOfJpeg(step.frame.jpeg), client.world.size);
  await Promise.all([alone, sessions[0]].map((session) => session.close()));
  const posed = { pose: Array.from({ length: 16 }, (_, i) => (i % 5 ? 0 : 1)), keys: client.world.keys };
  const crowd = await sessions[1].fork(6);
  const moved = await client.stepMany(crowd.map((session) => [session, posed]), { codec: "none" });
  assert.ok(moved.every(({ step }) => step.seq === 1 && step.pose_given));
  await Promise.all(crowd.map((session) => session.close()));
  const [gone, there] = await client.stepMany([[sessions[0], {}], [sessions[1], {}]], { codec: "none" });
  assert.equal(gone.error.code, "UNKNOWN_SESSION");
  assert.equal(there.step.seq, 3);
  await Promise.all(sessions.slice(1).map((session) => session.close()));
});

test("a given context is where a session begins", async () => {
  const [height, width] = client.world.size;
  const frames = Uint8Array.from({ length: 2 * height * width * 3 }, (_, i) => i % 251);
  const controls = new Float32Array(2 * (client.world.keys.length + 1));
  const pose = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1];
  const poses = client.world.pose ? Float64Array.from([...pose, ...pose]) : null;
  const session = await client.open({ seed: 1, context: { frames, controls, poses, length: 2 } });
  assert.deepEqual(session.last.frame.data, frames.slice(height * width * 3));
  await session.close();
});

test("a real frame is the next one, and a rewind takes it back", async () => {
  const [height, width] = client.world.size;
  const pose = client.world.pose ? [1, 0, 0, 2, 0, 0, 1, 2, 0, -1, 0, 1, 0, 0, 0, 1] : undefined;
  const frame = Uint8Array.from({ length: height * width * 3 }, (_, i) => i % 251);
  const [session, twin] = await (await client.open({ seed: 13 })).fork(2);
  const imagined = session.step(FORWARD);
  const asked = session.observe(frame, { keys: ["turn_left"], pose });
  const expected = frame.slice();
  frame.fill(0); // a camera's buffer is used again
  const step = await asked;
  assert.deepEqual(step.frame, { data: expected, shape: [height, width, 3] });
  const told = [step.seq, step.index, step.denoising_steps, step.uncertainty];
  assert.deepEqual(told, [2, (await imagined).index + 1, 0, 0]);
  assert.equal(session.last, step);
  if (pose) assert.deepEqual(step.pose, pose);
  await twin.step(FORWARD);
  const future = await twin.step(FORWARD);
  assert.notDeepEqual((await session.step(FORWARD)).frame.data, future.frame.data);
  await session.rewind(2);
  assert.deepEqual((await session.step(FORWARD)).frame.data, future.frame.data);
  await assert.rejects(session.observe(expected.slice(3), { pose }), { code: "BAD_REQUEST" });
  await assert.rejects(session.observe(Array.from(expected), { pose }), { code: "BAD_REQUEST" });
  await assert.rejects(session.observe(expected, { keys: ["forwart"], pose }), { code: "ENGINE" });
  if (pose) await assert.rejects(session.observe(expected), { code: "ENGINE" });
  assert.equal((await session.observe(expected, { pose })).seq, 6);
  await Promise.all([session, twin].map((one) => one.close()));
});

test("a chunk is its steps by one request", async () => {
  const session = await client.open({ seed: 17 });
  const controls = [FORWARD, FORWARD, { keys: ["turn_left"] }, {}];
  for (const codec of ["raw", "latent", "jpeg", "none"]) {
    const [twin] = await session.fork(1);
    const steps = await twin.stepChunk(controls, { codec });
    assert.deepEqual(steps.map(({ seq }) => seq), [1, 2, 3, 4]);
    assert.equal(twin.last, steps[3]);
    if (client.world.unit_frames > 1) continue; // a step holds its control for the whole unit
    const [alone] = await session.fork(1);
    for (const [i, control] of controls.entries()) {
      assert.deepEqual(steps[i].frame, (await alone.step(control, { codec })).frame);
    }
    await Promise.all([twin, alone].map((one) => one.close()));
  }
  const early = session.step({}, { codec: "none" });
  const [later] = await session.stepChunk([FORWARD], { codec: "none" }); // in the order of the calls
  assert.deepEqual([(await early).seq, later.seq], [1, 2]);
  await session.close();
});

test("a chunk that is refused takes nothing, one that ends early what it reached", async () => {
  const session = await client.open({ seed: 18 });
  await assert.rejects(session.stepChunk([FORWARD, { keys: ["forwart"] }]), { code: "ENGINE" });
  await assert.rejects(session.stepChunk(Array(client.world.limits.chunk + 1).fill({})), {
    code: "RESOURCE_EXHAUSTED",
  });
  assert.equal(session.seq, 0);
  const late = session.stepChunk(Array(4).fill(FORWARD), { deadline: 0 });
  await assert.rejects(late, { code: "DEADLINE_EXCEEDED" });
  const taken = session.seq;
  assert.ok(taken < 4);
  assert.equal((await session.step(FORWARD)).seq, taken + 1);
  await session.close();
});

test("a continuous action is sent as its numbers", async () => {
  const session = await client.open({ seed: 19 });
  const { action: box } = client.world;
  if (box === null) {
    const refusal = { code: "ENGINE", rule: "this world takes no continuous action" };
    await assert.rejects(session.step({ action: Float32Array.of(0.5, -0.5) }), refusal);
    return session.close();
  }
  const [low, high, chunk] = await session.fork(3);
  const step = await low.step({ action: Float32Array.from(box.low) });
  assert.deepEqual((await chunk.stepChunk([{ action: box.low }]))[0].frame.data, step.frame.data);
  assert.notDeepEqual((await high.step({ action: box.high })).frame.data, step.frame.data);
  await assert.rejects(low.step({ action: [] }), { code: "BAD_REQUEST" });
  await assert.rejects(low.step({ action: box.high.map((number) => number + 1) }), { code: "ENGINE" });
  await Promise.all([session, low, high, chunk].map((one) => one.close()));
});

test("steps that are not awaited keep their order", async () => {
  const session = await client.open({ seed: 4 });
  const steps = await Promise.all(Array.from({ length: 8 }, () => session.step(FORWARD, { codec: "none" })));
  assert.deepEqual(steps.map((step) => step.seq), [1, 2, 3, 4, 5, 6, 7, 8]);
  await session.close();
});

test("a client that was cut off has its sessions back", async () => {
  const first = await Client.connect(ADDRESS);
  const session = await first.open({ seed: 6 });
  await session.step(FORWARD);
  await first.close({ keep: true });
  const second = await Client.connect(ADDRESS, { lease: first.lease });
  const found = second.sessions.get(session.name);
  assert.equal(found.seq, 1);
  assert.equal((await found.step(FORWARD)).seq, 2);
  await second.close();
});

test("refusals say why", async () => {
  const session = await client.open({ seed: 8 });
  await assert.rejects(session.step({ keys: ["forwart"] }), (error) => {
    assert.ok(error instanceof WorldsimError);
    assert.ok(["ENGINE", "BAD_REQUEST"].includes(error.code));
    assert.match(error.message, /forwart/);
    return true;
  });
  assert.equal((await session.step(FORWARD)).seq, 1);
  const typo = { op: "close", session: session.name, why: "typo" };
  await assert.rejects(client.request(typo), { code: "BAD_REQUEST" });
  await session.close();
  await assert.rejects(session.step(), { code: "UNKNOWN_SESSION" });
});
