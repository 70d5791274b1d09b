// In a page that `javascript.py` serves: fetches the model, then one request after the other.
// Every path is relative to the page's own, which holds a secret.

import { answerRequest, describeSession, encodeAnswer } from "./session.mjs";

const post = (body) => fetch("answer", { method: "POST", body });

async function open() {
  const ort = await import("./ort/ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = new URL("ort/", document.baseURI).href;
  ort.env.wasm.numThreads = 1; // more of them need a page that is isolated from other origins
  const model = new Uint8Array(await (await fetch("model")).arrayBuffer());
  return [ort, await ort.InferenceSession.create(model, { executionProviders: ["wasm"] })];
}

async function main() {
  const [ort, session] = await open();
  const browser = navigator.userAgent.match(/Chrom\w*\/[\d.]+/)?.[0] ?? navigator.userAgent;
  await post(describeSession(session, { "onnxruntime-web": ort.env.versions.web, browser }));
  for (;;) {
    const response = await fetch("request");
    if (response.status !== 200) return;
    await post(await answerRequest(ort, session, await response.arrayBuffer()));
  }
}

main().catch((error) => post(encodeAnswer({ error: String(error?.message ?? error) })));
