// The Lua scripts: the steps of the protocol that Redis runs atomically. protocol.ts builds the input and parses the output of each script.
// Redis runs no other command while a script runs: https://redis.io/docs/latest/develop/programmability/eval-intro/
import { hash } from 'node:crypto'

export interface Script {
  readonly lua: string
  /** The SHA-1 digest of `lua`, which names the script in EVALSHA. */
  readonly sha: string
}

// How Redis stores claims: each scope is a hash, and each stream key is a field of that hash.
//   field   the newest claim on the key, an entry `token number expires member`
//   <field  the predecessor of that claim, `member number`, if another member made the predecessor
// A token orders the claims on a key. Tokens are times of Redis's own clock, in microseconds, so tokens still order
// claims after Redis has lost its data. `expires` has the same unit.
// Lua numbers are doubles, exact for these times until the year 2255: https://www.lua.org/manual/5.1/manual.html#2.2
const COMMON = `
local function clock ()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end
local now = clock()
local function integer (number) return string.format('%.0f', number) end
local function parseEntry (entry)
  local token, number, expires, member = string.match(entry, '^(%d+) (%d+) (%d+) (%S+)$')
  return tonumber(token), number, tonumber(expires), member
end
local function deleteEntry (key, field) redis.call('HDEL', key, field, '<' .. field) end
local function storeEntry (key, field, token, number, lease, member)
  redis.call('HSET', key, field, integer(token) .. ' ' .. number .. ' ' .. integer(now + lease * 1000) .. ' ' .. member)
  redis.call('PEXPIRE', key, lease)
end
`

/**
 * Makes a claim the newest on the key. If another member made the predecessor, asks that member to end the predecessor.
 *
 * Input:
 *   KEYS[1]  Redis key of the scope
 *   ARGV[1]  field
 *   ARGV[2]  member that claims
 *   ARGV[3]  number of the claim
 *   ARGV[4]  lease, in milliseconds
 *   ARGV[5]  prefix of the members' channels
 *   ARGV[6]  when the claim was made, in microseconds of Redis's clock as the member estimates that clock, or 0 if unknown
 *   ARGV[7]  tolerance, in microseconds: a claim that arrives later than this counts from ARGV[6] instead of from now
 *
 * Output:
 *   { token, now }  the claim is the newest, without a predecessor or with a predecessor of the same member
 *   { token, now, member, number, receivers, expired }  the predecessor's member was notified; `expired` is 1 if the
 *     predecessor's lease is over, else 0
 *   { token, now, member, number, receivers, expired, member, number, receivers }  nobody received the notification, so
 *     the predecessor's own predecessor was notified too
 *   { '', now }  a newer claim exists, and this late claim was not made
 *
 * Sends: `end replaced`, to be acknowledged with ARGV[3]
 */
export const CLAIM = script(`
local key, field, member, number, lease, channels = KEYS[1], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local madeAt = tonumber(ARGV[6])
local late = madeAt > 0 and now - madeAt > tonumber(ARGV[7])
local token = late and madeAt or now
local entry = redis.call('HGET', key, field)
if not entry then
  storeEntry(key, field, token, number, lease, member)
  return { integer(token), integer(now) }
end
local previousToken, previousNumber, expires, previous = parseEntry(entry)
-- The claims of one member count in the order of their numbers. In a Redis Cluster a claim that was first sent to the
-- wrong node arrives after newer claims.
if previous == member and tonumber(previousNumber) > tonumber(number) then return { '', integer(now) } end
if previousToken >= token then
  if late and previous ~= member then return { '', integer(now) } end
  token = previousToken + 1
end
storeEntry(key, field, token, number, lease, member)
if previous == member then return { integer(token), integer(now) } end
local function notify (receiver, endNumber)
  return redis.call('PUBLISH', channels .. receiver, 'end replaced ' .. member .. ' ' .. number .. ' ' .. endNumber)
end
local receivers = notify(previous, previousNumber)
local result = { integer(token), integer(now), previous, previousNumber, receivers, expires < now and 1 or 0 }
local before = receivers == 0 and redis.call('HGET', key, '<' .. field)
if not before then
  redis.call('HSET', key, '<' .. field, previous .. ' ' .. previousNumber)
  return result
end
-- The predecessor's process may have died while the predecessor was waiting. What the predecessor waited for may still be live.
local beforeMember, beforeNumber = string.match(before, '^(%S+) (%d+)$')
if beforeMember ~= member then
  for _, value in ipairs({ beforeMember, beforeNumber, notify(beforeMember, beforeNumber) }) do table.insert(result, value) end
end
return result
`)

/**
 * Restates claims: renews their leases, restores entries that Redis has lost, and reports the claims that newer claims have
 * replaced. Deletes the expired entries of the same scopes. Sends the member a beat on the member's own channel, so that
 * the member knows that the subscription works.
 *
 * Input:
 *   KEYS[n]            Redis key of the scope of claim n; claims of one scope follow each other
 *   KEYS[...]          further keys, which only choose the node of a Redis Cluster that answers
 *   ARGV[1]            member
 *   ARGV[2]            lease, in milliseconds
 *   ARGV[3]            prefix of the members' channels
 *   ARGV[4]            number of the beat
 *   ARGV[2 + 3n, ...]  field, number and token of claim n
 *
 * Output:
 *   { now, receivers, n, ... }  how many subscriptions received the beat, and each claim n that is not the newest
 *
 * Sends: `beat`; `end replaced` without an acknowledgement, for each older entry of another member
 */
export const RESTATE = script(`
local member, lease, channels = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local result = { integer(now), redis.call('PUBLISH', channels .. member, 'beat ' .. ARGV[4]) }
local function deleteExpired (key)
  local entries = redis.call('HGETALL', key)
  for i = 1, #entries, 2 do
    local _, _, expires = parseEntry(entries[i + 1])
    if expires and expires < now then deleteEntry(key, entries[i]) end
  end
end
for i, key in ipairs(KEYS) do
  local field, number, token = ARGV[2 + 3 * i], ARGV[3 + 3 * i], tonumber(ARGV[4 + 3 * i])
  if key ~= KEYS[i - 1] then deleteExpired(key) end
  local entry = field and redis.call('HGET', key, field)
  local storedToken, storedNumber, _, stored, newer
  if entry then
    storedToken, storedNumber, _, stored = parseEntry(entry)
    newer = stored ~= member and storedToken >= token or stored == member and tonumber(storedNumber) > tonumber(number)
  end
  if newer then
    table.insert(result, i)
  elseif field then
    storeEntry(key, field, token, number, lease, member)
    if entry and stored ~= member then
      redis.call('PUBLISH', channels .. stored, 'end replaced ' .. member .. ' 0 ' .. storedNumber)
    end
  end
end
return result
`)

/**
 * Deletes the entries of claims that are gone. Leaves an entry alone if a newer claim has replaced the claim.
 *
 * Input:
 *   KEYS[n]          Redis key of the scope of claim n
 *   ARGV[1]          member
 *   ARGV[2n, 1+2n]   field and number of claim n
 *
 * Output: nil
 */
export const RELEASE = script(`
for i, key in ipairs(KEYS) do
  local field, number = ARGV[2 * i], ARGV[1 + 2 * i]
  local entry = redis.call('HGET', key, field)
  if entry then
    local _, storedNumber, _, stored = parseEntry(entry)
    if stored == ARGV[1] and storedNumber == number then deleteEntry(key, field) end
  end
end
`)

/**
 * Asks every member except the caller to end claims in a scope.
 *
 * Input:
 *   KEYS[1]  Redis key of the scope
 *   ARGV[1]  member that evicts
 *   ARGV[2]  number of the eviction
 *   ARGV[3]  prefix of the members' channels
 *   ARGV[4]  prefix of the fields to evict, or '' for the whole scope
 *   ARGV[5]  when the eviction was made, as in CLAIM
 *   ARGV[6]  tolerance, as in CLAIM: an eviction that arrives later leaves claims alone that are newer than ARGV[5]
 *
 * Output:
 *   { member, numbers, receivers, ... }  for each notified member: the numbers of the claims to end, joined by commas
 *
 * Sends: `end evicted`, to be acknowledged with ARGV[2]
 */
export const EVICT = script(`
local member, number, channels, prefix, madeAt = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local late = madeAt > 0 and now - madeAt > tonumber(ARGV[6])
local numbers, result = {}, {}
local entries = redis.call('HGETALL', KEYS[1])
for i = 1, #entries, 2 do
  local storedToken, storedNumber, expires, stored = parseEntry(entries[i + 1])
  local meant = stored and string.sub(entries[i], 1, #prefix) == prefix and not (late and storedToken > madeAt)
  if meant and stored ~= member and expires >= now then
    numbers[stored] = numbers[stored] and numbers[stored] .. ',' .. storedNumber or storedNumber
  end
end
for receiver, list in pairs(numbers) do
  local receivers = redis.call('PUBLISH', channels .. receiver, 'end evicted ' .. member .. ' ' .. number .. ' ' .. list)
  for _, value in ipairs({ receiver, list, receivers }) do table.insert(result, value) end
end
return result
`)

/**
 * Counts the claims that all members except the caller have in a scope.
 *
 * Input:
 *   KEYS[1]  Redis key of the scope
 *   ARGV[1]  member that asks
 *
 * Output: the number of claims
 */
export const COUNT = script(`
local count = 0
for _, entry in ipairs(redis.call('HVALS', KEYS[1])) do
  local _, _, expires, stored = parseEntry(entry)
  if stored and stored ~= ARGV[1] and expires >= now then count = count + 1 end
end
return count
`)

function script (body: string): Script {
  const lua = COMMON + body
  return { lua, sha: hash('sha1', lua) }
}
