"""Times `import turnout` beside `import dataclasses, enum`, in fresh interpreters by turns.

    python benches/import_time.py

Each interpreter times its own import statement, so that its start is left out. The budget: at most twice as
long.
"""

import statistics
import subprocess
import sys

PAIRS = 31
BUDGET = 2.0
BESIDE = "dataclasses, enum"


def milliseconds(modules: str) -> float:
    """Times the import of some modules in a fresh interpreter."""
    script = f"from time import perf_counter; began = perf_counter(); import {modules}; print((perf_counter() - began) * 1000)"
    return float(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)


def main() -> int:
    """Prints the medians and their ratio; returns the exit status."""
    milliseconds("turnout")  # bytecode is written once
    pairs = [(milliseconds("turnout"), milliseconds(BESIDE)) for _ in range(PAIRS)]
    ours, others = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(one / other for one, other in pairs)
    print(f"import turnout: {ours:.1f} ms; import {BESIDE}: {others:.1f} ms; ratio {ratio:.2f} (budget {BUDGET}), {PAIRS} pairs")
    return 0 if ratio <= BUDGET else 1


if __name__ == "__main__":
    sys.exit(main())
