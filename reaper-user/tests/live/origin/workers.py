"""Forks workers, and leaks children when it is told to.

usage: workers.py generations FIRST   FIRST children that it waits for, then a worker, which forks another; for each byte of input
                                      all three leak a child
       workers.py many                workers all the time, until there is a byte of input; then each of them leaks a child

What it says: `ready`, a generation and its pid; `forked` and how many workers; `leaked`, the pid of who leaked, the child's, the
line that forked it.
"""

import os
import sys
import time

GENERATIONS = 3
MANY = 500


def leak():
    child, line = os.fork(), sys._getframe().f_lineno
    if child == 0:
        os._exit(0)
    say("leaked", os.getpid(), child, line)


def say(*words):
    # In one piece, for all of them write to the same pipe.
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def generations():
    for _ in range(int(sys.argv[2])):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
    generation, worker = 1, None
    while generation < GENERATIONS:
        reader, writer = os.pipe()
        if os.fork():
            os.close(reader)
            worker = writer
            break
        os.close(writer)
        os.dup2(reader, 0)
        os.close(reader)
        generation += 1
    say("ready", generation, os.getpid())
    while os.read(0, 1):
        if worker is not None:
            os.write(worker, b"\n")
        leak()


def many():
    (go, start), (over, end) = os.pipe(), os.pipe()
    os.set_blocking(0, False)
    workers = 0
    say("ready", 1, os.getpid())
    while not ordered():
        if workers < MANY:
            workers += 1
            if os.fork() == 0:
                os.close(start)
                os.close(end)
                os.read(go, 1)
                leak()
                os.read(over, 1)
                return
        time.sleep(0.001)
    os.set_blocking(0, True)
    say("forked", workers)
    os.close(start)
    os.read(0, 1)


def ordered():
    try:
        return os.read(0, 1)
    except BlockingIOError:
        return False


{"generations": generations, "many": many}[sys.argv[1]]()
# Nobody flushes what others have in their buffers.
os._exit(0)
