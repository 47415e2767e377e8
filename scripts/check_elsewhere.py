"""Checks that the lines of docs/cloudnativepg.md for a cluster in another namespace change just that: where the rights to look at the
cluster are. Called by check-deploy.sh with an overlay as it is rendered, and as those lines make it.
"""

import sys

import yaml

ROLE = "pgsluice-cluster"
CLUSTERS_NAMESPACE = "databases"


def main() -> int:
    overlay, elsewhere = (objects(file) for file in sys.argv[1:])
    for kind in ("Role", "RoleBinding"):
        # The account that is bound stays where it is: everything else has to be equal.
        overlay[kind, ROLE]["metadata"]["namespace"] = CLUSTERS_NAMESPACE
    differing = sorted(name for name in overlay.keys() | elsewhere.keys() if overlay.get(name) != elsewhere.get(name))
    for kind, name in differing:
        print(f"check-deploy: {kind} {name} is not as docs/cloudnativepg.md is to make it", file=sys.stderr)
    return 1 if differing else 0


def objects(file: str) -> dict:
    with open(file, encoding="utf-8") as stream:
        return {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(stream) if each}


if __name__ == "__main__":
    sys.exit(main())
