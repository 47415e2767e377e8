"""Checks the Helm chart: it lints, its schema refuses what is wrong, and for every overlay that has a helm-values.yaml it renders
what kustomize renders, object by object, but for a short list of differences.

Called by check-deploy.sh with the folder of the rendered overlays, into which it writes what Helm rendered, too.
"""

import copy
import difflib
import pathlib
import re
import sys

import yaml
from helm_python import Chart, HelmError
from helm_python.chart import lint

CHART = "deploy/helm/pgsluice"
OVERLAYS = pathlib.Path("deploy/kustomize")

# Every difference that is allowed, and why.
HELMS_LABELS = {
    # Helm's conventions: who installed it. The instance is in the selectors, too, so that two releases fit into one namespace.
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "helm.sh/chart",
}
# Both give a changed configuration a new pod: Helm by this annotation of the pod, kustomize by a hash in the ConfigMap's name.
HELMS_ANNOTATION = "checksum/config"
KUSTOMIZES_HASH = re.compile(r"^(pgsluice-config)-[a-z0-9]{10}$")

# What the schema of the values must refuse.
WRONG_VALUES = {
    "a key that does not exist": {"replicas": 2},
    "a nested key that does not exist": {"monitoring": {"enable": True}},
    "a text for a list": {"kubernetesTraffic": {"services": "shop-db"}},
    "a list of Secrets that does not exist": {"kubernetesSecret": {"secret": ["shop-db"]}},
    "a name that no object can have": {"kubernetesTraffic": {"services": ["shop_db"]}},
    "a cluster by another key": {"cnpg": {"name": "shop"}},
    "a Secret without its key": {"secrets": {"apiToken": {"name": "pgsluice", "key": None}}},
    "a Secret for TLS that no object can be": {"api": {"tls": {"secretName": "Api_TLS"}}},
    "a quantity with another unit": {"resources": {"limits": {"memory": "512MB"}}},
}

# What no schema refuses in words that say what to do: each value is valid, and without another one it would have no effect.
WITHOUT_EFFECT = {
    "kubernetesSecret.valuesFrom": {"kubernetesSecret": {"valuesFrom": ["shop-app"]}},
    "kubernetesSecret.deployments": {"kubernetesSecret": {"deployments": ["web"]}},
    "kubernetesSecret.statefulSets": {"kubernetesSecret": {"secrets": [], "statefulSets": ["worker"]}},
    "cnpg.secrets": {"cnpg": {"secrets": ["shop-app"]}},
}

# Whatever can be set and is in no overlay, under another name than the chart's: valid, whatever it is compared with.
EVERYTHING = {
    "config": "[source]",
    "image": {"repository": "registry.example.com/pgsluice", "tag": "0.2.0", "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "registry"}],
    "secrets": {"apiToken": {"name": "token-of-mine", "key": "token"}},
    "sourceCa": {"name": "old-ca", "key": "root.pem"},
    "targetCa": {"name": "new-ca", "key": "root.pem"},
    "api": {"tls": {"secretName": "public-tls", "caKey": "", "serverName": "move.example.com"}},
    "kubernetesTraffic": {"services": ["shop-db", "billing-db"]},
    "kubernetesSecret": {"secrets": ["shop-db"], "valuesFrom": ["shop-db-source", "shop-app"], "statefulSets": ["worker"]},
    "cnpg": {"cluster": "shop", "namespace": "databases", "secrets": ["shop-app", "shop-ca"]},
    "lease": {"name": "shop-move"},
    "monitoring": {"enabled": True},
    "networkPolicy": {"monitoringNamespace": "observability", "extraEgress": [{"ports": [{"port": 8443, "protocol": "TCP"}]}]},
    "resources": {"requests": {"cpu": 2, "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "migration", "operator": "Exists", "effect": "NoSchedule"}],
}

# Valid, and hard to render: the release's name, and what is set otherwise than in EVERYTHING.
HARD_VALUES = {
    "a release and a namespace that end as the names of the cluster's objects do": (
        "move-cluster",
        {"cnpg": {**EVERYTHING["cnpg"], "namespace": "db-cluster"}},
    ),
    "names that YAML takes for numbers": (
        "2024",
        {
            "image": {"repository": "2024", "tag": "20"},
            "secrets": {name: {"name": "2024", "key": "1e3"} for name in ("sourcePassword", "targetPassword", "apiToken")},
            "sourceCa": {"name": "0x10", "key": "1.0"},
            "targetCa": {"name": "1e3", "key": "1.0"},
            "api": {"tls": {"secretName": "2024", "caKey": "1e3", "serverName": "2024"}},
            "kubernetesTraffic": {kind: ["2024"] for kind in ("services", "deployments", "statefulSets", "poolers")},
            "kubernetesSecret": {kind: ["2024"] for kind in ("secrets", "valuesFrom", "deployments", "statefulSets")},
            "cnpg": {"cluster": "2024", "namespace": "1e3", "secrets": ["2024"]},
            "lease": {"name": "2024"},
            "networkPolicy": {"monitoringNamespace": "1e3"},
        },
    ),
    "a configuration whose first line is indented": ("pgsluice", {"config": "    # Ours.\n[source]\n\n  [target]\nurl = 'a: b'\n"}),
}


def main() -> int:
    rendered = pathlib.Path(sys.argv[1])
    failures = lints("its defaults", None)
    with Chart.load(CHART) as chart:
        failures += refusals(chart) + lints("everything set", EVERYTHING)
        write(rendered, "everything", render(chart, EVERYTHING, name="shop-move"))
        for number, (what, (name, set_otherwise)) in enumerate(HARD_VALUES.items(), start=1):
            values = {**EVERYTHING, **set_otherwise}
            try:
                by_helm = render(chart, values, name=name)
            except (HelmError, yaml.YAMLError) as error:
                failures.append(f"{what}: nothing is rendered that can be read: {error}")
                continue
            failures += [f"{what}: {each}" for each in misplaced(by_helm, values, name)]
            write(rendered, f"hard-{number}", by_helm)
        origins = sorted(file.parent for file in OVERLAYS.glob("*/helm-values.yaml"))
        objects_compared = 0
        for origin in origins:
            # As `-f helm-values.yaml --set-file config=pgsluice.toml` does.
            values = yaml.safe_load((origin / "helm-values.yaml").read_text(encoding="utf-8"))
            values["config"] = (origin / "pgsluice.toml").read_text(encoding="utf-8")
            failures += lints(origin.name, values)
            by_helm = render(chart, values)
            write(rendered, origin.name, by_helm)
            kustomized = rendered / f"{origin.name}.yaml"
            if not kustomized.exists():
                continue
            with open(kustomized, encoding="utf-8") as stream:
                by_kustomize = [each for each in yaml.safe_load_all(stream) if each]
            failures += [f"{origin.name}: {each}" for each in differences(by_kustomize, by_helm)]
            objects_compared += len(by_kustomize)
    if not origins:
        failures.append("no overlay has a helm-values.yaml")
    for failure in failures:
        print(f"check-deploy: {failure}", file=sys.stderr)
    if not failures:
        print(f"check-deploy: the Helm chart lints with its defaults and {len(origins) + 1} sets of values,", end=" ")
        compared = f"renders {objects_compared} objects as kustomize does" if objects_compared else "was compared with nothing"
        print(f"refuses {len(WRONG_VALUES) + len(WITHOUT_EFFECT)} wrong ones, and {compared}")
    return 1 if failures else 0


def lints(what: str, values: dict | None) -> list[str]:
    """Warnings count; information (severity 1: no icon) does not."""
    report = lint(CHART, values, strict=True, namespace="shop", kube_version="v1.34.0")
    found = [f"{each['path']}: {each['error']}" for each in report["messages"] if each["severity"] > 1]
    if report["total_charts_linted"] != 1:
        found.append("no chart was linted")
    return [f"helm lint with {what}: {each}" for each in found + list(report.get("errors") or [])]


def refusals(chart: Chart) -> list[str]:
    failures = []
    for what, wrong in WRONG_VALUES.items():
        try:
            chart.validate_schema({"config": "[source]", **wrong})
        except HelmError:
            continue
        failures.append(f"values.schema.json accepts {what}: {wrong}")
    for key, idle in WITHOUT_EFFECT.items():
        try:
            render(chart, {"config": "[source]", **idle})
        except HelmError as error:
            if f"{key} is set without" not in str(error):
                failures.append(f"the chart refuses {idle} in other words: {error}")
            continue
        failures.append(f"the chart ignores {idle}")
    try:
        render(chart, {})
        failures.append("the chart renders without a configuration")
    except HelmError:
        pass
    return failures


def write(rendered: pathlib.Path, name: str, objects: list[dict]) -> None:
    """For check_deploy.py."""
    (rendered / f"helm-{name}.yaml").write_text(yaml.safe_dump_all(objects), encoding="utf-8")


def render(chart: Chart, values: dict, name: str = "pgsluice") -> list[dict]:
    files = chart.render(values, name=name, namespace="shop")
    documents = [text for path, text in sorted(files.items()) if path.endswith(".yaml")]
    return [each for text in documents for each in yaml.safe_load_all(text) if each]


def misplaced(objects: list[dict], values: dict, release: str) -> list[str]:
    """Whether each object is where it belongs, by its own name, and the configuration as it was given."""
    problems = []
    of_cluster = {(kind, f"{release}-{end}") for kind in ("Role", "RoleBinding") for end in ("cluster", "cluster-secrets")}
    names = {(each["kind"], each["metadata"]["name"]) for each in objects}
    problems += [f"there is no {kind} {name}" for kind, name in sorted(of_cluster - names, key=str)]
    for each in objects:
        kind, metadata = each["kind"], each["metadata"]
        expected = values["cnpg"]["namespace"] if (kind, metadata["name"]) in of_cluster else "shop"
        if metadata["namespace"] != expected:
            problems.append(f"{kind} {metadata['name']} is in namespace {metadata['namespace']!r}, not {expected!r}")
        if kind == "RoleBinding" and (each["roleRef"]["name"], each["subjects"][0]["name"]) != (metadata["name"], release):
            problems.append(f"{kind} {metadata['name']} binds {each['roleRef']} to {each['subjects']}")
        if kind == "ConfigMap" and each["data"]["pgsluice.toml"].rstrip("\n") != values["config"].rstrip("\n"):
            problems.append(f"the configuration is {each['data']['pgsluice.toml']!r}")
    return problems


def differences(by_kustomize: list[dict], by_helm: list[dict]) -> list[str]:
    left, right = (by_name([normalized(each) for each in objects]) for objects in (by_kustomize, by_helm))
    problems = [f"only kustomize has {' '.join(name)}" for name in left.keys() - right.keys()]
    problems += [f"only Helm has {' '.join(name)}" for name in right.keys() - left.keys()]
    for name in sorted(left.keys() & right.keys()):
        texts = [yaml.safe_dump(side[name]).splitlines() for side in (left, right)]
        lines = list(difflib.unified_diff(*texts, "kustomize", "helm", lineterm="", n=2))
        if lines:
            problems.append(f"{' '.join(name)} differs:\n" + "\n".join(lines))
    return problems


def by_name(objects: list[dict]) -> dict:
    named = {(each["kind"], each["metadata"]["name"]): each for each in objects}
    assert len(named) == len(objects), "two objects of one name"
    return named


def normalized(each: dict) -> dict:
    """Without the allowed differences; keys are sorted when it is printed."""
    each = without_helms_labels(copy.deepcopy(each))
    metadata = each["metadata"]
    metadata["name"] = KUSTOMIZES_HASH.sub(r"\1", metadata["name"])
    if each["kind"] == "Deployment":
        template = each["spec"]["template"]
        annotations = template["metadata"].get("annotations", {})
        annotations.pop(HELMS_ANNOTATION, None)
        if not annotations:
            template["metadata"].pop("annotations", None)
        # Their order has no meaning, and a patch of kustomize changes it.
        template["spec"]["volumes"].sort(key=lambda volume: volume["name"])
        for container in template["spec"]["containers"]:
            for named in ("env", "volumeMounts"):
                container[named].sort(key=lambda one: one["name"])
        for volume in template["spec"]["volumes"]:
            if "configMap" in volume:
                volume["configMap"]["name"] = KUSTOMIZES_HASH.sub(r"\1", volume["configMap"]["name"])
    return each


def without_helms_labels(value):
    if isinstance(value, dict):
        return {key: without_helms_labels(inner) for key, inner in value.items() if key not in HELMS_LABELS}
    if isinstance(value, list):
        return [without_helms_labels(inner) for inner in value]
    return value


if __name__ == "__main__":
    sys.exit(main())
