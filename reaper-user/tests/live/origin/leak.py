"""Leaks children from ten functions in ten files, and says which line forked which child.

usage: [SETTLE=SECONDS] leak.py LOG WAY COUNT SPAWNERS BUSY

WAY is how they are forked. SPAWNERS threads fork, one after the other each, COUNT children together; BUSY threads compute
meanwhile. SETTLE is how long it waits before: what forks before it is known that it is an interpreter has no line. A line of
LOG: the child's pid, the function, its file, the line, how deep the function had recursed. The children end at once and are
never waited for. The program writes `done`, and ends when its standard input does.
"""

import asyncio
import ctypes
import importlib
import multiprocessing
import multiprocessing.process
import os
import subprocess
import sys
import tempfile
import threading
import time

TRUE = "/bin/true"
PLACES = 10

# Each is an expression that forks one child and has its pid.
WAYS = {
    "popen": "kept(subprocess.Popen([TRUE]))",
    "popen-open-fds": "kept(subprocess.Popen([TRUE], close_fds=False))",
    "fork": "(os.fork() or os._exit(0))",
    "posix-spawn": "os.posix_spawn(TRUE, [TRUE], os.environ)",
    "system": "orphaned(os.system(background(depth)))",
    "multiprocessing-fork": "kept(begun('fork'))",
    "multiprocessing-spawn": "kept(begun('spawn'))",
    "asyncio": "kept(await asyncio.create_subprocess_exec(TRUE))",
}

PLACE = """
import asyncio, os, subprocess, sys
from leak import TRUE, background, begun, kept, orphaned
{padding}
class Place:
    {a}def open_browser_{number}(self, depth, log, deep=0):
        if depth:
            return {w}self.open_browser_{number}(depth - 1, log, deep + 1)
        pid, line = {way}, sys._getframe().f_lineno
        log(pid, "open_browser_{number}", __file__, line, deep)
"""

LEAKED = []


def kept(child):
    """Nobody shall forget it, for what is forgotten may be waited for."""
    LEAKED.append(child)
    return child.pid


def nothing():
    pass


def begun(method):
    child = multiprocessing.get_context(method).Process(target=nothing)
    child.start()
    # It would be waited for when the next one starts.
    multiprocessing.process._children.discard(child)
    return child


def background(depth):
    # It outlives the shell, which might wait for it.
    return "sleep 1 & echo $! > %s" % orphan()


def orphan():
    return os.path.join(os.environ["TMPDIR"], "orphan.%d" % threading.get_ident())


def orphaned(status):
    """A child of a shell that is dead by now: this program has inherited it."""
    with open(orphan()) as file:
        return int(file.read())


def leave_children_alone():
    """asyncio waits for its children."""
    events = asyncio.unix_events
    for name in dir(events):
        if name.endswith("ChildWatcher"):
            getattr(events, name).add_child_handler = lambda *arguments: None


def make_places(folder, way):
    asynchronous = way == "asyncio"
    for number in range(PLACES):
        text = PLACE.format(
            number=number,
            padding="\n" * (number * 37),
            way=WAYS[way],
            a="async " if asynchronous else "",
            w="await " if asynchronous else "",
        )
        with open(os.path.join(folder, "place_%d.py" % number), "w") as file:
            file.write(text)
    sys.path.insert(0, folder)
    modules = [importlib.import_module("place_%d" % number) for number in range(PLACES)]
    return [getattr(module.Place(), "open_browser_%d" % number) for number, module in enumerate(modules)]


def main():
    path, way, count, spawners, busy = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
    ctypes_prctl(36)  # PR_SET_CHILD_SUBREAPER
    folder = tempfile.mkdtemp()
    os.environ["TMPDIR"] = folder
    places = make_places(folder, way)
    file, lock, ended = open(path, "w"), threading.Lock(), threading.Event()

    def log(*words):
        with lock:
            file.write(" ".join(map(str, words)) + "\n")

    def spawn(first):
        for number in range(first, count, spawners):
            call = places[number % PLACES](number % 5, log)
            if way == "asyncio":
                loop.run_until_complete(call)

    def compute():
        number = 0
        while not ended.is_set():
            number += 1

    if way == "asyncio":
        leave_children_alone()
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
    others = [threading.Thread(target=compute, daemon=True) for _ in range(busy)]
    threads = [threading.Thread(target=spawn, args=(number,)) for number in range(1, spawners)]
    time.sleep(float(os.environ.get("SETTLE", "0")))
    for thread in others + threads:
        thread.start()
    spawn(0)
    for thread in threads:
        thread.join()
    ended.set()
    file.write("done\n")
    file.close()
    sys.stdin.readline()
    # Without a word about the children.
    os._exit(0)


def ctypes_prctl(option):
    ctypes.CDLL(None).prctl(option, 1, 0, 0, 0)


if __name__ == "__main__":
    # The places import this module; it is one and the same.
    sys.modules["leak"] = sys.modules["__main__"]
    main()
