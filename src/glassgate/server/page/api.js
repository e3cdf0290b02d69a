// Requests to the server that the page came from; traces are decoded here.

let token = "";

export function useToken(value) {
  token = value;
}

/** Send a request; throws an Error with the server's line, its status in `status`. */
export async function ask(path, body) {
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  const options = body === undefined ? { headers } : {
    method: "POST", headers: { ...headers, "content-type": "application/json" }, body: JSON.stringify(body),
  };
  const answer = await fetch(path, options);
  const content = await answer.json();
  if (answer.ok) return content;
  throw Object.assign(new Error(content.error.message), { status: answer.status });
}

/** The float32 numbers of a matrix [steps, units], row by row. */
function unpack({ shape, float32 }) {
  const bytes = Uint8Array.from(atob(float32), (c) => c.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const numbers = Float32Array.from({ length: bytes.length / 4 }, (_, n) => view.getFloat32(4 * n, true));
  return { steps: shape[0], units: shape[1], numbers };
}

const K = 64; // next words that are asked for: some words are shown that others outdid

/** Read a text with edits: trace, next words, and those without the edits. */
export async function read(text, edits) {
  let found;
  try {
    found = await Promise.all([
      ask("trace", { text, k: K, edits }),
      edits.length ? ask("predict", { text, k: K }) : null,
    ]);
  } catch (error) {
    if (error.status !== 422) throw error;
    return { ...await begun(text, edits, error), text };
  }
  const [trace, plain] = found;
  for (const layer of trace.layers) {
    for (const name in layer.values) layer.values[name] = unpack(layer.values[name]);
  }
  return { text, trace, next: trace.next, before: plain && plain.words, line: "" };
}

/** Read a text whose last word is only begun: the gates of what stands before, and how the word may end. */
async function begun(text, edits, error) {
  const [, whole, last] = text.match(/^([^]*?)(\S+)$/) || [];
  if (!whole?.trim()) {
    return { trace: null, next: [], before: null, line: text.trim() ? error.message : "Type a word that the model knows." };
  }
  const first = await read(whole.trimEnd(), edits);
  if (!first.trace) return { ...first, line: first.line || error.message };
  const { words } = await ask("predict", { text, k: K, complete: true });
  if (!words.length) return { ...first, line: error.message };
  return { trace: first.trace, next: words, before: null, line: `“${last}…” is begun: these words would complete it.` };
}

/** A first text, of words that the model itself puts one after the other. */
export async function opening() {
  let text = "the";
  try {
    for (let n = 0; n < 8; n += 1) {
      const [best] = (await ask("predict", { text, k: 1 })).words;
      if (!best || best.word.startsWith("<")) break;
      text += ` ${best.word}`;
    }
    return text;
  } catch {
    return "";
  }
}
