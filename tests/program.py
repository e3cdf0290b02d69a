"""The command line in processes of its own, without the seconds that each import of torch would take.

One process imports what a training needs and forks for each command; what is forked runs the very
`glassgate.cli.main`, can be killed by any signal, and has file-size limits of its own.
"""

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WAIT = 120  # seconds; a command here takes one or two


@dataclass(frozen=True)
class Ended:
    """How a command ended; a negative code is the signal that ended it."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of an error, which is all of it that comes after the last line of progress."""
        assert self.code == 2, (self.code, self.err)
        lines = [line for line in self.err.splitlines() if ": error: " in line]
        assert len(lines) == 1, self.err
        assert self.err.endswith(lines[0] + "\n"), self.err
        assert "Traceback" not in self.err, self.err
        return lines[0].split(": error: ", 1)[1]


class Program:
    """Starts commands in forks of a process that has imported torch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, *arguments: object, largest_file: int | None = None, privileged: bool = True) -> int:
        """Start a command and return its process; `wait` must follow before the next."""
        words = [str(argument) for argument in arguments]
        return int(self._ask(folder=str(self.folder), words=words, limit=largest_file, all=privileged))

    def wait(self) -> Ended:
        """Wait for the end of the command that was started."""
        code = int(self._ask())
        out, err = ((self.folder / name).read_text(encoding="utf-8") for name in ("stdout", "stderr"))
        return Ended(code, out, err)

    def run(self, *arguments: object, **options: Any) -> Ended:
        """Run a command to its end."""
        self.start(*arguments, **options)
        return self.wait()

    def shown(self) -> str:
        """Return what the command has written on standard error so far."""
        return (self.folder / "stderr").read_text(encoding="utf-8")

    def close(self) -> None:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.close()
        self.server.wait(WAIT)
        self.server.stdout.close()

    def _ask(self, **request: Any) -> str:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        answer = self.server.stdout.readline()
        assert answer, "the serving process ended"
        return answer


def serve() -> None:
    """Fork for each request on standard input; answer with the process, then with how it ended."""
    # What is slow once: imports, fonts, and what torch imports for its first optimiser. torch computes
    # nothing before the forks: threads that compute would not survive them.
    import torch

    import glassgate.language.evaluation
    import glassgate.language.training  # noqa: F401
    from glassgate.language.picture import draw_loss

    draw_loss([{"step": s, "perplexity": 9.0 / s, "learning_rate": 0.1} for s in (1, 2)], "warming up")
    torch.optim.AdamW([torch.nn.Parameter(torch.empty(1))], fused=True)

    child = 0
    for line in sys.stdin:
        request = json.loads(line)
        if request:
            child = os.fork()
            if child == 0:
                command(request)
            print(child, flush=True)
        else:
            _, status = os.waitpid(child, 0)
            print(os.waitstatus_to_exitcode(status), flush=True)


def command(request: dict[str, Any]) -> None:
    """Run one command in a fork; never returns."""
    for number, name in ((0, os.devnull), (1, "stdout"), (2, "stderr")):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(os.path.join(request["folder"], name), flags, 0o600), number)
    os.chdir(request["folder"])
    if not request["all"] and os.geteuid() == 0:
        # Without its capabilities root is an owner like any other: a folder's mode counts.
        none = (ctypes.c_uint32 * 6)()
        assert ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), none) == 0
    if request["limit"] is not None:  # Python ignores the signal of a file too large
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"], request["limit"]))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 1
    try:
        from glassgate.cli import main

        main(request["words"])
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
