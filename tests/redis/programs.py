"""Random programs of commands whose replies are the same on every server, given the same keys.

A template is a command line. `$s` stands for a key that holds a string (most of the time), `$h` a hash, `$l` a list, `$u` a
set, `$z` a sorted set, `$x` a stream, `$b` a bitmap, `$p` a HyperLogLog, `$g` places; all keys of a command
have the same hash tag.
`$s...` are several keys with any tags, `$s..` several with the same. `[A|B|]` is one of the alternatives. Before it may stand how
its reply is to be compared: `~` in any order, `%` pairs in any order, `&` a cursor and elements in any order, `^` the same
with pairs, `?` by its kind only. `#name` is one of SCRIPTS, in which `@` stands for the program's name.
"""

import hashlib
import random
import re
from typing import NamedTuple

TEMPLATES = """
SET $s $v
SET $s $v [NX|XX|GET|NX GET|KEEPTTL|EXAT 9999999999|PXAT 9999999999999|EXAT 1|EX 0|FOO|IFEQ $v]
GET $s
GETDEL $s
GETSET $s $v
GETEX $s [PERSIST|EXAT 9999999999|]
SETNX $s $v
SETRANGE $s $n $v
GETRANGE $s $i $i
SUBSTR $s $i $i
APPEND $s $v
STRLEN $s
INCR $s
DECR $s
INCRBY $s $i
DECRBY $s $i
INCRBYFLOAT $s $f
MGET $s...
MGET $s..
MSET $s+$v...
MSET $s+$v..
MSET $s $v $s
MSETNX $s+$v..
LCS $s $s [LEN|IDX|IDX MINMATCHLEN 1|]
DEL $k...
UNLINK $k...
EXISTS $k...
TOUCH $k...
DEL $k
EXISTS $k
TYPE $k
OBJECT ENCODING $k
OBJECT HELP
? DUMP $s
RENAME $k $k
RENAMENX $k $k
COPY $k $k [REPLACE|]
EXPIREAT $k [9999999999|1|foo]
PEXPIREAT $k [9999999999999|1] [NX|XX|GT|LT|]
EXPIRETIME $k
PEXPIRETIME $k
PERSIST $k
HSET $h $m $v
HSET $h $m $v $m $v
HSET $h $m
HSETNX $h $m $v
HGET $h $m
HMGET $h $m $m $m
HMSET $h $m $v $m $v
HDEL $h $m $m
HLEN $h
HEXISTS $h $m
HSTRLEN $h $m
HINCRBY $h $m $i
HINCRBYFLOAT $h $m $f
~ HKEYS $h
~ HVALS $h
% HGETALL $h
^ HSCAN $h 0 COUNT 1000
HPERSIST $h FIELDS 1 $m
HEXPIREAT $h 9999999999 FIELDS 2 $m $m
HEXPIRETIME $h FIELDS 1 $m
LPUSH $l $v $v
RPUSH $l $v
LPUSHX $l $v
RPUSHX $l $v
LPOP $l [1|2|0|-1|]
RPOP $l [2|]
LLEN $l
LINDEX $l $i
LINSERT $l [BEFORE|AFTER|FOO] $v $v
LSET $l $i $v
LRANGE $l $i $i
LREM $l $i $v
LTRIM $l $i $i
LPOS $l $v [RANK 1|COUNT 0|RANK 0|]
LMOVE $l $l [LEFT|RIGHT] [LEFT|RIGHT]
RPOPLPUSH $l $l
LMPOP [1|2|0|foo] $l $l [LEFT|RIGHT] [COUNT 2|]
SADD $u $m $m
SREM $u $m
SCARD $u
SISMEMBER $u $m
SMISMEMBER $u $m $m
~ SMEMBERS $u
~ SPOP $u 1000
SMOVE $u $u $m
~ SINTER $u..
~ SUNION $u..
~ SDIFF $u..
SINTERCARD 2 $u $u [LIMIT 1|]
SINTERSTORE $u $u $u
SUNIONSTORE $u $u $u
SDIFFSTORE $u $u $u
& SSCAN $u 0 COUNT 1000
ZADD $z $i $m $f $m
ZADD $z [NX|XX|GT|LT|CH|INCR|NX XX] $i $m
ZREM $z $m
ZCARD $z
ZSCORE $z $m
ZMSCORE $z $m $m
ZINCRBY $z $i $m
ZRANK $z $m [WITHSCORE|]
ZREVRANK $z $m
ZCOUNT $z [-inf|(2|1] [+inf|5|foo]
ZLEXCOUNT $z - +
ZRANGE $z $i $i [REV|WITHSCORES|]
ZRANGE $z -inf +inf BYSCORE [LIMIT 0 2|] [WITHSCORES|]
ZREVRANGE $z 0 -1 [WITHSCORES|]
ZRANGEBYSCORE $z -inf +inf [WITHSCORES|]
ZREVRANGEBYSCORE $z +inf -inf
ZRANGEBYLEX $z - +
ZRANGESTORE $z $z 0 2
ZPOPMIN $z [2|]
ZPOPMAX $z [2|]
ZMPOP 2 $z $z [MIN|MAX]
ZREMRANGEBYRANK $z 0 0
ZREMRANGEBYSCORE $z 3 4
ZUNION 2 $z $z [WITHSCORES|]
ZINTER 2 $z $z [WEIGHTS 1 2|AGGREGATE MAX|]
ZDIFF 2 $z $z
ZINTERCARD 2 $z $z
ZUNIONSTORE $z 2 $z $z [AGGREGATE MIN|]
ZINTERSTORE $z 2 $z $u
ZDIFFSTORE $z 2 $z $z
^ ZSCAN $z 0 COUNT 1000
XADD $x [NOMKSTREAM|MAXLEN 3|MAXLEN = 2|] $n-1 $m $v
XADD $x $n-* $m $v
XLEN $x
XRANGE $x - + [COUNT 2|]
XREVRANGE $x + -
XDEL $x $n-1
XTRIM $x MAXLEN 2
XREAD [COUNT 2|] STREAMS $x $x 0 0
XREAD COUNT 1 STREAMS $x 0 0
XGROUP CREATE $x grp [0|$] [MKSTREAM|]
XGROUP CREATECONSUMER $x grp bob
XGROUP DELCONSUMER $x grp bob
XGROUP DESTROY $x grp
XREADGROUP GROUP grp bob [NOACK|] STREAMS $x >
XREADGROUP GROUP streams bob STREAMS $x 0
XACK $x grp $n-1
XPENDING $x grp
XCLAIM $x grp ann 0 $n-1 JUSTID
XAUTOCLAIM $x grp ann 0 0
XSETID $x 1000-0
XINFO STREAM $x
XINFO GROUPS $x
SETBIT $b $n [0|1|2]
GETBIT $b $n
BITCOUNT $b [0 -1|0 5 BIT|0|]
BITPOS $b 1
BITOP [AND|OR|XOR] $b $b $b
BITOP NOT $b $b
BITFIELD $b [SET u8 0 $n|INCRBY i5 1 1|GET u4 0|OVERFLOW FAIL INCRBY u2 1 1]
BITFIELD_RO $b GET u8 0
PFADD $p $m $m
PFCOUNT $p..
PFMERGE $p $p $p
GEOADD $g 13.361389 38.115556 $m 15.087269 37.502669 $m
GEODIST $g $m $m km
GEOPOS $g $m $m
GEOHASH $g $m
GEOSEARCH $g FROMLONLAT 15 37 BYRADIUS 300 km ASC [WITHCOORD WITHDIST|COUNT 1|]
GEOSEARCHSTORE $g $g FROMLONLAT 15 37 BYRADIUS 300 km ASC
GEORADIUS $g 15 37 300 km [WITHDIST ASC|COUNT 1 ASC|STORE $g|ASC STOREDIST $g]
GEORADIUSBYMEMBER_RO $g $m 500 km ASC
SORT $l [ALPHA|ALPHA DESC|ALPHA LIMIT 0 2|]
SORT $l ALPHA STORE $l
SORT_RO $u ALPHA
EVAL #arguments 2 $k $k $v
EVAL #set 1 $s $v
EVAL #get 1 $s
EVAL #incr 1 $s
EVAL #values 0
EVAL #double 0
EVAL #failure 0
EVAL #nonsense 0
EVAL #values [-1|2|foo] $k
EVAL_RO #get 1 $s
EVAL_RO #set 1 $s x
EVALSHA 0123456789012345678901234567890123456789 1 $s
SCRIPT LOAD #append
EVALSHA !append 1 $s
SCRIPT EXISTS !append 0123456789012345678901234567890123456789
SCRIPT FOO
FUNCTION LOAD REPLACE #library
FCALL f@ 1 $s
FCALL nosuch 1 $s
FCALL_RO f@ 1 $s
FUNCTION DELETE lib@
FUNCTION LIST LIBRARYNAME lib@
PING
PING $v
ECHO $v
SELECT 0
SELECT foo
WAIT 0 0
PUBLISH nobody@ $v
SPUBLISH $k $v
PUBSUB NUMSUB nobody@
PUBSUB CHANNELS nobody@*
CLIENT GETNAME
CLIENT SETNAME [me|#nonsense]
CLIENT NO-EVICT [ON|OFF|FOO]
COMMAND COUNT
COMMAND GETKEYS MSET a 1 b 2
LOLWUT VERSION 1
EXEC
DISCARD
UNWATCH
SUBSCRIBE
UNWATCH now
GET
GET $s $s
NOSUCH $v $v
#nonsense
CONFIG NOSUCH
OBJECT NOSUCH $k
XREAD STREAMS
"""

WHOLE = """
DBSIZE
PUBSUB NUMPAT
~ KEYS *
~ KEYS *s[0-9]
? RANDOMKEY
FLUSHALL
FLUSHALL [ASYNC|SYNC|FOO]
FLUSHDB
& SCAN 0 COUNT 0
LASTSAVE now
"""
"""What looks at all keys: only for a program that has the servers to itself."""

BLOCKING = """
BLPOP $l 0.01
BLPOP $l $l foo
BRPOP $l -1
BLMOVE $l $l LEFT RIGHT 0.01
BZPOPMIN $z 0.01
BLMPOP 0.01 2 $l $l LEFT
XREAD BLOCK 10 STREAMS $x 0
"""
"""What may wait: seldom, or the programs would do nothing else."""

SCRIPTS = {
    "append": "return redis.call('append', KEYS[1], '@')",
    "arguments": "return {KEYS[1], KEYS[2], ARGV[1]}",
    "double": "return {double=3.5}",
    "failure": "return redis.error_reply('OOPS no')",
    "get": "return redis.call('get', KEYS[1])",
    "incr": "return redis.pcall('incr', KEYS[1])",
    "library": "#!lua name=lib@\nredis.register_function('f@', function(k, a) return redis.call('get', k[1]) end)",
    "nonsense": "no such thing",
    "set": "return redis.call('set', KEYS[1], ARGV[1])",
    "values": "return {1, 2, {3, 'x', false}, true}",
}

TYPES = "shluzxbpg"
TAGS = 5
VALUES = (
    b"", b"0", b"1", b"-3", b"10", b"3.5", b"a", b"b", b"hello world", b"\r\n", b"$-1\r\n", b"\0\xff\xfe", b"*3\r\n$3\r\nSET",
    b"{x}", "grün".encode(), b"x" * 70, b"y" * 5000, b"9223372036854775807",
)  # fmt: skip
MEMBERS = (b"a", b"b", b"c", b"1", b"2", b"3", b"", b"m\r\nn", b"\xff\0")
FLOATS = (b"1.5", b"-0.25", b"3e2", b"0.1", b"inf", b"nan", b"x")
ALTERNATIVES = re.compile(r"\[([^][]*\|[^][]*)\]")


class Step(NamedTuple):
    """One command. `order` says how its replies are compared, one character a reply; in parentheses, how EXEC's parts are."""

    arguments: tuple[bytes, ...]
    order: str = "="

    @property
    def frames(self) -> int:
        """How many replies it gets."""
        return 1 if self.order[:1] == "(" else len(self.order)


class Programs:
    """Makes programs; the same seed gives the same ones."""

    def __init__(self, seed: int, without: tuple[str, ...] = ()) -> None:
        """`without` these words."""
        self.random = random.Random(seed)
        self.templates = [line for line in TEMPLATES.splitlines() if line and not any(word in line for word in without)]
        self.whole = [line for line in WHOLE.splitlines() if line]
        self.blocking = [line for line in BLOCKING.splitlines() if line]

    def program(
        self, name: str, length: int, whole: bool = False, watches: bool = True, subscribes: bool = True
    ) -> list[Step]:
        """About `length` steps on keys of its own; `whole` if it may look at all keys."""
        writer = Writer(self.random, name)
        lines = self.templates + self.whole * (6 if whole else 0)
        steps: list[Step] = [writer.command("HELLO 3", "?")] if self.random.random() < 0.5 else []
        while len(steps) < length:
            kind = self.random.random()
            if kind < 0.04:
                steps += writer.transaction(lines, watches)
            elif kind < 0.06:
                steps += writer.muted(self.templates)
            elif kind < 0.065:
                steps += writer.subscriber() if subscribes else []
            elif kind < 0.07:
                steps.append(writer.command(self.random.choice(["HELLO 2", "HELLO 3", "HELLO 4", "HELLO 3 FOO"]), "?"))
            elif kind < 0.075:
                steps.append(writer.command("RESET"))
            elif kind < 0.078:
                steps.append(writer.line(self.random.choice(self.blocking)))
            else:
                steps.append(writer.line(self.random.choice(lines)))
        return steps


class Writer:
    """Fills in templates for one program."""

    def __init__(self, source: random.Random, name: str) -> None:
        self.random = source
        self.name = name.encode()
        self.tag = 0

    def key(self, kind: str) -> bytes:
        if kind == "k" or self.random.random() < 0.03:
            kind = self.random.choice(TYPES)
        return b"{%s%d}%s%d" % (self.name, self.tag, kind.encode(), self.random.randrange(3))

    def line(self, template: str) -> Step:
        """One command of a template, on keys of any one tag."""
        self.tag = self.random.randrange(TAGS)
        return self.filled(template)

    def filled(self, template: str) -> Step:
        order = "="
        if template[1:2] == " ":
            order, template = template[0], template[2:]
        while ALTERNATIVES.search(template):
            template = ALTERNATIVES.sub(lambda found: self.random.choice(found[1].split("|")), template, count=1)
        arguments: list[bytes] = []
        for word in template.split():
            arguments += self.words(word)
        return Step(tuple(arguments), order)

    def command(self, text: str, order: str = "=") -> Step:
        return Step(tuple(text.encode().split()), order)

    def words(self, word: str) -> list[bytes]:
        if word.endswith(".."):
            several = word.endswith("...")
            found = []
            for _ in range(self.random.randrange(1, 6)):
                if several:
                    self.tag = self.random.randrange(TAGS)
                for part in word.rstrip(".").split("+"):
                    found.append(self.word(part))
            return found
        return [self.word(word)]

    def word(self, word: str) -> bytes:
        if word[0] in "#!":
            script = SCRIPTS[word[1:]].replace("@", self.name.decode()).encode()
            return script if word[0] == "#" else hashlib.sha1(script, usedforsecurity=False).hexdigest().encode()
        if len(word) > 1 and word[0] == "$":
            return self.value(word[1]) + word[2:].encode()
        return word.replace("@", self.name.decode()).encode()

    def value(self, kind: str) -> bytes:
        choose = self.random
        if kind == "v":
            return choose.choice(VALUES)
        if kind == "m":
            return choose.choice(MEMBERS)
        if kind == "f":
            return choose.choice(FLOATS)
        if kind == "i":
            return b"%d" % choose.randrange(-4, 9) if choose.random() < 0.97 else b"ten"
        if kind == "n":
            return b"%d" % choose.randrange(40)
        return self.key(kind)

    # -- blocks

    def transaction(self, lines: list[str], watches: bool) -> list[Step]:
        """On keys of one tag; sometimes spoilt, sometimes given up, sometimes watching."""
        self.tag = self.random.randrange(TAGS)
        steps = []
        if watches and self.random.random() < 0.4:
            steps.append(self.filled("WATCH $k.."))
            if self.random.random() < 0.4:
                steps.append(self.filled("SET $k $v"))
        steps.append(self.command("MULTI"))
        inner = []
        for template in self.random.choices(lines, k=self.random.randrange(7)):
            if not transactional(template):
                continue
            step = self.filled(template)
            steps.append(Step(step.arguments))
            inner.append(step.order)
        if self.random.random() < 0.1:
            steps.append(self.filled(self.random.choice(["MULTI", "WATCH $k", "GET", "NOSUCH"])))
            inner.append("=")
        end = self.random.choice(["EXEC"] * 6 + ["DISCARD"])
        steps.append(Step((end.encode(),), "(" + "".join(inner) + ")" if end == "EXEC" else "="))
        return steps

    def muted(self, lines: list[str]) -> list[Step]:
        """CLIENT REPLY."""
        if self.random.random() < 0.5:
            return [self.command("CLIENT REPLY SKIP", ""), Step(self.line(self.mutable(lines)).arguments, "")]
        steps = [self.command("CLIENT REPLY OFF", "")]
        for _ in range(self.random.randrange(5)):
            steps.append(Step(self.line(self.mutable(lines)).arguments, ""))
        return [*steps, self.command("CLIENT REPLY ON")]

    def mutable(self, lines: list[str]) -> str:
        while True:
            template = self.random.choice(lines)
            if "SUBSCRIBE" not in template:
                return template

    def subscriber(self) -> list[Step]:
        """In RESP2 other commands are refused meanwhile, in RESP3 not."""
        return [
            self.command(f"SUBSCRIBE a{self.name.decode()} b", "=="),
            self.command("PSUBSCRIBE c*"),
            self.command("PING"),
            self.filled("GET $s"),
            self.command("UNSUBSCRIBE b nosuch", "=="),
            self.command("PUNSUBSCRIBE"),
            self.command("UNSUBSCRIBE"),
            self.command("UNSUBSCRIBE"),
            self.filled("GET $s"),
        ]


def transactional(template: str) -> bool:
    """May stand in a transaction: keys of several tags and some of Puerta's own answers may not."""
    words = template.split()
    several = any(word.endswith("...") for word in words)
    return not several and not set(words) & {
        "SELECT", "WAIT", "CLIENT", "READONLY", "SCRIPT", "FUNCTION", "DBSIZE", "KEYS", "RANDOMKEY", "FLUSHALL", "FLUSHDB",
        "SCAN", "LASTSAVE", "PUBSUB", "EXEC", "DISCARD", "SUBSCRIBE", "MSET",
    }  # fmt: skip
