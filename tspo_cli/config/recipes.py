"""Find experiment files: a path, or the name of a recipe such as `tiny/tspo`."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.plain_files import is_plain, why_missing
from tspo_cli.runs import CONFIG_TEXT_NAME, is_run

_PACKAGE = Path(__file__).resolve().parent.parent


def recipe_roots() -> list[Path]:
    """Folders in which recipes are looked up; the first match wins.

    They are `experiments/` of the working directory, `experiments/` of the checkout that holds the
    package, and the recipes that were installed with it.
    """
    roots = [Path("experiments")]
    if (_PACKAGE.parent / "pyproject.toml").is_file():
        roots.append(_PACKAGE.parent / "experiments")
    return [root for root in [*roots, _PACKAGE / "recipes"] if root.is_dir()]


def list_recipes() -> list[str]:
    """Names of all recipes, sorted: FOLDER/NAME.toml of a root.

    Not listed are sweeps (NAME.sweep.toml) and files that only others extend (_NAME.toml).
    """
    files = ((path, root) for root in recipe_roots() for path in root.glob("*/[!_]*.toml"))
    return sorted(
        {_name(path, root) for path, root in files if not path.name.endswith(".sweep.toml")}
    )


def recipe_path(name: str) -> Path:
    """The file of the recipe `name` (`tiny/tspo` is `experiments/tiny/tspo.toml`).

    Raises:
        MissingResourceError: there is no such recipe; the message names the closest one.
    """
    for root in recipe_roots():
        path = root / f"{name}.toml"
        if is_plain(path):
            return path
    raise MissingResourceError(f"{name}: no such experiment file or recipe{_hint(name)}")


def source_path(source: str | Path) -> Path:
    """The file of `source`, which is an existing path or the name of a recipe.

    Raises:
        InvalidInputError: the path of something that is no file, such as a directory or a pipe.
        MissingResourceError: it is neither.
    """
    path = Path(source)
    if path.is_file():
        return path
    try:
        return recipe_path(str(source))
    except MissingResourceError:
        if is_run(path):
            raise InvalidInputError(
                f"{path}: a run directory; its experiment is {path / CONFIG_TEXT_NAME} (go on with "
                f"tspo train {path / CONFIG_TEXT_NAME} --out {path} --resume)"
            ) from None
        is_plain(path)  # a directory may have the name of a recipe
        if path.is_symlink():
            raise MissingResourceError(f"{path}: {why_missing(path)}; name a file") from None
        raise


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()


def _hint(name: str) -> str:
    known = list_recipes()
    bare = name.removeprefix("experiments/").removesuffix(".toml")
    by_leaf = {recipe.rpartition("/")[2]: recipe for recipe in known}
    near = get_close_matches(bare, known, n=1) or [
        by_leaf[leaf] for leaf in get_close_matches(bare.rpartition("/")[2], by_leaf, n=1)
    ]
    if near:
        return f"; did you mean {near[0]}?"
    return "; `tspo config list` names the recipes" if known else ""
