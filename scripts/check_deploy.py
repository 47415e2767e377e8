"""Validates rendered manifests: schemas by kubernetes-validate, and the references between objects.

Called by check-deploy.sh with the path of kubernetes-validate and the rendered files.
"""

import subprocess
import sys
import tempfile

import yaml

KUBERNETES_VERSIONS = ["1.28", "1.34"]
# Custom resources have no schema in Kubernetes itself; what we use of them is checked below.
CUSTOM_KINDS = {"PodMonitor"}


def main() -> int:
    validator, *files = sys.argv[1:]
    failures = []
    objects_checked = 0
    for file in files:
        with open(file, encoding="utf-8") as stream:
            objects = [each for each in yaml.safe_load_all(stream) if each]
        failures += [f"{file}: {each}" for each in references(objects)]
        built_in = [each for each in objects if each["kind"] not in CUSTOM_KINDS]
        for version in KUBERNETES_VERSIONS:
            failures += [f"{file}: {each}" for each in schemas(validator, version, built_in)]
        objects_checked += len(objects)
    if objects_checked == 0:
        failures.append("no object was checked")
    for failure in failures:
        print(f"check-deploy: {failure}", file=sys.stderr)
    if not failures:
        versions = " and ".join(KUBERNETES_VERSIONS)
        print(f"check-deploy: {objects_checked} objects are valid for Kubernetes {versions}")
    return 1 if failures else 0


def schemas(validator: str, version: str, objects: list) -> list[str]:
    """Strict: fields that Kubernetes does not know are errors."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as stream:
        yaml.safe_dump_all(objects, stream)
        stream.flush()
        command = [validator, "--strict", "--kubernetes-version", version, stream.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [] if done.returncode == 0 else [f"Kubernetes {version}: {done.stdout}{done.stderr}"]


def references(objects: list) -> list[str]:
    """What names or selects another object must find it."""
    problems = []
    by_kind = {}
    for each in objects:
        by_kind.setdefault(each["kind"], []).append(each)
    deployments = by_kind.get("Deployment", [])
    if len(deployments) != 1:
        return [f"expected one Deployment, found {len(deployments)}"]
    deployment = deployments[0]["spec"]
    pod = deployment["template"]
    labels = pod["metadata"]["labels"]
    ports = {port["name"] for container in pod["spec"]["containers"] for port in container["ports"]}

    def selects(what: str, selector: dict) -> None:
        if not selector or not selector.items() <= labels.items():
            problems.append(f"{what} selects {selector}, which the pod with labels {labels} does not have")

    def has_port(what: str, port) -> None:
        if port not in ports:
            problems.append(f"{what} uses port {port}, the container has {sorted(ports)}")

    if deployment["replicas"] != 1 or deployment["strategy"]["type"] != "Recreate":
        problems.append("the Deployment must have one replica and be recreated: a slot has one reader")
    selects("the Deployment", deployment["selector"]["matchLabels"])
    for service in by_kind.get("Service", []):
        selects("the Service", service["spec"]["selector"])
        for port in service["spec"]["ports"]:
            has_port("the Service", port["targetPort"])
    for monitor in by_kind.get("PodMonitor", []):
        selects("the PodMonitor", monitor["spec"]["selector"]["matchLabels"])
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            has_port("the PodMonitor", endpoint["port"])
    for policy in by_kind.get("NetworkPolicy", []):
        selects("the NetworkPolicy", policy["spec"]["podSelector"]["matchLabels"])
        for rule in policy["spec"]["ingress"]:
            for port in rule["ports"]:
                has_port("the NetworkPolicy", port["port"])
    for container in pod["spec"]["containers"]:
        for probe in ("livenessProbe", "readinessProbe"):
            has_port(probe, container[probe]["httpGet"]["port"])
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        if mounted != volumes:
            problems.append(f"mounted {sorted(mounted)}, volumes are {sorted(volumes)}")
    accounts = {account["metadata"]["name"] for account in by_kind.get("ServiceAccount", [])}
    if pod["spec"]["serviceAccountName"] not in accounts:
        problems.append(f"the pod's service account is not one of {sorted(accounts)}")
    has_token = pod["spec"]["automountServiceAccountToken"]
    has_rights = any(role["rules"] for role in by_kind.get("Role", []))
    if has_token != has_rights:
        problems.append(f"the pod has {'a' if has_token else 'no'} token, its Role has {'rules' if has_rights else 'none'}")
    for binding in by_kind.get("RoleBinding", []):
        problems += [
            f"the RoleBinding names the unknown account {subject['name']}"
            for subject in binding["subjects"]
            if subject["name"] not in accounts
        ]
    return problems


if __name__ == "__main__":
    sys.exit(main())
