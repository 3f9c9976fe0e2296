"""Runs children and checks their statuses; each leaves an orphan behind. MODE: subprocess, asyncio, multiprocessing."""

import asyncio
import hashlib
import multiprocessing
import subprocess
import sys
import time

COMMAND = "sleep 0 & exit %d"


def computes():
    return hashlib.sha256(b"x" * 100000).hexdigest()


def answers(number):
    return number * number


def check(number, status):
    if status != number % 100 or computes() != RIGHT:
        print("fault", number, status, flush=True)
    print("tick", number, flush=True)


async def run_asyncio():
    number = 0
    while True:
        number += 1
        child = await asyncio.create_subprocess_shell(COMMAND % (number % 100))
        check(number, await child.wait())
        await asyncio.sleep(0.02)


RIGHT = computes()
mode = sys.argv[1]
if mode == "asyncio":
    asyncio.run(run_asyncio())
pool = multiprocessing.Pool(2) if mode == "multiprocessing" else None
number = 0
while True:
    number += 1
    status = subprocess.run(["sh", "-c", COMMAND % (number % 100)]).returncode
    if pool and pool.map(answers, range(20)) != [i * i for i in range(20)]:
        print("fault pool", flush=True)
    check(number, status)
    time.sleep(0.02)
