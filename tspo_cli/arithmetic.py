"""Arithmetic whose bytes repeat on other processors (`train.portable`), and what a run computes
with.

Libraries choose their kernels by the processor when they are loaded or first used. So the choice is
made in the environment, before the program begins: a command that finds another environment starts
itself again with the right one.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tspo_cli.errors import InvalidInputError

PORTABLE: Mapping[str, str] = {
    "ATEN_CPU_CAPABILITY": "avx2",
    # The one mode of MKL with the same bytes on processors of every maker.
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    # Names of NumPy before and since 2.4; it leaves out those that it does not know.
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL "
    "AVX512_SPR X86_V4",
    "OPENBLAS_CORETYPE": "Haswell",
    "FAISS_OPT_LEVEL": "avx2",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
"""Instruction set, reproducible mode and one thread, for each library that computes."""
_CHANGE_IT_TOO = (
    *("MKL_ENABLE_INSTRUCTIONS", "DNNL_MAX_CPU_ISA", "NPY_ENABLE_CPU_FEATURES"),
    *("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"),
)
"""Variables that would change the arithmetic again."""
_AGAIN = "TSPO_PORTABLE"
"""Set in a command that was started again, so that this happens once."""
_INSTRUCTIONS = {"avx2", "fma"}


def compute_portably(portable: bool) -> None:
    """If `portable`, let this command compute with `PORTABLE`: where it began with another
    environment, it is started again in its place and nothing after this call is run.

    Raises:
        InvalidInputError: the processor cannot, or this process is a part of another program, whose
            libraries are loaded with other settings.
    """
    if not portable:
        return
    if problem := cannot_be_portable():
        raise InvalidInputError(f"train.portable: {problem}; set it to false")
    began = _environment_at_start()
    if _is_portable(began):
        return
    if _AGAIN in began or not _is_own_program():
        wrong = [f"without {n}={value}" for n, value in PORTABLE.items() if began.get(n) != value]
        wrong += [f"with {name}={began[name]}" for name in sorted(_CHANGE_IT_TOO & began.keys())]
        raise InvalidInputError(
            f"train.portable: the libraries of this process are loaded {wrong[0]}, and it cannot "
            "be started again; start it with the variables that docs/portable.md lists and without "
            "others, or use the tspo command"
        )
    environment = {name: v for name, v in os.environ.items() if name not in _CHANGE_IT_TOO}
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(
        sys.executable,
        [sys.executable, *sys.orig_argv[1:]],
        {**environment, **PORTABLE, _AGAIN: "1"},
    )


def use_portable_kernels(portable: bool) -> None:
    """If `portable`, let PyTorch compute with the kernels that repeat: those of MKL and its own, on
    the CPU and in one thread. oneDNN's blocks depend on the sizes of caches; it is switched off.

    Raises:
        InvalidInputError: this process began with another environment, PyTorch is built without
            MKL, or it sees a GPU.
    """
    if not portable:
        return
    import torch

    compute_portably(portable)
    if torch.cuda.is_available():
        raise InvalidInputError(
            "train.portable: this process would compute on a GPU; hide it with "
            "CUDA_VISIBLE_DEVICES= in front of the command, or set the key to false"
        )
    if not torch.backends.mkl.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX2":
        raise InvalidInputError(
            f"train.portable: needs a PyTorch with MKL and AVX2; {torch.__version__} here computes "
            f"with {torch.backends.cpu.get_cpu_capability()}; set it to false"
        )
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    torch.set_num_threads(1)


def arithmetic() -> dict[str, Any]:
    """What this process computes with: `mode` (portable or native), `instructions` of PyTorch's
    kernels, `mkl_cbwr` (MKL's reproducible mode; empty: none), the processor and the C library.
    """
    import torch

    began = _environment_at_start()
    return {
        "mode": "portable" if _is_portable(began) else "native",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "mkl_cbwr": began.get("MKL_CBWR", ""),
        "processor": _processor_name(),
        "libc": " ".join(platform.libc_ver()),
    }


def cannot_be_portable() -> str:
    """Why this processor cannot; empty where it can."""
    missing = sorted(_INSTRUCTIONS - _processor_flags())
    if platform.machine() == "x86_64" and not missing:
        return ""
    without = f" without {' and '.join(missing).upper()}" if missing else ""
    return f"needs an x86-64 processor with AVX2 and FMA, and Linux; here: {platform.machine()}" + (
        without
    )


def _is_portable(environment: Mapping[str, str]) -> bool:
    return all(environment.get(name) == value for name, value in PORTABLE.items()) and not any(
        name in environment for name in _CHANGE_IT_TOO
    )


def _environment_at_start() -> dict[str, str]:
    """The variables with which this program began. Later changes of os.environ, and forks, do not
    alter them. Empty where the system does not tell.
    """
    try:
        text = Path("/proc/self/environ").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in text.split("\0") if "=" in line)


def _is_own_program() -> bool:
    """Whether this process began as a tspo command, and not as a fork of another program."""
    words = sys.orig_argv
    own = any(
        word == "tspo_cli" or word.startswith("tspo_cli.") or Path(word).name == "tspo"
        for word in words[1:]
    )
    return own and words[len(words) - len(sys.argv) + 1 :] == sys.argv[1:]


def _processor_flags() -> set[str]:
    return set(_cpuinfo("flags").split())


def _processor_name() -> str:
    return _cpuinfo("model name") or platform.processor()


def _cpuinfo(name: str) -> str:
    """The first entry `name` of /proc/cpuinfo; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.search(rf"^{name}\s*:(.*)$", text, re.MULTILINE)
    return found.group(1).strip() if found else ""
