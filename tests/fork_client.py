"""Stands for a fork, see forks.py: passes on what it was asked and signals it gets, and ends as the fork does.

What is no module of this project, what imports something else first, and what interprets Triton's kernels, which is settled as
Triton is imported, becomes a process of its own.
"""

import array
import json
import os
import select
import signal
import socket
import sys

executable, address, *words = sys.argv[1:]
module = words[1] if len(words) > 1 and words[0] == "-m" else ""
path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
first = any(os.path.exists(os.path.join(folder, "sitecustomize.py")) for folder in path if folder)
own = "TRITON_INTERPRET" in os.environ or first and "FORK_FIRST" not in os.environ
if own or not (module in ("dvc", "ipykernel_launcher") or module.startswith(("pipeline.", "benchmarks."))):
    os.execv(executable, [executable, *words])
parent = os.getppid()
asked = json.dumps({"words": words[1:], "folder": os.getcwd(), "environment": dict(os.environ)}).encode()
with socket.socket(socket.AF_UNIX) as server:
    server.connect(address)
    server.sendall(len(asked).to_bytes(8, "big"))
    server.sendmsg([asked[:1]], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
    server.sendall(asked[1:])
    process = int.from_bytes(server.recv(8, socket.MSG_WAITALL), "big")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _: os.kill(process, number))
    while not select.select([server], [], [], 0.5)[0]:
        if "LOLM_PARENT" in os.environ and os.getppid() != parent:
            os._exit(1)
    status = int.from_bytes(server.recv(8, socket.MSG_WAITALL), "big") - 256
if status < 0:
    if -status != signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
