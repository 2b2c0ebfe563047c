#!/usr/bin/env python3
"""How many instructions an operation of the codec and of the scheduler takes, beside what it took.

    benches/instructions.py            fails if anything takes 3 % more than in instructions.json
    benches/instructions.py --write    makes what is measured now the baseline

Instructions do not depend on what else the machine does, but on the compiler, the C library and what the processor can do:
where those are others than the baseline's, nothing is compared that could fail. From run to run they are the same, but for
a thousandth where times are added up: whether a second is carried depends on when the run began. The workloads are tests named `counted`;
callgrind counts what happens in a function named `measured`. Needs valgrind.
"""

import collections
import json
import pathlib
import re
import subprocess
import sys
import tempfile

BASELINE = pathlib.Path(__file__).resolve().with_suffix(".json")
TESTS = ["wire::counted::counted", "sched::tests::counted::counted"]
MEASURED = "*counted::measured"
TOLERANCE = 0.03


def output(*command):
    done = subprocess.run(command, cwd=BASELINE.parent, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}{command[0]} failed with {done.returncode}")
    return done.stdout


def surroundings():
    """What counts depend on beside the code."""
    rustc = dict(re.findall(r"^(.*?): (.*)$", output("rustc", "-vV"), re.M))
    flags = re.search(r"^flags\s*:(.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    vectors = [name for name in ("avx2", "erms") if flags and name in flags[1].split()]
    return {
        "rustc": f"{rustc['release']} ({rustc['commit-hash'][:9]}), LLVM {rustc['LLVM version']}",
        "host": rustc["host"],
        "libc": output("getconf", "GNU_LIBC_VERSION").strip(),
        "valgrind": output("valgrind", "--version").strip(),
        "processor": " ".join(vectors) or "plain",
    }


def measure():
    """Instructions per operation, by workload."""
    with tempfile.TemporaryDirectory() as folder:
        runner = ["valgrind", "-q", "--tool=callgrind", "--separate-threads=yes", f"--callgrind-out-file={folder}/out"]
        runner += [f"--zero-before={MEASURED}", f"--dump-after={MEASURED}"]
        tests = output(
            "cargo", "test", "--locked", "--quiet", "--release", "--lib",
            "--config", f"target.'cfg(unix)'.runner = {json.dumps(runner)}",
            "--", "--exact", *TESTS, "--ignored", "--nocapture", "--test-threads=1",
        )  # fmt: skip
        workloads = re.findall(r"\bcounted (\d+) (.+)$", tests, re.M)
        dumps = [(path.suffix, path.read_text()) for path in pathlib.Path(folder).glob("out.*-*")]
    # Named out.N-THREAD. The harness has a thread of its own, whose share depends on when it goes to sleep.
    parts = collections.defaultdict(list)
    for suffix, text in dumps:
        if "--dump-after" in text:
            total = re.search(r"^(?:totals|summary): (\d+)", text, re.M)
            parts[int(suffix[1:].split("-")[0])].append(int(total[1]))
    counts = [max(parts[n]) for n in sorted(parts)]
    if not counts or len(counts) != len(workloads):
        sys.exit(f"{len(workloads)} workloads and {len(counts)} counts:\n{tests}")
    return {name: round(count / int(times), 1) for count, (times, name) in zip(counts, workloads)}


def write(where, now):
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in (where | now).items()]
    BASELINE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"written to {BASELINE.name}")


def main():
    where = surroundings()
    now = measure()
    before = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    others = [f"{key} {where[key]} and not {before.get(key)}" for key in where if before.get(key) != where[key]]
    slower, renew = [], []
    print(f"{'instructions per operation':<44} {'baseline':>10} {'now':>10} {'%':>7}")
    for name in [*now, *(name for name in before if name not in now and name not in where)]:
        old, new = before.get(name), now.get(name)
        change = new / old - 1 if old and new else None
        shown = f"{change:+7.1%}".replace("%", "") if change is not None else "new" if new else "gone"
        print(f"{name:<44} {old or '-':>10} {new or '-':>10} {shown:>7}")
        if change is not None and change > TOLERANCE:
            slower.append(name)
        elif change is None or change < -TOLERANCE:
            renew.append(name)
    if "--write" in sys.argv[1:]:
        write(where, now)
    elif others:
        print(f"ANOTHER COMPILER OR MACHINE: {'; '.join(others)}; these are its figures, write them with --write")
    else:
        if renew:
            print(f"The baseline should be renewed, with --write: {', '.join(renew)}")
        if slower:
            sys.exit(f"more than {TOLERANCE:.0%} above the baseline: {', '.join(slower)}")


main()
