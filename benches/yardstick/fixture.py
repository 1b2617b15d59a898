"""The image that all servers serve, and the programs that are built for the measurement."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))

BIG = 1 << 30
SMALL = 1 << 20
MIDDLE = 32 << 20
NAMES = 10_000


@dataclass
class Fixture:
    iso: Path
    tree: Path
    isowire: str
    """Another build of isowire, for comparison."""
    before: Path | None
    load: str
    rivals: Path | None

    def warm(self, *paths):
        """Reads files into the page cache, which drops pages that are not used."""
        for path in paths:
            with open(path, "rb", buffering=0) as file:
                while file.read(4 << 20):
                    pass


def make(needs_rivals, before):
    """Builds the servers, the load generator and the image."""
    load = build(["cargo", "build", "--release", "--bench", "load"], "load")
    isowire = build(["cargo", "build", "--release", "--bin", "isowire"], "isowire")
    rivals = None
    if needs_rivals:
        command = ["cargo", "build", "--release", "--target-dir", TARGET / "rivals"]
        done = subprocess.run(command, cwd=ROOT / "benches/rivals", stderr=subprocess.PIPE, text=True)
        if done.returncode == 0:
            rivals = TARGET / "rivals/release"
        else:
            print(f"benches/rivals does not build, its servers are skipped:\n{done.stderr}")
    iso, tree = image()
    return Fixture(iso, tree, isowire, before, load, rivals)


def build(command, name):
    done = subprocess.run(
        command + ["--message-format=json-render-diagnostics"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    messages = map(json.loads, done.stdout.splitlines())
    return [m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == name][-1]


def image():
    """Makes a directory and an ISO of the same files. They are kept, since making them takes long."""
    base = TARGET / "peers"
    tree, iso = base / "tree", base / "bench.iso"
    if iso.exists() and tree.exists():
        return iso, tree
    shutil.rmtree(base, ignore_errors=True)
    (tree / "names").mkdir(parents=True)
    for name, size in [("big", BIG), ("middle", MIDDLE), ("one", SMALL), ("small", 4096)]:
        with open(tree / name, "wb") as file:
            for _ in range(0, size, 1 << 20):
                file.write(os.urandom(min(size, 1 << 20)))
    for number in range(NAMES):
        with open(tree / "names" / f"entry-{number:05}", "wb") as file:
            file.truncate(number)
    part = base / "part.iso"
    subprocess.run(
        ["xorriso", "-as", "mkisofs", "-quiet", "-R", "-o", part, tree], check=True, stderr=subprocess.DEVNULL
    )
    part.rename(iso)
    return iso, tree
