"""The parts that all report pages are made of: the document, sections, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from onelook.report.style import STYLE


def document(title: str, body: str, *, lead: str = "", style: str = STYLE) -> str:
    """A page with embedded style, without scripts and links. title, lead: plain text.  body: HTML."""
    title, lead = escape(title), f'<p class="lead">{escape(lead)}</p>' if lead else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>'
        f"<body><main><h1>{title}</h1>{lead}{body}</main></body></html>"
    )


def section(title: str, body: str, lead: str = "") -> str:
    """A section with a heading. title, lead: plain text.  body: HTML."""
    lead = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    return f"<section><h2>{escape(title)}</h2>{lead}{body}</section>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "numbers") -> str:
    """A table of plain texts. kind: its class in the style sheet."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table class="{kind}"><tr>{top}</tr>{body}</table></div>'


def facts_table(facts: Mapping[str, str]) -> str:
    """Names with their values, as plain texts."""
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts.items())
    return f'<table class="facts">{rows}</table>'


def cards(values: Sequence[tuple[str, str]]) -> str:
    """Large values, each with its name below."""
    shown = "".join(f'<div class="card"><b>{escape(one)}</b><span>{escape(name)}</span></div>' for one, name in values)
    return f'<div class="cards">{shown}</div>'
