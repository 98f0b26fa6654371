"""What `import funcnet` costs beside what it needs: `python -m benchmarks.imports`.

Fresh interpreters in turns; the ratio to `import jax, optax, flax.linen` may be 1.3 at most.
"""

import argparse
import subprocess
import sys
from functools import partial

from benchmarks.timing import best, interleaved, spread

AT_MOST = 1.3

NEEDED = "import jax, optax, flax.linen"
STATEMENTS = {
    "funcnet": "import funcnet",
    "needed": NEEDED,
    "needed again": NEEDED,
    "jax": "import jax",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-check", action="store_true", help="exit with 0 in any case")
    options = parser.parse_args()

    def run(statement: str) -> None:
        subprocess.run([sys.executable, "-c", statement], check=True)

    contenders = {name: partial(run, statement) for name, statement in STATEMENTS.items()}
    interleaved(contenders, 1)  # the files are in the cache from here on
    times = interleaved(contenders, options.rounds)
    for name, statement in STATEMENTS.items():
        print(f"{statement:<32}{best(times[name]):>8.3f} s")
    ratio = best(times["funcnet"]) / best(times["needed"])
    low, high = spread(times["needed again"], times["needed"])
    verdict = "ok" if ratio <= AT_MOST else "NOT within"
    print(
        f"funcnet / needed = {ratio:.3f} (A/A {low:.3f}-{high:.3f}; at most {AT_MOST}): {verdict}"
    )
    return int(ratio > AT_MOST and not options.no_check)


if __name__ == "__main__":
    sys.exit(main())
