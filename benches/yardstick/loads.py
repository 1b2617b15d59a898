"""The loads, the columns of their tables, and the bars for isowire."""

from dataclasses import dataclass, field
from pathlib import Path

from .servers import LIMIT, PEER, US

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@dataclass(frozen=True)
class Column:
    key: str
    title: str
    value: object
    form: str


def per(result, top, bottom, factor=1):
    return result[top] / result[bottom] * factor if top in result and result.get(bottom) else None


COLUMNS = {
    column.key: column
    for column in [
        Column("rate", "per second", lambda r: per(r, "requests", "seconds"), ",.0f"),
        Column("mbs", "MB/s", lambda r: per(r, "bytes", "seconds", 1e-6), ",.0f"),
        Column("us", "CPU us each", lambda r: per(r, "cpu", "requests", 1e6), ".2f"),
        Column("gib", "CPU s/GiB", lambda r: per(r, "cpu", "bytes", GIB), ".3f"),
        Column("p50", "p50 us", lambda r: r.get("p50"), ",.0f"),
        Column("p99", "p99 us", lambda r: r.get("p99"), ",.0f"),
        Column("mib", "anon MiB", lambda r: r["anonymous"] / MIB if "anonymous" in r else None, ".1f"),
        Column("jain", "Jain", lambda r: r.get("jain"), ".3f"),
        Column("seconds", "seconds", lambda r: r.get("seconds"), ".3f"),
        Column("each", "anon B/idle", lambda r: r.get("each"), ",.0f"),
        Column("alone", "p99 us alone", lambda r: r.get("alone"), ",.0f"),
        Column("slowed", "p99 ratio", lambda r: per(r, "p99", "alone"), ".2f"),
        Column("cold", "cold reads", lambda r: r.get("cold"), ",.0f"),
        Column("cold_mib", "cold MiB", lambda r: r["from_disk"] / MIB if "from_disk" in r else None, ",.1f"),
        Column("extra", "extra DATA", lambda r: r.get("extra"), ",.0f"),
        Column("file", "s/file p50", lambda r: r["p50"] / 1e6 if r.get("p50") else None, ".3f"),
        Column("offer", "first offer s", lambda r: r.get("offer"), ".4f"),
        Column("first", "first s", lambda r: r.get("first"), ".2f"),
        Column("middle", "median s", lambda r: r.get("middle"), ".2f"),
        Column("last", "last s", lambda r: r.get("last"), ".2f"),
    ]
}

SMALL = ("rate", "us", "p50", "p99", "mib", "jain")
LARGE = ("mbs", "gib", "p50", "p99", "mib", "jain")

BEST = "the best peer"
RAW = "the raw loop"


@dataclass(frozen=True)
class Bar:
    """A goal: the figure of isowire is at most (`at_least`: at least) `factor` times a reference."""

    key: str
    factor: float
    against: str | None = None
    at_least: bool = False

    def judge(self, figures, kinds):
        """The figure relative to its reference, and whether the bar is met; None if one is missing."""
        ours = next((f.get(self.key) for name, f in figures.items() if kinds[name] == US), None)
        theirs = self.reference(figures, kinds)
        if ours is None or theirs is None:
            return None
        value = ours if self.against is None else (ours / theirs if theirs else float("inf"))
        return value, value >= self.factor if self.at_least else value <= self.factor

    def reference(self, figures, kinds):
        if self.against is None:
            return 1
        wanted = {BEST: PEER, RAW: LIMIT}.get(self.against)
        others = [f.get(self.key) for name, f in figures.items()
                  if (kinds[name] == wanted if wanted else name == self.against)]
        others = [value for value in others if value is not None]
        if not others:
            return None
        return max(others) if self.at_least else min(others)

    def __str__(self):
        sense = "at least" if self.at_least else "at most"
        return f"{COLUMNS[self.key].title} {sense} {self.factor:g}" + (f" of {self.against}" if self.against else "")


@dataclass(frozen=True)
class Load:
    protocol: str
    name: str
    argv: tuple
    columns: tuple
    bars: tuple = ()
    """Only for servers that can serve thousands of clients."""
    thousands: bool = False
    seconds: float = 2
    """The command of the load generator, if its name is not that of the protocol."""
    command: str | None = None
    """The requested file, for protocols with several files."""
    file: str = "big"
    """Options of one client that reads `big` from a slow disk, after a measurement without it."""
    cold: tuple | None = None
    options: dict = field(default_factory=dict, hash=False)


def nbd(name, connections, depth, length, bars, pattern="random", *more):
    argv = ("--connections", connections, "--depth", depth, "--len", length, "--pattern", pattern, *more)
    return Load("nbd", name, argv, SMALL if length < 64 * KIB else LARGE, bars)


def large(factor=0.55):
    return Bar("gib", factor, BEST), Bar("gib", 1.2, RAW)


BATCHED = (Bar("us", 1 / 4, BEST), Bar("us", 1 / 8, "nbd-server"), Bar("us", 1.3, RAW))
CROWD = ("--connections", 1000)

NBD = [
    nbd("4 KiB random, 1 client, depth 64", 1, 64, 4 * KIB, BATCHED),
    nbd("4 KiB random, 128 clients, depth 4", 128, 4, 4 * KIB, BATCHED),
    nbd("4 KiB random, 1000 clients, depth 4", 1000, 4, 4 * KIB,
        (Bar("us", 1 / 3.5, BEST), Bar("mib", 32), Bar("jain", 0.9, at_least=True), Bar("p99", 1, BEST))),
    nbd("4 KiB random, 1000 clients, depth 1, a segment each", 1000, 1, 4 * KIB, (Bar("us", 0.65, BEST),), "random",
        "--one-per-segment"),
    nbd("4 KiB random, 1 client, depth 1", 1, 1, 4 * KIB, (Bar("p50", 1, BEST),)),
    nbd("128 KiB random, 16 clients, depth 4", 16, 4, 128 * KIB, large()),
    nbd("128 KiB random, 128 clients, depth 4", 128, 4, 128 * KIB, large()),
    nbd("128 KiB random, 1000 clients, depth 4", 1000, 4, 128 * KIB, large()),
    nbd("1 MiB sequential, 1 client, depth 4", 1, 4, MIB, large(), "sequential"),
    *[Load("nbd", f"connect, negotiate, read once: {name}", ("--kind", "few-by-few", "--connections", few),
           ("rate", "us"), (Bar("rate", 1.4, BEST, at_least=True),), command="crowd")
      for name, few in [("one by one", 1), ("8 at a time", 8)]],
    Load("nbd", "connect, negotiate, read once: 1000 at once, then idle", ("--kind", "all-at-once", *CROWD),
         ("seconds", "us", "mib", "each"), (Bar("seconds", 1), Bar("mib", 10_000_000 / MIB)), command="crowd"),
]

IDLE = [
    Load("nbd", "16 that read beside 5000 idle and 500 stalled",
         ("--kind", "idle", "--connections", 16, "--idle", 5000, "--stalled", 500),
         ("each", "alone", "p99", "slowed", "mib"), (Bar("each", 4096), Bar("slowed", 2)), thousands=True,
         command="crowd"),
]

COLD = [
    Load("nbd", "128 that read cached data beside one that does not",
         ("--kind", "cold", "--connections", 128, "--area", 256 * MIB), ("cold", "alone", "p99", "slowed"),
         (Bar("slowed", 2),), command="crowd", options={"slow_disk": True}),
]


def deep(name, connections, depth, length):
    argv = ("--connections", connections, "--depth", depth, "--len", length, "--pattern", "scattered")
    return Load("nbd", f"{name} from a disk of {DISK_MS} ms", argv, ("rate", "mbs", "us", "p50", "p99", "jain"),
                (Bar("rate", 1, BEST, at_least=True),), options={"disk_ms": DISK_MS})


DISK_MS = 10

DEEP = [
    deep("4 KiB, 1 client, depth 64", 1, 64, 4 * KIB),
    deep("128 KiB, 1 client, depth 16", 1, 16, 128 * KIB),
    deep("64 KiB, 16 clients, depth 4", 16, 4, 64 * KIB),
]


COLD_READER = {
    "nfs": ("--call", "read", "--depth", 4, "--len", 64 * KIB),
    "http": (),
    "tftp": ("--window", 16),
}


def beside_cold(protocol, name, *argv):
    return Load(protocol, f"{name} cached data beside one that reads uncached data", argv,
                ("cold_mib", "alone", "p99", "slowed"), (Bar("slowed", 2),), file="middle" if protocol == "nfs" else "one",
                cold=COLD_READER[protocol], options={"slow_disk": True})


COLD += [
    beside_cold("nfs", "64 that READ", "--call", "read", "--connections", 64, "--len", 4 * KIB),
    beside_cold("http", "16 that GET", "--connections", 16),
    beside_cold("tftp", "8 that load", "--connections", 8, "--window", 16),
]

# The reads of one boot and their times.
TRACE = Path(__file__).resolve().parents[1] / "data/boot-reads.txt"


def storm(trace):
    argv = ("--connections", 500, "--trace", trace, "--ramp", 5)
    return [Load("nbd", "500 machines that boot within 5 s", argv,
                 ("first", "middle", "last", "jain", "p99", "gib", "mib"), command="storm")]


def nfs(name, call, connections, depth, length, bars):
    argv = ("--call", call, "--connections", connections, "--depth", depth, "--len", length)
    return Load("nfs", name, argv, LARGE if call == "read" and length >= 64 * KIB else SMALL, bars)


def half():
    return Bar("gib", 1 / 2, "nfs3_server"), Bar("gib", 1 / 2, "ganesha")


def quarter():
    return Bar("us", 1 / 4, "nfs3_server"), Bar("us", 1 / 6, "ganesha")


NFS = [
    nfs("READ 64 KiB random, 16 clients, depth 4", "read", 16, 4, 64 * KIB, half()),
    nfs("READ 128 KiB random, 128 clients, depth 4", "read", 128, 4, 128 * KIB, half()),
    nfs("READ 64 KiB random, 1000 clients, depth 1", "read", 1000, 1, 64 * KIB, half()),
    nfs("READ 4 KiB random, 64 clients, depth 2", "read", 64, 2, 4 * KIB, quarter()),
    nfs("GETATTR, 64 clients, depth 2", "getattr", 64, 2, 0, quarter()),
    nfs("LOOKUP among 10000 names, 64 clients, depth 2", "lookup", 64, 2, 0, quarter()),
]

HTTP = [
    Load("http", f"1 GiB file, {n} client{'s' * (n > 1)}", ("--connections", n), ("mbs", "gib", "mib", "jain"),
         (Bar("gib", 1, "nginx"),))
    for n in (1, 64)
]


def tftp(name, window, clients, bars, *more, file="middle", columns=("mbs", "gib", "extra")):
    seconds = 5 if file == "one" else 2
    argv = ("--window", window, "--connections", clients, *more)
    return Load("tftp", name, argv, columns, bars, file=file, seconds=seconds)


def faster(factor):
    return (Bar("mbs", factor, "atftpd", at_least=True),)


TFTP = [
    tftp("window 1, 1 client", 1, 1, faster(1)),
    tftp("window 1, 8 clients", 1, 8, faster(1)),
    tftp("window 16, 1 client", 16, 1, faster(2)),
    tftp("window 16, 8 clients", 16, 8, faster(2)),
    tftp("window 64, 1 client", 64, 1, faster(2)),
    tftp("window 64, 8 clients", 64, 8, faster(2)),
    tftp("1 MiB, window 1, 1 % lost", 1, 1, (Bar("file", 1),), "--lose-one-of", 100, file="one", columns=("file", "extra")),
    tftp("1 MiB, window 16, 1 % lost", 16, 1, (Bar("file", 1),), "--lose-one-of", 100, file="one",
         columns=("file", "extra")),
    tftp("1 MiB, window 1, every ACK twice", 1, 1, (Bar("extra", 0),), "--twice", file="one",
         columns=("file", "extra")),
]

DHCP = [
    Load("dhcp", "DISCOVER to ACK, one at a time", ("--together", 1), ("rate", "us", "p50", "p99", "offer"),
         (Bar("p99", 2000), Bar("offer", 0.1))),
    Load("dhcp", "DISCOVER to ACK, 16 at a time", ("--together", 16), ("rate", "us", "p50", "p99", "mib"),
         (Bar("rate", 5000, at_least=True), Bar("p99", 2000))),
]

SETS = {"nbd": NBD, "nfs": NFS, "http": HTTP, "tftp": TFTP, "dhcp": DHCP, "idle": IDLE, "cold": COLD, "deep": DEEP,
        "storm": storm(TRACE)}
