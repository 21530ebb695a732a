// Node's fetch with fetch-retry. Usage: fetch_client.js URL COUNT OUT
import { writeFileSync } from "node:fs";
import builder from "fetch-retry";

const [url, count, out] = [process.argv[2], Number(process.argv[3]), process.argv[4]];
const retrying = builder(fetch, {
  retries: 40,
  retryDelay: 50,
  retryOn: [408, 429, 500, 502, 503, 504],
});
const lines = [];
let next = 0;

async function write(number) {
  const key = `fetch-${number}`;
  const answers = [];
  while (answers.length < 2) {
    let reply, text;
    try {
      reply = await retrying(url, {
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
