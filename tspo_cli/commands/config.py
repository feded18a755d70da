"""`tspo config`: the keys of an experiment file, the recipes that come along, and checks of your
own files.
"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tspo_cli import console
from tspo_cli.commands.options import Json, Settings, Sources
from tspo_cli.console import counted
from tspo_cli.errors import InvalidInputError

app = typer.Typer(no_args_is_help=True, help="Show, check and explain experiment files.")


@app.command()
def show(
    sources: Sources,
    settings: Settings = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Every key with its final value.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print an experiment file, or the configuration that it resolves to.

    One file is printed as it is, to be copied and changed; one that extends another is printed with
    what it takes from it. With --resolved, --set, --json or several files, the resulting
    configuration is printed.

    tspo config show tiny/tspo > mine.toml
    """
    from tspo_cli.config.load_config import load_config, to_toml
    from tspo_cli.config.sources import source_text
    from tspo_cli.config.tables import flatten
    from tspo_cli.text.secrets import values_without_secrets

    config = load_config(sources, settings or ())
    for key, value in flatten(config.section_dict()).items():
        if values_without_secrets(value) != value:
            console.warn(
                f"{key}: the output has the secret of this URL; name the server without it, and "
                "give its token in an environment variable"
            )
    if as_json:
        console.result_json(config.section_dict())
    elif resolved or settings or len(sources) > 1:
        console.result(to_toml(config).rstrip())
    else:
        console.result(source_text(sources[0]).rstrip())


@app.command()
def validate(sources: Sources, settings: Settings = None, as_json: Json = False) -> None:
    """Check that experiment files give a configuration that can be trained.

    Every problem is listed, and the exit code is 3 if there is one. Only the configuration is
    checked: `tspo train --dry-run` also opens data, index and model.
    """
    from tspo_cli.config.load_config import config_hash, load_config
    from tspo_cli.config.unused_settings import unused_settings
    from tspo_cli.rollout.engines.vllm_engine.vllm_messages import transfer_in_words
    from tspo_cli.training.problems import problems

    config = load_config(sources, settings or ())
    found = list(problems(config))
    if as_json:
        answer = {"valid": not found, "kind": config.kind, "hash": config_hash(config)}
        console.result_json(answer | ({"problems": found} if found else {}))
    if found:
        raise InvalidInputError(*found)
    for sentence in unused_settings(config):
        console.warn(sentence)
    if config.vllm.url or config.launch.engines:
        import torch

        console.say(transfer_in_words(config, gpu=torch.cuda.is_available()))
    if not as_json:
        console.result(
            f"valid: {config.kind}, {counted(config.train.steps, 'step')}, configuration "
            f"{config_hash(config)}"
        )


@app.command()
def schema(
    prefix: Annotated[str, typer.Argument(help="Only keys that start so, such as credit.")] = "",
    as_json: Json = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print all keys as a Markdown page.")
    ] = False,
) -> None:
    """List every key of an experiment file with its default, as TOML.

    The output is itself an experiment file. With --json: the JSON schema of all keys. U1 to U11
    number the options that TSPO's abstract leaves open (docs/algorithms.md).
    """
    from tspo_cli.config.keys import all_keys, unknown
    from tspo_cli.config.schema import Config

    keys = [key for key in all_keys().values() if key.name.startswith(prefix)]
    if not keys:
        raise InvalidInputError(f"{prefix}: {unknown(prefix)}")
    if as_json:
        console.result_json(Config.model_json_schema())
        return
    if markdown:
        from tspo_cli.config.keys import keys_page

        console.result(keys_page().rstrip())
        return
    section = ""
    for key in keys:
        table, _, leaf = key.name.rpartition(".")
        if table != section:
            console.result(f"\n[{table}]")
            section = table
        meaning = f". {key.description}" if key.description else ""
        console.result(f"{leaf} = {json.dumps(key.default)}  # {key.expects}{meaning}")


@app.command(name="list")
def list_recipes_(as_json: Json = False) -> None:
    """List the recipes: experiment files that every command finds by name."""
    from tspo_cli.config.load_config import list_recipes, recipe_path

    recipes = {name: str(recipe_path(name)) for name in list_recipes()}
    if as_json:
        console.result_json(
            {"recipes": [{"name": name, "path": path} for name, path in recipes.items()]}
        )
    else:
        for name, path in recipes.items():
            console.result(f"{name:<28} {path}")
