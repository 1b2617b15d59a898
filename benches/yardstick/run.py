"""One load against one server, and all of them in turn."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from .fixture import BIG
from .servers import BEFORE, CLIENT_CORE, HOST, INTERFACE, LIMIT, SERVERS, US, Failed, Running, descendants, find

LIMIT_SECONDS = 120
SLOW_DISK_READS = 200
"""Reads per second of the server's disk, for loads that read uncached data."""


def rounds(fixture, loads, options):
    """Runs every load against every server in turn; yields (load, server, result or Failed)."""
    given_up = set()
    for number in range(options.rounds):
        for load in loads:
            for server in SERVERS[load.protocol]:
                key = (load.name, server.name)
                if not is_chosen(server, options) or key in given_up or (load.thousands and not server.takes_thousands):
                    continue
                # The raw loops serve one file and do not check the page cache.
                if (load.cold or "disk_ms" in load.options) and server.kind == LIMIT:
                    continue
                missing = server.missing(fixture)
                if missing is None:
                    progress = f"round {number + 1} of {options.rounds}: {load.protocol}, {load.name}"
                    print(f"{progress}: {server.name}", file=sys.stderr)
                try:
                    if missing:
                        raise Failed(missing)
                    yield load, server, measure(fixture, load, server, options.seconds)
                except Failed as failed:
                    given_up.add(key)
                    yield load, server, failed


def is_chosen(server, options):
    """Tells whether the command line asks for a server."""
    if server.kind == BEFORE:
        return options.before is not None
    return server.kind == US or re.search(options.servers, server.name)


def measure(fixture, load, server, seconds):
    with tempfile.TemporaryDirectory(prefix="isowire-peers-") as name, network(load.protocol) as (outside, inside):
        directory = Path(name)
        directory.chmod(0o755)
        fixture.warm(*files(fixture, load, server))
        with slow_image(fixture, load, directory) as served:
            return measure_on(fixture, served, load, server, seconds, (directory, outside, inside))


def measure_on(fixture, served, load, server, seconds, place):
    """Measures a server of the image of `served`; the load compares with that of `fixture`."""
    directory, outside, inside = place
    running = Running(server, served, directory, load.protocol, outside)
    try:
        with slow_disk(fixture.iso, running.pid) if load.options.get("slow_disk") else nothing():
            result = run_load(fixture, load, server, running, seconds, inside)
        if server.hides_cost:
            del result["cpu"]
        return result
    finally:
        running.stop()


def files(fixture, load, server):
    """The files that a load reads: the image, or the tree for peers that serve directories."""
    names = {load.file, "big"} if load.cold else {load.file}
    return [fixture.iso] + [fixture.tree / name for name in names if load.protocol not in ("nbd", "dhcp")]


def run_load(fixture, load, server, running, seconds, inside):
    seconds = seconds or load.seconds
    warm = command(fixture, load, server, running, seconds, inside, load.file, load.argv)
    if load.cold is None:
        return figures(warm)
    alone = figures(warm)
    chill(fixture.iso if server.kind in (US, BEFORE) else fixture.tree / "big")
    cold = command(fixture, load, server, running, 3 * seconds, inside, "big", load.cold)
    before = from_disk(running.pid)
    reader = subprocess.Popen(cold, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        beside = figures(warm)
        return {**beside, "alone": alone["p99"], "from_disk": from_disk(running.pid) - before}
    finally:
        reader.kill()
        reader.wait()


def command(fixture, load, server, running, seconds, inside, file, options):
    words = [fixture.load, load.command or load.protocol, "--pid", running.pid, "--seconds", seconds]
    if load.protocol == "dhcp":
        words += ["--interface", INTERFACE]
    else:
        words += ["--server", f"{HOST}:{running.port}"]
        words += ["--file", fixture.iso if load.protocol == "nbd" else fixture.tree / file]
    if load.protocol == "nbd":
        words += ["--export", server.export]
    elif load.protocol == "nfs":
        words += ["--path", server.path, "--name", file]
        if server.needs_rpcbind:
            words += ["--mount-port", running.port + 1]
    elif load.protocol in ("http", "tftp"):
        words += ["--path", f"/{file}"]
    return [*inside, "taskset", "-c", CLIENT_CORE, *map(str, [*words, *options])]


def figures(argv):
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        raise Failed(f"not done after {LIMIT_SECONDS} s") from None
    if done.returncode != 0:
        raise Failed(done.stderr.strip()[-300:] or f"the load ended with {done.returncode}")
    result = json.loads(done.stdout)
    if result.get("wrong"):
        raise Failed(f"{result['wrong']} of {result['verified']} replies have wrong bytes")
    return result


def chill(path):
    """Drops `big` from the page cache: the file itself, or the image, where it begins within 2 MiB."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 4 << 20, BIG - (8 << 20), os.POSIX_FADV_DONTNEED)


def from_disk(pid):
    """Bytes that a server and its children have read from the disk."""
    total = 0
    for member in descendants(pid):
        with suppress(OSError):
            text = Path(f"/proc/{member}/io").read_text()
            total += int(text.split("read_bytes: ")[1].split()[0])
    return total


@contextmanager
def nothing():
    yield


@contextmanager
def network(protocol):
    """Yields command prefixes for server and client: for DHCP, two namespaces with a veth pair."""
    if protocol != "dhcp":
        yield (), ()
        return
    if os.geteuid() != 0 or not find("ip"):
        raise Failed("namespaces need root and iproute2")
    names = [f"isowire-peers-{os.getpid()}-{side}" for side in ("server", "client")]
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", names[0], "link", "add", INTERFACE, "type", "veth", "peer", "name", INTERFACE, "netns", names[1])
        for name, address in zip(names, ("10.77.0.1", "10.77.255.1")):
            ip("-n", name, "address", "add", f"{address}/16", "brd", "+", "dev", INTERFACE)
            ip("-n", name, "link", "set", INTERFACE, "up")
        yield tuple(("ip", "netns", "exec", name) for name in names)
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL)


def ip(*words):
    subprocess.run(["ip", *words], check=True)


@contextmanager
def slow_image(fixture, load, directory):
    """Yields the fixture with its image on a slow disk, if the load wants one."""
    if "disk_ms" not in load.options:
        yield fixture
        return
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        raise Failed("a slow disk needs root and /dev/fuse")
    mount_point = directory / "disk"
    mount_point.mkdir()
    words = [fixture.load, "slow-disk", fixture.iso, mount_point, load.options["disk_ms"]]
    disk = subprocess.Popen(["taskset", "-c", CLIENT_CORE, *map(str, words)])
    try:
        iso = mount_point / fixture.iso.name
        while not iso.exists():
            if disk.poll() is not None:
                raise Failed("the slow disk did not start")
            time.sleep(0.05)
        yield replace(fixture, iso=iso)
    finally:
        subprocess.run(["umount", "--lazy", mount_point])
        disk.kill()
        disk.wait()


def block_device(path):
    """The device number of the disk of a file; not that of its partition."""
    number = os.stat(path).st_dev
    name = f"{os.major(number)}:{os.minor(number)}"
    whole = Path(f"/sys/dev/block/{name}").resolve()
    if (whole / "partition").exists():
        name = (whole.parent / "dev").read_text().strip()
    return name


@contextmanager
def slow_disk(path, pid):
    """Limits the reads of the server's disk, if the kernel has a block I/O controller of version 1.

    Otherwise the disk keeps its speed, which the number of cold reads shows."""
    group = Path(f"/sys/fs/cgroup/blkio/isowire-peers-{os.getpid()}")
    try:
        group.mkdir()
        (group / "blkio.throttle.read_iops_device").write_text(f"{block_device(path)} {SLOW_DISK_READS}")
        (group / "cgroup.procs").write_text(str(pid))
    except OSError:
        pass
    try:
        yield
    finally:
        if group.exists():
            parent = group.parent / "cgroup.procs"
            for member in (group / "cgroup.procs").read_text().split():
                with suppress(ProcessLookupError):
                    parent.write_text(member)
            group.rmdir()
