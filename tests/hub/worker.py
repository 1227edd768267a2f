"""A Python process that runs code on request: the Hub's client reads its environment once, at import."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What code came to: its `result`, or the error's classes and message."""

    result: Any
    error: list[str]
    message: str
    seconds: float


class Worker:
    """Runs code in a process with an environment of its own; names stay from one run to the next."""

    def __init__(self, env: dict[str, str], cwd: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, cwd=cwd, text=True
        )
        self.pid = self._process.pid

    def send(self, code: str, **names: Any) -> None:
        self._process.stdin.write(json.dumps({"code": code, "names": names}) + "\n")
        self._process.stdin.flush()

    def receive(self) -> Outcome:
        return Outcome(**json.loads(self._process.stdout.readline()))

    def run(self, code: str, **names: Any) -> Outcome:
        self.send(code, **names)
        return self.receive()

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            pipe.close()


def main() -> None:
    answers = sys.stdout
    sys.stdout = sys.stderr
    names: dict[str, Any] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        names.update(asked["names"], result=None)
        start = time.perf_counter()
        error, message = [], ""
        try:
            exec(asked["code"], names)
        except BaseException as caught:
            error, message = [kind.__name__ for kind in type(caught).__mro__], str(caught)
        seconds = time.perf_counter() - start
        answer = {"result": names["result"], "error": error, "message": message, "seconds": seconds}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
