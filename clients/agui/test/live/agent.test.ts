import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, expect, test } from "vitest";

import { HttpAgent } from "../../src/index.js";
import { Gateway } from "../../../typescript/test/live/server.js";

let gateway: Gateway;
let token: string;

beforeAll(async () => {
  gateway = await Gateway.start();
  token = await gateway.token("ada");
});

afterAll(async () => {
  await gateway.remove();
});

const root = () => `http://127.0.0.1:${String(gateway.port)}`;
const bearer = () => ({ Authorization: `Bearer ${token}` });
const agentOf = (threadId: string) =>
  new HttpAgent({ url: `${root()}/agui`, threadId, headers: bearer() });

const say = (agent: HttpAgent, content: string, id: string = randomUUID()) => {
  agent.addMessage({ id, role: "user", content });
  return id;
};
const outline = (agent: HttpAgent) => agent.messages.map(({ content }) => content);

/** What the gateway has of a thread. */
const kept = async (threadId: string) => {
  const answer = await fetch(`${root()}/api/threads/${threadId}`, { headers: bearer() });
  const { messages } = (await answer.json()) as { messages: { content: string }[] };
  return messages.map(({ content }) => content);
};

/** Resolves when an agent shows the beginning of an answer. */
const begun = (agent: HttpAgent) =>
  new Promise<void>((resolve) => {
    agent.subscribe({
      onTextMessageContentEvent: () => {
        resolve();
      },
    });
  });

test("abortRun stops the run, and its end follows", async () => {
  const agent = agentOf("stopped");
  say(agent, "count 10000 every 20ms");
  const speaks = begun(agent);
  const ends: unknown[] = [];
  const asked = agent.runAgent(
    { runId: "stopped" },
    { onRunFinishedEvent: ({ event }) => void ends.push(event.outcome) },
  );
  await speaks;
  agent.abortRun();
  await asked;
  expect(ends).toEqual([{ type: "cancelled" }]);
  const run = await fetch(`${root()}/api/runs/stopped`, { headers: bearer() });
  expect(await run.json()).toMatchObject({ state: "ended", outcome: "cancelled" });
});

test("connectAgent replays a thread that nobody used, one that ended, and one that goes on", async () => {
  const first = agentOf("joined");
  await first.connectAgent();
  expect(first.messages).toEqual([]);
  say(first, "count 2 every 1ms");
  await first.runAgent();

  const second = agentOf("joined");
  await second.connectAgent();
  expect(outline(second)).toEqual(["count 2 every 1ms", "1 2 "]);

  say(first, "count 10000 every 20ms");
  const speaks = begun(first);
  const asked = first.runAgent();
  await speaks;
  const third = agentOf("joined");
  const joins = begun(third);
  const joined = third.connectAgent();
  await joins;
  third.abortRun();
  await Promise.all([asked, joined]);
  expect(outline(third)).toEqual(outline(first));
  expect(outline(third)).toEqual(await kept("joined"));
});

test("an edit, a regenerate of an earlier question and of the last one take back what followed", async () => {
  const agent = agentOf("edited");
  const ids = [];
  for (const content of ["count 1 every 1ms", "count 2 every 1ms"]) {
    ids.push(say(agent, content));
    await agent.runAgent();
  }
  agent.setMessages(agent.messages.slice(0, 3)); // without the last answer
  await agent.runAgent();
  expect(outline(agent)).toEqual(["count 1 every 1ms", "1 ", "count 2 every 1ms", "1 2 "]);
  expect(await kept("edited")).toEqual(outline(agent));

  agent.setMessages(agent.messages.slice(0, 2)); // edits the second question
  say(agent, "count 3 every 1ms");
  await agent.runAgent();
  expect(await kept("edited")).toEqual(["count 1 every 1ms", "1 ", "count 3 every 1ms", "1 2 3 "]);

  const back = agentOf("edited"); // on another device, after a reload
  await back.connectAgent();
  back.setMessages(back.messages.slice(0, 1));
  await back.runAgent();
  expect(await kept("edited")).toEqual(["count 1 every 1ms", "1 "]);
  expect(outline(back)).toEqual(await kept("edited"));
});

test.each(["answer", "edit"])("connectAgent joins a new %s, and drops the old one", async (kind) => {
  const threadId = `new-${kind}`;
  const first = agentOf(threadId);
  const stopOnceItSpeaks = async (joining: HttpAgent, join: () => Promise<unknown>) => {
    const speaks = begun(joining);
    const joined = join();
    await speaks;
    joining.abortRun();
    await joined;
  };
  say(first, "count 1 every 1ms");
  await first.runAgent();
  say(first, "count 10000 every 20ms");
  await stopOnceItSpeaks(first, () => first.runAgent());

  first.setMessages(first.messages.slice(0, kind === "edit" ? 2 : 3));
  if (kind === "edit") say(first, "count 20000 every 20ms");
  const speaks = begun(first);
  const asked = first.runAgent();
  await speaks;
  const second = agentOf(threadId); // another device
  await stopOnceItSpeaks(second, () => second.connectAgent());
  await asked;
  expect(outline(second)).toEqual(await kept(threadId));
  expect(outline(first)).toEqual(await kept(threadId));
});

test("a clone stops its run and knows its thread", async () => {
  const agent = agentOf("cloned");
  say(agent, "count 1 every 1ms");
  await agent.runAgent();
  const clone = agent.clone();
  clone.setMessages([{ id: randomUUID(), role: "user", content: "count 10000 every 20ms" }]);
  const speaks = begun(clone);
  const asked = clone.runAgent();
  await speaks;
  clone.abortRun();
  await asked;
  await clone.connectAgent();
  expect(outline(clone)[0]).toBe("count 10000 every 20ms");
  expect(outline(clone)).toEqual(await kept("cloned"));
});
