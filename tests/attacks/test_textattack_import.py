"""Importing TextAttack changes nothing else; each check needs a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attacks.base import Recipe

ROOT = Path(__file__).resolve().parents[2]

CLEAN_BUILD = """
import json, logging, os, random, socket, sys, types

def refused(*args, **kwargs):
    raise OSError("the network was used")

for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refused)
socket.getaddrinfo = refused

import nltk
import attacks

fetched = []  # TextAttack swallows an error of Stanza's download
sys.modules["stanza"] = types.SimpleNamespace(download=fetched.append)
log = logging.getLogger("somebody.else")
log.addHandler(logging.FileHandler("log", mode="w"))
download, environment, state = nltk.download, dict(os.environ), random.getstate()
attack = attacks.build_attack("deepwordbug", ("text",))
log.warning("still heard")
pwws = attacks.build_attack("pwws", ("text",), sys.argv[1])

sys.path.insert(0, sys.argv[2])
from conftest import BagOfWords

text = ("a charming movie with a great , good journey",)
import datasets
from huggingface_hub import constants as hub

print(json.dumps({
    "environment": dict(os.environ) == environment,
    "download": nltk.download is download,
    "logger": open("log").read() == "still heard\\n",
    "stanza": fetched == [],
    "caches": "textattack" not in str((datasets.config.HF_CACHE_HOME, hub.HF_HOME)),
    "random": random.getstate() == state,
    "origin": attack.resources["stopwords"].split()[0],
    "deepwordbug": attack.perturb(BagOfWords(), text, 1, 3).adversarial,
    "pwws": pwws.perturb(BagOfWords(), text, 1, 3).adversarial,
}))
"""


def python(
    code: str, folder: Path, *args: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "SYSTEMROOT", "VIRTUAL_ENV")}
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=folder,
        env={**kept, "HOME": str(folder), "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def test_importing_attacks_loads_no_textattack(tmp_path: Path) -> None:
    code = "import sys, attacks; print(sorted({'textattack', 'nltk', 'flair'} & set(sys.modules)))"
    assert python(code, tmp_path).stdout.strip() == "[]"
    assert not list(tmp_path.iterdir())


def test_building_needs_no_network_and_changes_nothing_else(
    tmp_path: Path, data_dir: Path, build: Callable[..., Recipe], bag_of_words: Any
) -> None:
    # An empty home, hence an empty cache; and another order of sets than in this process.
    here = str(Path(__file__).parent)
    run = python(CLEAN_BUILD, tmp_path, str(data_dir), here, PYTHONHASHSEED="7")
    assert run.stderr == ""
    assert run.stdout.count("\n") == 1
    result = json.loads(run.stdout)
    unchanged = ("environment", "download", "logger", "stanza", "caches", "random")
    assert {key: result[key] for key in unchanged} == dict.fromkeys(unchanged, True)
    assert (tmp_path / ".cache" / "robust-prefix").is_dir()
    assert not (tmp_path / ".cache" / "textattack").exists()
    # Victims that the attack flips, without any resource but what pip installed ...
    assert result["deepwordbug"] is not None
    # ... and the same adversary in both processes.
    text = ("a charming movie with a great , good journey",)
    attempt = build("pwws").perturb(bag_of_words(), text, 1, seed=3)
    assert attempt.adversarial is not None
    assert result["pwws"] == list(attempt.adversarial)
