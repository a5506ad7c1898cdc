// Lets the published client judge recorded streams: no agent, no network, nothing of ours between.
// One JSON command a line on stdin, {"events", "messages"}; for each, in the same order, one JSON
// line on stdout: what its schemas, its verifier and its own fold say.

import process from 'node:process'
import { text } from 'node:stream/consumers'
import { defaultApplyEvents, enforceEvents, transformChunks, verifyEvents } from '@ag-ui/client'
import { EventSchema, MessageSchema } from '@ag-ui/core/schemas'
import { from, tap } from 'rxjs'

// What it finds odd and mends by itself it only tells the console.
for (const level of ['log', 'info', 'warn', 'error']) console[level] = () => {}

const words = (value, schema) => {
  const parsed = schema.safeParse(value)
  const first = parsed.error?.issues[0]
  return first && `${value.type ?? value.role}.${first.path.join('.')}: ${first.message}`
}

/** Send events through what stands between a transport and an application, as HttpAgent does. */
const verify = (events) => {
  const verdict = { taken: -1, failure: null, verified: [] }
  from(events)
    .pipe(tap(() => (verdict.taken += 1)), enforceEvents(), transformChunks(), verifyEvents())
    .subscribe({
      next: (event) => verdict.verified.push(event),
      error: (error) => (verdict.failure = String(error)),
      complete: () => (verdict.taken = events.length),
    })
  return verdict
}

/** Return the messages that an application would hold after these events. */
const fold = async (events) => {
  const agent = { messages: [], pendingInterrupts: [] }
  let messages = []
  const input = { threadId: 't', runId: 'r', messages, state: {}, tools: [], context: [] }
  await defaultApplyEvents(input, from(events), agent, []).forEach((mutation) => {
    messages = mutation.messages ?? messages
  })
  return messages
}

// Not by readline, which ends a line at U+2028, too.
for (const line of (await text(process.stdin)).trimEnd().split('\n')) {
  const { events, messages } = JSON.parse(line)
  const { verified, ...verdict } = verify(events)
  const malformed = [
    ...events.map((event) => words(event, EventSchema)),
    ...messages.map((message) => words(message, MessageSchema)),
  ].filter(Boolean)
  const folded = verdict.failure === null ? await fold(verified) : []
  process.stdout.write(`${JSON.stringify({ ...verdict, malformed, messages: folded })}\n`)
}
