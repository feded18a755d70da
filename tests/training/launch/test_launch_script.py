"""Launch scripts give every launcher the words that the user gave, whatever is in them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conftest import run_tspo
from tspo_cli.config.load_config import load_config
from tspo_cli.errors import InvalidInputError, UsageError
from tspo_cli.training.launch.nodes.launch_script import (
    Launcher,
    launch_script,
    servers_of_the_node,
)

SETTINGS = ['data.train=["a b.jsonl"]', "rollout.system=it's $HOME"]


@pytest.fixture
def stubs(tmp_path: Path) -> Path:
    """Launchers that print the words that they get, one a line; and an environment `venv`."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    echo = "#!/bin/bash\nprintf '%s\\n' \"$@\"\n"
    for path in (programs / "torchrun", programs / "deepspeed", programs / "tspo"):
        path.write_text(echo)
    (tmp_path / "venv" / "bin" / "python").write_text(echo)
    (programs / "srun").write_text('#!/bin/bash\nexec "${@:3}"\n')
    (programs / "scontrol").write_text("#!/bin/bash\necho node0\necho node1\n")
    for path in (*programs.iterdir(), tmp_path / "venv" / "bin" / "python"):
        path.chmod(0o755)
    return programs


def words_of(script: str, folder: Path, stubs: Path, **more: str) -> list[str]:
    environment = {"PATH": f"{stubs}:/usr/bin:/bin", "NODE": "0", "HEAD": "node0", "HOSTS": "a,b"}
    slurm = {"SLURM_NODEID": "1", "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "node[0-1]"}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**environment, **slurm, **more},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed", "slurm"])
@pytest.mark.parametrize("nodes", [1, 2])
def test_words_arrive_unchanged(
    launcher: Launcher, nodes: int, stubs: Path, tmp_path: Path
) -> None:
    settings = [*SETTINGS, f"launch.environment={tmp_path / 'venv'}"]
    script = launch_script(
        launcher, ["tiny/tspo"], settings, tmp_path / "run", resume=True, nodes=nodes, gpus=4
    )
    words = words_of(script, tmp_path, stubs)
    wanted = [
        *(("launch" if launcher == "slurm" else "train"), "tiny/tspo"),
        *(word for setting in settings for word in ("--set", setting)),
        *("--out", str(tmp_path / "run"), "--resume"),
    ]
    start = words.index("tspo_cli") + 1
    assert words[start : start + len(wanted)] == wanted
    assert "4" in words


def test_a_slurm_job_has_ports_and_secrets_of_its_own(stubs: Path, tmp_path: Path) -> None:
    settings = [f"launch.environment={tmp_path / 'venv'}"]
    script = launch_script("slurm", ["tiny/tspo"], settings, None, resume=False, nodes=2, gpus=8)
    runs = [
        words_of(script, tmp_path, stubs, SLURM_JOB_ID=job, SLURM_RESTART_COUNT=restarts)
        for job, restarts in (("1", "0"), ("1", "1"), ("2", "0"), ("99999999", "0"))
    ]
    ports = [int(words[words.index("--port") + 1]) for words in runs]
    assert len(set(ports)) == len(ports)
    assert all(10_000 <= port < 30_000 for port in ports)
    assert runs[1][runs[1].index("--job") + 1] == "1.1"
    assert runs[0][runs[0].index("--hosts") + 1] == "node0,node1"
    assert "--resume" in runs[0], "a run that did not begin yet begins"
    assert not any("TOKEN" in word for words in runs for word in words)
    (tmp_path / "venv" / "bin" / "python").write_text(
        '#!/bin/bash\necho "${#TSPO_ENGINE_TOKEN} ${#TSPO_RETRIEVER_TOKEN} $TSPO_ENGINE_TOKEN"\n'
    )
    secrets = [words_of(script, tmp_path, stubs)[0].split() for _ in range(2)]
    assert [words[:2] for words in secrets] == [["48", "48"], ["48", "48"]]
    assert secrets[0] != secrets[1]
    own = words_of(script, tmp_path, stubs, TSPO_ENGINE_TOKEN="the-users-own-secret")
    assert own[0].split()[-1] == "the-users-own-secret"


@pytest.mark.parametrize(
    ("out", "name"),
    [
        ("runs/my run", "my_run"),
        ("runs/x\n#SBATCH --uid=0", "x__SBATCH_--uid_0"),
        ("runs/100%j", "100_j"),
        ("runs/Größe-1.5b", "Größe-1.5b"),
        ("runs/a/..", "runs"),
        (".", None),
    ],
)
def test_the_name_of_a_job_is_one_word(out: str, name: str | None) -> None:
    script = launch_script("slurm", ["tiny/tspo"], [], Path(out), resume=False, nodes=1, gpus=8)
    head = script.partition("set -uo")[0]  # Slurm reads on until the first command
    lines = [line for line in head.splitlines() if line.startswith("#SBATCH")]
    name = name or Path.cwd().name
    assert f"#SBATCH --job-name={name}" in lines
    assert f"#SBATCH --output={name}.%j.log" in lines
    assert len(lines) == 10
    assert "#SBATCH --mem=0" in lines, "--exclusive gives all processors, but not all memory"


@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed", "slurm"])
@pytest.mark.parametrize("nodes", [1, 2])
def test_modules_of_the_working_directory_are_left_alone(
    launcher: Launcher, nodes: int, stubs: Path, tmp_path: Path
) -> None:
    """A file `random.py` where the job is submitted would be imported in place of Python's own."""
    for path in (*stubs.glob("[td]*"), tmp_path / "venv" / "bin" / "python"):
        path.write_text('#!/bin/bash\necho "safe=$PYTHONSAFEPATH"\n')
    settings = [f"launch.environment={tmp_path / 'venv'}"]
    script = launch_script(
        launcher, ["tiny/tspo"], settings, None, resume=False, nodes=nodes, gpus=4
    )
    assert words_of(script, tmp_path, stubs) == ["safe=1"]


def test_a_missing_environment_ends_the_job_in_one_line(stubs: Path, tmp_path: Path) -> None:
    settings = ["launch.environment=nowhere"]
    script = launch_script("slurm", ["tiny/tspo"], settings, None, resume=False, nodes=1, gpus=8)
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("error: nowhere has no bin/python here; 'make vllm' makes ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("nodes", [1, 2])
def test_as_many_processes_as_the_experiment_says(nodes: int, stubs: Path, tmp_path: Path) -> None:
    settings = ["launch.processes=3"]
    options: dict[Launcher, str] = {"torchrun": "--nproc-per-node", "deepspeed": "--num_gpus"}
    for launcher, option in options.items():
        script = launch_script(
            launcher, ["tiny/tspo"], settings, None, resume=False, nodes=nodes, gpus=8
        )
        words = words_of(script, tmp_path, stubs)
        assert words[words.index(option) + 1] == "3"


def test_training_starts_no_server_of_a_launch(tmp_path: Path) -> None:
    """With engines in its processes it would be another run, which fits where servers do not."""
    engines = ("--set", "rollout.engine=vllm", "--set", "launch.engines=2")
    done = run_tspo("train", "tiny/grpo", *engines, "--out", tmp_path / "run")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "launch.engines: 2 vLLM servers of a node, which `tspo train` does not start" in done.err
    index = ("--set", "launch.retriever=first", "--set", "retriever.index=nowhere")
    done = run_tspo("train", "tiny/grpo", *index, "--out", tmp_path / "run")
    assert "warning: launch.retriever: `tspo train` starts no server" in done.err


@pytest.mark.parametrize("nodes", [1, 2])
def test_servers_are_printed_for_every_launcher_that_starts_them(
    nodes: int, stubs: Path, tmp_path: Path
) -> None:
    def script(launcher: Launcher) -> str:
        return launch_script(
            launcher,
            ["tiny/tspo"],
            ["launch.retriever=each"],
            tmp_path / "run",
            resume=False,
            nodes=nodes,
            gpus=4,
        )

    words = words_of(script("torchrun"), tmp_path, stubs)
    assert words[:2] == ["launch", "tiny/tspo"]
    assert ("--hosts" in words) == (nodes == 2)
    with pytest.raises(UsageError, match="starts no servers"):
        script("deepspeed")


@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed", "slurm"])
def test_what_cannot_train_is_refused_before_a_job_is_queued(launcher: Launcher) -> None:
    with pytest.raises(InvalidInputError, match=r"data\.train: .* \(and 2 more"):
        launch_script(launcher, ["any/tspo"], [], None, resume=False, nodes=1, gpus=1)


HERE, THERE = "http://127.0.0.1:8000", "http://node7:8000"
ENGINES = ("rollout.engine=vllm", f'vllm.url=["{HERE}"]', f"retriever.url={THERE}")


@pytest.mark.parametrize(
    ("launcher", "nodes", "settings", "keys"),
    [
        ("slurm", 1, [f"retriever.url={HERE}"], ["retriever.url"]),
        ("slurm", 1, [f"retriever.url={THERE}"], []),
        ("slurm", 2, [f'retriever.url=["{THERE}", "http://localhost:80"]'], ["retriever.url"]),
        ("slurm", 1, ["retriever.index=runs/index", f"retriever.url={HERE}"], []),
        ("torchrun", 1, [f"retriever.url={HERE}"], []),
        ("torchrun", 2, [f"retriever.url={HERE}"], ["retriever.url"]),
        ("deepspeed", 2, ENGINES, ["vllm.url"]),
        ("slurm", 1, ENGINES[1:], []),
    ],
)
def test_servers_that_no_node_has_are_named(
    launcher: Launcher, nodes: int, settings: list[str], keys: list[str]
) -> None:
    """127.0.0.1 is another machine in a job than where it is written down."""
    config = load_config(["tiny/tspo"], ["retriever.index=", *settings])
    told = servers_of_the_node(config, launcher, nodes)
    assert [line.split(":")[0] for line in told] == keys
    assert all("the node itself" in line for line in told)
