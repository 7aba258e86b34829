# SPDX-License-Identifier: Apache-2.0
"""Loops and their counts are read from machine code as a reader would read them."""

from __future__ import annotations

from collections import Counter

from sslkernels.device import sass


def code(*lines: str) -> sass.Code:
    """Read instructions as cuobjdump prints them; ``@P0 BRA 3`` jumps to the third of them."""
    printed = []
    for place, line in enumerate(lines):
        name, _, operands = line.rpartition("BRA ")
        text = line if not name and "BRA" not in line else f"{name}BRA {hex(16 * int(operands))}"
        printed.append(f"        /*{16 * place:04x}*/                   {text} ;      /* 0x000000000000794d */")
        printed.append(" " * 80 + "/* 0x000fea0003800000 */")
    return sass.read("\n".join(printed))


def test_a_loop_is_told_apart_from_what_runs_once() -> None:
    read = code("S2R R0, SR_TID.X", "FFMA R1, R2, R3, R1", "MUFU.EX2 R4, R1", "@P0 BRA 1", "STG.E.128 [R2], R4", "EXIT")
    assert read.once == sass.Region(3, bytes=16)  # the store is of 16 bytes
    assert read.loops == (sass.Region(3, exponentials=1, fp32=2),)
    assert read.hot is read.loops[0]


def test_a_jump_to_itself_behind_the_end_is_no_loop() -> None:
    read = code("MOV R0, R1", "EXIT", "BRA 2")
    assert read.loops == () and read.hot is read.once and read.once.instructions == 2


def test_the_short_way_is_taken_around_code_for_rare_tiles() -> None:
    #           0         1            2        3         4        5            6      7
    read = code("NOP", "@!P6 BRA 4", "FMUL R", "FMUL R", "FADD R", "@P0 BRA 0", "NOP", "EXIT")
    assert read.loops[0].instructions == 4 and read.loops[0].fp32 == 1
    assert read.once.instructions == 2


def test_no_way_leaves_out_a_product() -> None:
    product = "HMMA.16816.F32.BF16 R4, R8, R12, R4"
    read = code("NOP", "@!P6 BRA 4", product, "NOP", "FADD R", "@P0 BRA 0", "EXIT")
    assert read.loops[0].instructions == 6
    assert read.loops[0].matrix == Counter({"HMMA.16816.F32.BF16": 1})


def test_a_loop_within_a_loop_counts_for_itself_and_is_never_left_out() -> None:
    #           0      1             2      3            4         5           6
    read = code("NOP", "@P1 BRA 4", "FMUL R", "@P2 BRA 2", "FADD R", "@P0 BRA 0", "EXIT")
    inner, outer = read.loops
    assert (inner.instructions, inner.fp32) == (2, 1)
    assert (outer.instructions, outer.fp32) == (4, 1)


def test_a_product_says_where_its_left_factor_is() -> None:
    shared, registers = (
        "HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24",
        "HGMMA.64x128x16.F32.BF16 R24, R4, gdesc[UR8], R24",
    )
    read = code("NOP", shared, registers, "@P0 BRA 1", "EXIT")
    assert read.loops[0].matrix == Counter(
        {"HGMMA.64x128x16.F32.BF16": 1, "HGMMA.64x128x16.F32.BF16 A in registers": 1}
    )


def test_bytes_and_operations_of_a_thread() -> None:
    read = code("LDG.E.128 R", "LDG.E.U16 R", "LDGSTS.E.BYPASS.128 [R]", "STG.E.64 R", "LDG.E R", "LDS.128 R", "EXIT")
    assert read.once.bytes == 16 + 2 + 16 + 8 + 4
    read = code("FFMA R", "FMUL R", "FADD.FTZ R", "MUFU.RCP R", "MUFU.LG2 R", "IMAD R", "EXIT")
    assert (read.once.fp32, read.once.exponentials) == (4, 1)
