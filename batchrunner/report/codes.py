"""What each code means, why it comes, and what to do: the table behind `batchrunner explain CODE`.

Rules:

1. Every code that the package uses stands here, and none that it does not. A code keeps its meaning for ever.
2. `steps` are things to type or to look at, the likeliest first; an option named here exists.
"""

from collections.abc import Mapping

from msgspec import Struct


class Code(Struct, frozen=True):
    """One code: its meaning in a few words, the reason behind it, and what to do."""

    means: str
    why: str
    steps: tuple[str, ...]


CODES: Mapping[str, Code] = {
    "E001": Code(
        "an option or command that does not exist",
        "A name on the command line, in a configuration file or in the library call is unknown. Unknown names are refused, "
        "for a typo that is silently ignored costs a whole run.",
        ("batchrunner --help lists every option", "the message names the nearest one, if there is one"),
    ),
    "E002": Code(
        "an option with a value that does not fit",
        "The value has another type, unit or range than the option takes. Times are written 30s, 2m, 1h30m, 500ms; sizes 64MiB; "
        "counts 40k; plain numbers are seconds, bytes and pieces.",
        ("batchrunner config show --origin says which value comes from where", "the message gives examples of what fits"),
    ),
    "E003": Code(
        "options that contradict one another",
        "Two things were asked for that cannot both be done, perhaps one of them by an environment variable or a file. Or one "
        "was typed that does nothing without another, so that what it was to do would not be done.",
        ("batchrunner config show --origin says where each comes from", "take one of the two away, or add what is missing"),
    ),
    "E101": Code(
        "nowhere to send the requests, or no key for it",
        "No --base-url was given and no provider's key is set, or the endpoint wants a key whose variable is empty. "
        "Nothing is ever sent to an endpoint that nobody named.",
        (
            "a server of your own:  batchrunner INPUT --base-url http://localhost:8000/v1",
            "OpenAI:  export OPENAI_API_KEY=…",
            'a key in another variable:  --api-key-env NAME; a server without keys:  --api-key-env ""',
            "only a rehearsal:  --base-url simulated",
        ),
    ),
    "E102": Code(
        "a base URL that is none",
        "The address has no scheme or host, holds a user name or password, a blank or another character that no address may "
        "hold, or names a simulated endpoint that does not exist.",
        ("write it like https://api.example.com/v1 or http://localhost:8000/v1", "put keys into a variable: --api-key-env NAME"),
    ),
    "E103": Code(
        "a secret that would travel in clear",
        "The address is plain http and leads to another machine: everybody on the way could read the key.",
        (
            "use https",
            'send no key:  --api-key-env ""',
            "accept it, for example inside a cluster:  --allow-insecure",
        ),
    ),
    "E201": Code(
        "an input that cannot be read",
        "No input was named, the file does not exist, may not be read, or stdin is closed; or it is a .gz or .zst that was cut "
        "or damaged. Or merge was given files without a record.",
        (
            "check the path: relative ones start at the current directory",
            "ls -l INPUT shows who may read it",
            "gzip -t INPUT, zstd -t INPUT say whether it is whole",
        ),
    ),
    "E202": Code(
        "an input that is no file",
        "A directory without a file that can be read, a pattern that fits none, a device or a named pipe was given. "
        "The input is read again when a run is continued, so it must be a file.",
        ("name one file of requests", "pipe anything else in:  … | batchrunner - -o FILE"),
    ),
    "E203": Code(
        "a line that is no request",
        "A line of the input is not JSON, lacks its url or body, or is a row of another program's format. "
        "The run goes on without it; the line is recorded in the errors file. But where none of the first 20 lines is a request, "
        "each for the same reason that a setting may explain, and nothing was answered before, the run is refused.",
        (
            "batchrunner check INPUT lists every such line with its number",
            'each line looks like {"custom_id": "r-1", "method": "POST", "url": "/v1/chat/completions", "body": {…}}',
            "correct the lines and run the same command again: only they are sent",
            "they are meant to fail, each by itself:  --max-alike 0",
        ),
    ),
    "E204": Code(
        "a file of another type",
        "The input is UTF-16, Parquet, a zip archive or another binary format, or by its name a .gz or .zst that it is not. "
        "Lines of JSON in UTF-8 are read, plain or packed with gzip or zstd.",
        ("convert it: iconv -f UTF-16 -t UTF-8, unzip -p, or a line of Python", "head -c 200 INPUT shows what it is"),
    ),
    "E205": Code(
        "two lines with the same custom_id",
        "A result is found by its custom_id, so that each may stand on one line only. Nothing was sent.",
        ("batchrunner check INPUT names the lines", "number them anew, or leave custom_id out: then one is made for each line"),
    ),
    "E206": Code(
        "something that needs an extra",
        "A feature was asked for whose library is not installed, because most people do not need it.",
        ("pip install 'batchrunner[NAME]' with the name that the message gives",),
    ),
    "E207": Code(
        "files of another batch that answer other requests",
        "retry --done joins lines by custom_id, and not one custom_id of these files stands in the input. Nothing was written.",
        (
            "name the input that the batch was made of",
            "compare the ids:  head -1 INPUT; head -1 FILE",
        ),
    ),
    "E208": Code(
        "rows that cannot become requests",
        "The input is a table, or a prompt for rows was given, and something is missing that no single row could mend: "
        "the prompt, the model, a column that the prompt names, a route that takes a prompt; or the table itself is broken.",
        (
            "batchrunner check rows.csv --prompt 'Summarise: {bio}' --model NAME  sends nothing",
            "the message lists the columns that are there; a brace itself is written {{",
            "a row that only lacks a value is no such error: it ends in the errors file, and the others are sent",
        ),
    ),
    "E209": Code(
        "a JSON Schema that is none",
        "The file of --schema cannot be read, is no JSON, is no schema, or points to another file. Nothing that a schema "
        "points to is fetched.",
        ("python -m json.tool FILE shows where it is no JSON", "put what it points to into it: #/$defs/NAME"),
    ),
    "E301": Code(
        "the endpoint refused the key",
        "It answered 401 or 403: the key is wrong, expired, of another project or region, or may not use this model. "
        "It refused the line that the message names, and others that were asked after it: every further request would have met "
        "the same. None of them counts as failed. A line that is refused while others are answered fails alone.",
        (
            "check the variable that holds the key: batchrunner config show --origin, option api_key_env",
            "if it refuses what this line asks for, and all lines like it: correct them, or take them out",
            "try the key with one request: batchrunner INPUT --limit 1",
            "then the same command continues",
        ),
    ),
    "E302": Code(
        "the account has no money or quota left",
        "The endpoint said so. Sending more would only be refused; what was not answered stays pending.",
        ("top up the account, or raise its limit with the provider", "then the same command continues"),
    ),
    "E303": Code(
        "your own cap was reached",
        "A limit that you set for the whole run, of time, money or tokens, is used up. Requests in flight were let finish.",
        (
            "raise the cap, or run the same command again: caps count anew for each run",
            "--price MODEL=IN/OUT says a price that nobody lists; without it --max-cost cannot be kept",
            "batchrunner status INPUT shows what is left",
        ),
    ),
    "E304": Code(
        "the endpoint does not know the model, route or address",
        "It answered that what the line in the message asks for does not exist there, and said so to others asked after it; "
        "or its certificate is not trusted, or a proxy on the way refuses us. "
        "None of them counts as failed. A line that is refused while others are answered fails alone.",
        (
            "compare --base-url with the provider's page: it ends before /chat/completions",
            "compare the model's name; --model NAME sets it for every line",
            "a certificate:  --ca-bundle FILE names the authority; a proxy (HTTP 407) wants user and password in its address",
            "HTTP 421: the address leads to another host; HTTP 431: a header is too large, perhaps one given with --header",
            "then the same command continues",
        ),
    ),
    "E305": Code(
        "no endpoint is in reach",
        "Nobody has answered for --max-outage but by the errors of gateways and servers, that the model is being loaded, or, to "
        "the last 20 lines, that they are busy (one minute if nobody who is still in use ever did at all, or ten times your own "
        "--timeout if that is less and ended every attempt), or an endpoint asked for a longer pause than a run waits. "
        "What was not answered stays pending.",
        (
            "the message says what each endpoint had to say: connection refused, unknown name, …",
            "it names a timeout of yours that ended every attempt: allow more, or let it be learned: --timeout auto",
            "check with curl -i URL from this machine; look at proxies and VPN",
            "a second --base-url takes over when the first is down",
            "then the same command continues",
        ),
    ),
    "E306": Code(
        "too many requests failed",
        "More failed for good than --max-failures allows, so that the run stopped before spending more. Requests that were under "
        "way at that moment were let finish, for they are paid for, and some of them may have failed too: with -c 1 hardly any.",
        ("look at the errors file: each line says why and what to do", "correct the cause, then batchrunner retry INPUT"),
    ),
    "E307": Code(
        "it looks like configuration",
        "The first requests of this run (--max-alike, 20) all failed alike, and not one was answered: rather a wrong model, "
        "parameter or address than so many bad lines. None of them is recorded as failed; all are still to do. In a file with "
        "fewer lines than that they are recorded as failed, each with what the endpoint said. The same goes for the first lines "
        "of a run whose model no [[endpoint]] has on its map, while none was served.",
        (
            "the message says what the endpoint answered; the errors of a small try say it in full: --limit 1",
            "correct --base-url, --model or the lines' bodies; then the same command asks all of them",
            "the lines are meant to fail: --max-alike 0, and each is recorded with its own failure",
        ),
    ),
    "E308": Code(
        "a batch service that does not do it",
        "With --via batch the file is uploaded to the provider's Batch API. It has refused the file or the batch, does not "
        "answer, or there is no such API at this address. Batches that are under way go on.",
        (
            "the message says what it refused; correct that and run the same command again",
            "send the requests one by one:  batchrunner INPUT --via calls",
        ),
    ),
    "E309": Code(
        "requests that may be on the bill twice",
        "So many requests were sent and never answered that asking them again might be paid for twice, beyond a floor of 256 and "
        "a quarter of the answers. What could be answered has been; these stay pending.",
        (
            "see why they were not answered:  batchrunner diagnose INPUT",
            "run the same command again: that asks for them anew, within a new budget",
            "ask without a budget:  --retry-ambiguous always",
        ),
    ),
    "E401": Code(
        "a place where the output cannot be written",
        "The path is a directory, a symbolic link, the input itself, or not allowed to be written, or, of a job that is only "
        "looked at, to be read; its name is too long; the current directory is gone; or it holds something already that is not "
        "ours to write over, as far as one can see. "
        "Links are refused, for a file that somebody else placed there must not decide where your answers go.",
        ("choose another place:  -o FILE", "ls -ld on the folder shows who may write", "if nobody needs what is there:  rm FILE"),
    ),
    "E402": Code(
        "finished lines have another text now",
        "The input was edited since the last run, and lines that have a result already are no longer what was asked. "
        "New, removed or moved lines are fine; only changed ones need your word. Lines without a `custom_id` are known by their "
        "number and text: where such lines are moved, what is behind them would be paid for again.",
        ("ask them again:  --changed rerun", "keep their results:  --changed keep", "start over:  --fresh"),
    ),
    "E403": Code(
        "another run is writing there",
        "One output has one writer. The message says which process on which machine, and since when; a killed run holds no lock.",
        (
            "wait for it, or stop it",
            "or write elsewhere:  -o FILE",
            "a program that names itself holds a stream it has not read to its end:  await stream.aclose()",
        ),
    ),
    "E404": Code(
        "writing failed",
        "The disk is full or broken, a quota is reached, or whoever read stdout has gone. Everything acknowledged is safe; "
        "what was in hand was saved in the run folder if at all possible, and is taken back by the next run.",
        (
            "make room, or mend the disk",
            "run the same command again: it continues",
            "--min-free SIZE says when to stop in good time",
        ),
    ),
    "E405": Code(
        "the output is damaged",
        "Many lines in the middle of the results or errors are no records: a disk fault, or an editor that saved something else. "
        "A torn last line is no damage; it is repaired in silence.",
        (
            "copies of the damaged lines are in the run folder, under torn/",
            "restore the file, or delete those lines, and run again",
        ),
    ),
    "E406": Code(
        "the input vanished or changed while it was read",
        "The file was replaced, cut or removed under a running job, or the stream broke off.",
        ("put the whole file back", "run the same command again: it continues"),
    ),
    "E407": Code(
        "the worker processes cannot be kept alive",
        "With --workers N, N-1 processes hold connections beside the run; one that dies is replaced and what it had under way is "
        "sent again. "
        "Here they died one after the other without an answer between them, or could not be started at all. Nothing that was "
        "answered is lost.",
        (
            "look for a lack of memory: the system's log tells what its out-of-memory killer has ended",
            "BATCHRUNNER_DEBUG=1 shows what the workers themselves have to say",
            "fewer workers, or none:  --workers 1",
            "run the same command again: it continues",
        ),
    ),
    "E409": Code(
        "a cache that cannot be used",
        "The folder of --cache, or the run folder with --dedupe, cannot be written, or something else stands there.",
        ("name another folder:  --cache DIR", "do without --dedupe: nothing is lost but what equal requests cost"),
    ),
    "E501": Code(
        "a function of yours failed",
        "A hook raised an exception on one line, or prepare returned something other than a Request (is a return missing?), or "
        "classify no kind; the record says which. Only that line fails. An iterable of requests that raises ends the run.",
        (
            "correct the function",
            "then  await runner.retry(INPUT)  asks those lines again; the command would do it without your functions",
        ),
    ),
    "E901": Code(
        "a fault of batchrunner itself",
        "This should not happen. Results so far are safe, the exit code is 4, and the same command continues.",
        ("BATCHRUNNER_DEBUG=1 shows where it happened", "please report it with that output; it holds no key"),
    ),
}
