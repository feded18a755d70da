"""What the demo does: every stage is a `tspo` command that a user could type."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tspo_cli.errors import SaidError, TspoError
from tspo_cli.runs import EVAL_SUMMARY_NAME, MODEL_NAME, STATUS_NAME, read_status

DEFAULT_OUT = Path("runs/demo")
MARKER = "demo.json"
WARM_START = "warmstart"
ARMS = ("grpo", "tspo")
BASELINES = ("direct", "rag")
# One fact per passage and no yes-or-no questions: nearly every group is wrong at first, but often a
# near-miss.
HARD_START = ("--facts-per-passage", "1", "--comparison-share", "0")
QUICK_QUESTIONS = 20
_OWN_CODES = range(1, 7)
"""Exit codes with which a command ends by itself, after one line that says why."""
QUICK_WARM_START = ("train.steps=40", "optimizer.warmup=5", f"eval.limit={QUICK_QUESTIONS}")
QUICK_ARM = ("train.steps=4", "eval.every=2", f"eval.limit={QUICK_QUESTIONS}")


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the demo does and where: `settings` are KEY=VALUE for both RL experiments."""

    out: Path
    seed: int = 0
    settings: tuple[str, ...] = ()
    quick: bool = False

    def record(self) -> dict[str, Any]:
        """The options that decide the results, as `demo.json` keeps them."""
        return {"seed": self.seed, "set": list(self.settings), "quick": self.quick}


@dataclass(frozen=True, slots=True)
class Command:
    """One tspo command. `output` is the file that exists when the command has finished."""

    arguments: tuple[str, ...]
    output: Path

    @property
    def text(self) -> str:
        """The command line, as a user types it."""
        return shlex.join(["tspo", *self.arguments])

    @property
    def folder(self) -> Path:
        """The run directory, or another folder, that the command writes."""
        return self.output.parent

    @property
    def is_training(self) -> bool:
        """True for `tspo train`, whose output is the status of the run."""
        return self.output.name == STATUS_NAME

    def finished(self) -> bool:
        """True when an earlier demo has completed the command.

        Raises:
            InvalidInputError: a damaged status of a run.
        """
        if self.is_training:
            return bool(read_status(self.folder)["state"] == "finished")
        return self.output.exists()

    def check_exit(self, code: int, log: Path | None = None) -> None:
        """Raise TspoError with the command's own exit code, unless `code` is 0. The message ends
        with the last line of `log`, if there is one. Without one, what failed by itself has said
        why: that is a SaidError.
        """
        if code == 0:
            return
        if log is None and code in _OWN_CODES:
            raise SaidError(code)
        said = log.read_text(encoding="utf-8", errors="replace") if log is not None else ""
        lines = said.strip().splitlines()
        reason = f"; {lines[-1].removeprefix('error: ')}" if lines else ""
        error = TspoError(f"{self.text}: ended with exit code {code}{reason}")
        error.exit_code = code if code > 0 else 128 - code
        raise error


@dataclass(frozen=True, slots=True)
class Stage:
    """Commands that may run at the same time."""

    title: str
    commands: tuple[Command, ...]


def demo_stages(options: DemoOptions) -> list[Stage]:
    """The stages of the demo, in order."""
    out = options.out
    world, index = out / "world", out / "index"
    make_world = ("data", "make-world", "--out", str(world), *HARD_START, "--overwrite")
    build = ("index", "build", f"{world}/corpus.jsonl", "--out", str(index), "--overwrite")
    return [
        Stage("world", (Command(make_world, world / "world.json"),)),
        Stage("index", (Command(build, index / "manifest.json"),)),
        Stage("warm start (SFT)", (_train(options, WARM_START),)),
        Stage("GRPO and TSPO", tuple(_train(options, arm) for arm in ARMS)),
        Stage(
            "direct and RAG with the same model",
            tuple(_evaluate(options, method) for method in BASELINES),
        ),
    ]


def page_path(out: Path) -> Path:
    """The report page of a demo."""
    return out / "report.html"


def train_settings(options: DemoOptions, recipe: str) -> list[str]:
    """What the demo sets in tiny/RECIPE, which names the paths below DEFAULT_OUT itself."""
    out, is_warm_start = options.out, recipe == WARM_START
    paths = [f"retriever.index={out}/index", f'eval.data=["{out}/world/test.jsonl"]']
    if is_warm_start:
        paths += [f"data.world={out}/world"]
    else:
        model = out / WARM_START / MODEL_NAME
        paths += [f"model.path={model}", f'data.train=["{out}/world/train.jsonl"]']
    quick = QUICK_WARM_START if is_warm_start else QUICK_ARM
    return [
        *([f"seed={options.seed}"] if options.seed else []),
        *([] if out == DEFAULT_OUT else paths),
        *(quick if options.quick else ()),
        *(() if is_warm_start else options.settings),
    ]


def _train(options: DemoOptions, recipe: str) -> Command:
    run = options.out / recipe
    resume = ("--resume",) if (run / STATUS_NAME).exists() else ()
    words = [word for pair in train_settings(options, recipe) for word in ("--set", pair)]
    arguments = ("train", f"tiny/{recipe}", "--out", str(run), *words, *resume)
    return Command(arguments, run / STATUS_NAME)


def _evaluate(options: DemoOptions, method: str) -> Command:
    """`tspo eval` of the TSPO model with a prompting method. The tiny policy was taught to close
    its answers: words without the closing tag are no answer of it.
    """
    out = options.out
    folder = out / "baselines" / method
    limit = ("--limit", str(QUICK_QUESTIONS)) if options.quick else ()
    data = ("--data", f"{out}/world/test.jsonl", "--index", f"{out}/index", *limit)
    target = ("--method", method, "--answer", "tags", "--out", str(folder), "--overwrite")
    return Command(("eval", f"{out}/tspo", *data, *target), folder / EVAL_SUMMARY_NAME)
