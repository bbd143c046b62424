"""Work and communication of a compiled program, counted in its text: `cost_analysis` takes a loop for one turn."""

import math
import re
from collections import defaultdict
from typing import Any

COLLECTIVES = r"(all-to-all|all-gather|all-reduce|collective-permute|reduce-scatter)(?:-start)?"
_BYTES = {"f32": 4, "bf16": 2, "u16": 2}


def counted(compiled: Any) -> dict[str, float]:
    """What the program of one device does, loops multiplied out."""
    computations: dict[str, list[str]] = {}
    for block in compiled.as_text().split("\n\n"):
        if header := re.match(r"(?:ENTRY )?%?([\w.\-]+)", block.strip()):
            computations["ENTRY" if block.strip().startswith("ENTRY") else header.group(1)] = block.split("\n")

    def visit(name: str) -> dict[str, float]:
        totals: dict[str, float] = defaultdict(float)
        shapes = {
            m.group(1): _dimensions(m.group(2))
            for line in computations[name]
            if (m := re.match(r"\s*(?:ROOT )?%([\w.\-]+) = \w+\[([\d,]*)\]", line))
        }
        for line in computations[name]:
            if dot := re.search(
                r" = \w+\[([\d,]*)\]\S* dot\((?:\w+\[[\d,]*\]\S* )?%([\w.\-]+), .*lhs_contracting_dims=\{([\d,]*)\}",
                line,
            ):
                contracted = math.prod(shapes[dot.group(2)][i] for i in _dimensions(dot.group(3)))
                totals["gigaflops"] += 2e-9 * math.prod(_dimensions(dot.group(1))) * contracted
            if re.search(rf" {COLLECTIVES}\(", line):
                outputs = line.split("=", 1)[1].split("(%")[0]
                totals["collectives"] += 1
                totals["megabytes"] += sum(
                    1e-6 * _BYTES[dtype] * math.prod(_dimensions(d))
                    for dtype, d in re.findall(r"(f32|bf16|u16)\[([\d,]*)\]", outputs)
                )
            trips = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
            called = re.findall(r"(?:calls|body|to_apply)=%?([\w.\-]+)", line)
            for callee in called:
                for what, amount in visit(callee).items():
                    totals[what] += amount * (int(trips.group(1)) if trips else 1)
        return totals

    return dict(visit("ENTRY"))


def _dimensions(text: str) -> tuple[int, ...]:
    return tuple(int(d) for d in text.split(",") if d)
