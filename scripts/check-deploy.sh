#!/usr/bin/env bash
# Checks the manifests of deploy/: renders every overlay, validates each object strictly against the schemas of two
# Kubernetes versions, and checks that what refers to something by name or label finds it.
#
# Needs python3 with pip, and network access the first time (PyPI). Renders with `kubectl kustomize`; without kubectl it
# says so and checks the files of the base as they are. Never passes without having validated something.
set -euo pipefail
cd "$(dirname "$0")/.."

die() { printf 'check-deploy: %s\n' "$*" >&2; exit 1; }

# Beside the system's packages, not among them. By Python version, since some of it is compiled.
packages=(kubernetes-validate==1.37.0 PyYAML==6.0.3)
lib=$PWD/.tools/check-deploy/$(python3 -c 'import sys; print(sys.implementation.cache_tag)') || die "python3 is needed"
staging=
rendered=$(mktemp -d)
trap 'rm -rf "$rendered" ${staging:+"$staging"}' EXIT
if [ ! -x "$lib/bin/kubernetes-validate" ]; then
    python3 -m pip --version >/dev/null 2>&1 || die "python3 with pip is needed (on Debian: apt-get install python3-pip)"
    mkdir -p "$(dirname "$lib")"
    staging=$(mktemp -d "$lib.XXXXXX")
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target "$staging" "${packages[@]}" ||
        die "PyPI did not deliver ${packages[*]}. Check the network (pip's own settings apply: PIP_INDEX_URL, PIP_CERT) and run this again."
    rm -rf "$lib"
    mv -T "$staging" "$lib"
fi
export PYTHONPATH=$lib

if command -v kubectl >/dev/null; then
    for overlay in base example example-kubernetes; do
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

python3 scripts/check_deploy.py "$lib/bin/kubernetes-validate" "$rendered"/*.yaml
