"""One workload on one Python pool; prints one JSON object.

usage: pools.py POOL WORKLOAD
"""

import concurrent.futures
import json
import multiprocessing
import os
import signal
import statistics
import sys
import tempfile
import time

import tasks

now = time.perf_counter
TASKS = 100_000


class MpPool:
    def __init__(self, workers):
        self.pool = multiprocessing.get_context("fork").Pool(workers)

    def submit(self, function, *args):
        result = self.pool.apply_async(function, args)
        result.result = result.get
        return result

    def map(self, function, inputs):
        return self.pool.map(function, inputs)

    def close(self):
        self.pool.terminate()


class Executor:
    def __init__(self, workers):
        context = multiprocessing.get_context("fork")
        self.pool = concurrent.futures.ProcessPoolExecutor(workers, mp_context=context)

    def submit(self, function, *args):
        return self.pool.submit(function, *args)

    def map(self, function, inputs):
        return list(self.pool.map(function, inputs, chunksize=1000))

    def close(self):
        self.pool.shutdown(wait=True)


class Loky(Executor):
    def __init__(self, workers):
        import loky

        self.pool = loky.ProcessPoolExecutor(workers)


class Mpire(MpPool):
    def __init__(self, workers):
        import mpire

        self.pool = mpire.WorkerPool(workers, start_method="fork", daemon=False, keep_alive=True)


POOLS = {"mp.Pool": MpPool, "ProcessPoolExecutor": Executor, "loky": Loky, "mpire": Mpire}


def nest(name):
    pool = POOLS[name](2)
    total = sum(run.result() for run in [pool.submit(tasks.noop, n) for n in range(100)])
    pool.close()
    return total


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def latency(pool):
    times = []
    for n in range(2000):
        start = now()
        pool.submit(tasks.noop, n).result()
        times.append(now() - start)
    return statistics.median(times) * 1e6


def at_once(pool):
    start = now()
    total = sum(run.result() for run in [pool.submit(tasks.noop, n) for n in range(TASKS)])
    assert total == TASKS * (TASKS - 1) // 2
    return TASKS / (now() - start)


def mapped(pool):
    start = now()
    assert sum(pool.map(tasks.noop, range(TASKS))) == TASKS * (TASKS - 1) // 2
    return TASKS / (now() - start)


def bulk(pool, mib):
    data, times = os.urandom(mib << 20), []
    for _ in range(30 if mib == 1 else 3):
        start = now()
        assert len(pool.submit(tasks.echo, data).result()) == len(data)
        times.append(now() - start)
    return 2 * len(data) / statistics.median(times) / 1e6


def loss(pool):
    path = os.path.join(tempfile.mkdtemp(), "pid")
    victim = pool.submit(tasks.hang, path)
    while not os.path.exists(path):
        time.sleep(0.005)
    with open(path) as file:
        pid = int(file.read())
    os.unlink(path)
    os.rmdir(os.path.dirname(path))
    time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    start = now()
    try:
        victim.result(timeout=3)
        told = "an answer"
    except Exception as error:
        told = "nothing" if "Timeout" in type(error).__name__ else type(error).__name__
    return f"{told} after {(now() - start) * 1e3:.0f} ms"


def uneven(pool, workers):
    naps = tasks.pareto()
    start = now()
    for run in [pool.submit(tasks.nap, seconds) for seconds in naps]:
        run.result()
    return (now() - start) / max(sum(naps) / workers, max(naps))


def waiting(pool):
    for _ in range(2):
        pool.submit(tasks.nap, 600)
    before = resident()
    runs = [pool.submit(tasks.noop, n) for n in range(TASKS)]
    time.sleep(0.5)
    return (resident() - before) / len(runs)


def measure(name, work):
    start = now()
    kind, _, size = work.partition("_")
    workers = int(size) if kind in ("W4", "W7") else 2
    pool = POOLS[name](workers)
    if kind == "W4":
        seen = set()
        while len(seen) < workers:
            seen |= {run.result() for run in [pool.submit(tasks.nap, 0.001) for _ in range(workers)]}
        return (now() - start) * 1e3
    if kind == "W5":
        start = now()
        outer = [pool.submit(nest, name) for _ in range(4)]
        assert [run.result(timeout=30) for run in outer] == [4950] * 4
        return (now() - start) * 1e3
    # Warms the pool up; mpire's takes either this or that.
    if kind == "W2c":
        pool.map(tasks.noop, range(1000))
    else:
        for run in [pool.submit(tasks.noop, n) for n in range(100)]:
            run.result()
    works = {"W1": latency, "W2": at_once, "W2c": mapped, "W6": loss, "W8": waiting}
    if kind in works:
        return works[kind](pool)
    return bulk(pool, int(size)) if kind == "W3" else uneven(pool, workers)


def main():
    try:
        value = measure(*sys.argv[1:])
    except Exception as error:
        value = f"{type(error).__name__}: {error}".splitlines()[0][:80]
    print(json.dumps({"value": value}), flush=True)
    # What the pool would do at its end is not measured; who started this ends what is left.
    os._exit(0)


if __name__ == "__main__":
    main()
