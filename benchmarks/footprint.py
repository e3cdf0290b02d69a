"""What glassgate takes: on disk when installed without extras, and in memory when it predicts.

The installed size is that of every file that pip lists for glassgate and for what it requires without
extras, Python's compiled files included. Memory is that of two processes at once that have loaded the same
model folder and read a text; the kernel tells what they share (/proc/PID/smaps).

    python benchmarks/footprint.py MODEL_FOLDER [--text "..."] [--json]
"""

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import glassgate
from glassgate.folder.model import WEIGHTS

MB = 1e6
SHOWN = 1.0  # MB from which a package has a line of its own
PREDICT = """
import sys
import glassgate
model = glassgate.load(sys.argv[1])
session = model.session()
session.feed(sys.argv[2], unknown=True)
session.predict(5)
session.predict(3, "a")
print("ready", flush=True)
sys.stdin.read()
"""


def installed() -> dict[str, float]:
    """Return the megabytes of glassgate and of each package that it requires."""
    sizes: dict[str, float] = {}
    waiting = ["glassgate"]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in sizes:
            continue
        found = metadata.distribution(name)
        if name == "glassgate":  # wherever it lies, also where it is installed to be worked on
            files = [*Path(glassgate.__file__).parent.rglob("*")]
        else:
            files = [Path(str(file.locate())) for file in found.files or ()]
        sizes[name] = sum(file.stat().st_size for file in files if file.is_file()) / MB
        for line in found.requires or ():
            required = Requirement(line)
            if required.marker is None or required.marker.evaluate({"extra": ""}):
                waiting.append(required.name)
    return sizes


def memory(process: int, weights: Path) -> dict[str, float]:
    """Return the megabytes that a process holds, and how those of the weights are held."""
    total: Counter[str] = Counter()
    mapped: Counter[str] = Counter()
    of_weights = False
    for line in Path(f"/proc/{process}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            of_weights = line.endswith(str(weights))
        elif found := re.match(r"(\w+): +(\d+) kB", line):
            total[found[1]] += int(found[2])
            mapped[found[1]] += int(found[2]) * of_weights
    kb = 1024 / MB
    return {
        "resident": total["Rss"] * kb,
        "its own": (total["Private_Clean"] + total["Private_Dirty"]) * kb,
        "its share (Pss)": total["Pss"] * kb,
        "weights, resident": mapped["Rss"] * kb,
        "weights, shared": mapped["Shared_Clean"] * kb,
        "weights, its own": (mapped["Private_Clean"] + mapped["Private_Dirty"]) * kb,
    }


def two_processes(folder: Path, text: str) -> list[dict[str, float]]:
    """Return the memory of each of two processes that have loaded one folder."""
    command = [sys.executable, "-c", PREDICT, str(folder), text]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        for process in running:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                sys.exit("a process ended before it had predicted")
        return [memory(process.pid, (folder / WEIGHTS).resolve()) for process in running]
    finally:
        for process in running:
            process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="MODEL_FOLDER")
    parser.add_argument("--text", default="It is a truth universally acknowledged")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    sizes = installed()
    weights = (arguments.folder / WEIGHTS).stat().st_size / MB
    processes = two_processes(arguments.folder, arguments.text)
    if arguments.json:
        result: dict[str, Any] = {"installed, MB": sizes, "weights, MB": weights, "processes, MB": processes}
        print(json.dumps(result))
        return
    print(f"installed: {sum(sizes.values()):.1f} MB")
    small = {name: size for name, size in sizes.items() if size < SHOWN}
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        if name not in small:
            print(f"  {name:<20}{size:6.1f}")
    print(f"  {f'{len(small)} others':<20}{sum(small.values()):6.1f}")
    print(f"\ntwo processes, one folder with {weights:.1f} MB of weights:")
    for name in processes[0]:
        print(f"  {name:<20}" + "".join(f"{process[name]:8.1f}" for process in processes) + "  MB")


if __name__ == "__main__":
    main()
