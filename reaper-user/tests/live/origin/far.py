"""Leaks children from far down and beside many threads, and says through which functions.

usage: far.py LOG THREADS DEPTH...

Starts so many THREADS that only wait, which an interpreter lists before its main one. Then that leaks one child below each DEPTH of
functions, all of which are different. A line of LOG: the child's pid, then each function, its line behind a colon, the innermost first. The
program writes `done`, and ends when its standard input does.
"""

import os
import sys
import threading

STEP = """
def step_{number}(depth, log):
    if depth > {number}:
        return steps[{number} + 1](depth, log) + [("step_{number}", sys._getframe().f_lineno)]
    child, line = (os.fork() or os._exit(0)), sys._getframe().f_lineno
    return [child, ("step_{number}", line)]
"""


def main():
    path, count, depths = sys.argv[1], int(sys.argv[2]), [int(word) for word in sys.argv[3:]]
    scope = {"os": os, "sys": sys}
    text = "".join(STEP.format(number=number) for number in range(max(depths)))
    exec(compile(text, os.path.join(os.path.dirname(path), "steps.py"), "exec"), scope)
    scope["steps"] = [scope["step_%d" % number] for number in range(max(depths))]
    for _ in range(count):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    with open(path, "w") as log:
        for depth in depths:
            child, *functions = scope["step_0"](depth - 1, log)
            log.write(" ".join([str(child)] + ["%s:%d" % function for function in functions]) + "\n")
        log.write("done\n")
    sys.stdin.readline()
    # Without a word about the children.
    os._exit(0)


main()
