#!/usr/bin/env bash
# Checks deploy/: renders every overlay by kustomize and by the Helm chart, and compares the two; validates each object strictly
# against the schemas of two Kubernetes versions; checks that what refers to something by name or label finds it, that pods
# meet Pod Security "restricted", and that the alert rules do what their tests say.
#
# Needs python3 with pip, and network access the first time (PyPI); promtool, by scripts/install-tools.sh. Renders with `kubectl
# kustomize`; without kubectl it says so, and what only kustomize renders is checked as written. Never passes without having
# validated something.
set -euo pipefail
cd "$(dirname "$0")/.."

die() { printf 'check-deploy: %s\n' "$*" >&2; exit 1; }

# Beside the system's packages, not among them. By Python version, since some of it is compiled.
packages=(kubernetes-validate==1.37.0 jsonschema==4.26.0 PyYAML==6.0.3 helm-python-sdk==0.2.2)
# A folder for each set of versions: an older one is never taken for this.
set_of_versions=$(printf '%s\n' "${packages[@]}" | cksum | cut -d ' ' -f 1)
lib=$PWD/.tools/check-deploy/$(python3 -c 'import sys; print(sys.implementation.cache_tag)')-$set_of_versions || die "python3 is needed"
staging=
rendered=$(mktemp -d)
outside=
trap 'rm -rf "$rendered" ${staging:+"$staging"} ${outside:+"$outside"}' EXIT
if [ ! -x "$lib/bin/kubernetes-validate" ]; then
    python3 -m pip --version >/dev/null 2>&1 || die "python3 with pip is needed (on Debian: apt-get install python3-pip)"
    mkdir -p "$(dirname "$lib")"
    staging=$(mktemp -d "$lib.XXXXXX")
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target "$staging" "${packages[@]}" ||
        die "PyPI did not deliver ${packages[*]}. Check the network (pip's own settings apply: PIP_INDEX_URL, PIP_CERT) and run this again."
    rm -rf "$lib"
    mv -T "$staging" "$lib"
fi
export PYTHONPATH=$lib PYTHONDONTWRITEBYTECODE=1 PATH=$PWD/.tools/bin:$PATH
command -v promtool >/dev/null || die "promtool is needed: scripts/install-tools.sh"

if command -v kubectl >/dev/null; then
    for file in deploy/kustomize/*/kustomization.yaml; do
        overlay=$(basename "$(dirname "$file")")
        kubectl kustomize "deploy/kustomize/$overlay" >"$rendered/$overlay.yaml"
    done
    # As docs/cloudnativepg.md says for a cluster in another namespace. One that is written in a component's files would be replaced.
    outside=$(mktemp -d)
    cp -r deploy/kustomize "$outside/"
    mkdir "$outside/kustomize/elsewhere"
    sed -n '/^# deploy\/kustomize\/elsewhere\//,/^```$/{/^```$/!p}' docs/cloudnativepg.md >"$outside/kustomize/elsewhere/kustomization.yaml"
    kubectl kustomize "$outside/kustomize/elsewhere" >"$rendered/elsewhere.yaml"
    python3 scripts/check_elsewhere.py "$rendered/statefulset.yaml" "$rendered/elsewhere.yaml"
else
    echo "check-deploy: no kubectl here: the base is checked as written, the overlays as Helm renders them; nothing is compared" >&2
    for file in deploy/kustomize/base/*.yaml; do
        [ "$(basename "$file")" = kustomization.yaml ] && continue
        cat "$file"
        echo '---'
    done >"$rendered/base.yaml"
fi

# Helm says each time that it follows the link to the alert rules, and that its defaults lack a configuration: both are meant.
python3 scripts/check_helm.py "$rendered" 2> >(grep -vE 'INFO found symbolic link|WARN missing required values' >&2)
python3 scripts/check_deploy.py "$lib/bin/kubernetes-validate" "$rendered"/*.yaml deploy/examples/*.yaml
python3 scripts/check_alerts.py
