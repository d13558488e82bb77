"""What the launch files may contain, from public documentation: a small part of each format, the part that is
used here.

SkyPilot: docs.skypilot.co/en/latest/reference/yaml-spec.html. Kubernetes: the types of
trainer.kubeflow.org/v1alpha1 (Kubeflow Trainer 2.0 to 2.4, pkg/apis/trainer/v1alpha1), of
jobset.x-k8s.io/v1alpha2 and of core/v1.

A schema is a type, a tuple of alternatives, a set of allowed values, `[schema]` for a list, `{"*": schema}`
for a map with any keys, or a map of fields, where a name that ends with `!` is required.
"""

from __future__ import annotations

from typing import Any

SKYPILOT = {
    "name": str,
    "workdir": str,
    "num_nodes": int,
    "setup": str,
    "run!": str,
    "envs": {"*": (str, int)},
    "resources!": {
        "accelerators!": str,
        "use_spot": bool,
        "disk_size": int,
        "job_recovery": {"strategy!": {"FAILOVER", "EAGER_NEXT_REGION"}, "max_restarts_on_errors": int},
    },
    "file_mounts": {
        "*": (
            str,
            {
                "name": str,
                "source": str,
                "store": {"s3", "gcs", "azure", "r2", "oci", "ibm"},
                "mode": {"MOUNT", "COPY", "MOUNT_CACHED"},
            },
        )
    },
}

METADATA = {"name!": str, "namespace": str, "labels": {"*": str}, "annotations": {"*": str}}
QUANTITY = (int, str)
RESOURCES = {"limits": {"*": QUANTITY}, "requests": {"*": QUANTITY}}
ENVIRONMENT = [{"name!": str, "value": str}]
CONTAINER = {
    "name!": str,
    "image": str,
    "command": [str],
    "args": [str],
    "env": ENVIRONMENT,
    "resources": RESOURCES,
    "volumeMounts": [{"name!": str, "mountPath!": str, "readOnly": bool}],
}
VOLUME = {
    "name!": str,
    "persistentVolumeClaim": {"claimName!": str, "readOnly": bool},
    "emptyDir": {"medium": {"", "Memory"}, "sizeLimit": QUANTITY},
}
POD = {
    "containers!": [CONTAINER],
    "volumes": [VOLUME],
    "restartPolicy": {"Never", "OnFailure"},
    "terminationGracePeriodSeconds": int,
    "nodeSelector": {"*": str},
}
JOB_TEMPLATE = {
    "metadata": {"labels": {"*": str}},
    "spec!": {"backoffLimit": int, "template!": {"metadata": {"labels": {"*": str}}, "spec!": POD}},
}
TRAINING_RUNTIME = {
    "apiVersion!": {"trainer.kubeflow.org/v1alpha1"},
    "kind!": {"TrainingRuntime"},
    "metadata!": METADATA,
    "spec!": {
        "mlPolicy": {"numNodes": int, "torch": {}},  # torch.numProcPerNode went away in 2.2
        "template!": {
            "spec!": {
                "failurePolicy": {"maxRestarts": int},
                "replicatedJobs!": [{"name!": str, "replicas": int, "template!": JOB_TEMPLATE}],
            }
        },
    },
}
TRAIN_JOB = {
    "apiVersion!": {"trainer.kubeflow.org/v1alpha1"},
    "kind!": {"TrainJob"},
    "metadata!": METADATA,
    "spec!": {
        "runtimeRef!": {"name!": str, "kind": {"TrainingRuntime", "ClusterTrainingRuntime"}, "apiGroup": str},
        "trainer": {
            "image": str,
            "command": [str],
            "args": [str],
            "env": ENVIRONMENT,
            "numNodes": int,
            "resourcesPerNode": RESOURCES,
            "numProcPerNode": QUANTITY,
        },
        "suspend": bool,
    },
}


def faults(value: Any, schema: Any, place: str = "") -> list[str]:
    """Where a value departs from a schema: unknown or missing fields, other types, other words."""
    if isinstance(schema, tuple):
        found = [faults(value, one, place) for one in schema]
        return min(found, key=len)
    if isinstance(schema, set):
        return [] if value in schema else [f"{place}: {value!r}"]
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [f"{place}: {value!r} is not a list"]
        return [
            fault for index, one in enumerate(value) for fault in faults(one, schema[0], f"{place}[{index}]")
        ]
    if isinstance(schema, dict):
        return _fields(value, schema, place)
    ok = isinstance(value, schema) and (schema is bool or not isinstance(value, bool))
    return [] if ok else [f"{place}: {value!r} is not {schema.__name__}"]


def _fields(value: Any, schema: dict[str, Any], place: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{place}: {value!r} is not a map"]
    known = {name.removesuffix("!"): one for name, one in schema.items()}
    found = [
        f"{place}.{name.removesuffix('!')} is missing"
        for name in schema
        if name.endswith("!") and name.removesuffix("!") not in value
    ]
    for name, one in value.items():
        if name not in known and "*" not in known:
            found.append(f"{place}.{name} is not known")
        else:
            found += faults(one, known.get(name, known.get("*")), f"{place}.{name}")
    return found
