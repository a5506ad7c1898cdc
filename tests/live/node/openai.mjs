// Asks with OpenAI's published client, unmodified, for tests written in another language. One JSON
// command on stdin, {"do", "baseURL", "apiKey", "body", "id"?, "after"?}; one JSON line on stdout.

import process from 'node:process'
import { text } from 'node:stream/consumers'
import OpenAI from 'openai'

const order = JSON.parse(await text(process.stdin))
const { baseURL, apiKey, body, id, after } = order
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 })

/** Hear a stream of the client's own helpers to its end. */
async function heard(stream) {
  const events = []
  for await (const event of stream) events.push(event)
  return { events }
}

const orders = {
  /** A completion, whole. */
  completion: async () => ({ final: await client.chat.completions.create(body) }),

  /** A completion, streamed, as the client sums it up. */
  async completionStream() {
    const stream = client.chat.completions.stream(body)
    const { events } = await heard(stream)
    return { events, final: await stream.finalChatCompletion() }
  },

  /** A response, streamed, as the client sums it up. */
  async responseStream() {
    const stream = client.responses.stream(body)
    const { events } = await heard(stream)
    return { events, final: await stream.finalResponse() }
  },

  /** The same response again, after an event: the client asks for all and leaves out what it has. */
  async responseAfter() {
    const stream = client.responses.stream({ response_id: id, starting_after: after })
    const { events } = await heard(stream)
    return { events, final: await stream.finalResponse() }
  },

  /** The events of a response after one of them, which the server leaves out. */
  async responseEvents() {
    return heard(await client.responses.retrieve(id, { stream: true, starting_after: after }))
  },

  /** What a response was asked, an item a page. */
  async inputItems() {
    const items = []
    for await (const item of client.responses.inputItems.list(id, { limit: 1 })) items.push(item)
    return { items }
  },
}

let answer
try {
  answer = await orders[order.do]()
} catch (error) {
  const { name, status, code, type, param, message } = error
  answer = { error: { name, status, code, type, param, message } }
}
process.stdout.write(`${JSON.stringify(answer)}\n`)
