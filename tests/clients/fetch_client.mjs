// Node's fetch with promise-retry. Usage: NODE_PATH=/usr/share/nodejs fetch_client.mjs URL COUNT OUT
import { writeFileSync } from "node:fs";
import { createRequire } from "node:module";

// Debian's copy, which only `require` finds.
const retrying = createRequire(import.meta.url)("promise-retry");

const [url, count, out] = [process.argv[2], Number(process.argv[3]), process.argv[4]];
const bounds = { retries: 40, factor: 1.5, minTimeout: 50, maxTimeout: 1000 };
const transient = [408, 429, 500, 502, 503, 504];
const lines = [];
let next = 0;

// Retries what has no answer, and what is answered with a status that may pass.
function send(options) {
  return retrying(async (retry) => {
    const reply = await fetch(url, options).catch(retry);
    return transient.includes(reply.status) ? retry(new Error(`${reply.status}`)) : reply;
  }, bounds);
}

async function write(number) {
  const key = `fetch-${number}`;
  const answers = [];
  while (answers.length < 2) {
    let reply, text;
    try {
      reply = await send({
        method: "POST",
        headers: {
          Authorization: "Bearer demo-token",
          "Content-Type": "application/json",
          "Idempotency-Key": key,
        },
        body: JSON.stringify({ first_name: "Load", email: `${key}@example.com` }),
      });
      text = await reply.text();
    } catch {
      // A body that was cut, which the library leaves to its caller; or retries used up.
      continue;
    }
    if (reply.status === 201 && text === "") continue;
    if (reply.status !== 201) throw new Error(`${key}: ${reply.status} ${text}`);
    answers.push(text);
  }
  if (answers[0] !== answers[1]) throw new Error(`${key}: two answers: ${answers}`);
  lines.push(`${key} ${answers[0]}\n`);
}

async function client() {
  while (next < count) await write(next++);
}

await Promise.all([client(), client(), client(), client()]);
writeFileSync(out, lines.join(""));
