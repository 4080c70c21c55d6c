// The protocol's atomic steps, as Lua. A scope is one hash: field, which is a tab and a name -> the newest claim's entry.
import { hash } from 'node:crypto'

export interface Script {
  readonly lua: string
  readonly sha: string
}

// An entry is `token number expires member`. The token orders claims: microseconds of Redis's own clock, so that it
// still orders them when Redis has lost its memory. Lua's numbers are doubles, exact up to the year 2255.
// Beside the field of a claim that replaced another member's is `<field`: whom it waits for, as `member number`.
const COMMON = `
local function clock ()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end
local now = clock()
local function whole (number) return string.format('%.0f', number) end
local function parse (entry)
  local token, number, expires, member = string.match(entry, '^(%d+) (%d+) (%d+) (%S+)$')
  return tonumber(token), number, tonumber(expires), member
end
local function forget (key, field) redis.call('HDEL', key, field, '<' .. field) end
local function hold (key, field, token, number, lease, member)
  redis.call('HSET', key, field, whole(token) .. ' ' .. number .. ' ' .. whole(now + lease * 1000) .. ' ' .. member)
  redis.call('PEXPIRE', key, lease)
end
`

/**
 * Makes a claim the newest of its key, and tells the holder before it to end, if that is another member's.
 *
 * KEYS[1] the scope
 * ARGV[1] field  ARGV[2] member  ARGV[3] the claim's number  ARGV[4] lease, ms  ARGV[5] the channels' prefix
 * ARGV[6] when the claim was made by Redis's clock, us, as far as its member knows, or 0
 * ARGV[7] how much later than that this may run, us: a command that was held up longer counts from when it was made
 *
 * Returns { token, now }, and of a holder that was told: { token, now, its member, its number, who heard it, expired 0 | 1 },
 * and if nobody heard it, perhaps of whom that waited for: { ..., its member, its number, who heard it };
 * { '', now } where the claim comes late, and a newer one has been made.
 */
export const CLAIM = script(`
local key, field, member, number, lease, channels = KEYS[1], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local at = tonumber(ARGV[6])
local heldUp = at > 0 and now - at > tonumber(ARGV[7])
local token = heldUp and at or now
local entry = redis.call('HGET', key, field)
if not entry then
  hold(key, field, token, number, lease, member)
  return { whole(token), whole(now) }
end
local otherToken, otherNumber, expires, other = parse(entry)
-- A member's own claims count in its order: in a Redis Cluster one that was sent to the wrong node comes late.
if other == member and tonumber(otherNumber) > tonumber(number) then return { '', whole(now) } end
if otherToken >= token then
  if heldUp and other ~= member then return { '', whole(now) } end
  token = otherToken + 1
end
hold(key, field, token, number, lease, member)
if other == member then return { whole(token), whole(now) } end
local function tell (other, otherNumber)
  return redis.call('PUBLISH', channels .. other, 'end replaced ' .. member .. ' ' .. number .. ' ' .. otherNumber)
end
local heard = tell(other, otherNumber)
local result = { whole(token), whole(now), other, otherNumber, heard, expires < now and 1 or 0 }
local before = heard == 0 and redis.call('HGET', key, '<' .. field)
if not before then
  redis.call('HSET', key, '<' .. field, other .. ' ' .. otherNumber)
  return result
end
-- It died while it waited, perhaps, and what it waited for lives on.
local beforeMember, beforeNumber = string.match(before, '^(%S+) (%d+)$')
if beforeMember ~= member then
  for _, value in ipairs({ beforeMember, beforeNumber, tell(beforeMember, beforeNumber) }) do table.insert(result, value) end
end
return result
`)

/**
 * States claims again: renews their lease, puts back what Redis has lost, and finds out which of them are not the newest.
 * Forgets expired entries of the same scopes, and sends the member a beat by its own channel, so that it knows it hears.
 *
 * KEYS a scope for each claim, those of one scope together; then perhaps others, which are only asked whether they are there
 * ARGV[1] member  ARGV[2] lease, ms  ARGV[3] the channels' prefix  ARGV[4] the beat's number
 * ARGV[5...] for each claim: field, number, token
 *
 * Returns { now, who heard the beat, and the place (from 1) in KEYS of each claim that a newer one has replaced ... }.
 */
export const RESTATE = script(`
local member, lease, channels = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local result = { whole(now), redis.call('PUBLISH', channels .. member, 'beat ' .. ARGV[4]) }
local function forgetExpired (key)
  local entries = redis.call('HGETALL', key)
  for i = 1, #entries, 2 do
    local _, _, expires = parse(entries[i + 1])
    if expires and expires < now then forget(key, entries[i]) end
  end
end
for i, key in ipairs(KEYS) do
  local field, number, token = ARGV[2 + 3 * i], ARGV[3 + 3 * i], tonumber(ARGV[4 + 3 * i])
  if key ~= KEYS[i - 1] then forgetExpired(key) end
  local entry = field and redis.call('HGET', key, field)
  local otherToken, otherNumber, _, other, newer
  if entry then
    otherToken, otherNumber, _, other = parse(entry)
    newer = other ~= member and otherToken >= token or other == member and tonumber(otherNumber) > tonumber(number)
  end
  if newer then
    table.insert(result, i)
  elseif field then
    hold(key, field, token, number, lease, member)
    if entry and other ~= member then
      redis.call('PUBLISH', channels .. other, 'end replaced ' .. member .. ' 0 ' .. otherNumber)
    end
  end
end
return result
`)

/**
 * Forgets claims that are the newest of their keys.
 *
 * KEYS a scope for each claim
 * ARGV[1] member  ARGV[2...] for each claim: field, number
 */
export const RELEASE = script(`
for i, key in ipairs(KEYS) do
  local field, number = ARGV[2 * i], ARGV[1 + 2 * i]
  local entry = redis.call('HGET', key, field)
  if entry then
    local _, otherNumber, _, other = parse(entry)
    if other == ARGV[1] and otherNumber == number then forget(key, field) end
  end
end
`)

/**
 * Tells the other members to end their claims in a scope.
 *
 * KEYS[1] the scope
 * ARGV[1] member  ARGV[2] the number to be answered  ARGV[3] the channels' prefix  ARGV[4] what the field begins with, or ''
 * ARGV[5] when they were to end, and ARGV[6] how much later this may run, as with CLAIM: past that what is newer is left alone
 *
 * Returns for each member that was told: its name, the numbers of its claims joined by commas, who heard it.
 */
export const EVICT = script(`
local member, number, channels, prefix, at = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local heldUp = at > 0 and now - at > tonumber(ARGV[6])
local numbers, result = {}, {}
local entries = redis.call('HGETALL', KEYS[1])
for i = 1, #entries, 2 do
  local otherToken, otherNumber, expires, other = parse(entries[i + 1])
  local meant = other and string.sub(entries[i], 1, #prefix) == prefix and not (heldUp and otherToken > at)
  if meant and other ~= member and expires >= now then
    numbers[other] = numbers[other] and numbers[other] .. ',' .. otherNumber or otherNumber
  end
end
for other, list in pairs(numbers) do
  local heard = redis.call('PUBLISH', channels .. other, 'end evicted ' .. member .. ' ' .. number .. ' ' .. list)
  for _, value in ipairs({ other, list, heard }) do table.insert(result, value) end
end
return result
`)

/**
 * Counts the other members' claims in a scope.
 *
 * KEYS[1] the scope
 * ARGV[1] member
 */
export const COUNT = script(`
local count = 0
for _, entry in ipairs(redis.call('HVALS', KEYS[1])) do
  local _, _, expires, other = parse(entry)
  if other and other ~= ARGV[1] and expires >= now then count = count + 1 end
end
return count
`)

function script (body: string): Script {
  const lua = COMMON + body
  return { lua, sha: hash('sha1', lua) }
}
