"""The settings as keywords, for editors and type checkers. `tests/test_runner.py` holds it to `settings.OPTIONS`."""

from collections.abc import Sequence
from typing import Literal, TypedDict

Duration = float | str  # seconds, or 30s, 2m, 1h30m
Size = int | str  # bytes, or 64MiB


class Options(TypedDict, total=False):
    """Every setting of the command line under the same name. What is not given comes from environment and files, as there."""

    config: str
    fresh: bool
    changed: Literal["refuse", "rerun", "keep"]
    limit: int
    where: str
    shard: str
    format: Literal["auto", "openai", "azure", "vllm", "http", "anthropic", "mistral", "cookbook"]
    route: str
    max_line: Size
    prompt: str
    system: str
    id_column: str
    param: str | Sequence[str]
    render: str
    sync: Literal["none", "interval", "always"]
    min_free: Size
    spill_dir: str
    strict_openai: bool
    ordered: bool
    output_format: Literal["auto", "openai", "azure", "mistral", "vllm", "anthropic", "cookbook"]
    dedupe: bool
    cache: str
    cache_size: Size
    cache_all: bool
    expect: Literal["any", "json"]
    schema: str
    feedback: bool
    max_image_px: int
    image_quality: int
    max_prompt_tokens: int
    overflow: Literal["fail", "truncate-head", "truncate-middle"]
    base_url: str | Sequence[str]
    via: Literal["calls", "batch"]
    provider: str
    api_key_env: str | Sequence[str]
    auth: Literal["auto", "bearer", "basic", "api-key", "x-api-key", "x-goog-api-key"]
    model: str
    header: Sequence[str]
    allow_insecure: bool
    proxy: str
    ca_bundle: str
    keepalive: Duration
    max_response: Size
    concurrency: int | Literal["auto"]
    max_concurrency: int
    hedge: int | str
    rpm: int | str
    tpm: int | str
    rpd: int | str
    workers: int
    timeout: Duration | Literal["auto"]
    max_timeout: Duration
    connect_timeout: Duration
    first_byte_timeout: Duration | Literal["auto"]
    idle_timeout: Duration | Literal["auto"]
    stream: Literal["auto", "on", "off"]
    missing_finish: Literal["auto", "accept", "retry"]
    keep_partial: bool
    max_attempts: int
    max_age: Duration
    retry_ambiguous: Literal["always", "budget", "never"]
    reask: int
    max_time: Duration
    max_alike: int
    max_failures: int | str
    max_outage: Duration
    max_cost: float | str
    max_tokens_total: int
    price: str | Sequence[str]
    log_attempts: Literal["failed", "sample", "all"]
    log_size: Size
    grace: Duration
    display: Literal["auto", "full", "plain", "log", "none"]
    quiet: bool
    verbose: bool
    json: bool
    log_format: Literal["kv", "json"]
    report: str
    dashboard: int
    notify: str
    otel: float | str
