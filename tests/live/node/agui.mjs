// Drives the published HttpAgent, unmodified, for tests written in another language, and sends what
// other agents said through its verifier. One JSON command a line on stdin, {"id", "do", ...}; one
// JSON line for each answer on stdout, {"answer": id, ...}. It ends with its input.

import { createInterface } from 'node:readline'
import process from 'node:process'
import {
  HttpAgent,
  enforceEvents,
  runHttpRequest,
  transformChunks,
  transformHttpEventStream,
  verifyEvents,
} from '@ag-ui/client'
import { HttpAgent as OldHttpAgent } from '@ag-ui/client-0'

const agents = new Map()
let complaints = []

// What the client finds odd and mends by itself it only tells the console.
for (const level of ['log', 'info', 'warn', 'error']) {
  console[level] = (...words) => complaints.push(words.map(String).join(' '))
}

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`)
const bearer = (token) => ({ Authorization: `Bearer ${token}` })

const orders = {
  /** Open an agent for one thread; a name opened again begins anew. Old ones are of AG-UI 0.0.x. */
  open({ agent, url, token, threadId, isOld }) {
    const Agent = isOld ? OldHttpAgent : HttpAgent
    agents.set(agent, new Agent({ url, threadId, headers: bearer(token) }))
    return {}
  },

  /** Ask, and answer with all that an application could see of the run once it is over. */
  async run({ agent, messages, ...parameters }) {
    const asked = agents.get(agent)
    const events = []
    const failures = []
    asked.addMessages(messages)
    let newMessages = []
    try {
      const ended = await asked.runAgent(parameters, {
        onEvent: ({ event }) => void events.push(event),
        onRunFailed: ({ error }) => void failures.push(String(error)),
      })
      newMessages = ended.newMessages
    } catch (error) {
      failures.push(String(error))
    }
    return { events, failures, newMessages, messages: asked.messages, state: asked.state }
  },

  /** Let an application change what the agent has: its messages, its state, or both. */
  set({ agent, messages, state }) {
    if (messages !== undefined) agents.get(agent).setMessages(messages)
    if (state !== undefined) agents.get(agent).setState(state)
    return {}
  },

  /** Stop listening to the run under way. */
  abort({ agent }) {
    agents.get(agent).abortRun()
    return {}
  },

  /** Read events from an address through the client's pipeline, up to so many ends of runs. */
  replay({ url, token, ends }) {
    const leaving = new AbortController()
    const request = () => fetch(url, { headers: bearer(token), signal: leaving.signal })
    const raw = transformHttpEventStream(runHttpRequest(request))
    const verified = verifyEvents()(transformChunks()(enforceEvents()(raw)))
    const events = []
    return new Promise((resolve) => {
      const end = (failure) => {
        subscription?.unsubscribe()
        leaving.abort()
        resolve({ events, failures: failure === undefined ? [] : [failure] })
      }
      const subscription = verified.subscribe({
        next: (event) => {
          events.push(event)
          if (event.type === 'RUN_FINISHED' || event.type === 'RUN_ERROR') ends -= 1
          if (ends === 0) end()
        },
        error: (error) => end(String(error)),
        complete: () => end(),
      })
    })
  },
}

for await (const line of createInterface({ input: process.stdin })) {
  const { id, do: name, ...options } = JSON.parse(line)
  Promise.resolve()
    .then(() => orders[name](options))
    .then(
      (answer) => say({ answer: id, complaints, ...answer }),
      (error) => say({ answer: id, complaints, failure: String(error) }),
    )
    .finally(() => (complaints = []))
}
process.exit(0)
