"""What the Python pools run. A module of its own, so that workers that were not forked can import it."""

import os
import time


def noop(x):
    return x


def echo(data):
    return data


def nap(seconds):
    time.sleep(seconds)
    return os.getpid()


def hang(path):
    """Says who it is, then sleeps until it is killed."""
    with open(path + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(path + ".new", path)
    time.sleep(600)


def pareto(count=1000, seed=7, alpha=1.3, least=0.001, most=0.25):
    """Heavy-tailed durations in seconds, the same list in every language: a generator of our own (Knuth's MMIX)."""
    naps = []
    for _ in range(count):
        seed = (seed * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        uniform = ((seed >> 11) + 1) / float((1 << 53) + 1)
        naps.append(min(most, least / uniform ** (1 / alpha)))
    return naps
