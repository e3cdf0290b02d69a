// Requests to the server that the page came from.

import { unpack } from "./figure.js";

let token = "";

export function useToken(value) {
  token = value;
}

const failed = (line, told) => Object.assign(new Error(line), told);

/** Send a request; throws an Error with the server's line: its status in `status`, and in `retry` after how many seconds to ask again. */
export async function ask(path, body) {
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  const options = body === undefined ? { headers } : {
    method: "POST", headers: { ...headers, "content-type": "application/json" }, body: JSON.stringify(body),
  };
  let answer;
  let content;
  try {
    answer = await fetch(path, options);
    content = await answer.json();
  } catch {
    throw failed("The server does not answer; it is asked again.", { status: 0, retry: 2 });
  }
  if (answer.ok) return content;
  const { status } = answer;
  const busy = status === 429 || status === 503;
  const line = busy ? "The server is busy; it is asked again." : content.error.message;
  throw failed(line, { status, retry: busy ? Number(answer.headers.get("retry-after")) || 1 : 0 });
}

const K = 64; // next words that are asked for: some words are shown that others outdid
const KEPT = 4; // predictions without edits that are kept: they stay the same while a gate is dragged
const kept = new Map();

async function unedited(text, complete, base) {
  const key = JSON.stringify([text, complete, base]);
  const { words } = kept.get(key) ?? await ask(`${base}predict`, { text, k: K, complete });
  kept.delete(key);
  kept.set(key, { words });
  if (kept.size > KEPT) kept.delete(kept.keys().next().value);
  return words;
}

/** Read a text with edits: trace, next words, and those without the edits. `base` is where the model's paths begin. */
export async function read(text, edits, base) {
  const sent = edits.map(({ model, ...edit }) => edit); // the server knows the model by its path
  const trace = await ask(`${base}trace`, { text, k: K, edits: sent, complete: true });
  const { words, next, begun } = trace;
  const before = sent.length ? await unedited(text, begun !== "", base) : null;
  return { trace: unpack(trace), words, next, begun, before };
}
