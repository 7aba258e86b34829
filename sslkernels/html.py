# SPDX-License-Identifier: Apache-2.0
"""Builds HTML pages that need no other file: style, sections, tables and pictures."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

from sslkernels.terminal import printable

STYLE = """
:root { color-scheme: light }
body { font: 16px/1.55 system-ui, sans-serif; color: #1f2933; background: #f5f7fa; margin: 0 }
main { max-width: 760px; margin: 0 auto; padding: 40px 20px 64px }
h1 { font-size: 1.7rem; margin: 0 0 4px } h2 { font-size: 1.15rem; margin: 0 0 4px }
p { margin: 0 0 14px } .muted { color: #616e7c } .warning { color: #b91c1c; font-weight: 600 }
section { background: #fff; border: 1px solid #e4e7eb; border-radius: 10px; padding: 22px 26px; margin-top: 20px }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th { text-align: right; font-weight: 600; color: #616e7c; font-size: .85rem } th:first-child { text-align: left }
td { text-align: right; border-top: 1px solid #e4e7eb } td:first-child { text-align: left }
th, td { padding: 7px 0 7px 16px } th:first-child, td:first-child { padding-left: 0 }
td.text { text-align: left; padding-left: 24px; overflow-wrap: anywhere }
img { display: block; max-width: 100%; margin: 8px auto 0 }
"""


def page(title: str, content: Iterable[str], style: str = "") -> str:
    """Build the whole page; ``style`` is added to `STYLE`. Characters that UTF-8 cannot hold are spelled out."""
    title = printable(title)
    text = "\n".join(
        (
            "<!doctype html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
            f'<meta name="viewport" content="width=device-width"><style>{STYLE}{style}</style></head><body><main>',
            f"<h1>{escape(title)}</h1>",
            *content,
            "</main></body></html>\n",
        )
    )
    return text.encode("utf-8", "backslashreplace").decode()


def section(title: str, words: str, content: str) -> str:
    """Build a section; ``content`` is HTML, the rest is text."""
    described = f'<p class="muted">{escape(words)}</p>' if words else ""
    return f"<section><h2>{escape(title)}</h2>{described}{content}</section>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], text: bool = False) -> str:
    """Build a table of HTML cells; with ``text`` all are aligned to the left."""
    cell = '<td class="text">' if text else "<td>"
    top = "<tr>" + "".join(f"<th>{name}</th>" for name in head) + "</tr>" if head else ""
    body = "".join(f"<tr><td>{row[0]}</td>{''.join(f'{cell}{value}</td>' for value in row[1:])}</tr>" for row in rows)
    return f"<table>{top}{body}</table>"


def image(data: bytes, name: str, kind: str = "png") -> str:
    """Put a picture into the page; ``kind`` is png or svg+xml."""
    return f'<img alt="{escape(name)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'
