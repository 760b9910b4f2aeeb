#!/usr/bin/env python3
"""Writes apiserver/src/bootstrap/objects.jsonl, the objects of a new cluster, from the recordings of a stock one.

usage: apiserver/src/bootstrap/generate.py [RECORDINGS]   (default: ../shared/upstream-1.37 beside the checkout)

One object a line. What the server fills in itself is left out: an object is written as it is created. All RBAC objects
have one label and one annotation in common, which are added where the file is read.
"""
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..", "..")
SOURCE = sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "..", "shared", "upstream-1.37")
RBAC = "rbac.authorization.k8s.io/v1"
KINDS = [  # in the order of creation
    ("namespaces", "v1", "Namespace"),
    ("priorityclasses", "scheduling.k8s.io/v1", "PriorityClass"),
    ("clusterroles", RBAC, "ClusterRole"),
    ("clusterrolebindings", RBAC, "ClusterRoleBinding"),
    ("roles", RBAC, "Role"),
    ("rolebindings", RBAC, "RoleBinding"),
]
COMMON = ("kubernetes.io/bootstrapping", "rbac.authorization.kubernetes.io/autoupdate")


def short(version, kind, recorded):
    meta = recorded["metadata"]
    out = {"apiVersion": version, "kind": kind, "metadata": {"name": meta["name"]}}
    if "namespace" in meta:
        out["metadata"]["namespace"] = meta["namespace"]
    if version == RBAC:
        assert meta["annotations"] == {COMMON[1]: "true"}, meta
        labels = dict(meta["labels"])
        assert labels.pop(COMMON[0]) == "rbac-defaults", meta
        if labels:
            out["metadata"]["labels"] = labels
    if kind != "Namespace":
        out.update((key, value) for key, value in recorded.items() if key not in ("metadata", "status"))
    return out


def main():
    with open(os.path.join(HERE, "objects.jsonl"), "w") as target:
        for file, version, kind in KINDS:
            with open(os.path.join(SOURCE, "bootstrap", file + ".json")) as source:
                for recorded in json.load(source):
                    line = json.dumps(short(version, kind, recorded), separators=(",", ":"), sort_keys=True)
                    target.write(line + "\n")


main()
