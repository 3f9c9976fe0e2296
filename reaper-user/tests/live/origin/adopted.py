"""Starts browsers that outlive whoever started them for it, and are given to somebody who waits for none of them.

usage: adopted.py adopt FOLDER     adopts, as a subreaper or as the first process of a namespace, and starts the crawler
       adopted.py crawl FOLDER

The crawler says what it has done in FOLDER/log, a line of JSON for each browser, the last one says `done`. Half of the browsers
have ended by then, with the crawler alive; the others end with it, as soon as somebody writes to FOLDER/end.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys

PR_SET_CHILD_SUBREAPER = 36
OF_EACH = 4


def adopt():
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # For this one only.
    subprocess.Popen([sys.executable, "-I", __file__, "crawl", folder]).wait()
    while True:
        signal.pause()


def say(**what):
    with open(os.path.join(folder, "log"), "a") as log:
        log.write(json.dumps(what) + "\n")


def forked_again(gate):
    """By a shell, that forks a browser and exits."""
    command = "cat <&%d >/dev/null & echo $!" % gate
    middle, line = subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, pass_fds=[gate]), here()
    browser = int(middle.communicate()[0])
    say(how="forked_again", pid=browser, middle=middle.pid, crawler=os.getpid(), line=line)


def detached(gate):
    """By a process of its own, that has this program's memory and exits at once."""
    middle = os.fork()
    if middle == 0:
        browser, line = subprocess.Popen(["cat"], stdin=gate, stdout=subprocess.DEVNULL), here()
        say(how="detached", pid=browser.pid, middle=os.getpid(), crawler=os.getppid(), line=line)
        os._exit(0)
    os.waitpid(middle, 0)


def here():
    return sys._getframe(1).f_lineno


def crawl():
    gates = []
    for number in range(OF_EACH):
        for start in (forked_again, detached):
            gate, held = os.pipe()
            start(gate)
            os.close(gate)
            gates.append(held)
            if number < OF_EACH // 2:
                os.close(held)
    # Behind all of them: when it is reported, what was forked before it has been seen to.
    marker, line = subprocess.Popen(["true"]), here()
    say(how="done", pid=marker.pid, middle=0, crawler=os.getpid(), line=line)
    open(os.path.join(folder, "end")).close()
    os._exit(0)


folder = sys.argv[2]
{"adopt": adopt, "crawl": crawl}[sys.argv[1]]()
