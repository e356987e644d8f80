"""What people write becomes a value from the right place, or an error that says where: settings, origins, conversion, units."""

import json
import re
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

import batchrunner
from batchrunner import origins
from batchrunner.core import units
from batchrunner.core.policy import Group
from batchrunner.core.stopping import Stopping, cap_of, reason_to_stop
from batchrunner.errors import UsageError
from batchrunner.masking import masked
from batchrunner.settings import FOREIGN, OPTIONS, Settings, schema, values


def resolve(
    tmp_path: Path, flags: dict[str, Any] | None = None, environ: dict[str, str] | None = None, **more: Any
) -> origins.Resolved:
    return origins.resolve(flags or {}, environ or {}, tmp_path, **more)


def refused(code: str, tmp_path: Path, *args: Any, **more: Any) -> str:
    with pytest.raises(UsageError) as caught:
        resolve(tmp_path, *args, **more)
    assert caught.value.code == code
    return str(caught.value)


# ---- units ----


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("30", 30),
        ("30s", 30),
        ("2m", 120),
        ("1h30m", 5400),
        ("500ms", 0.5),
        ("1.5h", 5400),
        ("1d", 86400),
        ("1m500ms", 60.5),
        ("0", 0),
        (".5s", 0.5),
    ],
)
def test_duration(text: str, value: float) -> None:
    assert units.duration(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "s", "30x", "30s2m", "-5", "1e3", "inf", "nan", "1.2.3s", "٣s", "1m1m", "5 minutes"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        units.duration(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4096", 4096),
        ("64KiB", 65536),
        ("64k", 65536),
        ("64MiB", 2**26),
        ("64M", 2**26),
        ("64MB", 64_000_000),
        ("1.5 GiB", 3 * 2**29),
        ("12b", 12),
    ],
)
def test_size(text: str, value: int) -> None:
    assert units.size(text) == value


@pytest.mark.parametrize(("text", "value"), [("8", 8), ("40k", 40_000), ("1.5M", 1_500_000), ("0.001k", 1), ("1.1k", 1100)])
def test_count(text: str, value: int) -> None:
    assert units.count(text) == value


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (units.count, "1.5"),
        (units.count, "-1"),
        (units.count, "1_000"),
        (units.size, "64X"),
        (units.size, ""),
        (units.truth, "maybe"),
        (units.number, "1,5"),
        (units.number, "1e"),
        (units.number, "inf"),
        (units.count, "9" * 400),
    ],
)
def test_what_is_no_figure(read: Any, text: str) -> None:
    with pytest.raises(ValueError, match=r"is n(ot|either)|infinity"):
        read(text)


@given(st.text(max_size=12))
@examples(deadline=None, max_examples=200)
def test_readers_never_raise_anything_but_value_error(text: str) -> None:
    for read in (units.duration, units.size, units.count, units.truth, units.number):
        with suppress(ValueError):
            assert read(text) >= 0


@given(st.integers(0, 40), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
@examples(deadline=None, max_examples=200)
def test_durations_add_up(d: int, h: int, m: int, s: int, ms: int) -> None:
    assert units.duration(f"{d}d{h}h{m}m{s}s{ms}ms") == pytest.approx(86400 * d + 3600 * h + 60 * m + s + ms / 1000)


# ---- the table ----


def test_every_setting_is_described_once_and_reached_by_its_name() -> None:
    flat = values(Settings())
    assert set(flat) == set(OPTIONS)
    for name, each in OPTIONS.items():
        assert each.help
        assert each.group in get_args(Group)
        assert each.flags[-1] == "--" + name.replace("_", "-")
        assert each.variable == "BATCHRUNNER_" + name.upper()
        assert flat[name] == each.default
    short = [flag for each in OPTIONS.values() for flag in each.flags]
    assert len(short) == len(set(short))


def test_no_option_for_what_does_not_exist_yet() -> None:
    assert not {"api_key", "key"} & set(OPTIONS)


def test_defaults_pass_their_own_checks(tmp_path: Path) -> None:
    given_again = {name: list(value) if isinstance(value, tuple) else value for name, value in values(Settings()).items()}
    assert resolve(tmp_path, given_again).settings == Settings()


def test_schema_knows_every_setting_and_refuses_others() -> None:
    described = schema()
    body = described["$defs"]["batchrunner"]
    assert set(body["properties"]) == {*OPTIONS, "prices", "endpoint"}
    assert body["additionalProperties"] is False
    assert all(entry["description"] for entry in body["properties"].values())
    assert {"type": "string"} in body["properties"]["timeout"]["anyOf"]
    json.dumps(described)


# ---- order of origins ----


def test_first_come_first_served(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.batchrunner]\nmax_attempts = 1\nmodel = 'pyproject'\n")
    user = tmp_path / "user.toml"
    user.write_text("max_attempts = 2\nlimit = '2k'\nmodel = 'user'\n")
    named = tmp_path / "named.toml"
    named.write_text("max_attempts = 3\nmax_concurrency = 30\n")
    environ = {"BATCHRUNNER_MAX_ATTEMPTS": "4", "BATCHRUNNER_MAX_CONCURRENCY": "40", "BATCHRUNNER_GRACE": ""}
    found = resolve(tmp_path, {"max_attempts": "5", "config": str(named)}, environ, user_config=user)
    flat = values(found.settings)
    assert (flat["max_attempts"], flat["max_concurrency"], flat["model"], flat["limit"], flat["grace"]) == (
        5,
        40,
        "pyproject",
        2000,
        20.0,
    )
    assert found.origins["max_attempts"] == "command line"
    assert found.origins["max_concurrency"] == "environment BATCHRUNNER_MAX_CONCURRENCY"
    assert found.origins["model"] == f"file {tmp_path / 'pyproject.toml'}"
    assert found.origins["limit"] == f"user file {user}"
    assert found.origins["grace"] == "default"
    assert set(found.origins) == set(OPTIONS)


def test_config_is_above_the_project_file_and_below_the_environment(tmp_path: Path) -> None:
    (tmp_path / "batchrunner.toml").write_text("model = 'project'\nlimit = 1\n")
    (tmp_path / "other.toml").write_text("model = 'named'\nlimit = 2\n")
    found = resolve(tmp_path, {"config": "other.toml"}, {"BATCHRUNNER_LIMIT": "3"})
    assert (found.settings.service.model, found.settings.intake.limit) == ("named", 3)


def test_own_file_hides_pyproject(tmp_path: Path) -> None:
    (tmp_path / "batchrunner.toml").write_text("")
    (tmp_path / "pyproject.toml").write_text("[tool.batchrunner]\nmodel = 'p'\n")
    assert resolve(tmp_path).settings.service.model == ""


def test_only_the_current_directory_is_read(tmp_path: Path) -> None:
    (tmp_path / "batchrunner.toml").write_text("model = 'above'\n")
    (tmp_path / ".env").write_text("BATCHRUNNER_MODEL=env\n")
    inner = tmp_path / "jobs"
    inner.mkdir()
    (inner / "in.jsonl").write_text("")
    assert resolve(inner).settings.service.model == ""
    other = tmp_path / "elsewhere"
    other.mkdir()
    (inner / "batchrunner.toml").write_text("model = 'beside the job'\n")
    assert resolve(other, {"input": str(inner / "in.jsonl")}).settings.service.model == ""


def test_variables_of_the_openai_sdk_are_heard_after_ours(tmp_path: Path) -> None:
    assert FOREIGN == {"base_url": "OPENAI_BASE_URL"}
    found = resolve(tmp_path, {}, {"OPENAI_BASE_URL": "http://h/v1"})
    assert found.settings.service.base_url == ("http://h/v1",)
    assert found.origins["base_url"] == "environment OPENAI_BASE_URL"
    ours = resolve(tmp_path, {}, {"OPENAI_BASE_URL": "http://h/v1", "BATCHRUNNER_BASE_URL": "http://a\nhttp://b"})
    assert ours.settings.service.base_url == ("http://a", "http://b")
    assert resolve(tmp_path, {}, {"BATCHRUNNER_HEADER": '["A=1", "B=2"]'}).settings.service.header == ("A=1", "B=2")


def test_strange_variables_are_not_ours(tmp_path: Path) -> None:
    theirs = ("SERVICE_HOST", "SERVICE_PORT", "PORT", "PORT_80_TCP_ADDR", "DEBUG", "EXIT_CODE", "KEY", "API_KEY")
    assert resolve(tmp_path, {}, {f"BATCHRUNNER_{name}": "10.0.0.1" for name in theirs}).settings == Settings()


def test_a_variable_with_a_typo_is_not_passed_over(tmp_path: Path) -> None:
    said = refused("E001", tmp_path, {}, {"BATCHRUNNER_MAX_COTS": "5"})
    assert "BATCHRUNNER_MAX_COTS" in said
    assert "BATCHRUNNER_MAX_COST?" in said


def test_arguments_of_the_library_go_the_same_way(tmp_path: Path) -> None:
    flags = {
        "input": Path("a.jsonl"),
        "timeout": 30.0,
        "base_url": "http://h/v1",
        "output": Path("b"),
        "model": None,
        "concurrency": 8,
        "grace": "1m",
    }
    found = resolve(tmp_path, flags, origin=origins.ARGUMENT)
    assert found.settings.input == "a.jsonl"
    assert found.settings.service.base_url == ("http://h/v1",)
    assert found.settings.output == "b"
    assert (found.settings.timeouts.timeout, found.settings.stopping.grace) == (30.0, 60.0)
    assert (found.origins["timeout"], found.origins["model"]) == ("argument", "default")
    assert refused("E002", tmp_path, {"timeout": "x"}, origin=origins.ARGUMENT).startswith("timeout: 'x'")
    assert "Did you mean max_time?" in refused("E001", tmp_path, {"max_tim": 3}, origin=origins.ARGUMENT)


def test_a_path_at_home_is_one_wherever_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell sees what stands in a file or a variable."""
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "batchrunner.toml").write_text('cache = "~/answers"\noutput = "a~/b"\n')
    found = resolve(tmp_path, {"input": "~/in.jsonl", "notify": "~/tell"}, {"BATCHRUNNER_REPORT": "~/page.html"}).settings
    assert (found.input, found.output, found.reusing.cache) == ("/home/me/in.jsonl", "a~/b", "/home/me/answers")
    assert (found.display.report, found.display.notify) == ("/home/me/page.html", "~/tell")


def test_the_users_file_lies_where_xdg_says() -> None:
    assert origins.user_file({"HOME": "/h"}) == Path("/h/.config/batchrunner/config.toml")
    assert origins.user_file({"HOME": "/h", "XDG_CONFIG_HOME": "/x"}) == Path("/x/batchrunner/config.toml")
    assert origins.user_file({"HOME": "/h", "XDG_CONFIG_HOME": "relative"}) == Path("/h/.config/batchrunner/config.toml")
    assert origins.user_file({}) is None


# ---- errors ----


@pytest.mark.parametrize("where", ["batchrunner.toml", "pyproject.toml"])
def test_an_unknown_key_is_an_error_with_the_nearest_name(tmp_path: Path, where: str) -> None:
    (tmp_path / where).write_text(("[tool.batchrunner]\n" if where == "pyproject.toml" else "") + "max_attemps = 3\n")
    said = refused("E001", tmp_path)
    assert str(tmp_path / where) in said
    assert "Did you mean max_attempts?" in said


@pytest.mark.parametrize(
    ("name", "value", "parts"),
    [
        ("timeout", "30x", ["--timeout", "'30x' is not a duration", "1h30m", "auto"]),
        ("timeout", "0", ["--timeout", "more than 0"]),
        ("concurrency", "0", ["--concurrency", "more than 0", "auto"]),
        ("concurrency", "many", ["--concurrency", "is not a whole number"]),
        ("max_attempts", "0", ["--max-attempts", "at least 1"]),
        ("max_response", "1", ["--max-response", "at least 1024", "64KiB"]),
        ("changed", "rerun!", ["--changed", "not one of refuse, rerun, keep"]),
        ("max_failures", "5 percent", ["--max-failures", "neither a number nor a percentage", "5%"]),
        ("hedge", "one percent", ["--hedge", "neither a number nor a percentage", "1%"]),
        ("max_failures", "150%", ["--max-failures", "more than 100 %"]),
        ("max_timeout", "0", ["--max-timeout: '0' must be more than 0.", "1h30m"]),
        ("connect_timeout", 0, ["--connect-timeout: 0 must be more than 0."]),
        ("max_time", -1, ["--max-time: -1 is too small: at least 0."]),
        ("limit", "9" * 23, [f"--limit: '{'9' * 23}' is too large: at most 9007199254740992."]),
        ("limit", 2**53 + 1, ["--limit: 9007199254740993 is too large"]),
        ("limit", "-1", ["--limit: '-1' is too small: at least 0."]),
        ("max_line", "-4k", ["--max-line: '-4k' is too small: at least 1024."]),
        ("max_time", "-5m", ["--max-time: '-5m' is too small: at least 0."]),
        ("max_cost", "-1", ["--max-cost: '-1' is too small: at least 0.", "Examples: 0.5"]),
        ("max_cost", "inf", ["--max-cost: 'inf' is not a number.", "Examples: 0.5"]),
        ("max_cost", "1e999", ["--max-cost: '1e999' is not a finite number."]),
        ("limit", True, ["--limit: true does not fit: a whole number is wanted, not true or false."]),
        ("timeout", date(2024, 1, 1), ["--timeout: 2024-01-01 does not fit: a number or a text is wanted, not a date."]),
        ("max_line", "8193TiB", ["--max-line: '8193TiB' is too large", "64KiB"]),
        ("quiet", "maybe", ["--quiet", "neither true nor false"]),
        ("max_timeout", float("inf"), ["--max-timeout", "finite"]),
        ("max_timeout", float("nan"), ["--max-timeout", "finite"]),
        ("model", 5, ["--model", "5 does not fit: a text is wanted, not a whole number."]),
        ("workers", "1000", ["--workers: '1000' does not fit: at most 256."]),
        ("max_tokens_total", [1], ["--max-tokens-total: [1] does not fit: a whole number is wanted, not a list."]),
        ("price", ["m", "n"], ["--price: 'm', 'n' is not"]),
        ("param", {"a": 1}, ["--param: {'a': 1} does not fit: a list is wanted, not a table."]),
        ("param", ["a=1", 3], ["--param: 'a=1', 3 does not fit: a text is wanted, not a whole number."]),
    ],
)
def test_a_bad_value_says_option_reason_and_example(tmp_path: Path, name: str, value: Any, parts: list[str]) -> None:
    said = refused("E002", tmp_path, {name: value})
    for part in parts:
        assert part in said


def test_a_bad_value_says_where_it_stands(tmp_path: Path) -> None:
    assert refused("E002", tmp_path, {}, {"BATCHRUNNER_TIMEOUT": "x"}).startswith("BATCHRUNNER_TIMEOUT: 'x'")
    (tmp_path / "batchrunner.toml").write_text("timeout = 'x'\n")
    assert refused("E002", tmp_path).startswith(f"timeout in {tmp_path / 'batchrunner.toml'}: 'x'")


def test_a_bad_price_says_of_which_model(tmp_path: Path) -> None:
    file = tmp_path / "batchrunner.toml"
    for written, said in (
        ("prices = 3", "prices: a table is wanted, not a whole number."),
        ("prices.m = 3", 'prices."m": a table is wanted, not a whole number.'),
        ('prices."a-1".input = "x"', 'prices."a-1": input: a number is wanted, not a text.'),
    ):
        file.write_text(f"prices.ok.input = 1\n{written}\n" if "." in written else written)
        assert f"{file}: {said}" in refused("E002", tmp_path)


def test_a_folder_in_place_of_a_file_of_settings_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "batchrunner.toml").mkdir()
    assert "batchrunner.toml: cannot be read: it is a directory.\n" in refused("E002", tmp_path).replace(" [E002]", "")


@pytest.mark.parametrize("content", ["max_attempts = ", "\xff\xfe", "[tool]\nbatchrunner = 3\n", "tool = 3\n"])
def test_a_file_that_is_no_toml(tmp_path: Path, content: str) -> None:
    (tmp_path / "pyproject.toml").write_bytes(content.encode("latin-1"))
    assert "pyproject.toml" in refused("E002", tmp_path)


def test_a_config_that_is_missing(tmp_path: Path) -> None:
    assert "gone.toml" in refused("E002", tmp_path, {"config": "gone.toml"})


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "batchrunner.toml").write_bytes(b"\xef\xbb\xbfmodel = 'm'\n")
    assert resolve(tmp_path).settings.service.model == "m"


def test_contradictions(tmp_path: Path) -> None:
    assert "quiet" in refused("E003", tmp_path, {"quiet": True, "verbose": True})
    assert "stdout" in refused("E003", tmp_path, {"output": "-", "json": True})
    for whole in ("timeout", "max_timeout"):
        for part in ("first_byte_timeout", "idle_timeout", "connect_timeout"):
            assert f"{part} is longer" in refused("E003", tmp_path, {whole: "3", part: "10m"})
        assert resolve(tmp_path, {whole: "3"}).settings.timeouts.connect_timeout == 10.0, "which nobody said"
    assert "as they are" in refused("E003", tmp_path, {"via": "batch", "max_image_px": 64})


USELESS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "feedback": ({"feedback": True}, {"expect": "json"}),
    "reask": ({"reask": 5}, {"schema": "s.json"}),
    "overflow": ({"overflow": "truncate-head"}, {"max_prompt_tokens": 100}),
    "image_quality": ({"image_quality": 30}, {"max_image_px": 100}),
    "cache_all": ({"cache_all": True}, {"cache": "there"}),
    "cache_size": ({"cache_size": "1MiB"}, {"dedupe": True}),
    "max_timeout": ({"max_timeout": "1m", "timeout": "10s"}, {"timeout": "auto"}),
    "max_concurrency": ({"max_concurrency": 2, "concurrency": 10}, {"concurrency": "auto"}),
}


@pytest.mark.parametrize("name", USELESS)
def test_an_option_that_does_nothing_alone_is_refused_where_it_was_typed(tmp_path: Path, name: str) -> None:
    alone, with_it = USELESS[name]
    flag = "--" + name.replace("_", "-")
    assert f"{flag} does nothing without" in refused("E003", tmp_path, alone)
    assert resolve(tmp_path, {**alone, **with_it}).settings
    assert resolve(tmp_path, {**alone, name: OPTIONS[name].default}).settings, "it was not asked for"
    variables = {OPTIONS[each].variable: str(value) for each, value in alone.items()}
    assert resolve(tmp_path, {}, variables).settings, "there it waits for the other"


def test_what_a_function_of_the_user_judges_gives_these_a_use(tmp_path: Path) -> None:
    runner = batchrunner.Runner(validate=lambda result: None, feedback=True, reask=5)
    assert runner
    with pytest.raises(UsageError, match="overflow does nothing"):
        batchrunner.Runner(overflow="truncate-head")


def test_one_endpoint_that_grows_gives_a_bound_its_use(tmp_path: Path) -> None:
    rows = [{"base_url": "http://a", "concurrency": 3}, {"base_url": "http://b", "concurrency": "auto"}]
    assert resolve(tmp_path, {"endpoint": rows, "max_concurrency": 9, "concurrency": 5}).settings
    assert "does nothing" in refused("E003", tmp_path, {"endpoint": rows[:1], "max_concurrency": 9})


@pytest.mark.parametrize("proxy", ["nope", "nope:x", "http://", "socks5://h:1", "http://[::1", "me:secret-pass@h"])
def test_what_is_no_proxy_is_refused_at_once_and_not_repeated(tmp_path: Path, proxy: str) -> None:
    said = refused("E002", tmp_path, {"proxy": proxy})
    assert "no address of a proxy" in said
    assert "nope" not in said
    assert "secret-pass" not in said


@pytest.mark.parametrize("proxy", ["", "none", "h:3128", "http://h", "https://h.example:1", "HTTP://[::1]:80", "me:pass@h:80"])
def test_what_may_be_a_proxy(tmp_path: Path, proxy: str) -> None:
    assert resolve(tmp_path, {"proxy": proxy}).settings.connection.proxy == proxy


@pytest.mark.parametrize("route", ["x", "/v1/../x", "//h/x", "ftp://h/x", "/v1/a b"])
def test_what_is_no_route_is_refused(tmp_path: Path, route: str) -> None:
    assert "is no route: the url" in refused("E002", tmp_path, {"route": route})


@pytest.mark.parametrize("route", ["", "/v1/embeddings", "/x?y=1", "https://h/v1/embeddings"])
def test_what_may_be_a_route(tmp_path: Path, route: str) -> None:
    assert resolve(tmp_path, {"route": route}).settings.intake.route == route


SECRET = "hunter2hunter2"


@pytest.mark.parametrize("key", ["sk-proj-abcdefghijk", "gsk_a1B2c3D4e5F6g7H8i9J0k1", "hf_" + 30 * "aB3", "A" * 65, "1-2", "A B"])
def test_a_key_in_place_of_its_variable_is_refused_and_not_repeated(tmp_path: Path, key: str) -> None:
    for flags in ({"api_key_env": [key]}, {"endpoint": [{"base_url": "http://h", "api_key_env": key}]}):
        said = refused("E002", tmp_path, flags)
        assert "is not the name of a variable" in said
        assert key not in said


@pytest.mark.parametrize("name", ["", "OPENAI_API_KEY", "myKey2", "AZURE_OPENAI_API_KEY_OF_THE_SECOND_REGION_EU_WEST_3"])
def test_a_variable_may_have_any_name_that_people_give(tmp_path: Path, name: str) -> None:
    assert resolve(tmp_path, {"api_key_env": [name]}).settings.service.api_key_env == (name,)


def test_no_secret_in_errors_masks_or_repr(tmp_path: Path) -> None:
    for name, value in (("header", [SECRET]), ("header", [f"A: {SECRET}"]), ("proxy", 5)):
        assert SECRET not in refused("E002", tmp_path, {name: value})
    flags = {
        "header": [f"Authorization=Bearer {SECRET}"],
        "proxy": f"http://me:{SECRET}@proxy:1",
        "base_url": [f"https://k:{SECRET}@h/v1?key={SECRET}"],
        "notify": f" curl\t-H 'Key: {SECRET}'\n{SECRET} ",
    }
    found = resolve(tmp_path, flags).settings
    assert SECRET not in repr(found)
    shown = {name: masked(name, value) for name, value in values(found).items()}
    assert SECRET not in str(shown)
    assert shown["header"] == ("Authorization=…",)
    assert shown["proxy"] == "http://…@proxy:1"
    assert (shown["notify"], masked("notify", "mail-me")) == ("curl …", "mail-me")
    assert masked("proxy", "http://proxy:1") == "http://proxy:1"


@given(
    st.sampled_from(sorted(OPTIONS)),
    st.one_of(st.text(max_size=10), st.integers(), st.floats(), st.booleans(), st.lists(st.text(max_size=5), max_size=2)),
)
@examples(deadline=None, max_examples=300)
def test_any_value_fits_its_type_or_is_a_usage_error(name: str, value: Any) -> None:
    with suppress(UsageError):
        flat = values(origins.resolve({name: value}, {}, Path("/nonexistent")).settings)[name]
        assert msgspec.convert(flat, OPTIONS[name].annotation) == flat


# ---- stopping ----


@pytest.mark.parametrize(
    ("text", "cap"), [("", (None, None)), ("200", (200, None)), ("0", (0, None)), ("5%", (None, 0.05)), ("0.5%", (None, 0.005))]
)
def test_cap_of(text: str, cap: tuple[int | None, float | None]) -> None:
    assert cap_of(text) == cap


@pytest.mark.parametrize(
    ("rules", "succeeded", "failed", "elapsed", "word"),
    [
        (Stopping(), 0, 10**6, 10**6, ""),
        (Stopping(max_time=60), 0, 0, 59.9, ""),
        (Stopping(max_time=60), 0, 0, 60, "max_time"),
        (Stopping(max_failures="10"), 0, 10, 1, ""),
        (Stopping(max_failures="10"), 0, 11, 1, "max_failures"),
        (Stopping(max_failures="0"), 5, 1, 1, "max_failures"),
        (Stopping(max_failures="5%"), 0, 99, 1, ""),
        (Stopping(max_failures="5%"), 95, 5, 1, ""),
        (Stopping(max_failures="5%"), 94, 6, 1, "max_failures"),
        (Stopping(max_failures="5%"), 1900, 101, 1, "max_failures"),
        (Stopping(max_failures="100%"), 0, 1000, 1, ""),
    ],
)
def test_when_to_stop(rules: Stopping, succeeded: int, failed: int, elapsed: float, word: str) -> None:
    reason = reason_to_stop(rules, succeeded, failed, elapsed)
    assert bool(reason) == bool(word)
    assert word in reason
    assert not word or re.search(r"\d", reason)
