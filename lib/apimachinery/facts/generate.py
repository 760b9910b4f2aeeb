#!/usr/bin/env python3
"""Writes lib/apimachinery/src/facts/table.rs from the recorded facts of a stock apiserver.

usage: lib/apimachinery/facts/generate.py [RECORDINGS]   (default: ../shared/upstream-1.37 beside the checkout)

The table is Rust constants: nothing is parsed at start. Go's embedded structs are flattened, since JSON does not see
them; `via` keeps the protobuf number of the embedded message, since protobuf does.
"""
import glob
import json
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
SOURCE = sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "..", "shared", "upstream-1.37")
TARGET = os.path.join(ROOT, "lib", "apimachinery", "src", "facts", "table.rs")

# Types that write themselves as something other than a JSON object of their fields.
OWN_FORM = {
    "apimachinery/pkg/api/resource.Quantity": "Quantity",
    "apimachinery/pkg/util/intstr.IntOrString": "IntOrString",
    "apimachinery/pkg/apis/meta/v1.Time": "Time",
    "apimachinery/pkg/apis/meta/v1.MicroTime": "MicroTime",
    "apimachinery/pkg/apis/meta/v1.FieldsV1": "Fields",
    "apimachinery/pkg/runtime.RawExtension": "Raw",
    "apiextensions-apiserver/pkg/apis/apiextensions/v1.JSON": "Any",
    "apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrArray": "Any",
    "apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrBool": "Any",
    "apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrStringArray": "Any",
}
SCALARS = {"string": "String", "int32": "Int32", "int64": "Int64", "bool": "Bool", "bytes": "Bytes", "float64": "Float", "interface": "Any"}


def read():
    with open(os.path.join(SOURCE, "types.jsonl")) as lines:
        kinds = json.loads(next(lines))["kinds"]
        types = {}
        for line in lines:
            one = json.loads(line)
            types[one["type"]] = one["fields"] or []
    schemas = {}
    for path in sorted(glob.glob(os.path.join(SOURCE, "openapi", "*.json"))):
        with open(path) as file:
            schemas.update(json.load(file)["schemas"])
    return kinds, types, schemas


def schema_name(name):
    package, _, kind = name.rpartition(".")
    if package.startswith(("apimachinery/", "apiextensions-apiserver/", "kube-aggregator/")):
        return "io.k8s." + package.replace("/", ".") + "." + kind
    return "io.k8s.api." + package.replace("/", ".") + "." + kind


def text(value):
    return json.dumps(value, ensure_ascii=False)


def strings(values):
    return "&[" + ", ".join(text(v) for v in values) + "]"


class Table:
    def __init__(self, kinds, types, schemas):
        self.kinds, self.types, self.schemas = kinds, types, schemas
        self.names = sorted(name for name in types if name not in OWN_FORM and name != "time.Time")
        self.ids = {name: at for at, name in enumerate(self.names)}

    def kind(self, go):
        if go.startswith("[]"):
            return "Kind::List(&%s)" % self.kind(go[2:])
        found = re.match(r"map\[[^\]]*\](.*)", go)
        if found:
            return "Kind::Map(&%s)" % self.kind(found.group(1))
        go = go.lstrip("*")
        if go in SCALARS:
            return "Kind::" + SCALARS[go]
        if go in OWN_FORM:
            return "Kind::" + OWN_FORM[go]
        return "Kind::Struct(TypeId(%d))" % self.ids[go]

    def flatten(self, name):
        """The JSON fields of a type: (field, protobuf number, via)."""
        for field in self.types[name]:
            number = field.get("protobuf", "").split(",")
            number = int(number[1]) if len(number) > 1 and number[1].isdigit() else 0
            if field.get("json") == "-":
                continue
            if field.get("json"):
                yield field, number, 0
            else:
                for inner, own, outer in self.flatten(field["type"].lstrip("*")):
                    # An embedded struct without a number (TypeMeta) is not in protobuf, and so its fields are not.
                    # An embedded struct within one makes a number of two digits to the base 64.
                    yield inner, own if number else 0, number * 64 + outer if outer else number

    def fields(self, name):
        rows = []
        for field, number, via in self.flatten(name):
            schema = self.schemas.get(schema_name(name), {}) or {}
            fact = schema.get("properties", {}).get(field["json"], {})
            flags = []
            for flag, condition in [
                ("POINTER", field.get("pointer")),
                ("OMITEMPTY", field.get("omitempty")),
                ("OMITZERO", field.get("omitzero")),
                ("REQUIRED", field["json"] in schema.get("required", [])),
                ("ATOMIC", fact.get("x-kubernetes-map-type") == "atomic"),
                ("GRANULAR", fact.get("x-kubernetes-map-type") == "granular"),
                ("LISTED", fact.get("x-kubernetes-list-type") == "atomic"),
            ]:
                if condition:
                    flags.append(flag)
            row = "f(%s, %s, %s, %d, %d)" % (text(field["json"]), self.kind(field["type"]), " | ".join(flags) or "0", number, via)
            if "default" in fact:
                row += ".default(%s)" % text(json.dumps(fact["default"], sort_keys=True))
            enums = fact.get("enum") or fact.get("items", {}).get("enum") or fact.get("additionalProperties", {}).get("enum")
            if enums:
                row += ".enums(%s)" % strings(enums)
            if fact.get("x-kubernetes-list-type") == "set":
                row += ".set()"
            if fact.get("x-kubernetes-list-type") == "map":
                row += ".keys(%s)" % strings(fact["x-kubernetes-list-map-keys"])
            if field.get("patchStrategy"):
                row += ".patch(%s, %s)" % (text(field["patchStrategy"]), text(field.get("patchMergeKey", "")))
            rows.append("    " + row + ",")
        return rows

    def rust(self):
        out = [
            "// Generated by lib/apimachinery/facts/generate.py. Do not edit.",
            "",
            "use super::{ATOMIC, GRANULAR, Kind, LISTED, OMITEMPTY, OMITZERO, POINTER, REQUIRED, Type, TypeId, f};",
            "",
            "pub(super) static TYPES: [Type; %d] = [" % len(self.names),
        ]
        for name in self.names:
            schema = schema_name(name)
            known = self.schemas.get(schema, {})
            atomic = known.get("x-kubernetes-map-type") == "atomic"
            unions = known.get("x-kubernetes-unions")
            unions = text(json.dumps(unions, sort_keys=True)) if unions else '""'
            out.append("  Type { go: %s, schema: %s, atomic: %s, unions: %s, fields: &[" % (text(name), text(schema if known else ""), str(atomic).lower(), unions))
            out += self.fields(name)
            out.append("  ] },")
        out += ["];", "", "/// (apiVersion, kind, type), sorted.", "pub(super) static KINDS: [(&str, &str, TypeId); %d] = [" % sum(1 for v in self.kinds.values() if v in self.ids)]
        rows = sorted((k.rsplit(" ", 1), v) for k, v in self.kinds.items() if v in self.ids)
        out += ["    (%s, %s, TypeId(%d))," % (text(k[0]), text(k[1]), self.ids[v]) for k, v in rows]
        out += ["];", ""]
        return "\n".join(out)


def main():
    table = Table(*read())
    with open(TARGET, "w") as file:
        file.write(table.rust())
    print("%s: %d types, %d kinds" % (os.path.relpath(TARGET, ROOT), len(table.names), len(table.kinds)))


main()
