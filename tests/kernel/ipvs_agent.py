"""Runs inside user-mode Linux, with the standard library alone: which real server does IPVS give each datagram?

Input (argv[1], a file): JSON cases {"commands": ipvsadm -R's input, "family", "port", "servers": [address],
"flows": [[source, source port, destination]]}. All addresses are this host's own. Output: JSON, for each case the number of the
server of each flow, -1 for none.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys


def run(*argv: str, text: str = "") -> None:
    done = subprocess.run(argv, input=text, text=True, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)}: {done.stderr}")


def play(case: dict) -> list[int]:  # type: ignore[type-arg]
    family = socket.AF_INET if case["family"] == 4 else socket.AF_INET6
    run("ipvsadm", "-C")
    run("ipvsadm", "-R", text=case["commands"])
    servers = []
    for address in case["servers"]:
        server = socket.socket(family, socket.SOCK_DGRAM)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address, case["port"]))
        servers.append(server)
    answers = []
    for source, sport, destination in case["flows"]:
        client = socket.socket(family, socket.SOCK_DGRAM)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind((source, sport))
        client.connect((destination, case["port"]))
        try:
            client.send(b"x")
            ready, _, _ = select.select(servers, [], [], 2)
        except PermissionError:  # no server for it: dropped at LOCAL_OUT
            ready = []
        found = -1
        for server in servers:
            if server in ready:
                server.recv(100)
                found = servers.index(server)
        answers.append(found)
        client.close()
    for server in servers:
        server.close()
    return answers


def main() -> None:
    run("ip", "link", "set", "lo", "up")
    run("ip", "route", "replace", "local", "10.0.0.0/8", "dev", "lo")
    run("ip", "-6", "route", "replace", "local", "fd00::/8", "dev", "lo")
    run("sysctl", "-q", "net.ipv6.ip_nonlocal_bind=1")
    with open(sys.argv[1], encoding="utf-8") as file:
        cases = json.load(file)
    print(json.dumps([play(case) for case in cases]))


main()
