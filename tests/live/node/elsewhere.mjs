// What a page of another origin does with the gateway: the published clients, unmodified, and the
// browser's own means. A test bundles this, serves it to a browser, and calls `elsewhere`.

import { HttpAgent } from '@ag-ui/client'
import { ChatClient, fetchServerSentEvents, xhrServerSentEvents } from '@tanstack/ai-client'

const bearer = (token) => ({ Authorization: `Bearer ${token}` })
const question = 'hello there'

/** What a fetch comes to that the browser may not show to the page. */
const REFUSED = 'refused by the browser'

const tell = async (asking) => {
  try {
    const answer = await asking
    return [answer.status, answer.headers.get('retry-after'), await answer.text()]
  } catch {
    return [REFUSED, null, '']
  }
}

globalThis.elsewhere = {
  /** Ask by AG-UI's client, and return the answer. */
  async agui({ url, token }) {
    const agent = new HttpAgent({ url: `${url}/agui`, threadId: 'agui', headers: bearer(token) })
    agent.addMessage({ id: 'q', role: 'user', content: question })
    const { newMessages } = await agent.runAgent()
    return newMessages.map((message) => message.content).join('')
  },

  /** Ask by TanStack's client over server-sent events, and return the answer. */
  async tanstack({ url, token }) {
    const connection = fetchServerSentEvents(`${url}/agui`, { headers: bearer(token) })
    const client = new ChatClient({ threadId: 'tanstack', connection })
    await client.sendMessage(question)
    const { parts } = client.getMessages().at(-1)
    return parts.map((part) => part.content ?? '').join('')
  },

  /** Ask by each of TanStack's connections, then for the thread and for its run: the answers. */
  async hydration({ url, token }) {
    const answers = []
    for (const connect of [fetchServerSentEvents, xhrServerSentEvents]) {
      const threadId = `hydration-${answers.length}`
      const connection = connect(`${url}/agui`, { headers: bearer(token) })
      let runId
      const onChunk = (chunk) => (runId = chunk.runId ?? runId)
      await new ChatClient({ threadId, connection, onChunk }).sendMessage(question)
      const { messages } = await connection.hydrate(threadId)
      answers.push(messages.at(-1).parts.map((part) => part.content).join(''))
      let joined = ''
      for await (const chunk of connection.joinRun(runId)) joined += chunk.delta ?? ''
      answers.push(joined)
    }
    return answers
  },

  /** Make, read, rename and delete a thread, and read its events: the statuses. */
  async rest({ url, token }) {
    const headers = { ...bearer(token), 'Content-Type': 'application/json', 'X-Request-Id': 'mine' }
    const ask = (method, path, body) =>
      fetch(url + path, { method, headers, body: body && JSON.stringify(body) })
    const statuses = [
      (await ask('POST', '/api/threads', { threadId: 'rest' })).status,
      (await ask('GET', '/api/threads/rest')).status,
      (await ask('HEAD', '/api/threads/rest')).status,
      (await ask('PATCH', '/api/threads/rest', { title: 'new' })).status,
    ]
    const leaving = new AbortController()
    const { signal } = leaving
    const events = await fetch(`${url}/api/threads/agui/events`, { headers, signal })
    const { value } = await events.body.getReader().read()
    leaving.abort()
    statuses.push(events.status, new TextDecoder().decode(value).slice(0, 4))
    statuses.push((await ask('DELETE', '/api/threads/rest')).status)
    return statuses
  },

  /** Ask so much that the gateway refuses, without a credential and with it: what is told. */
  async refusals({ url, token }) {
    const none = await tell(fetch(`${url}/api/me`))
    let last = []
    for (let number = 0; number < 101; number += 1) {
      last = await tell(fetch(`${url}/api/tickets`, { method: 'POST', headers: bearer(token) }))
      if (last[0] !== 200) break
    }
    return [none, last]
  },

  /** Buy a ticket, and return whom it opens a socket for. */
  async ticket({ url, token }) {
    const bought = await fetch(`${url}/api/tickets`, { method: 'POST', headers: bearer(token) })
    const { ticket } = await bought.json()
    return new Promise((resolve) => {
      const address = `${url.replace('http', 'ws')}/ws?ticket=${ticket}`
      const socket = new WebSocket(address, ['agui.v1'])
      socket.onopen = () => socket.send('{"type":"hello","v":1}')
      socket.onclose = ({ reason }) => resolve(reason)
      socket.onmessage = ({ data }) => {
        const frame = JSON.parse(data)
        if (frame.type !== 'welcome') return
        resolve(frame.userId)
        socket.close()
      }
    })
  },

  /** Ask with whatever cookies the browser has for the gateway. */
  cookie: ({ url }) => tell(fetch(`${url}/api/me`, { credentials: 'include' })),

  /** Ask with a token, as every page may try. */
  plain: ({ url, token }) => tell(fetch(`${url}/api/me`, { headers: bearer(token) })),

  /** Load the gateway's page into a frame; what came is for the test to look at. */
  frame: ({ url }) =>
    new Promise((resolve) => {
      const frame = document.createElement('iframe')
      frame.src = `${url}/`
      frame.onload = () => resolve(true)
      document.body.append(frame)
    }),
}
