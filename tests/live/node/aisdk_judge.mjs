// Lets the package `ai` judge recorded UI message streams: nothing of ours stands between.
// One JSON command a line on stdin, {"chunks"}; for each, in the same order, one JSON line on
// stdout: what its schemas refuse, what its fold fails at, the message that it leaves, and whether
// the package takes that message back.

import process from 'node:process'
import { text } from 'node:stream/consumers'
import { readUIMessageStream, safeValidateUIMessages, uiMessageChunkSchema } from 'ai'

const { validate } = uiMessageChunkSchema()

const words = async (chunk) => {
  const said = await validate(chunk)
  return said.success ? null : `${chunk.type}: ${said.error.message}`
}

/** Return what an application would hold after these chunks. */
const fold = async (chunks) => {
  const failures = []
  const stream = ReadableStream.from(chunks)
  const onError = (error) => failures.push(error.message)
  let message = null
  for await (const grown of readUIMessageStream({ stream, onError })) message = grown
  return { failures, message }
}

for (const line of (await text(process.stdin)).trimEnd().split('\n')) {
  const { chunks } = JSON.parse(line)
  const refused = (await Promise.all(chunks.map(words))).filter(Boolean)
  // An `error` chunk is told to whoever handles errors. It is no failure of the stream.
  const { failures, message } = await fold(chunks.filter((chunk) => chunk.type !== 'error'))
  const checked = await safeValidateUIMessages({ messages: [message] })
  const invalid = checked.success ? null : checked.error.message
  process.stdout.write(`${JSON.stringify({ refused, failures, message, invalid })}\n`)
}
