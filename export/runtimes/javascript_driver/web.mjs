// In a page that `javascript.py` serves: fetches the model, then one request after the other.

import * as ort from "/ort/ort.wasm.min.mjs";
import { answerRequest, describeSession, encodeAnswer } from "/session.mjs";

const post = (body) => fetch("/answer", { method: "POST", body });

async function main() {
  ort.env.wasm.wasmPaths = "/ort/";
  ort.env.wasm.numThreads = 1; // more of them need a page that is isolated from other origins
  let session;
  try {
    const model = new Uint8Array(await (await fetch("/model")).arrayBuffer());
    session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  } catch (error) {
    await post(encodeAnswer({ error: String(error?.message ?? error) }));
    return;
  }
  const browser = navigator.userAgent.match(/Chrom\w*\/[\d.]+/)?.[0] ?? navigator.userAgent;
  await post(describeSession(session, { "onnxruntime-web": ort.env.versions.web, browser }));
  for (;;) {
    const response = await fetch("/request");
    if (response.status !== 200) return;
    await post(await answerRequest(ort, session, await response.arrayBuffer()));
  }
}

main();
