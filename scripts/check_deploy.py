"""Validates manifests: Kubernetes' own objects strictly by kubernetes-validate, custom resources by the excerpts in
custom-resources.yaml, pods against Pod Security "restricted", and the references between objects.

Called by check-deploy.sh with the path of kubernetes-validate and the files. Those that have no Deployment are examples to
be applied by themselves: what they refer to is elsewhere.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

import jsonschema
import yaml

KUBERNETES_VERSIONS = ["1.28", "1.34"]
EXCERPTS = yaml.safe_load(pathlib.Path(__file__).with_name("custom-resources.yaml").read_text(encoding="utf-8"))
# Of those that "restricted" allows, the ones in use.
VOLUME_TYPES = {"configMap", "emptyDir", "projected", "secret"}


def main() -> int:
    validator, *files = sys.argv[1:]
    failures = not_in_the_images_context()
    every_object = []
    for file in files:
        with open(file, encoding="utf-8") as stream:
            objects = [each for each in yaml.safe_load_all(stream) if each]
        found = [problem for each in objects for problem in custom(each)]
        if any(each["kind"] == "Deployment" for each in objects):
            found += references(objects) + not_restricted(objects)
        failures += [f"{file}: {each}" for each in found]
        every_object += objects
    built_in = [each for each in every_object if each["kind"] not in EXCERPTS["kinds"]]
    # All at once: starting the validator takes longer than validating.
    for version in KUBERNETES_VERSIONS:
        failures += schemas(validator, version, built_in)
    if not built_in:
        failures.append("no object was checked")
    for failure in failures:
        print(f"check-deploy: {failure}", file=sys.stderr)
    if not failures:
        versions = " and ".join(KUBERNETES_VERSIONS)
        print(f"check-deploy: {len(built_in)} objects in {len(files)} files are valid for Kubernetes {versions},", end=" ")
        print(f"and {len(every_object) - len(built_in)} custom resources by the excerpts of their definitions")
    return 1 if failures else 0


def schemas(validator: str, version: str, objects: list) -> list[str]:
    """Strict: fields that Kubernetes does not know are errors."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as stream:
        yaml.safe_dump_all(objects, stream)
        stream.flush()
        command = [validator, "--strict", "--kubernetes-version", version, stream.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [] if done.returncode == 0 else [f"Kubernetes {version}: {done.stdout}{done.stderr}"]


def custom(each: dict) -> list[str]:
    """By the excerpt, if it is a custom resource."""
    excerpt = EXCERPTS["kinds"].get(each["kind"])
    if not excerpt:
        return []
    schema = {
        "definitions": EXCERPTS["definitions"],
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": False,
        "properties": {
            "apiVersion": {"const": excerpt["apiVersion"]},
            "kind": {"const": each["kind"]},
            "metadata": {"$ref": "#/definitions/metadata"},
            "spec": excerpt["spec"],
        },
    }
    found = jsonschema.Draft7Validator(schema).iter_errors(each)
    return [f"{each['kind']}: {'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


def not_restricted(objects: list) -> list[str]:
    """What Pod Security's level "restricted" would refuse."""
    problems = []
    for pod in [each["spec"]["template"]["spec"] for each in objects if each["kind"] == "Deployment"]:
        context = pod.get("securityContext", {})
        required = {
            "runAsNonRoot": context.get("runAsNonRoot") is True,
            "a user other than root": context.get("runAsUser", 0) > 0,
            "seccompProfile RuntimeDefault": context.get("seccompProfile") == {"type": "RuntimeDefault"},
            "no hostNetwork, hostPID and hostIPC": not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(),
            f"volumes only of {sorted(VOLUME_TYPES)}": all(each.keys() - {"name"} <= VOLUME_TYPES for each in pod["volumes"]),
        }
        for container in pod["containers"] + pod.get("initContainers", []):
            context = container.get("securityContext", {})
            required |= {
                "allowPrivilegeEscalation: false": context.get("allowPrivilegeEscalation") is False,
                "capabilities: drop: [ALL]": context.get("capabilities") == {"drop": ["ALL"]},
                "no hostPort": not any("hostPort" in port for port in container["ports"]),
                "readOnlyRootFilesystem (our own demand)": context.get("readOnlyRootFilesystem") is True,
            }
        problems += [f"Pod Security restricted: the pod lacks {what}" for what, is_so in required.items() if not is_so]
    return problems


def not_in_the_images_context() -> list[str]:
    """What Cargo.toml names must be copied into the image's build stage, or cargo refuses to begin. Nothing builds the image here."""
    docker = pathlib.Path("deploy/Dockerfile").read_text(encoding="utf-8")
    copied = {name for line in re.findall(r"^COPY (?!--)(.+)$", docker, re.MULTILINE) for name in line.split()[:-1]}
    allowed = set(re.findall(r"^!(.+)$", pathlib.Path("deploy/Dockerfile.dockerignore").read_text(encoding="utf-8"), re.MULTILINE))
    cargo = pathlib.Path("Cargo.toml").read_text(encoding="utf-8")
    needed = {"Cargo.toml", "Cargo.lock", "src", *re.findall(r'^members = \["(\w+)"\]$', cargo, re.MULTILINE)}
    # A target without a path is looked for in the folder of its kind.
    needed |= {"benches" for _ in re.findall(r"^\[\[bench\]\]$", cargo, re.MULTILINE)}
    needed |= {path.split("/")[0] for path in re.findall(r'^path = "(\S+)"$', cargo, re.MULTILINE)}
    return [f"deploy/Dockerfile does not copy {name}, or .dockerignore keeps it out" for name in sorted(needed - (copied & allowed))]


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
    # Whoever asks must ask as the program answers.
    is_tls = any("PGSLUICE_API__TLS_CERT_FILE" == each["name"] for container in pod["spec"]["containers"] for each in container["env"])
    probes = [container[probe]["httpGet"] for container in pod["spec"]["containers"] for probe in ("livenessProbe", "readinessProbe")]
    endpoints = [each for monitor in by_kind.get("PodMonitor", []) for each in monitor["spec"]["podMetricsEndpoints"]]
    schemes = {each.get("scheme", "http").lower() for each in probes + endpoints}
    if schemes != {"https" if is_tls else "http"}:
        problems.append(f"probes and PodMonitor ask by {sorted(schemes)}, and the API is {'' if is_tls else 'not '}secured")
    for policy in by_kind.get("NetworkPolicy", []):
        selects("the NetworkPolicy", policy["spec"]["podSelector"]["matchLabels"])
        for rule in policy["spec"].get("ingress", []):
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
