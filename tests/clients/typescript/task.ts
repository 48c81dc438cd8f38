// Submits a task, follows its events, and prints its verdict: node task.js DAEMON REF PROMPT

import createClient from "openapi-fetch";
import type { components, paths } from "./kugetsu.js";

type Event = components["schemas"]["StreamLine"];

declare const process: { argv: string[] };

const [daemon = "", ref = "", prompt = ""] = process.argv.slice(2);
const client = createClient<paths>({ baseUrl: daemon });

/** The events of a task until it has ended. */
async function* events(task: string): AsyncGenerator<Event> {
  const { data, error } = await client.GET("/v1/tasks/{task}/events", {
    params: { path: { task } },
    parseAs: "stream",
  });
  if (!data) throw new Error(error?.detail);
  let rest = "";
  for await (const text of data.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) if (line) yield JSON.parse(line) as Event;
  }
}

// What is not valid is refused with a code.
const { error: refusal } = await client.POST("/v1/tasks", { body: { prompt: "", ref } });
console.log(`refused: ${refusal?.status} ${refusal?.code}`);

const { data: submitted, error } = await client.POST("/v1/tasks", {
  body: { prompt, ref, limits: { timeout_seconds: 600 } },
});
if (error) throw new Error(`${error.code}: ${error.detail}`);
// With `stream: true`, the answer would be the events.
if (typeof submitted === "string" || !("task_id" in submitted)) throw new Error("this is no task");

for await (const event of events(submitted.task_id)) {
  if (event.type === "message_end") console.log(`text: ${event.text}`);
  if (event.type === "agent_end") console.log(`end: ${event.verdict}, ${event.steps} step`);
}

const { data: task } = await client.GET("/v1/tasks/{task}", { params: { path: { task: submitted.task_id } } });
console.log(`task: ${task?.state} ${task?.verdict}`);

const { data: sessions } = await client.GET("/v1/sessions", { params: { query: { state: "completed", limit: 10 } } });
console.log(`sessions: ${sessions?.sessions.map((session) => session.ref).join(" ")}`);
