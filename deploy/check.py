"""Checks the compose file, the objects of Kubernetes, and the alerts.

Runs in ``.ci/deploy``. The overlays of kustomize and the chart of Helm describe the same objects. Every
object is validated against the schemas of several versions of Kubernetes; objects of operators (KEDA,
Prometheus) have none there, and are listed instead.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate
import yaml

DEPLOY = Path(__file__).resolve().parent
CHART = DEPLOY / "helm/aios"
OPENAPI = DEPLOY.parent / "aios-service/openapi.json"
GUIDE = DEPLOY.parent / "docs/guide/pages"
VERSIONS = ["1.31", "1.33", "1.35", "1.37"]
#: Objects without a schema in kubernetes-validate.
OPERATORS = {"ScaledObject", "TriggerAuthentication", "PodMonitor"}
#: Keys that only kustomize or only Helm adds to an object.
ADDED = {
    "namespace",
    "app.kubernetes.io/name",
    "app.kubernetes.io/part-of",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "helm.sh/chart",
    "checksum/settings",
}
#: The label of pods that names their job in Prometheus.
JOB_LABEL = "app.kubernetes.io/name"
#: Time that the shutdown may take in addition to `accept_delay` and `deadline`, in seconds.
MARGIN = 40
#: Variables of the program itself, which configuration.md does not have.
OWN = {"AIOS_ACCESS_KEY_HASH", "AIOS_CONFIG_DIR", "AIOS_BROKER_PASSWORD"}

faults: list[str] = []


def expect(condition: bool, fault: str) -> None:
    if not condition:
        faults.append(fault)


def seconds(text: str) -> int:
    expect(text.endswith("s"), f"{text} is not a number of seconds")
    return int(text.removesuffix("s"))


def drain() -> int:
    """How long a process may take to end, by the settings of the base."""
    settings = yaml.safe_load((DEPLOY / "kubernetes/base/config/10-service.yaml").read_text())
    shutdown = settings["shutdown"]
    return seconds(shutdown["accept_delay"]) + seconds(shutdown["deadline"]) + MARGIN


def check_variables(place: str, names: list[str]) -> None:
    known = set(re.findall(r"`(AIOS_\w+)`", (GUIDE / "configuration.md").read_text())) | OWN
    for name in names:
        expect(name.removesuffix("_FILE") in known, f"{place}: no setting has the name {name}")


def check_pod(place: str, pod: dict) -> None:
    security = pod["securityContext"]
    expect(security["runAsNonRoot"] and security["runAsUser"] == 65532, f"{place}: runs as root")
    expect(not pod["automountServiceAccountToken"], f"{place}: has a token of Kubernetes")
    for container in pod["containers"]:
        own = container["securityContext"]
        expect(own["readOnlyRootFilesystem"], f"{place}: can write to its root")
        expect(own["capabilities"] == {"drop": ["ALL"]}, f"{place}: has capabilities")
        expect(set(container["resources"]) == {"requests", "limits"}, f"{place}: has no limits")
        check_variables(place, [variable["name"] for variable in container["env"]])
        mounted = {
            item["path"]
            for volume in pod["volumes"]
            for item in volume.get("secret", {}).get("items", [])
        }
        for variable in container["env"]:
            if variable["name"].endswith("_FILE"):
                name = variable["value"].rsplit("/", 1)[1]
                expect(name in mounted, f"{place}: {variable['value']} is not mounted")


def check_deployment(place: str, deployment: dict) -> None:
    pod = deployment["spec"]["template"]["spec"]
    grace, needed = pod["terminationGracePeriodSeconds"], drain()
    for spread in pod["topologySpreadConstraints"]:
        # Otherwise the pods that a rollout ends count too, and the new ones need not be spread.
        keys = spread.get("matchLabelKeys")
        expect(keys == ["pod-template-hash"], f"{place}: {spread['topologyKey']}: matchLabelKeys")
    container = pod["containers"][0]
    needed += container["lifecycle"]["preStop"]["sleep"]["seconds"]
    expect(grace > needed, f"{place}: a grace period of {grace} s, and a drain of {needed} s")
    for probe in ["startup", "live", "ready"]:
        key = {"startup": "startupProbe", "live": "livenessProbe", "ready": "readinessProbe"}[probe]
        expect(container[key]["httpGet"]["path"] == f"/health/{probe}", f"{place}: {key}")


def render(command: list[str | Path]) -> list[dict]:
    """The objects that a command prints."""
    rendered = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return [item for item in yaml.safe_load_all(rendered.stdout) if item]


def check_triggers(place: str, triggers: list[dict]) -> None:
    """The routes and values that triggers read are those of the HTTP API."""
    document = json.loads(OPENAPI.read_text())
    for trigger in triggers:
        if trigger["type"] != "metrics-api":
            continue
        metadata = trigger["metadata"]
        url = urlsplit(metadata["url"])
        route = document["paths"].get(url.path.removeprefix("/api/v1"), {}).get("get", {})
        known = {parameter["name"] for parameter in route.get("parameters", [])}
        expect(known >= set(parse_qs(url.query)), f"{place}: {url.geturl()} is not a route")
        *_, value = metadata["valueLocation"].split(".")
        load = document["components"]["schemas"]["AgentLoad"]["properties"]
        expect(value in load, f"{place}: {metadata['valueLocation']} is not in the answer")


def check_monitors(environment: str, objects: list[dict]) -> None:
    """The processes are scraped as the job of the alerts and the board."""
    files = [DEPLOY / "monitoring" / name for name in ("alerts.yaml", "board.json")]
    text = "".join(file.read_text().replace("\\", "") for file in files)
    jobs = set(re.findall(r'job="([^"]*)"', text))
    deployments = [item for item in objects if item["kind"] == "Deployment"]
    for monitor in (item for item in objects if item["kind"] == "PodMonitor"):
        spec = monitor["spec"]
        # The operator would name the job after the monitor and its namespace.
        expect(spec.get("jobLabel") == JOB_LABEL, f"{environment}: the PodMonitor has no jobLabel")
        for deployment in deployments:
            labels = deployment["spec"]["template"]["metadata"]["labels"]
            place = f"{environment}: Deployment {deployment['metadata']['name']}"
            wanted = spec["selector"]["matchLabels"]
            expect(wanted.items() <= labels.items(), f"{place}: the PodMonitor does not select it")
            expect({labels.get(JOB_LABEL)} == jobs, f"{place}: the jobs of the alerts are {jobs}")


def check_objects(environment: str, objects: list[dict]) -> None:
    check_monitors(environment, objects)
    for item in objects:
        place = f"{environment}: {item['kind']} {item['metadata']['name']}"
        if item["kind"] == "ScaledObject":
            check_triggers(place, item["spec"]["triggers"])
        if item["kind"] in OPERATORS:
            continue
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(item, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                faults.append(f"{place}: {version}: {error.message}")
        if item["kind"] in {"Deployment", "Job"}:
            check_pod(place, item["spec"]["template"]["spec"])
        if item["kind"] == "Deployment":
            check_deployment(place, item)
    unchecked = [item["kind"] for item in objects if item["kind"] in OPERATORS]
    print(f"{environment}: {len(objects)} objects, without a schema: {unchecked or 'none'}")


def plain(value: object) -> object:
    """An object without what only kustomize or only Helm adds: labels, hashes and namespaces."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, str):
        return re.sub(r"^aios-config-\w{10}$", "aios-config", value)
    if not isinstance(value, dict):
        return value
    kept = {key: plain(item) for key, item in value.items() if key not in ADDED}
    return {key: item for key, item in kept.items() if key not in {"labels", "annotations"} or item}


def settings(item: dict) -> dict:
    """The settings in the files of a ConfigMap, as a process merges them."""
    merged: dict = {}
    for _, text in sorted(item["data"].items()):
        for section, values in yaml.safe_load(text).items():
            merged.setdefault(section, {}).update(values)
    return merged


def by_name(objects: list[dict]) -> dict[str, object]:
    named = {}
    for item in objects:
        body = plain(item | {"data": settings(item)}) if item["kind"] == "ConfigMap" else plain(item)
        # The Job of the chart runs before the other objects exist, so it does without them.
        if item["kind"] != "Job":
            named[f"{item['kind']} {plain(item['metadata']['name'])}"] = body
    return named


def check_environment(overlay: Path) -> None:
    """The overlay of an environment, and the chart with the values of the same one."""
    name = overlay.name
    values = DEPLOY / f"helm/{name}.yaml"
    overlaid = render(["kubectl", "kustomize", overlay])
    check_objects(f"overlay {name}", overlaid)
    subprocess.run(
        ["helm", "lint", "--strict", "--quiet", CHART, "--values", values], check=True, timeout=60
    )
    namespace = yaml.safe_load((overlay / "kustomization.yaml").read_text())["namespace"]
    charted = render(
        ["helm", "template", "aios", CHART, "--values", values, "--namespace", namespace]
    )
    check_objects(f"chart {name}", charted)
    left, right = by_name(overlaid), by_name(charted)
    for key in sorted(left.keys() | right.keys()):
        expect(
            left.get(key) == right.get(key),
            f"{name}: {key} differs:\n  overlay: {left.get(key)}\n  chart:   {right.get(key)}",
        )


def check_refusals() -> None:
    """Values that the schema of the chart has to refuse."""
    values = ["engin.replicas=3", "image.digest=latest"]
    values += ["agents.Greeter.replicas=1", "agents.greeter.type=a-b"]
    for value in values:
        ended = subprocess.run(
            ["helm", "template", "aios", CHART, "--set", value], capture_output=True, timeout=60
        )
        expect(ended.returncode != 0, f"the chart takes {value}")


def check_types() -> None:
    """Types of agents may have underscores, which names of objects cannot have."""
    chosen = {"code-reader": None, "first": "a_b"}
    wanted = {"code-reader": "code_reader", "first": "a_b"}
    command: list[str | Path] = ["helm", "template", "aios", CHART, "--set", "keda.enabled=true"]
    for key, name in chosen.items():
        fields = {"queue": "q", "resources": {"requests": {}, "limits": {}}}
        fields |= {} if name is None else {"type": name}
        command += ["--set-json", f"agents.{key}={json.dumps(fields)}"]
    found = {}
    for item in render(command):
        if item["kind"] == "ScaledObject":
            triggers = item["spec"]["triggers"]
            check_triggers("chart with types", triggers)
            query = parse_qs(urlsplit(triggers[1]["metadata"]["url"]).query)
            key = item["metadata"]["name"].removeprefix("aios-agents-")
            found[key] = query["agent_type"][0]
    found.pop("greeter", None)
    expect(found == wanted, f"the chart scales the types {found}, not {wanted}")


def check_hosts() -> None:
    """The chart quotes the names of hosts."""
    host = "*.example.com"
    values = ["enabled=true", f"host={host}", "tlsSecretName=certificate"]
    command: list[str | Path] = ["helm", "template", "aios", CHART]
    for value in values:
        command += ["--set", f"api.ingress.{value}"]
    try:
        objects = render(command)
    except subprocess.CalledProcessError as error:
        faults.append(f"the chart does not accept the host {host}: {error.stderr}")
        return
    specs = [item["spec"] for item in objects if item["kind"] == "Ingress"]
    found = [(spec["rules"][0]["host"], spec["tls"][0]["hosts"]) for spec in specs]
    expect(found == [(host, [host])], f"the chart has the hosts {found}")


def check_numbers() -> None:
    """The chart writes numbers as they are. Helm reads those of files as floating-point numbers."""
    numbers = {"AIOS_HTTP_MAX_BODY_BYTES": 10_485_760, "AIOS_LOW": -5_000_000, "AIOS_PART": 0.25}
    values = {
        "engine": {"environment": numbers | {"AIOS_PORT": "08", "AIOS_METRICS_ENABLED": False}},
        "terminationGracePeriodSeconds": 1_000_000,
        "agents": {"greeter": {"terminationGracePeriodSeconds": 2_000_000}},
        "keda": {"enabled": True, "tasks": 2_000_000},
    }
    wanted = {name: str(value) for name, value in numbers.items()}
    wanted |= {"AIOS_PORT": "08", "AIOS_METRICS_ENABLED": "false"}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(values, file)
        file.flush()
        objects = render(["helm", "template", "aios", CHART, "--values", file.name])
    for item in objects:
        if item["kind"] == "Deployment":
            grace = item["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
            own = 2_000_000 if item["metadata"]["name"] == "aios-agents-greeter" else 1_000_000
            expect(grace == own and isinstance(grace, int), f"the chart writes {grace!r} s")
        if item["kind"] == "ScaledObject":
            queue, load = (trigger["metadata"] for trigger in item["spec"]["triggers"])
            found = {queue["value"], load["targetValue"]}
            expect(found == {"2000000"}, f"the chart writes {found} tasks")
        if item["kind"] == "Deployment" and item["metadata"]["name"] == "aios-engine":
            container = item["spec"]["template"]["spec"]["containers"][0]
            found = {variable["name"]: variable.get("value") for variable in container["env"]}
            found = {name: value for name, value in found.items() if name in wanted}
            expect(found == wanted, f"the chart writes the variables {found}, not {wanted}")


def variables_of(settings: dict, path: tuple[str, ...] = ()) -> dict[str, object]:
    """The variables that set the same keys as these settings, with the values."""
    found: dict[str, object] = {}
    for key, value in settings.items():
        keys = (*path, key.upper())
        if isinstance(value, dict):
            found |= variables_of(value, keys)
        else:
            found[f"AIOS_{keys[0]}_{'__'.join(keys[1:])}"] = value
    return found


def check_images() -> None:
    """The images set nothing that the settings of the chart set: a variable would override them."""
    chart = variables_of(yaml.safe_load((CHART / "values.yaml").read_text())["settings"])
    for path in sorted((DEPLOY / "images").glob("*.Dockerfile")):
        text = path.read_text().replace("\\\n", " ")
        lines = "\n".join(line for line in text.splitlines() if line.startswith("ENV "))
        image = dict(re.findall(r"\b(AIOS_\w+)=(\S+)", lines))
        for name in sorted(image.keys() & chart.keys()):
            # The ports and probes are those of the image, so both have the same address.
            is_fixed = name == "AIOS_HTTP_LISTEN" and image[name] == chart[name]
            expect(is_fixed, f"{path.name}: {name} overrides the settings of the chart")


def check_compose() -> None:
    compose = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())
    services, secrets = compose["services"], compose["secrets"]
    for name, service in services.items():
        for needed in service.get("depends_on", {}):
            expect(
                needed in services, f"compose: {name} depends on {needed}, which is not a service"
            )
        for secret in service.get("secrets", []):
            expect(secret in secrets, f"compose: {name} has the secret {secret}, which is missing")
        files = {
            value for key, value in service.get("environment", {}).items() if key.endswith("_FILE")
        }
        wanted = {f"/run/secrets/{secret}" for secret in service.get("secrets", [])}
        expect(files == wanted, f"compose: {name}: secrets {wanted} and files {files}")
        variables = [key for key in service.get("environment", {}) if key.startswith("AIOS_")]
        check_variables(f"compose: {name}", variables)
        # RabbitMQ keeps its data in a folder that has the name of its host.
        if service.get("image", "").startswith("rabbitmq:") and service.get("volumes"):
            expect("hostname" in service, f"compose: {name} has no hostname, and loses its data")
        if service.get("image") == "aios-service":
            expect(service["read_only"] and service["user"] == "65532:65532", f"compose: {name}")
    print(f"compose: {len(services)} services")


def group_of_tests(rule: dict, series: dict, labels: dict | None) -> dict:
    """A test of promtool: the alert fires with these labels, or does not fire without any."""
    fired = []
    if labels is not None:
        fired = [{"exp_labels": labels | rule["labels"], "exp_annotations": rule["annotations"]}]
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [{"eval_time": "30m", "alertname": rule["alert"], "exp_alerts": fired}],
    }


def check_metrics(place: str, expression: str, operating: str) -> None:
    for metric in re.findall(r"(?:aios|process)_\w+", expression):
        base = re.sub(r"_(bucket|count|sum)$", "", metric)
        expect(f"`{base}`" in operating, f"{place}: no metric has the name {base}")


def check_alerts() -> None:
    path = DEPLOY / "monitoring/alerts.yaml"
    rules = yaml.safe_load(path.read_text())["groups"][0]["rules"]
    cases = yaml.safe_load((DEPLOY / "monitoring/alerts.cases.yaml").read_text())
    page, operating = ((GUIDE / name).read_text() for name in ("alerts.md", "operating.md"))
    board = json.loads((DEPLOY / "monitoring/board.json").read_text())
    for panel in board["panels"]:
        check_metrics(panel["title"], panel["targets"][0]["expr"], operating)
    tests = []
    for rule in rules:
        name, case = rule["alert"], cases[rule["alert"]]
        expect(f"\n## {name}\n" in page, f"{name} is not in alerts.md")
        expect(
            rule["annotations"]["runbook_url"].endswith(f"#{name.lower()}"), f"{name}: runbook_url"
        )
        check_metrics(name, rule["expr"], operating)
        tests.append(group_of_tests(rule, case["fires"], case["labels"]))
        tests.append(group_of_tests(rule, case["quiet"], None))
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump({"rule_files": [str(path)], "tests": tests}, file)
        file.flush()
        ended = subprocess.run(
            ["promtool", "test", "rules", file.name],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
    expect(ended.returncode == 0, f"promtool: {ended.stdout}{ended.stderr}")
    print(f"alerts: {len(rules)}, {len(tests)} tests")


def main() -> int:
    check_compose()
    check_alerts()
    for overlay in sorted((DEPLOY / "kubernetes/overlays").iterdir()):
        check_environment(overlay)
    check_refusals()
    check_types()
    check_hosts()
    check_numbers()
    check_images()
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
