"""The one atomic step behind every price write."""

from betcore_async.redis.scripts import Script

# Not repeatable: the second run would append the points again.
#
# KEYS: latest, history, sequence. ARGV: symbol, channel, life of latest (ms), greatest age (us), most points, the
# command that publishes, then for each point its time (us) and price. Returns how many points were kept.
#
# Scores are microseconds: whole numbers below 2^53, which doubles, and therefore Lua, hold exactly. Members are
# "<length of number><number>:<price>" with a number that only grows: never equal, and, the length coming first as a
# letter, sorted by age where scores are equal.
WRITE_POINTS = Script(
    """
    local symbol, channel, life = ARGV[1], ARGV[2], ARGV[3]
    local greatest_age, most = tonumber(ARGV[4]), tonumber(ARGV[5])
    local top = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')[2]
    local newest = top and tonumber(top)
    local held = redis.call('GET', KEYS[1])
    local held_at = held and tonumber(string.match(held, '^-?%d+'))
    -- The history may have been cut by hand, and latest may have expired: what either of them saw counts.
    if held_at and (not newest or held_at > newest) then newest = held_at end

    local count = (#ARGV - 6) / 2
    local number = redis.call('INCRBY', KEYS[3], count) - count
    local latest, ticks = nil, {}
    for i = 7, #ARGV, 2 do
        local at, price = tonumber(ARGV[i]), ARGV[i + 1]
        number = number + 1
        if not newest or at >= newest - greatest_age then
            local digits = string.format('%.0f', number)
            local member = string.char(96 + #digits) .. digits .. ':' .. price
            redis.call('ZADD', KEYS[2], ARGV[i], member)
            if not newest or at >= newest then
                newest = at
                latest = ARGV[i] .. ' ' .. price
            end
            ticks[#ticks + 1] = '{"symbol":"' .. symbol .. '","price":"' .. price .. '","at":' .. ARGV[i] .. '}'
        end
    end

    if latest then redis.call('SET', KEYS[1], latest, 'PX', life) end
    if newest then
        redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. string.format('%.0f', newest - greatest_age))
    end
    local surplus = redis.call('ZCARD', KEYS[2]) - most
    if surplus > 0 then redis.call('ZREMRANGEBYRANK', KEYS[2], 0, surplus - 1) end
    for i = 1, #ticks do redis.call(ARGV[6], channel, ticks[i]) end
    return #ticks
    """,
    repeatable=False,
)
