"""The same file by the programs that people use instead. Runs in the environment of one of them.

    python routes.py NAME URL FILE CONCURRENCY FOLDER      one JSON line: {"seconds", "right", "failed", "version"}

Rules:

1. Each is used as its own documentation shows, at the asked concurrency, with its own limits lifted where they would be measured
   instead of it, and without progress bars. It leaves its answers where it normally does: on disk, or in memory where it has
   no files.
2. "seconds" begin when the rows are read. An answer is right when it holds what the server said to its own question; where a
   program keeps only the text, when there is one.
3. Nothing of ours is imported: the environment has none of it.
"""

import asyncio
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]
Route = Callable[[str, Rows, int, Path], Awaitable[int]]


async def _each(rows: Rows, concurrency: int, ask: Callable[[dict[str, Any]], Awaitable[str]]) -> int:
    """What people write round a client: a semaphore, and one task a row."""
    semaphore = asyncio.Semaphore(concurrency)

    async def one(row: dict[str, Any]) -> bool:
        async with semaphore:
            return (await ask(row["body"])).endswith(row["custom_id"])

    return sum(await asyncio.gather(*map(one, rows)))


async def openai(url: str, rows: Rows, concurrency: int, _folder: Path) -> int:
    from openai import AsyncOpenAI

    client = AsyncOpenAI(base_url=url, api_key="key")

    async def ask(body: dict[str, Any]) -> str:
        return str((await client.chat.completions.create(**body)).id)

    return await _each(rows, concurrency, ask)


async def litellm(url: str, rows: Rows, concurrency: int, _folder: Path) -> int:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it begins by fetching prices
    import litellm

    litellm.suppress_debug_info = True

    async def ask(body: dict[str, Any]) -> str:
        answer = await litellm.acompletion(**{**body, "model": f"openai/{body['model']}"}, api_base=url, api_key="key")
        return body["user"] if answer.choices[0].message.content else ""  # it makes up ids of its own

    return await _each(rows, concurrency, ask)


async def flexllm(url: str, rows: Rows, concurrency: int, folder: Path) -> int:
    from flexllm import OpenAIClient

    client = OpenAIClient(base_url=url, api_key="key", model="bench", concurrency_limit=concurrency, max_qps=1_000_000)
    asked = [row["body"]["messages"] for row in rows]
    answers = await client.chat_batch(asked, show_progress=False, output_jsonl=str(folder / "flexllm.jsonl"))
    return sum(bool(each.content) for each in answers)


async def saturate(url: str, rows: Rows, concurrency: int, folder: Path) -> int:
    import saturate as package

    right = 0

    def parse(row: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        nonlocal right
        right += answer["id"].endswith(row["custom_id"])
        return {"answer": json.dumps(answer)}

    window, output = package.Fixed(concurrency), str(folder / "saturate")
    pairs = [(row["custom_id"], row) for row in rows]
    await asyncio.to_thread(
        package.pump, pairs, to_request=lambda row: row["body"], parse=parse, endpoint=url, output=output, window=window
    )
    return right


async def async_batch_llm(url: str, rows: Rows, concurrency: int, _folder: Path) -> int:
    from async_batch_llm import llm, process_prompts

    asked = [row["body"]["messages"][0]["content"] for row in rows]
    batch = await process_prompts(llm("openai-compatible:bench", base_url=url, api_key="key"), asked, concurrency=concurrency)
    return sum(bool(each.success and each.output) for each in batch.results)


async def curator(url: str, rows: Rows, concurrency: int, folder: Path) -> int:
    import litellm
    from bespokelabs import curator as package

    # The table of tokens that it fetches at its start lies in a package that it needs: no net is wanted for it.
    tables = Path(litellm.__file__).parent / "litellm_core_utils" / "tokenizers"
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(tables))
    limits = {"max_concurrent_requests": concurrency, "max_requests_per_minute": 10**9, "max_tokens_per_minute": 10**12}
    llm = package.LLM(model_name="bench", backend="openai", backend_params={"base_url": url, "api_key": "key", **limits})
    asked = [row["body"]["messages"] for row in rows]
    answers = await asyncio.to_thread(llm, asked, working_dir=str(folder))
    return sum(bool(each["response"]) for each in answers.dataset)


async def cookbook(url: str, rows: Rows, concurrency: int, folder: Path) -> int:
    """The loop of the OpenAI cookbook's script: look at the budgets, start what fits, sleep a millisecond."""
    import aiohttp

    right, under_way, waiting = 0, 0, iter(rows)
    target, output = f"{url}/chat/completions", folder / "cookbook.jsonl"

    async def call(session: aiohttp.ClientSession, row: dict[str, Any]) -> None:
        nonlocal right, under_way
        async with session.post(target, headers={"authorization": "Bearer key"}, json=row["body"]) as response:
            answer = await response.json()
        right += answer["id"].endswith(row["custom_id"])
        with output.open("a") as file:
            file.write(json.dumps([row["body"], answer]) + "\n")
        under_way -= 1

    async with aiohttp.ClientSession() as session:
        tasks = set()
        row = next(waiting, None)
        while row or under_way:
            if row and under_way < concurrency:
                under_way += 1
                tasks.add(task := asyncio.create_task(call(session, row)))
                task.add_done_callback(tasks.discard)
                row = next(waiting, None)
            await asyncio.sleep(0.001)
    return right


ROUTES: dict[str, tuple[Route, str]] = {  # with the distribution whose version counts
    "openai": (openai, "openai"),
    "litellm": (litellm, "litellm"),
    "flexllm": (flexllm, "flexllm"),
    "saturate": (saturate, "saturate"),
    "curator": (curator, "bespokelabs-curator"),
    "async-batch-llm": (async_batch_llm, "async-batch-llm"),
    "cookbook": (cookbook, "aiohttp"),
}


def main(name: str, url: str, file: str, concurrency: str, folder: str) -> None:
    route, package = ROUTES[name]
    rows = [json.loads(line) for line in Path(file).read_bytes().splitlines()]
    start = time.perf_counter()
    told = {"right": 0, "failed": "", "version": importlib.metadata.version(package)}
    try:
        told["right"] = asyncio.run(route(url, rows, int(concurrency), Path(folder)))
    except Exception as why:  # whatever it is, the table tells it
        told["failed"] = f"{type(why).__name__}: {why}"
    told["seconds"] = time.perf_counter() - start
    print(f"\n{json.dumps(told)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
