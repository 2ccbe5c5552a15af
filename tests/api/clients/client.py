"""The Python client on a server: write, read, list in chunks, watch, patch, apply, custom objects, errors."""
import os, sys, threading, uuid
from kubernetes import client, config, watch, dynamic

config.load_kube_config(config_file=os.environ["KUBECONFIG"])
core, apps, custom = client.CoreV1Api(), client.AppsV1Api(), client.CustomObjectsApi()
extensions = client.ApiextensionsV1Api()
space = "python-" + uuid.uuid4().hex[:8]
core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=space)))
assert client.VersionApi().get_code().major == "1"

made = core.create_namespaced_config_map(space, {"metadata": {"name": "a", "labels": {"t": "1"}}, "data": {"k": "v"}})
assert made.metadata.uid and core.read_namespaced_config_map("a", space).data == {"k": "v"}
made.data["k"] = "w"
replaced = core.replace_namespaced_config_map("a", space, made)
assert replaced.data["k"] == "w" and replaced.metadata.resource_version != made.metadata.resource_version
try:
    core.replace_namespaced_config_map("a", space, made)
    sys.exit("a stale update went through")
except client.ApiException as error:
    assert error.status == 409 and "the object has been modified" in error.body, error
assert core.patch_namespaced_config_map("a", space, {"data": {"l": "x"}}).data == {"k": "w", "l": "x"}
for n in range(5):
    core.create_namespaced_config_map(space, {"metadata": {"name": f"c{n}", "labels": {"t": "1"}}})
seen, token = [], None
while True:
    page = core.list_namespaced_config_map(space, label_selector="t=1", limit=2, _continue=token)
    seen += [item.metadata.name for item in page.items]
    token = page.metadata._continue
    if not token:
        break
assert seen == ["a", "c0", "c1", "c2", "c3", "c4"], seen

version = core.list_namespaced_config_map(space).metadata.resource_version
def later():
    core.create_namespaced_config_map(space, {"metadata": {"name": "z"}})
    core.delete_namespaced_config_map("z", space)
threading.Timer(0.2, later).start()
events = []
for event in watch.Watch().stream(core.list_namespaced_config_map, space, resource_version=version, timeout_seconds=20):
    events.append((event["type"], event["object"].metadata.name))
    if event["type"] == "DELETED":
        break
assert events == [("ADDED", "z"), ("DELETED", "z")], events

pod = {"containers": [{"name": "c", "image": "i"}]}
deployment = {"metadata": {"name": "d"}, "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}},
              "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod}}}
assert apps.create_namespaced_deployment(space, deployment).spec.strategy.type == "RollingUpdate"
assert apps.read_namespaced_deployment_scale("d", space).spec.replicas in (0, None)

group = space + ".example.com"
schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}}}}
extensions.create_custom_resource_definition({"metadata": {"name": "things." + group}, "spec": {
    "group": group, "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
    "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}]}})
for event in watch.Watch().stream(extensions.list_custom_resource_definition, field_selector="metadata.name=things." + group, timeout_seconds=20):
    if any(c.type == "Established" and c.status == "True" for c in (event["object"].status.conditions or [])):
        break
thing = {"apiVersion": group + "/v1", "kind": "Thing", "metadata": {"name": "t"}, "spec": {"n": 3}}
assert custom.create_namespaced_custom_object(group, "v1", space, "things", thing)["spec"] == {"n": 3}
try:
    custom.create_namespaced_custom_object(group, "v1", space, "things", {**thing, "metadata": {"name": "u"}, "spec": {"n": 0}})
    sys.exit("the schema was not kept")
except client.ApiException as error:
    assert error.status == 422 and "spec.n in body should be greater than or equal to 1" in error.body, error
found = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version=group + "/v1", kind="Thing")
applied = found.server_side_apply(body={**thing, "spec": {"n": 4}}, name="t", namespace=space, field_manager="python", force_conflicts=True)
assert applied.spec.n == 4
extensions.delete_custom_resource_definition("things." + group)
core.delete_namespace(space)
print("the Python client is content")
