// The Lua scripts: the steps of the protocol that Redis runs atomically. protocol.ts builds the input and parses the output of each script.
// Redis runs no other command while a script runs: https://redis.io/docs/latest/develop/programmability/eval-intro/
import { hash } from 'node:crypto'

export interface Script {
  readonly lua: string
  /** The SHA-1 digest of `lua`, which names the script in EVALSHA. */
  readonly sha: string
  /** Whether `lua` is sent each time, which proves that Redis also takes scripts that Redis does not know yet. */
  readonly isSentWhole?: boolean
}

// What Redis stores, in each of 16 buckets:
//   <prefix>{<bucket>}:member:<id>        hash: the record of a member. The record exists while the member renews its lease.
//     ops       counts the scripts that changed something for the member. A smaller count than before shows that Redis has lost data
//     deaf      1 while the member cannot receive messages
//     <number>  a request to end a claim of the member, `reason digest field waiter waiter ...`. Deleted when the claim is released
//   <prefix>{<bucket>}:<digest>           hash: the claims of a scope. Each stream key is a field:
//     <field>   the newest claim, `token number member`, then the claims that are not gone yet and came before, ` member number`
//     @         the members that have claims in the scope, `member number member number ...`. `number` is that of the member's newest claim
//               there. A member that has no claim any longer may still be listed, and then gets messages for the scope in vain
//   <prefix>{<bucket>}:<digest>:evicted   hash: the newest eviction of the scope (field '') and of each tab, `token member`
//   <prefix>{<bucket>}:online             hash: the scopes that are marked as online. The digest is the field, and the scope is the value
//   <prefix>{0}:watchers                  hash: the members that mark scopes. In bucket 0 only
//   <prefix>{0}:members                   hash: the index. Each member is a field, also a member without claims. In bucket 0 only
// A claim counts while the record of the claim's member exists. Tokens order the claims on a key and the evictions. Tokens are
// times of Redis's own clock, in microseconds, so tokens still order claims after Redis has lost its data.
// Lua numbers are doubles, exact for these times until the year 2255: https://www.lua.org/manual/5.1/manual.html#2.2
//
// Each script gets the record of the calling member as KEYS[1], the member as ARGV[1], and the prefix of the members' channels
// as ARGV[2]. The scripts build the names of further keys of the same bucket, and so of the same hash slot.
// A prelude runs each time that its script runs, and takes longer than a short script itself: scripts without claims have the shorter prelude.
const MEMBERS = `
local member, channels = ARGV[1], ARGV[2]
local records = string.sub(KEYS[1], 1, -#member - 1)
local existing = {}
local function isAlive (id)
  if existing[id] == nil then existing[id] = redis.call('EXISTS', records .. id) == 1 end
  return existing[id]
end
local function publish (id, message) return redis.call('PUBLISH', channels .. id, message) end
`
const CLAIMS = `${MEMBERS}
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local function integer (number) return string.format('%.0f', number) end
local function digestOf (key) return table.concat({ string.match(key, '{(%x)}:(%x+)$') }) end
-- A key of a scope lives as long as the longest lease that is used in the scope.
local function renew (key, lease)
  if redis.call('PTTL', key) < lease * 0.75 then redis.call('PEXPIRE', key, lease) end
end
local function countOperation (lease)
  local ops = redis.call('HINCRBY', KEYS[1], 'ops', 1)
  -- The record of a bucket that was not used lately may be about to expire.
  renew(KEYS[1], lease)
  existing[member] = true
  return ops
end
local function parseEntry (value)
  local token, number, owner, rest = string.match(value, '^(%d+) (%d+) (%S+)(.*)$')
  local before = {}
  for id, beforeNumber in string.gmatch(rest, '(%S+) (%d+)') do table.insert(before, { member = id, number = tonumber(beforeNumber) }) end
  return { token = tonumber(token), number = tonumber(number), member = owner, before = before }
end
-- The field '@' of a scope, with the caller's claim \`number\`. \`withoutDead\` leaves out dead members.
local function holdersWith (text, number, withoutDead)
  local words = {}
  for id, newest in string.gmatch(text or '', '(%S+) (%d+)') do
    if id == member then
      number = math.max(number, tonumber(newest))
    elseif not withoutDead or isAlive(id) then
      table.insert(words, id)
      table.insert(words, newest)
    end
  end
  table.insert(words, member)
  table.insert(words, integer(number))
  return table.concat(words, ' ')
end
-- \`holders\` is the new value of the field '@', or nil to leave that field as it is.
local function storeEntry (key, field, entry, holders)
  local words = { integer(entry.token), integer(entry.number), entry.member }
  for _, claim in ipairs(entry.before) do
    table.insert(words, claim.member)
    table.insert(words, integer(claim.number))
  end
  if holders then redis.call('HSET', key, field, table.concat(words, ' '), '@', holders)
  else redis.call('HSET', key, field, table.concat(words, ' ')) end
end
-- Adds the caller to those who wait for the end of a claim, or makes the request.
local function request (id, number, reason, digest, field)
  local record, name = records .. id, integer(number)
  if redis.call('HSETNX', record, name, table.concat({ reason, digest, field, member }, ' ')) == 1 then return end
  local present = redis.call('HGET', record, name)
  if not string.find(present, ' ' .. member, 1, true) then redis.call('HSET', record, name, present .. ' ' .. member) end
end
local function askToEnd (id, number, reason, digest, field)
  if isAlive(id) then request(id, number, reason, digest, field) end
  return publish(id, table.concat({ 'end', reason, digest, field, integer(number) }, ' '))
end
-- The member that has evicted a claim with this token, or nil.
local function evictorOf (key, field, token)
  for _, mark in ipairs(redis.call('HMGET', key .. ':evicted', '', string.match(field, '^[^:]*:'))) do
    if mark then
      local evictedAt, waiter = string.match(mark, '^(%d+) (%S+)$')
      if token <= tonumber(evictedAt) then return waiter end
    end
  end
end
-- The claims in a list that are not gone, without those of the member \`except\`, whose process waits for them itself.
local function notGone (before, except)
  local left = {}
  for _, claim in ipairs(before) do
    if claim.member ~= except and isAlive(claim.member) then table.insert(left, claim) end
  end
  return left
end
`

/**
 * Makes a claim the newest on the key. If another member made the predecessor, asks that member to end the predecessor.
 *
 * Input:
 *   KEYS[2]  scope
 *   ARGV[3]  field
 *   ARGV[4]  number of the claim
 *   ARGV[5]  lease of the scope's key, in milliseconds
 *   ARGV[6]  lease of the member's record, in milliseconds
 *   ARGV[7]  when the claim was made, in microseconds of Redis's clock as the member estimates that clock, or 0 to count from now
 *   ARGV[8]  how much later than ARGV[7] the script may run, in microseconds; or -1 to count from ARGV[7] in any case
 *
 * Output:
 *   { 'late', now }                          the script ran later than ARGV[8] allows, and changed nothing
 *   { 'superseded', now, ops, reason }       the claim was not made, because a newer claim exists (`replaced`), or because the
 *     claim was evicted since it was made (`evicted`)
 *   { 'newest', now, ops, token, member, number, receivers, ... }  the claim is the newest. All listed claims must be gone
 *     before the stream starts. `receivers` is the number of subscriptions that received the request, or -1 if an earlier
 *     claim has made the request
 *
 * Sends: `end replaced`
 */
export const CLAIM = script(CLAIMS, `
local key, field, number, lease = KEYS[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local madeAt, tolerance = tonumber(ARGV[7]), tonumber(ARGV[8])
if madeAt > 0 and tolerance >= 0 and now - madeAt > tolerance then return { 'late', integer(now) } end
local countsFrom = madeAt > 0 and tolerance < 0 and madeAt or now
local ops = countOperation(tonumber(ARGV[6]))
if countsFrom < now and evictorOf(key, field, countsFrom) then return { 'superseded', integer(now), ops, 'evicted' } end
local stored = redis.call('HMGET', key, field, '@')
local value, holders = stored[1], stored[2]
local entry = { token = countsFrom, number = number, member = member, before = {} }
local result = { 'newest', integer(now), ops, '' }
if value then
  local previous = parseEntry(value)
  local isOwn = previous.member == member
  -- The claims of one member count in the order of their numbers. In a Redis Cluster a claim that was first sent to the
  -- wrong node arrives after newer claims.
  if isOwn and previous.number > number then return { 'superseded', integer(now), ops, 'replaced' } end
  -- A client may send a claim twice after a new connection, and another member may have replaced the claim in between.
  for _, claim in ipairs(previous.before) do
    if claim.member == member and claim.number >= number then return { 'superseded', integer(now), ops, 'replaced' } end
  end
  local lives = not isOwn and isAlive(previous.member)
  if lives and countsFrom < now and previous.token >= countsFrom then return { 'superseded', integer(now), ops, 'replaced' } end
  entry.token = math.max(countsFrom, previous.token + 1)
  entry.before = notGone(previous.before, member)
  for _, claim in ipairs(entry.before) do
    if claim.member ~= previous.member then
      -- RELEASE tells the owner of the newest claim. If a newer claim comes first, the caller must still be told.
      request(claim.member, claim.number, 'replaced', digestOf(key), field)
      for _, word in ipairs({ claim.member, integer(claim.number), -1 }) do table.insert(result, word) end
    end
  end
  if not isOwn then
    local receivers = askToEnd(previous.member, previous.number, 'replaced', digestOf(key), field)
    if lives then
      -- A member's newest claim is gone only after the member's older claims on the key.
      entry.before = notGone(entry.before, previous.member)
      table.insert(entry.before, { member = previous.member, number = previous.number })
      for _, word in ipairs({ previous.member, integer(previous.number), receivers }) do table.insert(result, word) end
    end
  end
end
storeEntry(key, field, entry, holdersWith(holders, number))
renew(key, lease)
result[4] = integer(entry.token)
return result
`)

/**
 * Renews the member's records, and reports what waits there.
 *
 * Input:
 *   KEYS[n]  record of the member in each asked bucket. Then the index of members, if bucket 0 is asked
 *   ARGV[3]  lease of the records, in milliseconds
 *   ARGV[4]  1 if the member cannot receive messages, else 0
 *   ARGV[5]  number of the beat to send, or '' to send none
 *   ARGV[6]  lease of the index, in milliseconds, or '' if bucket 0 is not asked
 *
 * Output:
 *   { now, receivers, ops, requests, ... }  how many subscriptions received the beat, or -1 if none was sent. Then for each record: the
 *     count of operations, or -1 if the record did not exist; and how many requests to end a claim the record holds
 *
 * Sends: `beat`, to the caller
 */
export const BEAT = script(CLAIMS, `
local result = { integer(now), -1 }
if ARGV[6] ~= '' then
  local index = table.remove(KEYS)
  redis.call('HSET', index, member, '')
  redis.call('PEXPIRE', index, ARGV[6])
end
for _, record in ipairs(KEYS) do
  local ops = redis.call('HGET', record, 'ops')
  -- Always a write: only a write proves that Redis takes writes.
  redis.call('HSET', record, 'deaf', ARGV[4], 'ops', ops or 0)
  redis.call('PEXPIRE', record, ARGV[3])
  table.insert(result, tonumber(ops or -1))
  table.insert(result, redis.call('HLEN', record) - 2)
end
if ARGV[5] ~= '' then result[2] = publish(member, 'beat ' .. ARGV[5]) end
return result
`)

/**
 * Uses every command of all scripts, on a key that no other script uses. If this script succeeds, Redis refuses none of the scripts.
 *
 * Input:
 *   KEYS[2]  `<record>:probe`, a key that does not exist. While the slot of both keys is being migrated, Redis refuses the script
 *   ARGV[3]  number of the beat to send
 *
 * Output: { now }
 *
 * Sends: `beat`, to the caller
 */
export const PROBE: Script = {
  ...script(CLAIMS, `
local probe = KEYS[2]
redis.call('EXISTS', probe)
redis.call('PTTL', probe)
redis.call('HGET', probe, 'a')
redis.call('HMGET', probe, 'a', 'b')
redis.call('HEXISTS', probe, 'a')
redis.call('HLEN', probe)
redis.call('HSCAN', probe, '0', 'COUNT', 1)
redis.call('HDEL', probe, 'a')
redis.call('DEL', probe)
publish(member, 'beat ' .. ARGV[3])
redis.call('HINCRBY', probe, 'a', 1)
-- If Redis refuses the next command, the key is left behind for a second.
redis.call('PEXPIRE', probe, 1000)
redis.call('HSETNX', probe, 'b', 1)
redis.call('HSET', probe, 'a', 1)
redis.call('DEL', probe)
return { integer(now) }
`),
  isSentWhole: true
}

/**
 * Reads the requests to end claims in the member's record, some at a time.
 *
 * Input:
 *   ARGV[3]  cursor, '0' at first
 *
 * Output:
 *   { cursor, number, reason, digest, field, ... }  the next cursor, '0' at the end, and some requests
 */
export const REQUESTS = script(MEMBERS, `
local page = redis.call('HSCAN', KEYS[1], ARGV[3], 'COUNT', 250)
local result = { page[1] }
for i = 1, #page[2], 2 do
  local reason, digest, field = string.match(page[2][i + 1], '^(%S+) (%S+) (%S+)')
  if digest then
    for _, word in ipairs({ page[2][i], reason, digest, field }) do table.insert(result, word) end
  end
end
return result
`)

/**
 * Asks again for the end of claims of other members, and reports the claims that are not gone yet.
 *
 * Input:
 *   ARGV[3]  the greatest count of operations that the caller has seen in its record
 *   ARGV[4]  1 if Redis has lost data so recently that members and requests may be missing, else 0
 *   ARGV[...]  for each claim: member, number, reason, digest, field, and 1 if nobody received the last request, else 0
 *
 * Output:
 *   { 'lost', now }  Redis has lost data, and nothing was asked
 *   { 'asked', now, n, receivers, ... }  for each claim n that is not gone: how many subscriptions received the request
 *
 * Sends: `end`
 */
export const ASK = script(CLAIMS, `
if tonumber(redis.call('HGET', KEYS[1], 'ops') or 0) < tonumber(ARGV[3]) then return { 'lost', integer(now) } end
local mayMiss = ARGV[4] == '1'
local result = { 'asked', integer(now) }
for i = 5, #ARGV, 6 do
  local id, number, reason, digest, field, wasUnheard = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5] == '1'
  local pending = mayMiss
  if not mayMiss and isAlive(id) then pending = redis.call('HEXISTS', records .. id, ARGV[i + 1]) == 1 end
  if pending then
    local receivers = askToEnd(id, number, reason, digest, field)
    -- A member without a subscription is dead, unless the member has written that it is deaf.
    local isDead = wasUnheard and receivers == 0 and not mayMiss and redis.call('HGET', records .. id, 'deaf') ~= '1'
    if not isDead then
      table.insert(result, (i + 1) / 6)
      table.insert(result, receivers)
    end
  end
end
return result
`)

/**
 * Restates claims: renews the lease of their scopes, restores entries that Redis has lost, and reports claims that must end.
 * Also deletes some entries of dead members from the first scope. Otherwise these entries would stay as long as others use the scope.
 * No scope lists dead members any longer.
 *
 * Input:
 *   KEYS[n + 1]  scope of claim n
 *   ARGV[3]      lease of the scopes' keys, in milliseconds
 *   ARGV[4]      lease of the member's record, in milliseconds
 *   ARGV[2 + 3n, ...]  field, number and token of claim n
 *
 * Output:
 *   { now, ops, n, reason, ... }  each claim n that must end, `replaced` or `evicted`
 *
 * Sends: `end replaced`, for each older entry of another member
 */
export const RESTATE = script(CLAIMS, `
local lease = tonumber(ARGV[3])
local result = { integer(now), countOperation(tonumber(ARGV[4])) }
for i = 2, #KEYS do
  local key, field, number, token = KEYS[i], ARGV[3 * i - 1], tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1])
  local digest = digestOf(key)
  local stored = redis.call('HMGET', key, field, '@')
  local value, holders = stored[1], stored[2]
  local present = holdersWith(holders, number, true)
  if present ~= holders then redis.call('HSET', key, '@', present) end
  local entry = value and parseEntry(value)
  local before = entry and notGone(entry.before, member) or {}
  if entry and entry.member ~= member and not isAlive(entry.member) then entry = nil end
  local reason, waiter = 'evicted', evictorOf(key, field, token)
  if not waiter and entry then
    local isNewer = entry.member == member and entry.number > number or entry.member ~= member and entry.token >= token
    if isNewer then reason, waiter = 'replaced', entry.member end
  end
  if waiter then
    table.insert(result, i - 1)
    table.insert(result, reason)
    if redis.call('HEXISTS', KEYS[1], integer(number)) == 0 then
      redis.call('HSET', KEYS[1], integer(number), table.concat({ reason, digest, field, waiter }, ' '))
    end
  end
  local isOther = entry and entry.member ~= member
  if isOther and entry.token >= token then
    -- Whoever comes next must wait for this claim too.
    entry.before = before
    table.insert(entry.before, { member = member, number = number })
    storeEntry(key, field, entry)
  elseif not isOther and not (entry and entry.number >= number) or isOther and entry.token < token then
    if isOther then
      askToEnd(entry.member, entry.number, 'replaced', digest, field)
      table.insert(before, { member = entry.member, number = entry.number })
    end
    storeEntry(key, field, { token = token, number = number, member = member, before = before })
  end
  renew(key, lease)
end
if KEYS[2] then
  -- Each time begins at another place of a large hash. HSCAN takes any number for a place, and reads a small hash whole.
  local page = redis.call('HSCAN', KEYS[2], integer(now), 'COUNT', 50)
  for i = 1, #page[2], 2 do
    if page[2][i] ~= '@' then
      local entry = parseEntry(page[2][i + 1])
      if not isAlive(entry.member) and #notGone(entry.before) == 0 then redis.call('HDEL', KEYS[2], page[2][i]) end
    end
  end
end
return result
`)

/**
 * Records that claims are gone, and tells whoever waits for them.
 *
 * Input:
 *   KEYS[n + 1]    scope of claim n
 *   ARGV[3n, ...]  field and number of claim n; then the number of the member's newest claim in the scope so far, or 0 if the member has
 *     further claims there. CLAIM may have listed a later claim of the member
 *
 * Output: nil
 *
 * Sends: `gone`
 */
export const RELEASE = script(CLAIMS, `
for i = 2, #KEYS do
  local key, field, number, newest = KEYS[i], ARGV[3 * i - 3], tonumber(ARGV[3 * i - 2]), tonumber(ARGV[3 * i - 1])
  local waiters, emptied = {}, {}
  local present = redis.call('HGET', KEYS[1], integer(number))
  if present then
    for waiter in string.gmatch(string.match(present, '^%S+ %S+ %S+(.*)$'), '%S+') do waiters[waiter] = true end
    redis.call('HDEL', KEYS[1], integer(number))
  end
  local stored = redis.call('HMGET', key, field, '@')
  local value, holders = stored[1], stored[2]
  local entry = value and parseEntry(value)
  if entry and entry.member == member then
    -- A smaller number if Redis never got the claim, or refused the claim: an older claim of the member, which is gone too.
    if entry.number <= number then
      local left = notGone(entry.before, member)
      local last = table.remove(left)
      -- A process that leaves does not wait for the predecessors. Whoever comes next must.
      if last then
        storeEntry(key, field, { token = entry.token, number = last.number, member = last.member, before = left })
      else
        table.insert(emptied, field)
      end
    end
  elseif entry then
    local left = {}
    for _, claim in ipairs(entry.before) do
      if claim.member == member and claim.number <= number then waiters[entry.member] = true else table.insert(left, claim) end
    end
    if #left < #entry.before then
      entry.before = left
      storeEntry(key, field, entry)
    end
  end
  if holders and newest > 0 then
    local left = {}
    for id, listed in string.gmatch(holders, '(%S+) (%d+)') do
      local isLeft
      if id == member then isLeft = tonumber(listed) > newest else isLeft = isAlive(id) end
      if isLeft then
        table.insert(left, id)
        table.insert(left, listed)
      end
    end
    if #left == 0 then table.insert(emptied, '@') else redis.call('HSET', key, '@', table.concat(left, ' ')) end
  end
  if #emptied > 0 then redis.call('HDEL', key, unpack(emptied)) end
  for waiter in pairs(waiters) do publish(waiter, table.concat({ 'gone', member, integer(number) }, ' ')) end
end
`)

/**
 * Evicts some of a scope's claims: asks every member except the caller to end claims. The first call leaves a mark, which
 * ends claims that are restated later.
 *
 * Input:
 *   KEYS[2]  scope
 *   ARGV[3]  cursor, '0' at first
 *   ARGV[4]  beginning of the fields to evict, or '' for the whole scope
 *   ARGV[5]  lease of the member's record, in milliseconds
 *   ARGV[6]  how long the mark lives, in milliseconds
 *   ARGV[7]  when the eviction was made, as in CLAIM
 *   ARGV[8]  tolerance, as in CLAIM. An eviction leaves claims alone that are newer than the eviction
 *
 * Output:
 *   { 'late', now }  the script ran later than ARGV[8] allows, and changed nothing
 *   { 'evicted', now, ops, token, cursor, member, number, field, receivers, ... }  the token of the eviction, the next cursor,
 *     '0' at the end, and the claims that were asked to end
 *
 * Sends: `end evicted`
 */
export const EVICT = script(CLAIMS, `
local key, cursor, prefix, madeAt, tolerance = KEYS[2], ARGV[3], ARGV[4], tonumber(ARGV[7]), tonumber(ARGV[8])
if madeAt > 0 and tolerance >= 0 and now - madeAt > tolerance then return { 'late', integer(now) } end
local token = madeAt > 0 and tolerance < 0 and madeAt or now
local ops = countOperation(tonumber(ARGV[5]))
if cursor == '0' then
  local mark = redis.call('HGET', key .. ':evicted', prefix)
  if not mark or tonumber(string.match(mark, '^%d+')) < token then redis.call('HSET', key .. ':evicted', prefix, integer(token) .. ' ' .. member) end
  redis.call('PEXPIRE', key .. ':evicted', ARGV[6])
end
local page = redis.call('HSCAN', key, cursor, 'COUNT', 250)
local digest, asked, words = digestOf(key), {}, {}
for i = 1, #page[2], 2 do
  local field = page[2][i]
  if field ~= '@' and string.sub(field, 1, #prefix) == prefix then
    local entry = parseEntry(page[2][i + 1])
    -- A claim that is not gone may be that of a process that has not heard of its end.
    local claims = notGone(entry.before, member)
    if #claims == 0 and not isAlive(entry.member) then redis.call('HDEL', key, field) end
    if entry.token <= token and entry.member ~= member and isAlive(entry.member) then table.insert(claims, entry) end
    for _, claim in ipairs(claims) do
      request(claim.member, claim.number, 'evicted', digest, field)
      words[claim.member] = words[claim.member] or { 'end', 'evicted', digest }
      table.insert(words[claim.member], field)
      table.insert(words[claim.member], integer(claim.number))
      table.insert(asked, { claim.member, integer(claim.number), field })
    end
  end
end
local receivers = {}
for id, list in pairs(words) do receivers[id] = publish(id, table.concat(list, ' ')) end
local result = { 'evicted', integer(now), ops, integer(token), page[1] }
for _, claim in ipairs(asked) do
  for _, word in ipairs({ claim[1], claim[2], claim[3], receivers[claim[1]] }) do table.insert(result, word) end
end
return result
`)

/**
 * Lists some of the claims that all members except the caller have in a scope.
 *
 * Input:
 *   KEYS[2]  scope
 *   ARGV[3]  cursor, '0' at first
 *
 * Output: { cursor, field, ... }  the next cursor, '0' at the end, and the fields of the claims
 */
export const COUNT = script(MEMBERS, `
local page = redis.call('HSCAN', KEYS[2], ARGV[3], 'COUNT', 250)
local result = { page[1] }
for i = 1, #page[2], 2 do
  if page[2][i] ~= '@' then
    local owner = string.match(page[2][i + 1], '^%d+ %d+ (%S+)')
    if owner ~= member and isAlive(owner) then table.insert(result, page[2][i]) end
  end
end
return result
`)

/**
 * Sends messages to the members that have claims in a scope, or to all members. Tells each member except the caller, and skips dead members.
 *
 * Input:
 *   ARGV[1 + 2n, ...]  of message n: the digest of the scope, or '' to tell all members (in bucket 0 only); and the message
 *
 * Output:
 *   { n, member, receivers, ... }  the members that were told of message n, and how many subscriptions received the message
 *
 * Sends: `send`, `list`
 */
export const SEND = script(MEMBERS, `
local base = string.sub(records, 1, -#'member:' - 1)
-- All members except the caller and the dead. The caller's record may be missing in a bucket that the caller does not use.
local function allMembers ()
  local listed, found, cursor = {}, {}, '0'
  repeat
    local page = redis.call('HSCAN', base .. 'members', cursor, 'COUNT', 250)
    cursor = page[1]
    -- A cursor may return a field twice: https://redis.io/docs/latest/commands/scan/#scan-guarantees
    for i = 1, #page[2], 2 do found[page[2][i]] = true end
  until cursor == '0'
  for id in pairs(found) do
    if id ~= member and isAlive(id) then table.insert(listed, id)
    -- Redis may refuse writes. The messages were sent, and the member is deleted another time.
    elseif id ~= member then redis.pcall('HDEL', base .. 'members', id) end
  end
  return listed
end
local result, everybody = {}, nil
local function tell (i, id)
  local n = #result
  result[n + 1], result[n + 2], result[n + 3] = (i - 1) / 2, id, publish(id, ARGV[i + 1])
end
for i = 3, #ARGV, 2 do
  if ARGV[i] == '' then
    everybody = everybody or allMembers()
    for _, id in ipairs(everybody) do tell(i, id) end
  else
    for id in string.gmatch(redis.call('HGET', base .. string.sub(ARGV[i], 2), '@') or '', '(%S+) %d+') do
      if id ~= member and isAlive(id) then tell(i, id) end
    end
  end
end
return result
`)

/**
 * Sends a member the replies to messages of that member.
 *
 * Input:
 *   ARGV[3]  the member
 *   ARGV[4]  the message
 *
 * Output: nil
 *
 * Sends: `reply`
 */
export const REPLY = script(MEMBERS, 'publish(ARGV[3], ARGV[4])')

const PRESENCE = `
local function isHeld (key)
  for id in string.gmatch(redis.call('HGET', key, '@') or '', '(%S+) %d+') do
    if isAlive(id) then return true end
  end
  return false
end
-- The living members that have marked a scope and still count the scope as online, except the caller. \`mark\` is the value of the mark, or false.
local function othersOnline (mark)
  local others = {}
  for id in string.gmatch(string.match(mark or '', '^[^\\n]*'), '%S+') do
    if id ~= member and isAlive(id) then table.insert(others, id) end
  end
  return others
end
`

/**
 * Marks scopes as online for the caller. A mark holds the ids of the members that count the scope as online, a line feed, and the scope.
 *
 * Input:
 *   KEYS[2]  marks of the bucket
 *   ARGV[3]  how long the marks live, in milliseconds
 *   ARGV[2 + 2n, ...]  digest and scope of mark n
 *
 * Output: { isNew, ... }  for each scope: 1 if the scope was not marked, else 0
 */
export const MARK = script(MEMBERS, `${PRESENCE}
local result = {}
for i = 4, #ARGV, 2 do
  local mark = redis.call('HGET', KEYS[2], ARGV[i])
  local members = othersOnline(mark)
  table.insert(members, member)
  redis.call('HSET', KEYS[2], ARGV[i], table.concat(members, ' ') .. '\\n' .. ARGV[i + 1])
  table.insert(result, mark and 0 or 1)
end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return result
`)

/**
 * The caller counts a scope as offline. Removes the mark, unless a member has claims in the scope, or counts the scope as online.
 *
 * Input:
 *   KEYS[2]  marks of the bucket
 *   KEYS[3]  scope
 *   ARGV[3]  digest of the scope
 *
 * Output: 1 the mark was removed, 0 the mark stays, -1 there was no mark
 */
export const UNMARK = script(MEMBERS, `${PRESENCE}
local mark = redis.call('HGET', KEYS[2], ARGV[3])
if not mark then return -1 end
local others = othersOnline(mark)
if #others == 0 and not isHeld(KEYS[3]) then return redis.call('HDEL', KEYS[2], ARGV[3]) end
redis.call('HSET', KEYS[2], ARGV[3], table.concat(others, ' ') .. string.match(mark, '\\n.*$'))
return 0
`)

/**
 * Removes the marks of scopes in which no member has claims, and which no member counts as online, some at a time.
 *
 * Input:
 *   KEYS[2]  marks of the bucket
 *   ARGV[3]  cursor, '0' at first
 *
 * Output: { cursor, scope, ... }  the next cursor, '0' at the end, and the scopes whose marks were removed
 */
export const SWEEP = script(MEMBERS, `${PRESENCE}
local base = string.sub(KEYS[2], 1, -#'online' - 1)
local page = redis.call('HSCAN', KEYS[2], ARGV[3], 'COUNT', 100)
local result = { page[1] }
for i = 1, #page[2], 2 do
  local digest, mark = page[2][i], page[2][i + 1]
  local isOnline = string.find(string.match(mark, '^[^\\n]*'), member, 1, true) ~= nil or #othersOnline(mark) > 0
  if not isOnline and not isHeld(base .. string.sub(digest, 2)) and redis.call('HDEL', KEYS[2], digest) == 1 then
    table.insert(result, string.match(mark, '\\n(.*)$'))
  end
end
return result
`)

/**
 * Adds the caller to the members that mark scopes, and reports those that are dead.
 *
 * Input:
 *   KEYS[2]  members that mark scopes
 *   ARGV[3]  how long the list of these members lives, in milliseconds
 *   ARGV[4, ...]  dead members to forget
 *
 * Output: { member, ... }  the dead members that are not forgotten
 */
export const WATCH = script(MEMBERS, `
for i = 4, #ARGV do redis.call('HDEL', KEYS[2], ARGV[i]) end
redis.call('HSET', KEYS[2], member, 1)
redis.call('PEXPIRE', KEYS[2], ARGV[3])
local result, cursor = {}, '0'
repeat
  local page = redis.call('HSCAN', KEYS[2], cursor, 'COUNT', 250)
  cursor = page[1]
  for i = 1, #page[2], 2 do
    if page[2][i] ~= member and not isAlive(page[2][i]) then table.insert(result, page[2][i]) end
  end
until cursor == '0'
return result
`)

/**
 * Deletes the records of a member that leaves.
 *
 * Input:
 *   KEYS[n]  record of the member in each bucket. Then the index of members, if bucket 0 is among the buckets
 *   ARGV[3]  1 if the last key is the index, else 0
 *
 * Output: nil
 */
export const LEAVE = script(MEMBERS, `
if ARGV[3] == '1' then redis.call('HDEL', table.remove(KEYS), member) end
for _, record in ipairs(KEYS) do redis.call('DEL', record) end
`)

function script (prelude: string, body: string): Script {
  const lua = prelude + body
  return { lua, sha: hash('sha1', lua) }
}
