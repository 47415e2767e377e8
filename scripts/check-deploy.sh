#!/usr/bin/env bash
# Checks the manifests of deploy/: renders every overlay, validates each object strictly against the schemas of two
# Kubernetes versions, and checks that what refers to something by name or label finds it.
#
# Needs python3 with venv, and network access the first time (PyPI). Renders with `kubectl kustomize`; without kubectl it
# says so and checks the files of the base as they are. Never passes without having validated something.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${PGSLUICE_CHECK_VENV:-target/check-deploy}
if [ ! -x "$venv/bin/kubernetes-validate" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" --quiet --disable-pip-version-check install 'kubernetes-validate==1.37.0' 'PyYAML==6.0.3'
fi

rendered=$(mktemp -d)
trap 'rm -rf "$rendered"' EXIT
if command -v kubectl >/dev/null; then
    for overlay in base example; do
        kubectl kustomize "deploy/kustomize/$overlay" >"$rendered/$overlay.yaml"
    done
else
    echo "check-deploy: no kubectl here: the base is checked as written, the overlays are not rendered" >&2
    for file in deploy/kustomize/base/*.yaml; do
        [ "$(basename "$file")" = kustomization.yaml ] && continue
        cat "$file"
        echo '---'
    done >"$rendered/base.yaml"
fi

"$venv/bin/python" scripts/check_deploy.py "$venv/bin/kubernetes-validate" "$rendered"/*.yaml
