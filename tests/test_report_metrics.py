"""/metrics: what Prometheus's own parser makes of it is what was counted."""

import json
import re
from collections.abc import Mapping
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from batchrunner.core.buckets import bucket
from batchrunner.core.model import Kind
from batchrunner.core.trail import LaneMoment, Spend
from batchrunner.meter import Gauges, Snapshot
from batchrunner.report.metrics import BOUNDS, NAMES, exposition
from tests.test_report_telling import moment

SNAPSHOT = Snapshot(
    total=100,
    succeeded=60,
    failed=3,
    invalid=1,
    resumed=20,
    retries=9,
    maybe_billed=2,
    kinds={Kind.OK: 41, Kind.RATE_LIMITED: 4},
    failures={Kind.CONTEXT: 3, Kind.INVALID: 1},
    rate=4.5,
    eta=8.0,
    gauges=Gauges(in_flight=3, retrying=2, cost=1.25),
)

Labels = tuple[tuple[str, str], ...]


def parsed(text: str) -> Mapping[tuple[str, Labels], float]:
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for family in families for sample in family.samples}


def test_the_parser_finds_what_was_counted() -> None:
    found = parsed(exposition(SNAPSHOT, [moment(1, 5.0, ok=41, limited=4)], "0.3", paused=True))
    of = {name: value for (name, labels), value in found.items() if not labels}
    assert of["batchrunner_retries_total"] == 9
    assert of["batchrunner_cost_dollars_total"] == 1.25
    assert of["batchrunner_paused"] == 1
    assert of["batchrunner_eta_seconds"] == 8
    assert found["batchrunner_requests_total", (("outcome", "succeeded"),)] == 41
    assert found["batchrunner_requests_total", (("outcome", "failed"),)] == 3
    assert found["batchrunner_attempts_total", (("kind", "rate_limited"),)] == 4
    assert found["batchrunner_lines", (("state", "pending"),)] == 36
    assert found["batchrunner_build_info", (("version", "0.3"),)] == 1
    assert found["batchrunner_inflight", (("endpoint", "A"),)] == 3
    assert found["batchrunner_limit", (("endpoint", "A"),)] == 8
    assert found["batchrunner_timeout_seconds", (("endpoint", "A"), ("phase", "total"))] == 26
    assert found["batchrunner_tokens_total", (("direction", "input"), ("endpoint", "A"), ("model", "m"))] == 410


def test_a_histogram_is_cumulative_over_all_moments() -> None:
    found = parsed(exposition(SNAPSHOT, [moment(1, 5.0), moment(1, 10.0)], "0"))
    label = (("endpoint", "A"), ("phase", "total"))
    counts = [found["batchrunner_request_seconds_bucket", (label[0], ("le", f"{bound:g}"), label[1])] for bound in BOUNDS]
    assert counts == sorted(counts)
    assert found["batchrunner_request_seconds_bucket", (label[0], ("le", "5"), label[1])] == 18
    assert found["batchrunner_request_seconds_bucket", (label[0], ("le", "+Inf"), label[1])] == 20
    assert found["batchrunner_request_seconds_count", label] == 20
    assert found["batchrunner_request_seconds_sum", label] == pytest.approx(2 * (9 * 3.0 + 9.0), rel=0.03)


def test_every_name_of_the_table_can_appear_and_no_other() -> None:
    text = exposition(SNAPSHOT, [moment(1, 5.0, ok=1)], "0")
    named = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert named <= {f"batchrunner_{name}" for name in NAMES}
    missing = {f"batchrunner_{name}" for name in NAMES} - named
    assert missing == {"batchrunner_resident_bytes", "batchrunner_pace"}, "only what this moment does not know"


def test_nothing_is_said_of_what_is_not_known() -> None:
    text = exposition(Snapshot(), [], "0")
    parsed(text)
    assert "cost" not in text
    assert "eta" not in text
    assert "request_seconds" not in text


@given(name=st.text(max_size=20))
@settings(max_examples=150, deadline=None)
def test_no_label_breaks_the_format(name: str) -> None:
    lane = LaneMoment(name=name, attempts=1, phases={"total": {bucket(1.0): 1}})
    spend = [Spend(endpoint=name, model=name, requests=1, input=1)]
    text = exposition(SNAPSHOT, [moment(1, 5.0, lanes=[lane], spend=spend)], name)
    found = parsed(text)
    shown = name.encode("utf-8", "replace").decode()
    assert found["batchrunner_tokens_total", (("direction", "input"), ("endpoint", shown), ("model", shown))] == 1


# ---- the Grafana dashboard that comes along ----


def test_the_grafana_dashboard_asks_for_what_there_is() -> None:
    board = json.loads(files("batchrunner.report").joinpath("grafana.json").read_text("utf-8"))
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    named = {name for expr in asked for name in re.findall(r"batchrunner_([a-z_]+)", expr)}
    assert len(asked) == len(set(asked)) > 10
    assert {re.sub("_bucket$", "", name) for name in named} <= set(NAMES)
    known = exposition(SNAPSHOT, [moment(1, 5.0, ok=1)], "0")
    for label, value in (pair for expr in asked for pair in re.findall(r"([a-z]+)=~?\"([^\"$]+)\"", expr)):
        assert any(f'{label}="{each}"' in known for each in value.split("|")), (label, value)


def test_its_panels_do_not_overlap() -> None:
    board = json.loads(files("batchrunner.report").joinpath("grafana.json").read_text("utf-8"))
    cells = [
        (x, y)
        for at in (panel["gridPos"] for panel in board["panels"])
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
