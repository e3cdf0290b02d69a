// Requests to the server that the page came from.

import { unpack } from "./figure.js";

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

const K = 64; // next words that are asked for: some words are shown that others outdid

/** Read a text with edits: trace, next words, and those without the edits. `base` is where the model's paths begin. */
export async function read(text, edits, base) {
  const sent = edits.map(({ model, ...edit }) => edit); // the server knows the model by its path
  let found;
  try {
    found = await Promise.all([
      ask(`${base}trace`, { text, k: K, edits: sent }),
      sent.length ? ask(`${base}predict`, { text, k: K }) : null,
    ]);
  } catch (error) {
    if (error.status !== 422) throw error;
    return { ...await begun(text, edits, base, error), text };
  }
  const [trace, plain] = found;
  return { text, trace: unpack(trace), next: trace.next, before: plain && plain.words, line: "" };
}

/** Read a text whose last word is only begun: the gates of what stands before, and how the word may end. */
async function begun(text, edits, base, error) {
  const [, whole, last] = text.match(/^([^]*?)(\S+)$/) || [];
  if (!whole?.trim()) {
    return { trace: null, next: [], before: null, line: text.trim() ? error.message : "Type a word that the model knows." };
  }
  const first = await read(whole.trimEnd(), edits, base);
  if (!first.trace) return { ...first, line: first.line || error.message };
  const { words } = await ask(`${base}predict`, { text, k: K, complete: true });
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
