// In a page that `javascript.py` opens: loads the model, then answers one request after the other. Model and WebAssembly
// are the files of the input element.
// Requests and answers are those of session.mjs, as base64.

import { answerRequest, describeSession, encodeAnswer } from "./session.mjs";

let ort, session;

async function openSession() {
  ort = await import("./ort/ort.wasm.min.mjs");
  const [model, wasm] = await Promise.all([...document.querySelector("input").files].map((file) => file.arrayBuffer()));
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.wasmPaths = new URL("ort/", document.baseURI).href;
  ort.env.wasm.numThreads = 1; // more threads need a page that is isolated from other origins
  session = await ort.InferenceSession.create(new Uint8Array(model), { executionProviders: ["wasm"] });
  const browser = navigator.userAgent.match(/Chrom\w*\/[\d.]+/)?.[0] ?? navigator.userAgent;
  return describeSession(session, { "onnxruntime-web": ort.env.versions.web, browser });
}

async function decodeBase64(text) {
  return (await fetch(`data:application/octet-stream;base64,${text}`)).arrayBuffer();
}

function encodeBase64(bytes) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(new Blob([bytes]));
  });
}

globalThis.load = async () => {
  try {
    return await encodeBase64(await openSession());
  } catch (error) {
    return encodeBase64(encodeAnswer({ error: String(error?.message ?? error) }));
  }
};

globalThis.answer = async (request) => encodeBase64(await answerRequest(ort, session, await decodeBase64(request)));
