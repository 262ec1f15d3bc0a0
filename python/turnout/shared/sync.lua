-- turnout's shared state, protocol version 1
--
-- Handles one message of a process about one owner, by the rules of Books (src/shared/books.rs and the files
-- beside it). It replies what Books replies, number by number.
--
-- KEYS[1]  the owner's record, a hash
-- ARGV[1]  the process
-- ARGV[2]  the channel of news
-- ARGV[3]  the owner, as news name it
-- ARGV[4]  a name for a life that begins now
-- ARGV[5]  for how many microseconds is learnt after a loss
-- ARGV[6]  the numbers of the message, as doubles of eight bytes, the lowest byte first
-- ARGV[7], ARGV[8]  for tests: the time in microseconds, and the name of the server's run
--
-- The field "owner" has what is known of all processes together, and "p/PROCESS" what is known of one. A call
-- reads these two, however many members there are. It reads all fields only where something ends by itself:
-- a lease, or a number of a tally.
--
-- Nothing is written before the end. So a message that is refused changes nothing.
--
-- All numbers are whole and at most 2^52, which a double keeps exactly.
--
-- Lists are flat: rows of the same width, one after the other, each with its name first. They are read and
-- written much faster than nested ones.

local MOST = 4503599627370496 -- 2^52
local NEVER = 2 * MOST
local REMEMBERED = 60000000 -- for how long a window is remembered after its end
local ENDED = 64 -- how many windows that have ended are remembered
local WANTED_FOR = 500000 -- for how long it is remembered that a process lacks units
local STEP = 8000000 -- the time for which a pot keeps one low
local LOWS = 80 -- how many lows are kept
local KEPT = 172800000 -- for how many milliseconds a record is kept after a message, at least

local FIXED, FIRST_USE, SLIDING, BUCKET, PLACES, TALLY, NOTICE = 0, 1, 2, 3, 4, 5, 6

local min, max, floor, ceil = math.min, math.max, math.floor, math.ceil
local key, process = KEYS[1], ARGV[1]

local function sub(a, b)
    return max(a - b, 0)
end

-- Returns where a row of a list is. New rows are last.
local function find(list, name, width)
    for i = #list - width + 1, 1, -width do
        if list[i] == name then
            return i
        end
    end
end

local function drop(list, i, width)
    for _ = 1, width do
        table.remove(list, i)
    end
end

-- The message.

local refused = redis.error_reply('ERR these numbers are no message of a shared store')
local count = floor(#ARGV[6] / 8)
local numbers = { struct.unpack('<' .. string.rep('d', count), ARGV[6]) }
for i = 1, count do
    if not (numbers[i] >= 0 and numbers[i] <= MOST) then
        return refused
    end
end
local number, life, lease, busy_for, asks = unpack(numbers, 1, 5)
local kinds, at = {}, 5 -- the kinds of meters, and where in the numbers we are
for _ = 1, asks or NEVER do
    local kind, one, other, rows = numbers[at + 2], numbers[at + 3], numbers[at + 4], numbers[at + 6]
    at = at + 6 + 6 * (rows or 0)
    if at > count or kind > NOTICE or (kind == FIRST_USE and one < 1) or (kind == BUCKET and min(one, other) < 1) then
        return refused
    end
    kinds[kind <= SLIDING and FIXED or kind] = true
end
if at ~= count then
    return refused
end

-- What the server knows.

local now, run
if ARGV[7] then
    now, run = tonumber(ARGV[7]), tonumber(ARGV[8])
else
    local time = redis.call('TIME')
    now = time[1] * 1000000 + time[2]
    -- A client cannot tell the run: it may be connected anew, unseen, to a server that was started anew.
    local info = redis.pcall('INFO', 'server')
    local _, at = string.find(info.err and '' or info, 'run_id:', 1, true)
    run = at and tonumber(string.sub(info, at + 1, at + 13), 16)
    if not run then
        return redis.error_reply('ERR the command INFO must tell the run_id of the server: ' .. (info.err or 'it does not'))
    end
end
local fresh_life, learn = tonumber(ARGV[4]), tonumber(ARGV[5])

local fields = redis.call('HMGET', key, 'owner', 'p/' .. process)

-- The meters by their numbers. `body` depends on the kind, which is FIXED for all kinds of windows:
--
-- FIXED   a list of windows: the name, the end, the units of all pieces, and a serial number that tells it
--         from one before of the same name
-- BUCKET  the numbers of a pot (see SPENT and the others), then a list of its lows: the step, the low
-- PLACES  the places of all processes; how many hold any
-- TALLY   a list of numbers: the name, the sum of all processes, how many have one, when the first ends
-- NOTICE  the four numbers of the notice, if there is one
local owner, meters = nil, {}
local SPENT, UNIT, AT, ACCOUNTS, HELD, BEFORE_LOWS = 1, 2, 3, 4, 5, 5
local GRANTED, HOLDERS = 1, 2
if fields[1] then
    local list = { cmsgpack.unpack(fields[1]) }
    owner = {
        run = list[1],
        life = list[2],
        learns = list[3], -- when learning is over at the latest; 0 if it is over
        members = list[4],
        alive = list[5], -- how many members' leases are not over, while the time is in since <= now < till
        since = list[6],
        till = list[7],
        serial = list[8], -- the last serial number of a window
    }
    local i = 9
    while list[i] do
        local last = i + 4 + list[i + 4]
        local body = { unpack(list, i + 5, last) }
        kinds[TALLY] = kinds[TALLY] or list[i + 1] == TALLY
        meters[list[i]] = { kind = list[i + 1], wanted_at = list[i + 2], wanted_by = list[i + 3], body = body }
        i = last + 1
    end
else
    owner = { run = 0, life = 0, learns = 0, members = 0, alive = 0, since = 0, till = NEVER, serial = 0 }
end

-- Reads what is known of one process:
--
-- number    of its last message; 0 if it is no member
-- till      when its lease ends
-- busy      when its places come back, if it does not speak again
-- held      a list of its pieces of windows: the serial number of the window, the units
-- accounts  a list of its accounts at pots: the meter, the units granted, used, refunded
-- places    a list of its places: the meter, how many it holds
-- tallies   a list of its numbers: the meter, the name, the number, when it ends
local function read_record(field)
    if not field then
        return { number = 0, till = 0, busy = 0, held = {}, accounts = {}, places = {}, tallies = {} }
    end
    local list = { cmsgpack.unpack(field) }
    local held = 6 + list[4]
    local accounts = held + list[5]
    local places = accounts + list[6]
    return {
        number = list[1],
        till = list[2],
        busy = list[3],
        held = { unpack(list, 7, held) },
        accounts = { unpack(list, held + 1, accounts) },
        places = { unpack(list, accounts + 1, places) },
        tallies = { unpack(list, places + 1) },
    }
end

local me = read_record(fields[2])
local records, changed, all_are_read = { [process] = me }, { [process] = true }, false

-- How pieces are granted: src/shared/pieces.rs.

local grants, sharers -- whether anything may be granted, and among how many

local function grant(row, held, left)
    local need = sub(row.least, held)
    local fair = max(ceil(left / (2 * sharers)), need)
    local more = min(sub(max(row.target, row.least), held), left, fair)
    return more < need and 0 or more
end

-- Returns what is held after a row, what was held before, and what all hold. `others` are units beside
-- `granted` that count towards the limit.
local function settle(row, held, granted, limit, others, may_grant)
    local before = max(held, row.have, row.used)
    granted = min(sub(granted, held) + before, MOST)
    local target, after = max(row.target, row.used), before
    if target < before then
        after = target
    elseif target > before and may_grant then
        after = before + grant(row, before, sub(sub(limit, granted), others))
    end
    return after, before, min(sub(granted, before) + after, MOST)
end

-- A call makes its functions anew, and that takes a while. So functions that few calls need are made only for
-- those.

local read_all, take_number, remove, look_at_all
local sync_window, sync_first_use, alive_beside, sync_places, sync_pot, sync_tally

-- Windows.
if kinds[FIXED] then
    alive_beside = function(windows, name)
        local units = 0
        for i = 1, #windows, 4 do
            if windows[i] ~= name and now < windows[i + 1] then
                units = units + windows[i + 2]
            end
        end
        return min(units, MOST)
    end

    local function drop_window(windows, i)
        local at = find(me.held, windows[i + 3], 2)
        if at then
            drop(me.held, at, 2)
        end
        drop(windows, i, 4)
    end

    local function drop_ended(windows)
        local ended, first = 0, nil
        for i = #windows - 3, 1, -4 do
            if now >= windows[i + 1] + REMEMBERED then
                drop_window(windows, i)
            end
        end
        for i = 1, #windows, 4 do
            if now >= windows[i + 1] then
                ended = ended + 1
                first = (not first or windows[i] < windows[first]) and i or first
            end
        end
        if ended > ENDED then
            drop_window(windows, first)
            drop_ended(windows)
        end
    end

    sync_window = function(windows, row, limit, shares)
        drop_ended(windows)
        local others = shares and alive_beside(windows, row.window) or 0
        local i = find(windows, row.window, 4)
        if not i then
            if now >= row.till then
                return row.used, false, false
            end
            i = #windows + 1
            owner.serial = owner.serial + 1
            windows[i], windows[i + 1], windows[i + 2], windows[i + 3] = row.window, row.till, 0, owner.serial
        end
        local at = find(me.held, windows[i + 3], 2) or #me.held + 1
        local may_grant = grants and now < min(row.window, row.till)
        local held, before, granted = settle(row, me.held[at + 1] or 0, windows[i + 2], limit, others, may_grant)
        windows[i + 2] = granted
        if held > 0 then
            me.held[at], me.held[at + 1] = windows[i + 3], held
        elseif me.held[at] then
            drop(me.held, at, 2)
        end
        if granted == 0 then
            drop_window(windows, i)
        end
        return held, held < row.least, held < before
    end

    -- Returns the window that is open, if each begins with the first request after the one before.
    local function open_window(windows, row, per)
        local open
        for i = 1, #windows, 4 do
            if now < windows[i + 1] and windows[i] > (open or 0) then
                open = windows[i]
            end
        end
        if open then
            return open
        elseif now < row.window and max(row.have, row.used) > 0 then
            return row.window
        elseif grants and max(row.target, row.least) > 0 then
            return min(now + per, MOST)
        end
    end

    sync_first_use = function(windows, row, limit, per)
        local open = open_window(windows, row, per)
        if not open then
            row.window, row.till = 0, 0
            return 0, row.least > 0, false
        end
        if row.window ~= open and row.window ~= 0 then
            -- What it tells is about another window. What it asks for is for its next requests.
            row.least, row.target = sub(row.least, row.used), sub(row.target, row.used)
            row.have, row.used = 0, 0
        end
        row.window, row.till = open, open
        return sync_window(windows, row, limit, false)
    end
end

-- Places in flight.
if kinds[PLACES] then
    sync_places = function(body, id, row, limit)
        local at = find(me.places, id, 2)
        local held = at and me.places[at + 1] or 0
        local after, before, granted = settle(row, held, body[GRANTED], limit, 0, grants)
        body[GRANTED] = granted
        body[HOLDERS] = body[HOLDERS] + (after > 0 and 1 or 0) - (held > 0 and 1 or 0)
        if after > 0 then
            at = at or #me.places + 1
            me.places[at], me.places[at + 1] = id, after
        elseif at then
            drop(me.places, at, 2)
        end
        return after, after < row.least, after < before
    end
end

-- Pots: src/shared/pot.rs.
if kinds[BUCKET] then
    -- Returns floor(a * b / c), where a * b may be too large for a double.
    local function scale(a, b, c)
        if a * b <= MOST then
            return floor(a * b / c)
        end
        -- Long division, by the bits of b.
        local rest, part, left = a % c, 0, 0
        for bit = 52, 0, -1 do
            part, left = 2 * part, 2 * left
            if left >= c then
                part, left = part + 1, left - c
            end
            left = left + rest * (floor(b / 2 ^ bit) % 2)
            if left >= c then
                part, left = part + 1, left - c
            end
        end
        return min(floor(a / c) * b + part, MOST)
    end

    local function rescale(pot, unit)
        pot[SPENT] = scale(pot[SPENT], unit, pot[UNIT])
        for i = BEFORE_LOWS + 2, #pot, 2 do
            pot[i] = scale(pot[i], unit, pot[UNIT])
        end
        pot[UNIT] = unit
    end

    local function refill(pot, parts)
        pot[SPENT] = sub(pot[SPENT], min(sub(now, pot[AT]) * parts, MOST))
        pot[AT] = now
        local step, first = floor(now / STEP), BEFORE_LOWS + 1
        while pot[first] and pot[first] + LOWS <= step do
            drop(pot, first, 2)
        end
        while pot[first] and pot[#pot - 1] > step do
            drop(pot, #pot - 1, 2)
        end
        if pot[first] and pot[#pot - 1] == step then
            pot[#pot] = min(pot[#pot], pot[SPENT])
        else
            pot[#pot + 1], pot[#pot + 2] = step, pot[SPENT]
        end
    end

    local function refund(pot, parts, since)
        if parts == 0 or sub(now, since) >= (LOWS - 1) * STEP then
            return
        end
        local least
        for i = BEFORE_LOWS + 1, #pot, 2 do
            if pot[i] >= floor(since / STEP) then
                least = min(least or pot[i + 1], pot[i + 1])
            end
        end
        local back = min(parts, least or 0, pot[SPENT])
        pot[SPENT] = pot[SPENT] - back
        for i = BEFORE_LOWS + 1, #pot, 2 do
            if pot[i] >= floor(since / STEP) then
                pot[i + 1] = sub(pot[i + 1], back)
            end
        end
    end

    sync_pot = function(pot, id, row, limit, parts, unit)
        if pot[UNIT] ~= unit then
            rescale(pot, unit)
        end
        refill(pot, parts)
        local at = find(me.accounts, id, 4)
        if not at then
            at = #me.accounts + 1
            local accounts = me.accounts
            accounts[at], accounts[at + 1], accounts[at + 2], accounts[at + 3] = id, row.used, row.used, row.window
            pot[ACCOUNTS] = pot[ACCOUNTS] + 1
        end
        local granted, used, refunded = me.accounts[at + 1], me.accounts[at + 2], me.accounts[at + 3]
        local held = granted - used
        granted = max(granted, row.have, row.used)
        pot[SPENT] = min(pot[SPENT] + min(sub(row.used, used) * unit, MOST), MOST)
        used = max(used, row.used)
        local came_back = row.window > refunded
        refund(pot, min(sub(row.window, refunded) * unit, MOST), row.till)
        refunded = max(refunded, row.window)
        local before, target = granted, max(row.target, used)
        granted = min(granted, target)
        pot[HELD] = pot[HELD] + granted - used - held
        if target > before and grants then
            local left = floor(sub(min(limit * unit, MOST), pot[SPENT]) / unit)
            local more = grant(row, before, sub(left, pot[HELD]))
            granted = granted + more
            pot[HELD] = pot[HELD] + more
        end
        me.accounts[at + 1], me.accounts[at + 2], me.accounts[at + 3] = granted, used, refunded
        return granted, granted < row.least, granted < before or came_back
    end
end

local sees_all = now < owner.since or now >= owner.till
if kinds[TALLY] or sees_all or lease == 0 then
    read_all = function()
        if all_are_read then
            return
        end
        all_are_read = true
        fields = redis.call('HGETALL', key)
        for i = 1, #fields, 2 do
            local name = string.sub(fields[i], 3)
            if fields[i] ~= 'owner' and not records[name] then
                records[name] = read_record(fields[i + 1])
            end
        end
    end

    -- Takes a process's number from a tally.
    take_number = function(record, i)
        local own = record.tallies
        local tally = meters[own[i]].body
        local at = find(tally, own[i + 1], 4)
        tally[at + 1], tally[at + 2] = tally[at + 1] - own[i + 2], tally[at + 2] - 1
        if tally[at + 2] == 0 then
            drop(tally, at, 4)
        end
        drop(own, i, 4)
    end
end

-- Tallies: src/shared/board.rs.
if kinds[TALLY] then
    local function find_number(record, id, name)
        local own = record.tallies
        for i = 1, #own, 4 do
            if own[i] == id and own[i + 1] == name then
                return i
            end
        end
    end

    -- Forgets the numbers of a name that have ended.
    local function end_numbers(tally, id, name)
        read_all()
        local first = NEVER
        for other, record in pairs(records) do
            local i = find_number(record, id, name)
            if i and now >= record.tallies[i + 3] then
                take_number(record, i)
                changed[other] = true
            elseif i then
                first = min(first, record.tallies[i + 3])
            end
        end
        local at = find(tally, name, 4)
        if at then
            tally[at + 3] = first
        end
    end

    -- Returns the process's number, and the sum of the others'.
    sync_tally = function(tally, id, row, is_late)
        local at = find(tally, row.window, 4)
        if at and now >= tally[at + 3] then
            end_numbers(tally, id, row.window)
        end
        local own, i = me.tallies, find_number(me, id, row.window)
        if i and not is_late then
            take_number(me, i)
            i = nil
        end
        at = find(tally, row.window, 4)
        if not is_late and row.used > 0 and now < row.till then
            i = #own + 1
            own[i], own[i + 1], own[i + 2], own[i + 3] = id, row.window, row.used, row.till
            if not at then
                at = #tally + 1
                tally[at], tally[at + 1], tally[at + 2], tally[at + 3] = row.window, 0, 0, NEVER
            end
            tally[at + 1], tally[at + 2], tally[at + 3] = tally[at + 1] + row.used, tally[at + 2] + 1, min(tally[at + 3], row.till)
        end
        local number = i and own[i + 2] or 0
        return number, min(at and tally[at + 1] - number or 0, MOST)
    end
end

-- Members: src/shared/books.rs.
if sees_all or lease == 0 then
    -- Takes back what a process holds and may not use any more. Places are used for long, so they come back
    -- only when the process is gone. Returns whether somebody may wait for it.
    local function forget(record, is_gone)
        local came_back = false
        for i = 1, #record.accounts, 4 do
            local pot, held = meters[record.accounts[i]].body, record.accounts[i + 1] - record.accounts[i + 2]
            pot[SPENT] = min(pot[SPENT] + min(held * pot[UNIT], MOST), MOST)
            pot[HELD] = pot[HELD] - held
            pot[ACCOUNTS] = pot[ACCOUNTS] - 1
        end
        record.accounts = {}
        if is_gone then
            for i = 1, #record.places, 2 do
                local body, held = meters[record.places[i]].body, record.places[i + 1]
                came_back = came_back or held > 0
                body[GRANTED] = sub(body[GRANTED], held)
                body[HOLDERS] = body[HOLDERS] - 1
            end
            record.places = {}
            for i = #record.tallies - 3, 1, -4 do
                take_number(record, i)
            end
        end
        return came_back
    end

    remove = function(record)
        owner.members = owner.members - 1
        record.number = 0
        return forget(record, true)
    end

    -- Forgets members whose leases are over, and pieces of windows that are gone.
    look_at_all = function()
        read_all()
        local serials = {}
        for _, meter in pairs(meters) do
            for i = 1, meter.kind == FIXED and #meter.body or 0, 4 do
                serials[meter.body[i + 3]] = true
            end
        end
        owner.alive, owner.since, owner.till = 0, 0, NEVER
        for name, record in pairs(records) do
            if record.number > 0 then
                if now < record.till then
                    owner.alive, owner.till = owner.alive + 1, min(owner.till, record.till)
                elseif now < record.busy then
                    forget(record, false)
                    owner.since, owner.till = max(owner.since, record.till), min(owner.till, record.busy)
                    changed[name] = true
                else
                    remove(record)
                    changed[name] = true
                end
            end
            for i = #record.held - 1, 1, -2 do
                if not serials[record.held[i]] then
                    drop(record.held, i, 2)
                    changed[name] = true
                end
            end
        end
    end
end

-- Begins a life if there is none, and learns after a loss.
if owner.life == 0 or owner.run ~= run then
    owner.learns = learn == 0 and 0 or now + learn
    owner.run, owner.life = run, fresh_life
end
-- A clock that stepped back must not prolong it.
if now >= owner.learns or owner.learns > now + learn then
    owner.learns = 0
end
if sees_all then
    look_at_all()
end

local is_late = number <= me.number
if not is_late then
    local is_known = me.number > 0
    local was_alive = is_known and now < me.till
    owner.members = owner.members + (is_known and 0 or 1)
    owner.alive = owner.alive + (lease > 0 and 1 or 0) - (was_alive and 1 or 0)
    me.number, me.till = number, now + lease
    me.busy = me.till + busy_for
    if lease > 0 then
        owner.till = min(owner.till, me.till)
    end
end
-- Who speaks of another life does not know what it may still hold of this one.
grants = owner.learns == 0 and (life == owner.life or life == 0)
sharers = max(owner.alive, 1)

-- The reply.

local function is_wanted(meter)
    return meter.wanted_at ~= 0 and sub(now, meter.wanted_at) < WANTED_FOR
end

local reply = { now, owner.life, sub(owner.learns, now), owner.alive, asks }
local is_news, out = false, 5
at = 5
for _ = 1, asks do
    local id, kind, one, other, limit, rows = unpack(numbers, at + 1, at + 6)
    at = at + 6
    local meter = meters[id]
    if not meter then
        local body = {}
        if kind == BUCKET then
            -- After a loss nobody knows what was used before.
            body = { owner.learns > 0 and min(limit * other, MOST) or 0, other, now, 0, 0 }
        elseif kind == PLACES then
            body = { 0, 0 }
        end
        meter = { kind = kind <= SLIDING and FIXED or kind, wanted_at = 0, wanted_by = '', body = body }
        meters[id] = meter
    end
    local body, answer = meter.body, out
    local lacks, came_back = false, false
    reply[out + 1], reply[out + 2] = 0, rows
    out = out + 2
    for _ = 1, rows do
        local row = {
            window = numbers[at + 1],
            till = numbers[at + 2],
            have = numbers[at + 3],
            least = numbers[at + 4],
            target = numbers[at + 5],
            used = numbers[at + 6],
        }
        at = at + 6
        local held, granted = row.used, 0
        local is_lack, is_back = false, false
        -- Where the kinds differ it is no message of ours: the number of a meter stands for its kind too.
        if meter.kind == FIXED then
            if is_late then
                local i = find(body, row.window, 4)
                local piece = i and now < body[i + 1] and find(me.held, body[i + 3], 2)
                held = piece and me.held[piece + 1] or 0
            elseif kind == FIRST_USE then
                held, is_lack, is_back = sync_first_use(body, row, limit, one)
            elseif kind <= SLIDING then
                held, is_lack, is_back = sync_window(body, row, limit, kind == SLIDING)
            end
            local i = find(body, row.window, 4)
            granted = i and now < body[i + 1] and body[i + 2] or 0
            if kind == SLIDING then
                granted = min(granted + alive_beside(body, row.window), MOST)
            end
        elseif meter.kind == BUCKET then
            if is_late then
                local account = find(me.accounts, id, 4)
                held = account and me.accounts[account + 1] or 0
            elseif kind == BUCKET then
                held, is_lack, is_back = sync_pot(body, id, row, limit, one, other)
            end
            granted = min(ceil(body[SPENT] / body[UNIT]) + body[HELD], MOST)
        elseif meter.kind == PLACES then
            if is_late then
                local place = find(me.places, id, 2)
                held = place and me.places[place + 1] or 0
            elseif kind == PLACES then
                held, is_lack, is_back = sync_places(body, id, row, limit)
            end
            if is_late or kind == PLACES then
                row.window, row.till = 0, 0
            end
            granted = body[GRANTED]
        elseif meter.kind == TALLY then
            held, granted = sync_tally(body, id, row, is_late)
        else
            -- A notice: src/shared/board.rs.
            if body[1] and now >= body[2] then
                drop(body, 1, 4)
            end
            if not is_late and now < row.till and row.window > (body[1] or 0) then
                body[1], body[2], body[3], body[4] = row.window, row.till, row.have, row.used
                is_news = true
            end
            row.window, row.till, held, granted = body[1] or 0, body[2] or 0, body[3] or 0, body[4] or 0
        end
        lacks, came_back = lacks or is_lack, came_back or is_back
        reply[out + 1], reply[out + 2], reply[out + 3], reply[out + 4] = row.window, row.till, held, granted
        out = out + 4
    end
    if lacks then
        -- Those who hold what this one lacks are told once, and again while it asks.
        is_news = is_news or not is_wanted(meter)
        meter.wanted_at, meter.wanted_by = now, process
    else
        is_news = is_news or (came_back and is_wanted(meter))
        if meter.wanted_by == process and not is_late then
            meter.wanted_at = 0
        end
    end
    if is_wanted(meter) and meter.wanted_by ~= process then
        reply[answer + 1] = 1
    end
end
if lease == 0 and not is_late then
    is_news = remove(me) or is_news
end

-- What is written.

local kept = KEPT
local packed = {
    cmsgpack.pack(
        owner.run,
        owner.life,
        owner.learns,
        owner.members,
        owner.alive,
        owner.since,
        owner.till,
        owner.serial
    ),
}
for id, meter in pairs(meters) do
    local kind, body = meter.kind, meter.body
    local is_empty = #body == 0
    if kind == BUCKET then
        is_empty = body[SPENT] == 0 and body[ACCOUNTS] == 0
    elseif kind == PLACES then
        is_empty = body[HOLDERS] == 0
    end
    if not is_empty then
        packed[#packed + 1] = cmsgpack.pack(id, kind, meter.wanted_at, meter.wanted_by, #body, unpack(body))
        -- A window must not be lost before its end, however long it is.
        for i = 2, kind == FIXED and #body or 0, 4 do
            kept = max(kept, ceil((body[i] + REMEMBERED - now) / 1000))
        end
    end
end
if owner.members == 0 and #packed == 1 then
    redis.call('DEL', key)
else
    redis.call('HSET', key, 'owner', table.concat(packed))
    for name in pairs(changed) do
        local record = records[name]
        local held, accounts, places, tallies = record.held, record.accounts, record.places, record.tallies
        if record.number > 0 or held[1] then
            packed = cmsgpack.pack(record.number, record.till, record.busy, #held, #accounts, #places)
            for _, list in ipairs({ held, accounts, places, tallies }) do
                packed = list[1] and packed .. cmsgpack.pack(unpack(list)) or packed
            end
            redis.call('HSET', key, 'p/' .. name, packed)
        else
            redis.call('HDEL', key, 'p/' .. name)
        end
    end
    redis.call('PEXPIRE', key, kept)
end
if is_news then
    -- News only quicken what happens anyway. A user who may not publish has exact limits as well.
    redis.pcall('PUBLISH', ARGV[2], ARGV[3])
end
return reply
