"""Tables as Markdown and as LaTeX. Whatever a run or a paper is called, it is printed as it
stands.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from tspo_cli.reporting.rendering.table import Cell, Table
from tspo_cli.text.printable import printable


@dataclass(frozen=True, slots=True)
class _Emphasis:
    """How a language says what a cell means; `{}` is the escaped text."""

    escape: Callable[[str], str]
    best: str
    second: str
    quoted: str
    letters: str

    def __call__(self, cell: Cell, quoted: bool) -> str:
        form = (
            self.best
            if cell.best
            else self.second
            if cell.second
            else self.quoted
            if quoted
            else "{}"
        )
        text = form.format(self.escape(cell.text)) if cell.text else ""
        return text + (self.letters.format(self.escape(cell.letters)) if cell.letters else "")


_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|~$&#!])")


def _markdown_text(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", printable(" ".join(text.split())))


_markdown_cell = _Emphasis(_markdown_text, "**{}**", "<u>{}</u>", "*{}*", "<sup>{}</sup>")


def markdown(table: Table, titled: bool) -> str:
    """A table of GitHub's Markdown with its notes below, and its title above where `titled`."""
    lines = [
        [_markdown_text(column.heading) for column in table.columns],
        ["---:" if column.numeric else ":---" for column in table.columns],
        *[
            [_markdown_cell(cell, place in table.quoted) + _markdown_below(cell) for cell in row]
            for place, row in enumerate(table.rows)
        ],
    ]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    notes = "".join(f"\n\n{_markdown_text(note)}" for note in table.notes)
    return (f"### {_markdown_text(table.title)}\n\n" if titled else "") + text + notes


def _markdown_below(cell: Cell) -> str:
    return f"<br><sub>{_markdown_text(cell.below)}</sub>" if cell.below else ""


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "[": "{[}",
    "]": "{]}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": r"$-$",
    "†": r"\textdagger{}",
    "‡": r"\textdaggerdbl{}",
    **{character: "\\" + character for character in "&%$#_{}"},
}


_LIGATURE = re.compile(r"([-',])(?=\1)")
"""Two of these are one sign in T1 fonts: `--json` would be a dash and json."""


def latex_escape(text: str) -> str:
    """Text that LaTeX prints as it stands (needs T1 fonts for a straight double quote)."""
    plain = printable(" ".join(text.split()))
    return _LIGATURE.sub(r"\1{}", "".join(_LATEX.get(sign, sign) for sign in plain))


_latex_cell = _Emphasis(
    latex_escape, r"\textbf{{{}}}", r"\underline{{{}}}", r"\textit{{{}}}", r"\textsuperscript{{{}}}"
)


def latex(table: Table, titled: bool) -> str:
    """A tabular with booktabs rules; notes and the commands that made the numbers are comments
    below it.
    """
    body = []
    for place, row in enumerate(table.rows):
        quoted = place in table.quoted
        if quoted and place - 1 not in table.quoted and place:
            body.append(r"\midrule")
        body.append(" & ".join(_latex_cell(cell, quoted) for cell in row) + r" \\")
        if any(cell.below for cell in row):
            below = [
                rf"{{\scriptsize {latex_escape(cell.below)}}}" if cell.below else "" for cell in row
            ]
            body.append(" & ".join(below) + r" \\")
    return "\n".join(
        [
            *([f"% {printable(' '.join(table.title.split()))}"] if titled else []),
            r"% \usepackage{booktabs} \usepackage[T1]{fontenc}",
            r"\begin{tabular}{"
            + "".join("r" if column.numeric else "l" for column in table.columns)
            + "}",
            r"\toprule",
            " & ".join(latex_escape(column.heading) for column in table.columns) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            *[f"% {latex_escape(note)}" for note in table.notes],
            *[f"% made by: {printable(' '.join(command.split()))}" for command in table.commands],
        ]
    )
