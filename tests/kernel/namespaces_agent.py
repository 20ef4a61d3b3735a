"""The one process inside the private namespaces: runs commands and sends frames in the network namespaces that it makes.

Started by namespaces.py under `unshare -nm` (root) or `unshare -Urnm` (anyone). One JSON request per line on stdin, one JSON
answer per line on stdout. It ends when stdin closes or its parent dies; the kernel then removes everything it made.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
NETNS_DIR = "/run/netns/"


def check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def enter(path: str) -> None:
    with open(path) as namespace:
        check(LIBC.setns(namespace.fileno(), CLONE_NEWNET), f"setns {path}")


class Agent:
    def __init__(self) -> None:
        self.sockets: dict[tuple[str, str], socket.socket] = {}

    def run(self, ns: str, argv: list[str], input: str | None) -> dict[str, object]:
        done = subprocess.run(
            ["nsenter", f"--net={NETNS_DIR}{ns}", "--", *argv] if ns else argv,
            input=input or "",
            capture_output=True,
            text=True,
            check=False,
        )
        return {"rc": done.returncode, "out": done.stdout, "err": done.stderr}

    def send(self, ns: str, dev: str, frames: list[str]) -> dict[str, object]:
        port = self.sockets.get((ns, dev))
        if port is None:
            enter(NETNS_DIR + ns)
            try:
                port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
                port.bind((dev, 0))
            finally:
                enter(NETNS_DIR + "agent")
            self.sockets[ns, dev] = port
        for frame in frames:
            port.send(bytes.fromhex(frame))
        return {"sent": len(frames)}


def main() -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.environ["PATH"] = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    # xtables.lock and `ip netns` live in /run: a private one, so that nothing of the host is touched
    check(LIBC.mount(b"tmpfs", b"/run", b"tmpfs", 0, None), "mount tmpfs on /run")
    os.mkdir(NETNS_DIR)
    subprocess.run(["ip", "netns", "attach", "agent", str(os.getpid())], check=True)
    agent = Agent()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(agent, request.pop("do"))(**request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
