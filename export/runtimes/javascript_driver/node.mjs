// node node.mjs MODEL: requests on standard input, answers on standard output, each after its length as a u32.

import { readSync, writeSync } from "node:fs";
import ort from "onnxruntime-node";
import { answerRequest, describeSession, encodeAnswer } from "./session.mjs";

const INPUT = 0;
const OUTPUT = 1;

function read(size) {
  const bytes = new Uint8Array(size);
  for (let done = 0; done < size; ) {
    const count = readSync(INPUT, bytes, done, size - done, null);
    if (count === 0) process.exit(0);
    done += count;
  }
  return bytes.buffer;
}

function write(answer) {
  const size = new Uint8Array(new Uint32Array([answer.length]).buffer);
  for (const bytes of [size, answer]) {
    for (let done = 0; done < bytes.length; ) done += writeSync(OUTPUT, bytes, done);
  }
}

let session;
try {
  session = await ort.InferenceSession.create(process.argv[2], { executionProviders: ["cpu"] });
} catch (error) {
  write(encodeAnswer({ error: String(error?.message ?? error) }));
  process.exit(0);
}
write(describeSession(session, { "onnxruntime-node": ort.env.versions.node, node: process.version }));
for (;;) {
  const [size] = new Uint32Array(read(4));
  write(await answerRequest(ort, session, read(size)));
}
