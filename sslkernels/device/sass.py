# SPDX-License-Identifier: Apache-2.0
"""Read the machine code that cuobjdump prints: which loops it has, and what one trip through each executes.

Branches are taken the short way, since the code behind them is for rare tiles: those that a diagonal or an edge
crosses. But no way leaves out a product, nor a loop where there is no product. A loop's counts leave out the loops
within it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import reduce
from typing import NamedTuple

_LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(@\S+\s+)?([A-Z][A-Za-z0-9_.]*)([^;]*);")
_TARGET = re.compile(r"0x([0-9a-f]+)\s*$")
_MATRIX = ("HGMMA", "HMMA", "UTCHMMA", "UTCQMMA", "IMMA")
_SPECIAL = tuple(f"MUFU.{name}" for name in ("EX2", "LG2", "SIN", "COS"))
_BYTES = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}


class Instruction(NamedTuple):
    address: int
    predicated: bool
    name: str
    operands: str


@dataclass(frozen=True)
class Region:
    """A loop, or the code outside all loops: what one warp executes on one trip."""

    instructions: int
    matrix: Counter[str] = field(default_factory=Counter)  # matrix instructions by name, operands' kind included
    exponentials: int = 0  # MUFU instructions that a `Work` counts
    fp32: int = 0  # float32 sums and products of a thread; a multiply-add is two
    bytes: int = 0  # that a thread moves to or from device memory


@dataclass(frozen=True)
class Code:
    once: Region
    loops: tuple[Region, ...]

    @property
    def hot(self) -> Region:
        """The loop with the most matrix instructions, or the longest."""
        return max(self.loops, key=lambda loop: (sum(loop.matrix.values()), loop.instructions), default=self.once)


def read(text: str) -> Code:
    """Read the code of the one kernel in ``text``."""
    blocks, following = _blocks([_instruction(match) for match in _LINE.finditer(text)])
    loops = _loops(following)
    # Loops within others come first. At its turn a loop finds each block owned by the largest of the loops within it.
    ordered = sorted(loops.items(), key=lambda item: len(item[1]))
    regions, owner = [], dict[int, int]()
    for head, inside in ordered:
        path = _path(blocks, following, head, inside, owner)
        regions.append(_region(blocks, path))
        owner.update(dict.fromkeys(inside, head))
    everything = set(range(len(blocks)))
    once = _region(blocks, _path(blocks, following, None, everything, owner))
    return Code(once, tuple(regions))


def _instruction(match: re.Match[str]) -> Instruction:
    address, predicate, name, operands = match.groups()
    return Instruction(int(address, 16), bool(predicate and predicate.strip() != "@PT"), name, operands.strip())


def _blocks(code: list[Instruction]) -> tuple[list[list[Instruction]], list[list[int]]]:
    """Cut the code at branches and their targets. Return the blocks, and the blocks that may follow each."""
    jumps = {i.address: int(m[1], 16) for i in code if i.name.startswith("BRA") and (m := _TARGET.search(i.operands))}
    heads, blocks = {0, *jumps.values()}, list[list[Instruction]]()
    ends = True
    for instruction in code:
        if ends or instruction.address in heads:
            blocks.append([])
        blocks[-1].append(instruction)
        ends = instruction.name.split(".")[0] in ("BRA", "EXIT", "RET", "BRX")
    number = {block[0].address: place for place, block in enumerate(blocks)}
    following = []
    for place, block in enumerate(blocks):
        last, after = block[-1], list[int]()
        # A uniform predicate is an operand: BRA.U UP0, 0x100
        conditional = last.predicated or "UP" in last.operands.split(",")[0]
        stops = last.name.split(".")[0] in ("BRA", "EXIT", "RET", "BRX") and not conditional
        if not stops and place + 1 < len(blocks):
            after.append(place + 1)
        if last.address in jumps:
            after.append(number[jumps[last.address]])
        following.append(after)
    return blocks, following


def _loops(following: list[list[int]]) -> dict[int, set[int]]:
    """The natural loops: from their head to the blocks that lie between it and a jump back to it."""
    before: list[list[int]] = [[] for _ in following]
    for place, after in enumerate(following):
        for each in after:
            before[each].append(place)
    everything = set(range(len(following)))
    dominators = [{0}, *(set(everything) for _ in following[1:])]
    changed = True
    while changed:
        changed = False
        for place in range(1, len(following)):
            if before[place]:
                found = reduce(set.intersection, (dominators[each] for each in before[place])) | {place}
                changed, dominators[place] = changed or found != dominators[place], found
    loops: dict[int, set[int]] = {}
    for place, after in enumerate(following):
        for head in after:
            if head in dominators[place] and following[place] != [place]:  # the trap behind the last instruction
                inside, waiting = loops.setdefault(head, {head}), [place]
                while waiting:
                    block = waiting.pop()
                    if block not in inside:
                        inside.add(block)
                        waiting += before[block]
    return loops


def _path(
    blocks: list[list[Instruction]],
    following: list[list[int]],
    head: int | None,
    inside: set[int],
    owner: dict[int, int],
) -> list[int]:
    """The blocks of the short way from ``head`` back to it, or for None from the beginning to the end.

    Loops within count as one empty block.
    """
    inner = {block: owner[block] for block in inside if block in owner}
    members: dict[int, list[int]] = {}
    for block, loop in inner.items():
        members.setdefault(loop, []).append(block)
    best: dict[int, tuple[int, int, int, tuple[int, ...]]] = {}

    def of(node: int, seen: frozenset[int]) -> tuple[int, int, int, tuple[int, ...]]:
        """Products, loops (both counted down) and instructions from here on, and the blocks."""
        if node in best:
            return best[node]
        held = members.get(node, [node])
        products = -sum(i.name.startswith(_MATRIX) for block in held for i in blocks[block])
        looped, length = (-1, 0) if node in members else (0, len(blocks[node]))
        exits = {inner.get(each, each) for block in held for each in following[block] if each in inside} - {node}
        ways = [of(each, seen | {node}) for each in exits if each != head and each not in seen]
        returns = any(head in following[block] for block in held)
        ends = any(not following[block] for block in held)
        if returns or ends or not ways:
            ways.append((0, 0, 0, ()))
        p, q, r, rest = min(ways)
        own = () if node in members else (node,)
        best[node] = (products + p, looped + q, length + r, own + rest)
        return best[node]

    start = head or 0
    return list(of(inner.get(start, start), frozenset())[3])


def _region(blocks: list[list[Instruction]], path: list[int]) -> Region:
    code = [instruction for block in path for instruction in blocks[block]]
    matrix = Counter(_matrix(each) for each in code if each.name.startswith(_MATRIX))
    memory = [each.name for each in code if each.name.startswith(("LDG.", "STG.", "LDGSTS."))]
    return Region(
        len(code),
        matrix,
        sum(each.name.startswith(_SPECIAL) for each in code),
        sum(2 if each.name.startswith("FFMA") else each.name.startswith(("FADD", "FMUL")) for each in code),
        sum(next((_BYTES[part] for part in name.split(".") if part in _BYTES), 4) for name in memory),
    )


def _matrix(instruction: Instruction) -> str:
    """Its name, with " A in registers" where that is so: it then reads less shared memory."""
    parts = instruction.operands.split(",")
    in_registers = instruction.name.startswith("HGMMA") and re.match(r"\s*R\d", parts[1]) is not None
    return instruction.name + (" A in registers" if in_registers else "")
