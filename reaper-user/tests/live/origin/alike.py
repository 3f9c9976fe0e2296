"""Forks from functions that are alike, but for the file or the line that they are in, and lie in the same place one after the other.

usage: alike.py LOG WAY

WAY is how that comes to be. A line of LOG: the child's pid, the function, its file, the line, how deep the function had recursed.
The children end at once and are not waited for while the program runs. It writes `done`, and ends when its standard input does.
"""

import importlib
import os
import runpy
import sys
import tempfile
import time

# Alike to the byte.
TEXT = """
import os, sys

def open_browser_alike(log):
    pid, line = (os.fork() or os._exit(0)), sys._getframe().f_lineno
    log(pid, "open_browser_alike", __file__, line, 0)
"""

# The fork is in a line of its own, with many before it.
CELL = """
def open_browser_cell(log):
    a = 1
%s%s    pid = os.fork() or os._exit(0)
%s    log(pid, "open_browser_cell", "<cell>", %d, 0)
%s
"""


def files(folder, names):
    paths = [os.path.join(folder, name + ".py") for name in names]
    for path in paths:
        with open(path, "w") as file:
            file.write(TEXT)
    return paths


def workers(folder, log):
    """Workers that are forked first and then load what they are told to, as a server's do."""
    names = ["plugin_%s" % letter for letter in "abc"]
    files(folder, names)
    sys.path.insert(0, folder)
    pipes = [os.pipe() for _ in names]
    ended = os.pipe()
    pids = []
    for told, _ in pipes:
        pid = os.fork()
        if pid == 0:
            name = os.read(told, 100).decode()
            module = importlib.import_module(name)
            module.open_browser_alike(log)
            os.close(ended[1])
            # Until the program ends, which does not close its end before.
            os.read(ended[0], 1)
            while True:
                try:
                    os.wait()
                except ChildProcessError:
                    os._exit(0)
        pids.append(pid)
    for name, (_, tell) in zip(names, pipes):
        os.write(tell, name.encode())
    return pids, ended[1]


def jobs(folder, log):
    """Files that are run one after the other, and forgotten."""
    paths = files(folder, ["job_%d" % number for number in range(10, 20)])
    for wait in [0.5, 0.3]:
        for path in paths:
            runpy.run_path(path)["open_browser_alike"](log)
            # What it says of itself is read while it is there, and need not be read again.
            time.sleep(wait)
    return [], None


def cells(folder, log):
    """What somebody types in again with a line moved."""
    many = "    a = 1\n" * 40
    sources = [CELL % (many, "\n", "", 45, many), CELL % (many, "", "\n", 44, many)]
    for wait in 2 * [0.5] + 4 * [0.3]:
        for source in sources:
            names = {"os": os}
            exec(compile(source, "<cell>", "exec"), names)
            names["open_browser_cell"](log)
            time.sleep(wait)
    return [], None


def main():
    path, way = sys.argv[1:]
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def log(*words):
        os.write(file, (" ".join(map(str, words)) + "\n").encode())

    # What forks before it is known that it is an interpreter has no line.
    time.sleep(0.5)
    pids, end = {"workers": workers, "jobs": jobs, "cells": cells}[way](tempfile.mkdtemp(), log)
    # Each has said what it has to say.
    while pids and open(path).read().count("\n") < len(pids):
        time.sleep(0.01)
    os.write(file, b"done\n")
    sys.stdin.readline()
    if end is not None:
        os.close(end)
    for pid in pids:
        os.waitpid(pid, 0)
    os._exit(0)


main()
