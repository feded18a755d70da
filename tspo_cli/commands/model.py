"""`tspo model`: make model directories from other files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from tspo_cli import console
from tspo_cli.commands.options import Json, Overwrite, check_folder
from tspo_cli.console import counted

app = typer.Typer(no_args_is_help=True, help="Make model directories from other files.")


@app.callback()
def model() -> None:
    """Make model directories from other files."""


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE.gguf", help="A GGUF file.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="DIR", callback=check_folder, help="Model directory to write."
        ),
    ],
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="Number format of the weights.")
    ] = "float32",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Convert a GGUF file to a model directory that transformers and vLLM load.

    Quantised weights are dequantised. The directory gets configuration, safetensors, tokenizer,
    chat template and generation defaults. It is read again and compared with the file before it
    gets its name.
    """
    from tspo_cli.models.convert_gguf import convert_gguf

    made = convert_gguf(file, out, dtype=dtype, overwrite=overwrite)
    if as_json:
        console.result_json(asdict(made) | {"model": str(made.model), "source": str(file)})
        return
    template = "with a chat template" if made.chat_template else "without a chat template"
    console.result(
        f"{made.model}: {made.architecture}, {counted(made.parameters, 'parameter')} in "
        f"{made.dtype}, "
        f"{console.byte_size(made.bytes)}, {template}; {made.checked_tokens} greedy tokens agree"
    )
