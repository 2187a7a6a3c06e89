// Encrypts passwords as OpenMeet's PdsCredentialService does.
//
//   run envelope.mjs KEY_BASE64 VERSION PASSWORD ...   -> [envelope ...]
//
// AES-256-GCM, 12 bytes of IV, no additional data; the envelope is a text.

import { createCipheriv, randomBytes } from 'node:crypto'

const [key, version, ...passwords] = process.argv.slice(2)
const seal = (password) => {
  const iv = randomBytes(12)
  const cipher = createCipheriv('aes-256-gcm', Buffer.from(key, 'base64'), iv)
  const ciphertext = Buffer.concat([cipher.update(password, 'utf8'), cipher.final()])
  return JSON.stringify({
    v: Number(version), iv: iv.toString('base64'), ciphertext: ciphertext.toString('base64'), authTag: cipher.getAuthTag().toString('base64'),
  })
}
console.log(JSON.stringify(passwords.map(seal)))
