// What each page's driver speaks: one JSON command a line on stdin, {"id", "do", ...}; on stdout one
// JSON line for each answer, {"answer": id, ...}, and for whatever is reported, {"event", ...}.

import { createInterface } from 'node:readline'
import process from 'node:process'

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`)

export const report = (event, detail) => say({ event, ...detail })

/** The message of an error and of each of its causes: some clients put close codes into a cause. */
export function describe(error) {
  if (!(error instanceof Error)) return String(error)
  return error.cause === undefined ? error.message : `${error.message}: ${describe(error.cause)}`
}

/** Carry out commands, given by their names, until the input ends. */
export function obey(commands) {
  const carryOut = async (line) => {
    const { id, do: name, ...options } = JSON.parse(line)
    try {
      say({ answer: id, ...(await commands[name](options)) })
    } catch (error) {
      say({ answer: id, failure: describe(error) })
    }
  }
  const lines = createInterface({ input: process.stdin })
  lines.on('line', (line) => void carryOut(line))
  lines.on('close', () => process.exit(0))
  process.on('uncaughtException', (error) => {
    report('crash', { error: error.stack })
    process.exit(1)
  })
}
