"""Checks the alert rules, in the PrometheusRule that is their only source: promtool accepts them; each has a severity and a
runbook section that exists; its unit tests pass; and they fail when anything that decides about an alert is changed.

Called by check-deploy.sh with PyYAML in PYTHONPATH and promtool in PATH.
"""

import copy
import pathlib
import re
import subprocess
import sys
import tempfile

import yaml

RULES = pathlib.Path("deploy/kustomize/components/monitoring/prometheusrule.yaml")
TESTS = pathlib.Path("tests/alerts/alerts.yaml")
RUNBOOK = "https://github.com/pgsluice/pgsluice/blob/main/docs/runbook.md#"
SEVERITIES = {"warning", "critical"}
STEP_SECONDS = 15

# What an expression consists of; the rest (names, parentheses, white space) is skipped.
TOKEN = re.compile(r'(?P<window>\[[^\]]*\])|(?P<text>"[^"]*")|(?P<number>(?<![\w.])\d[\d.]*(?:e\d+)?)|(?P<comparison>==|>=|<=|>|<)')
OPPOSITE = {"==": "!=", ">=": "<", ">": "<=", "<=": ">", "<": ">="}


def main() -> int:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["spec"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    failures = [problem for rule in rules for problem in incomplete(rule)]
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(pathlib.Path(directory), rules)
        failures += bench.untested
        failures += bench.refused(groups, "check", "rules", "--lint-fatal", str(bench.rules))
        failures += bench.refused(groups, "test", "rules", *bench.tests.values())
        changes = [] if failures else [(rule, *mutant) for rule in rules for mutant in mutants(rule)]
        # A mutant that promtool does not understand would fail its test for the wrong reason.
        every = [{"name": str(number), "rules": [mutant]} for number, (_, _, mutant) in enumerate(changes)]
        failures += bench.refused(every, "check", "rules", str(bench.rules))
        for rule, what, mutant in changes:
            alone = [{"name": "mutant", "rules": [mutant]}]
            if not bench.refused(alone, "test", "rules", bench.tests[rule["alert"]]):
                failures.append(f"{rule['alert']}: no test notices {what}")
    for failure in failures:
        print(f"check-alerts: {failure}", file=sys.stderr)
    if not failures:
        print(f"check-alerts: {len(rules)} alerts pass their tests, which notice each of {len(changes)} changes")
    return 1 if failures else 0


def incomplete(rule: dict) -> list[str]:
    """What whoever is woken needs."""
    name = rule["alert"]
    problems = []
    if rule.get("labels", {}).get("severity") not in SEVERITIES:
        problems.append(f"{name}: its severity is none of {sorted(SEVERITIES)}")
    annotations = rule.get("annotations", {})
    if not annotations.get("summary"):
        problems.append(f"{name}: it has no summary")
    url = annotations.get("runbook_url", "")
    if not url.startswith(RUNBOOK) or url.removeprefix(RUNBOOK) not in sections():
        problems.append(f"{name}: {url or 'no runbook_url'} is no section of docs/runbook.md")
    return problems


def sections() -> set[str]:
    """The anchors of the runbook, as GitHub makes them of headings."""
    text = pathlib.Path("docs/runbook.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


class Bench:
    """A folder with the rules, as promtool reads them, and beside them a file with the tests of each alert."""

    def __init__(self, directory: pathlib.Path, rules: list):
        self.rules = directory / "alerts.rules.yaml"
        document = yaml.safe_load(TESTS.read_text(encoding="utf-8"))
        self.tests = {}
        self.untested = []
        for alert in {rule["alert"] for rule in rules}:
            of_alert = [test for test in document["tests"] if test["name"].split()[0] == alert]
            if not of_alert:
                self.untested.append(f"{alert}: it has no test")
            file = directory / f"{alert}.yaml"
            file.write_text(yaml.safe_dump({**document, "tests": of_alert}), encoding="utf-8")
            self.tests[alert] = str(file)

    def refused(self, groups: list, *arguments: str) -> list[str]:
        self.rules.write_text(yaml.safe_dump({"groups": groups}), encoding="utf-8")
        done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
        return [] if done.returncode == 0 else [f"promtool {arguments[0]} {arguments[1]}: {done.stdout}{done.stderr}"]


def mutants(rule: dict):
    """Every single change of a number, a window, a label's value, a comparison, or the time that it has to last."""
    expression = rule["expr"]
    for token in TOKEN.finditer(expression):
        for replacement in replacements(token):
            changed = expression[: token.start()] + replacement + expression[token.end() :]
            yield f"{token.group()} → {replacement} in {expression}", {**rule, "expr": changed}
    for step in (-STEP_SECONDS, STEP_SECONDS):
        lasts = seconds(rule.get("for", "0s")) + step
        if lasts >= 0:
            yield f"for: {rule.get('for', '0s')} → {lasts}s", {**copy.deepcopy(rule), "for": f"{lasts}s"}


def replacements(token: re.Match) -> list[str]:
    if token["window"]:
        window = seconds(token["window"][1:-1])
        return [f"[{window // 2}s]", f"[{window * 2}s]"]
    if token["text"]:
        return ['"something_else"']
    if token["comparison"]:
        return [OPPOSITE[token["comparison"]]]
    value = float(token["number"])
    # Numbers up to ten count something: one more, one less.
    if value == 0 or 1 <= value < 10:
        return [repr(value + 1), repr(value - 1)]
    return [repr(value * 1.1), repr(value * 0.9)]


def seconds(duration: str) -> int:
    units = {"s": 1, "m": 60, "h": 3600}
    return sum(int(count) * units[unit] for count, unit in re.findall(r"(\d+)([smh])", duration))


if __name__ == "__main__":
    sys.exit(main())
