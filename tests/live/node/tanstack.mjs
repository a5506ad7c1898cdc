// Drives the published ChatClient and webSocket() adapter, both unmodified, for tests written in
// another language. One JSON command a line on stdin, {"id", "do", ...}; on stdout one JSON line for
// each answer, {"answer": id, ...}, and for whatever the client lets an application see, {"event", ...}.
// It ends with its input.

import { ChatClient, fetchHttpStream, fetchServerSentEvents, webSocket } from '@tanstack/ai-client'
import WebSocket from 'ws'
import { describe, obey, report } from './page.mjs'

const sockets = new Set()
const turns = new Set()
let socketCount = 0
let pageCount = 0
let idleWaiters = []
let adapter
let client

/** `ws` as a browser's WebSocket: an error without a handler kills no page; and all of it is seen. */
class ObservedSocket extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols)
    const socket = ++socketCount
    sockets.add(this)
    this.number = socket
    const { searchParams } = new URL(url)
    report('socket', {
      socket,
      state: 'connecting',
      runId: searchParams.get('runId'),
      offset: searchParams.get('offset'),
    })
    this.on('open', () => report('socket', { socket, state: 'open', protocol: this.protocol }))
    this.on('error', (error) => report('socket', { socket, state: 'error', error: describe(error) }))
    this.on('close', (code, reason) => {
      sockets.delete(this)
      report('socket', { socket, state: 'closed', code, reason: String(reason) })
    })
  }

  send(data, ...rest) {
    report('frame', { socket: this.number, frame: JSON.parse(data) })
    super.send(data, ...rest)
  }
}

/** A URL function has to be synchronous, so a page keeps tickets in stock; each buys one socket. */
function ticketed(url, tickets) {
  return () => {
    const next = new URL(url)
    next.searchParams.set('ticket', tickets.shift() ?? 'out-of-stock')
    return String(next)
  }
}

function state() {
  return {
    status: client.getStatus(),
    isLoading: client.getIsLoading(),
    error: client.getError() ? describe(client.getError()) : null,
    connectionStatus: client.getConnectionStatus(),
    runId: client.getCurrentRunId(),
    messages: client.getMessages(),
  }
}

const isIdle = () => turns.size === 0 && !client.getIsLoading()

function wakeIdleWaiters() {
  if (!isIdle()) return
  for (const wake of idleWaiters.splice(0)) wake()
}

/**
 * Forget the page that was open, as a reload does: its sockets break, its memory is gone. The sockets
 * go first, for a client that is disposed of with an open one sends an abort, and a reload does not.
 */
function leavePage() {
  pageCount += 1
  for (const socket of sockets) socket.terminate()
  client?.dispose()
  turns.clear()
}

function newClient({ threadId, resume, persistence, pageSize }) {
  const page = pageCount
  const tell = (event, detail) => page === pageCount && report(event, detail)
  return new ChatClient({
    threadId,
    connection: adapter,
    ...(persistence && { persistence: true }),
    ...(pageSize && { history: { pageSize } }),
    ...(resume && { initialResumeSnapshot: { resumeState: { threadId, runId: resume } } }),
    onChunk: (chunk) => tell('chunk', { chunk }),
    onStatusChange: (status) => tell('status', { status }),
    onMessagesChange: (messages) => tell('messages', { ids: messages.map(({ id }) => id) }),
    onInterruptStateChange: ({ interrupts }) =>
      tell('interrupts', { ids: interrupts.map(({ id, canResolve }) => [id, canResolve]) }),
    onErrorChange: (error) => error && tell('error', { error: describe(error) }),
    onFinish: (message) => tell('finish', { message }),
    onRunIdChange: (runId) => tell('run', { runId }),
    onConnectionStatusChange: (status) => tell('connection', { status }),
    onLoadingChange: (isLoading) => {
      tell('loading', { isLoading })
      // The client tells before it has tidied up; look again when its own code has run.
      setImmediate(wakeIdleWaiters)
    },
  })
}

async function watchTurn(turn) {
  turns.add(turn)
  try {
    await turn
  } catch (error) {
    report('rejected', { error: describe(error) })
  } finally {
    turns.delete(turn)
    wakeIdleWaiters()
  }
}

/** Replay a run by the adapter's own joinRun; how it ended is part of the answer. */
async function join({ runId }) {
  const chunks = []
  try {
    for await (const chunk of adapter.joinRun(runId)) {
      chunks.push(chunk)
      report('joined', { runId, chunk })
    }
    return { chunks, error: null }
  } catch (error) {
    return { chunks, error: describe(error) }
  }
}

/** An adapter for `/agui`: over server-sent events, or over JSON lines. */
function httpAdapter({ url, token, kind }) {
  const headers = { Authorization: `Bearer ${token}` }
  if (kind === 'events') return fetchServerSentEvents(url, { headers })
  return fetchHttpStream(url, { headers: { ...headers, Accept: 'application/x-ndjson' } })
}

const commands = {
  open({ url, token, tickets, threadId, resume, kind, persistence, pageSize }) {
    leavePage()
    if (kind !== undefined) {
      adapter = httpAdapter({ url, token, kind })
      client = newClient({ threadId, resume, persistence, pageSize })
      if (persistence || resume) client.attach()
      return {}
    }
    const protocols = token ? ['agui.v1', `bearer.${token}`] : ['agui.v1']
    const where = tickets ? ticketed(url, tickets) : url
    adapter = webSocket(where, { protocols, WebSocketImpl: ObservedSocket })
    client = newClient({ threadId, resume })
    client.attach()
    return {}
  },
  send({ text, forwardedProps }) {
    void watchTurn(client.sendMessage(text, forwardedProps))
    return { runId: client.getCurrentRunId() }
  },
  reload() {
    void watchTurn(client.reload())
    return { runId: client.getCurrentRunId() }
  },
  stop() {
    client.stop()
    return {}
  },
  join,
  async hydrate({ threadId }) {
    return { hydrated: await adapter.hydrate(threadId) }
  },
  async older() {
    await client.loadOlderMessages()
    return { hasOlder: client.getHasOlderMessages() }
  },
  resolve({ payload }) {
    for (const interrupt of client.getInterrupts()) interrupt.resolveInterrupt(payload)
    return {}
  },
  state,
  async idle() {
    if (!isIdle()) await new Promise((resolve) => idleWaiters.push(resolve))
    return state()
  },
}

obey(commands)
