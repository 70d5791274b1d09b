// One batch in, the arrays of the outputs out, as bytes: the same in Node and in a browser.
//
//   request   u32 rows, u32 columns, then i64[rows, columns] input_ids and i64[rows, columns] attention_mask
//   answer    u32 length of a JSON text, the text, zeros up to a multiple of 4, then the arrays that the text names
//
// All numbers are little-endian.

export function encodeAnswer(record, arrays = []) {
  const text = new TextEncoder().encode(JSON.stringify(record));
  const start = 4 + Math.ceil(text.length / 4) * 4;
  const bytes = new Uint8Array(start + arrays.reduce((sum, array) => sum + array.byteLength, 0));
  new DataView(bytes.buffer).setUint32(0, text.length, true);
  bytes.set(text, 4);
  let offset = start;
  for (const array of arrays) {
    bytes.set(new Uint8Array(array.buffer, array.byteOffset, array.byteLength), offset);
    offset += array.byteLength;
  }
  return bytes;
}

export function describeSession(session, versions) {
  return encodeAnswer({ outputs: session.outputNames, versions });
}

export async function answerRequest(ort, session, request) {
  try {
    const [rows, columns] = new Uint32Array(request, 0, 2);
    const tensor = (start) =>
      new ort.Tensor("int64", new BigInt64Array(request, start, rows * columns), [rows, columns]);
    const feeds = { input_ids: tensor(8), attention_mask: tensor(8 + 8 * rows * columns) };
    const results = await session.run(feeds);
    const outputs = session.outputNames.map((name) => results[name]);
    return encodeAnswer(
      { arrays: outputs.map(({ type, dims }) => ({ type, dims })) },
      outputs.map((output) => output.data),
    );
  } catch (error) {
    return encodeAnswer({ error: String(error?.message ?? error) });
  }
}
