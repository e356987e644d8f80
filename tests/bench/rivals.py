"""An environment for each rival, made once and kept in a cache folder.

Rules:

1. Nothing is installed into the environment that runs the benchmark. `~/.cache/batchrunner-bench` may be deleted at any time.
2. A rival that cannot be installed is named with the reason, like one that cannot run.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

PACKAGES = {
    "openai": "openai",
    "litellm": "litellm",
    "flexllm": "flexllm",
    "saturate": "saturate",
    "curator": "bespokelabs-curator",
    "async-batch-llm": "async-batch-llm[openai]",
    "cookbook": "aiohttp",
}
PATIENCE = 1200  # seconds for an installation
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "batchrunner-bench"
ROUTES = Path(__file__).with_name("routes.py")


class Unusable(Exception):  # noqa: N818  a fact about a rival, named as one
    """A rival that cannot be measured, with the reason."""


def rival_command(name: str, url: str, file: Path, concurrency: int) -> list[str]:
    """How a rival is started, in its own environment. `Unusable`: it cannot be installed."""
    folder = file.parent / f"{name}-{file.stem}"
    folder.mkdir(exist_ok=True)
    return [str(installed(name)), str(ROUTES), name, url, str(file), str(concurrency), str(folder)]


def installed(name: str) -> Path:
    """The interpreter that has the rival."""
    folder = CACHE / name
    python, done = folder / "bin" / "python", folder / "installed"
    if done.exists():
        return python
    print(f"installing {PACKAGES[name]} in {folder}", file=sys.stderr, flush=True)
    venv.create(folder, with_pip=True)
    words = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PACKAGES[name]]
    try:
        subprocess.run(words, check=True, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.CalledProcessError as why:
        raise Unusable(f"cannot be installed: {why.stderr.strip().splitlines()[-1]}") from why
    except subprocess.TimeoutExpired as why:
        raise Unusable(f"cannot be installed: not done after {PATIENCE} s") from why
    done.touch()
    return python
