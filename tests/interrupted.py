"""Runs that are killed, doubled or starved of disk space; a program of its own, because it forks.

    python tests/interrupted.py MODE DATA WORK [KILLS]

The last line it prints is a JSON object. Libraries and models are loaded once; every attempt is a child process that
runs the whole job and notes each image it begins to work on.
"""

import json
import os
import random
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from tiny_data import settings

from ntt.config.compose import compose_config
from ntt.errors import StorageError
from ntt.run import runner
from ntt.run.shared import Workspace
from ntt.stages.candidates import CandidateSource

# Models are built before the first fork; candidates are not kept, so that every attempt goes to the store.
PREPARED = Workspace()


def job(data: Path, work: Path) -> list[str]:
    """The command line of the job."""
    return settings(data, work / "runs", work / "store")


def child(data: Path, work: Path, journal: Path, *, starve_at: int | None = None) -> int:
    """Start the job in a child process, which notes in the journal each image it begins; return its number.

    From the image of number `starve_at` on, counted from 1, no file may have more than a kilobyte.
    """
    journal.touch()
    number = os.fork()
    if number:
        return number
    status = 1
    try:
        with Path(f"{work}.out").open("a") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        load = CandidateSource.load

        def noted(source: CandidateSource, record: Any) -> Any:
            with journal.open("a") as lines:
                lines.write(f"{record.id}\n")
            if begun(journal) == starve_at:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
            return load(source, record)

        CandidateSource.load = noted
        runner.run(compose_config(job(data, work)), workspace=PREPARED)
        status = 0
    except StorageError as error:
        os.write(2, f"StorageError: {error}\n".encode())
        status = 2
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def wait(number: int) -> int:
    """Wait for a child and return its exit status; minus the signal that ended it."""
    _, status = os.waitpid(number, 0)
    return os.waitstatus_to_exitcode(status)


def snapshot(work: Path) -> dict[str, str]:
    """The content of everything that must not differ: results and store entries, by name."""
    names = ("references.json", "memory.safetensors", "candidates.json", "predictions.json", "metrics.json")
    directory = next(iter((work / "runs").rglob("stages"))).parent
    results = [directory / name for name in names]
    entries = sorted((work / "store").rglob("*.safetensors"))
    return {path.name: path.read_bytes().hex() for path in [*results, *entries]}


def temporaries(work: Path) -> list[str]:
    """Temporary files that are left."""
    return [str(path) for path in work.rglob("*.tmp")]


def begun(journal: Path) -> int:
    """Images the work on which has begun, counted each time."""
    return len(journal.read_text().splitlines())


def kill_somewhere(number: int, journal: Path, chance: random.Random, longest_s: float) -> bool:
    """Kill a child some time after it has begun to work on images; False if it was over before."""
    before = begun(journal)
    while begun(journal) == before:
        if os.waitpid(number, os.WNOHANG)[0]:
            return False
        time.sleep(0.002)
    time.sleep(chance.uniform(0, longest_s))
    if os.waitpid(number, os.WNOHANG)[0]:
        return False
    os.kill(number, signal.SIGKILL)
    return wait(number) == -signal.SIGKILL


def killed(data: Path, work: Path, expected: dict[str, str], kills: int, seconds_an_image: float) -> dict[str, Any]:
    """Kill the job again and again while it works on images; whenever it gets through, begin anew elsewhere."""
    chance = random.Random(0)
    done, rounds = 0, []
    while done < kills:
        output, journal = work / f"killed/{len(rounds)}", work / f"killed/{len(rounds)}.journal"
        here, entries, lost = 0, 0, 0
        while done < kills and kill_somewhere(child(data, output, journal), journal, chance, seconds_an_image):
            done, here = done + 1, here + 1
            now = len(list((output / "store" / "candidates").rglob("*.safetensors")))
            lost += now < entries
            entries = now
        report = {"kills": here, "vanished": lost, "status": wait(child(data, output, journal))}
        same = snapshot(output) == expected
        rounds.append({**report, "begun": begun(journal), "same": same, "temporaries": temporaries(output)})
    return {"rounds": rounds}


def twins(data: Path, work: Path, expected: dict[str, str]) -> dict[str, Any]:
    """Start the same job twice at the same moment."""
    output = work / "twins"
    numbers = [child(data, output, work / f"twin{which}.journal") for which in range(2)]
    statuses = [wait(number) for number in numbers]
    return {"statuses": statuses, "same": snapshot(output) == expected, "temporaries": temporaries(output)}


def starved(data: Path, work: Path, expected: dict[str, str]) -> dict[str, Any]:
    """Forbid files of any size from the third image on, then allow them again."""
    output, journal = work / "starved", work / "starved.journal"
    first = wait(child(data, output, journal, starve_at=3))
    num_stored = len(list((output / "store" / "candidates").rglob("*.safetensors")))
    between, said = temporaries(output), Path(f"{output}.out").read_text()
    report = {"kept": num_stored, "said": said, "statuses": [first, wait(child(data, output, journal))]}
    left, same = between + temporaries(output), snapshot(output) == expected
    return {**report, "same": same, "temporaries": left, "begun": begun(journal)}


def main() -> None:
    """Do what the command line asks for."""
    data, work, kills = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    work.mkdir(parents=True, exist_ok=True)
    (work / "killed").mkdir()
    runner.run(compose_config(job(data, work / "whole")), workspace=PREPARED)
    PREPARED.prepared.clear()
    expected = snapshot(work / "whole")
    started = time.monotonic()
    alone = wait(child(data, work / "alone", work / "alone.journal"))
    images = begun(work / "alone.journal")
    seconds = (time.monotonic() - started) / (images + 1)
    report = {
        "alone": {"status": alone, "same": snapshot(work / "alone") == expected},
        "images": images,
        "killed": killed(data, work, expected, kills, seconds),
        "twins": twins(data, work, expected),
        "starved": starved(data, work, expected),
    }
    sys.stdout.write(f"\n{json.dumps(report)}\n")


if __name__ == "__main__":
    main()
