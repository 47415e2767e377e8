#!/usr/bin/env python3
"""Proves that the tests of docs/traps.md and of verification can fail: makes each change of tests/mutations.toml in a copy of the
tree, one at a time, and runs the test that must notice. Ends with an error if a test stays green, a change no longer fits, or does
not compile.

    scripts/mutation-check.py             # all
    scripts/mutation-check.py 10 12       # those of these traps
    scripts/mutation-check.py verify      # those of verification
"""
import os
import pathlib
import shutil
import subprocess
import sys
import time
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
COPY = ROOT / "target" / "mutation" / "tree"
ENVIRONMENT = os.environ | {"CARGO_TARGET_DIR": str(ROOT / "target" / "mutation" / "build"), "CARGO_TERM_COLOR": "never"}
TEST_SECONDS_MAX = 300


def copy_tree() -> None:
    """Brings the copy up to date; what has not changed is not touched, so that it is not compiled again."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    kept = {COPY / name for name in listed if (ROOT / name).is_file()}
    # Folders that are links (.postgres, .tools) are not gone into.
    for folder, _, names in os.walk(COPY, followlinks=False):
        for gone in {pathlib.Path(folder) / name for name in names} - kept:
            gone.unlink()
    for name in listed:
        source, copy = ROOT / name, COPY / name
        if not source.is_file() or (copy.is_file() and copy.read_bytes() == source.read_bytes()):
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, copy)
    for folder in (".postgres", ".tools"):
        if (ROOT / folder).exists() and not (COPY / folder).exists():
            (COPY / folder).symlink_to(ROOT / folder)


def cargo(mutation: dict, *arguments: str) -> subprocess.CompletedProcess:
    target = ["--lib"] if mutation.get("lib") else ["--test", "integration"]
    command = ["cargo", "test", "--quiet", "--package", "pgsluice", *target, *arguments]
    return subprocess.run(command, cwd=COPY, env=ENVIRONMENT, capture_output=True, text=True)


def run_test(mutation: dict) -> tuple[str, float]:
    """`red`, `green` or what went wrong; and the seconds it took, compilation included."""
    began = time.monotonic()
    if (built := cargo(mutation, "--no-run")).returncode != 0:
        return "does not compile:\n" + built.stderr[-2_000:], 0.0
    arguments = ["--", "--exact", mutation["test"]]
    target = ["--lib"] if mutation.get("lib") else ["--test", "integration"]
    command = ["timeout", str(TEST_SECONDS_MAX), "cargo", "test", "--quiet", "--package", "pgsluice", *target, *arguments]
    ran = subprocess.run(command, cwd=COPY, env=ENVIRONMENT, capture_output=True, text=True)
    seconds = time.monotonic() - began
    if ran.returncode == 124:
        return "red", seconds
    if "1 passed" in ran.stdout:
        return "green", seconds
    if "1 failed" in ran.stdout:
        return "red", seconds
    return f"found no test {mutation['test']}:\n{ran.stdout[-1_000:]}{ran.stderr[-1_000:]}", seconds


def subject(mutation: dict) -> str:
    """What is attacked: a trap's number, or a part of the program."""
    return mutation.get("of") or str(mutation["trap"])


def line_of(text: str, found: str) -> int:
    return text[: text.index(found)].count("\n") + 1


def check(mutation: dict) -> bool:
    path = COPY / mutation["file"]
    original, times = path.read_text(), path.stat()
    if original.count(mutation["find"]) != 1:
        print(f"{subject(mutation)}: {mutation['file']} has {original.count(mutation['find'])} places like: {mutation['find']}")
        return False
    path.write_text(original.replace(mutation["find"], mutation["replace"]))
    try:
        outcome, seconds = run_test(mutation)
    finally:
        path.write_text(original)
        # Later than the broken file's, or cargo would take the broken program for current.
        later = time.time() + 1
        os.utime(path, (times.st_atime, later))
    place = f"{mutation['file']}:{line_of(original, mutation['find'])}"
    print(f"{subject(mutation):>6} {outcome.splitlines()[0]:<5} {seconds:5.0f} s  {mutation['test']}\n        {place}: {mutation['what']}", flush=True)
    if outcome != "red":
        print(outcome)
    return outcome == "red"


def main() -> int:
    mutations = tomllib.loads((ROOT / "tests" / "mutations.toml").read_text())["mutation"]
    if wanted := set(sys.argv[1:]):
        if unknown := wanted - {subject(mutation) for mutation in mutations}:
            sys.exit(f"no mutation attacks {', '.join(sorted(unknown))}")
        mutations = [mutation for mutation in mutations if subject(mutation) in wanted]
    copy_tree()
    red = sum([check(mutation) for mutation in mutations])
    traps = {mutation["trap"] for mutation in mutations if "trap" in mutation}
    parts = {mutation["of"] for mutation in mutations if "of" in mutation}
    attacked = ", ".join([f"{len(traps)} traps"] * bool(traps) + sorted(parts))
    print(f"mutations: {len(mutations)} ({attacked}), {red} noticed, {len(mutations) - red} not")
    return 0 if red == len(mutations) else 1


if __name__ == "__main__":
    sys.exit(main())
