"""Modula's GPT at Modula's setting, under today's defaults: validation losses of several seeds.

    python benchmarks/modula_gpt.py --corpus tinyshakespeare.txt

Runs `examples/hello_gpt.py` (2,000 steps of 12 x 64 characters, width 128, four blocks), some four minutes for each
seed on two idle cores. Seeds that are in the results are not run again.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from measure import machine

import hello_gpt
from gpt.config import Config

RESULTS = Path(__file__).parent / "results" / "modula_gpt.json"


def main() -> None:
    """Trains and writes, after each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="a text; Modula's notebook has tinyshakespeare")
    parser.add_argument("--seeds", type=int, default=5, help="how many (5)")
    arguments = parser.parse_args()
    record = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"learning_rate": 0.05, "losses": {}}
    text, vocabulary = hello_gpt.characters(arguments.corpus)
    for seed in range(arguments.seeds):
        if str(seed) not in record["losses"]:
            final = hello_gpt.train(
                text, vocabulary, Config(2000, 128, 4, seed), record["learning_rate"], original=False
            )
            record["losses"][str(seed)] = round(final, 3)
            record["machine"] = machine()
            RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
