#!/usr/bin/env python3
"""Measures procpool and its peers in turns, and prints a table in Markdown of medians with their ranges.

usage: run.py [--rounds 3] [--peers mp.Pool,loky] [--works W1,W2] [--timeout 60] [--json FILE]
"""

import argparse
import collections
import glob
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
PYTHON = ["mp.Pool", "ProcessPoolExecutor", "loky", "mpire"]
RUST = ["procspawn", "ipc-channel"]
PEERS = ["procpool", *PYTHON, "piscina", *RUST]
# Our own bench's name for each.
WORKS = {
    "W1": "W1",
    "W2": "W2j",
    "W2w": "W2",
    "W2c": "W2c",
    "W3_1": "W3b 1M",
    "W3_64": "W3b 64M",
    "W4_2": "W4 x2",
    "W4_8": "W4 x8",
    "W5": "W5",
    "W6": "W6 error",
    "W7_2": "W7 x2",
    "W7_8": "W7 x8",
    "W8": "W8 task",
}
RATE = "tasks/s"
UNITS = {
    **{"W1": "us", "W2": RATE, "W2w": RATE, "W2c": RATE, "W3": "MB/s", "W4": "ms"},
    **{"W5": "ms", "W6": "", "W7": "x", "W8": "B"},
}


def command(peer, work):
    if work == "W2w":
        # What is no pool has a window anyway.
        return command(peer, "W2") if peer == "ipc-channel" else None
    if peer in PYTHON:
        return [sys.executable, os.path.join(HERE, "pools.py"), peer, work]
    if peer == "piscina":
        return ["node", os.path.join(HERE, "pools.mjs"), work]
    return [os.path.join(HERE, "rust/target/release/peers"), peer, work]


def own(works, timeout):
    """One run of our own bench for all of the works."""
    benches = glob.glob(os.path.join(ROOT, "target/release/deps/targets-*"))
    bench = max((path for path in benches if os.access(path, os.X_OK)), key=os.path.getmtime)
    only = ",".join(sorted({work.split("_")[0].rstrip("w") for work in works}))
    with tempfile.NamedTemporaryFile() as out:
        subprocess.run(
            [bench, "--bench", "--only", only, "--json", out.name],
            check=True,
            timeout=20 * timeout,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PATH": os.path.dirname(sys.executable) + ":" + os.environ["PATH"]},
        )
        rows = {row["work"]: row for row in map(json.loads, out)}
    values = {}
    for work in works:
        row = rows.get(WORKS[work])
        if row is not None:
            values[work] = row["ratio"] if work.startswith("W7") else row["value"]
    return values


def session(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rsplit(")", 1)[1].split()[3])
    except (OSError, IndexError):
        return None


def one(args, timeout):
    """A run in a session of its own. What is left of it is ended, or it would be measured with all that follows."""
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            args, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            process.wait(timeout)
            late = False
        except subprocess.TimeoutExpired:
            late = True
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        for pid in pids:
            if session(pid) == process.pid and (late or pid != process.pid):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        process.wait()
        out.seek(0)
        lines = [line for line in out.read().decode(errors="replace").splitlines() if line.startswith("{")]
    if late:
        return f"none in {timeout} s"
    return json.loads(lines[-1])["value"] if lines else f"failed ({process.returncode})"


def short(value):
    if value >= 1e6:
        return f"{value / 1e6:.2f} M"
    if value >= 1e4:
        return f"{value / 1e3:.0f} k"
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}" if value < 1 else f"{value:.3g}"


def cell(values):
    numbers = [value for value in values if isinstance(value, (int, float))]
    if not numbers:
        return next((str(value) for value in values if value is not None), "–")
    shown = short(statistics.median(numbers))
    return shown if len(numbers) == 1 else f"{shown} [{short(min(numbers))}..{short(max(numbers))}]"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--works", default=",".join(WORKS))
    parser.add_argument("--timeout", type=float, default=60)
    parser.add_argument("--json")
    args = parser.parse_args()
    peers, works = args.peers.split(","), args.works.split(",")
    results = collections.defaultdict(list)
    for _ in range(args.rounds):
        if "procpool" in peers:
            for work, value in own(works, args.timeout).items():
                results[work, "procpool"].append(value)
        for work in works:
            for peer in peers:
                before = results[work, peer]
                # What is refused or hangs once does so again.
                if peer != "procpool" and not (before and not isinstance(before[0], (int, float))):
                    run = command(peer, work)
                    before.append(one(run, args.timeout) if run else None)
    print("| | " + " | ".join(peers) + " |\n|" + "---|" * (len(peers) + 1))
    for work in works:
        unit = UNITS[work.split("_")[0]]
        title = work.replace("_", " ") + (f", {unit}" if unit else "")
        print(f"| {title} | " + " | ".join(cell(results[work, peer]) for peer in peers) + " |")
    if args.json:
        with open(args.json, "w") as file:
            json.dump([[*key, values] for key, values in results.items()], file)


if __name__ == "__main__":
    main()
