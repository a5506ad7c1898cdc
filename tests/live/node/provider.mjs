// Runs oidc-provider, a published OpenID Connect server, unmodified, with its own pages to sign in:
// any name with any password. Its one argument is JSON, [{"port", "algorithm", "client"}], an issuer
// each. It says "ready", and ends with its input.

import { generateKeyPairSync } from 'node:crypto'
import process from 'node:process'
import Provider from 'oidc-provider'

const HOST = '127.0.0.1'
const KINDS = {
  RS256: ['rsa', { modulusLength: 2048 }],
  ES256: ['ec', { namedCurve: 'P-256' }],
  EdDSA: ['ed25519', {}],
}

const newKey = (alg) => {
  const { privateKey } = generateKeyPairSync(...KINDS[alg])
  return { ...privateKey.export({ format: 'jwk' }), alg, use: 'sig', kid: `key-${alg}` }
}

for (const { port, algorithm, client } of JSON.parse(process.argv[2])) {
  const provider = new Provider(`http://${HOST}:${port}`, {
    clients: [{ ...client, id_token_signed_response_alg: algorithm }],
    jwks: { keys: [newKey(algorithm)] },
    pkce: { required: () => true },
  })
  await new Promise((resolve) => provider.listen(port, HOST, resolve))
}
process.stdout.write('ready\n')
process.stdin.on('end', () => process.exit(0)).resume()
