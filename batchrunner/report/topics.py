"""Longer answers behind `batchrunner explain TOPIC`: how to run a job elsewhere, and what lies in its folder.

Rules:

1. Ready to be copied: a unit, a batch script or a manifest stands here whole.
2. An option or a command named here exists; a signal and an exit code are those of the engine.
"""

from collections.abc import Mapping

TOPICS: Mapping[str, tuple[str, str]] = {
    "systemd": (
        "a job as a unit that starts again until it is done",
        """\
# /etc/systemd/system/batch.service; keys stand in batch.env, readable by its user only: OPENAI_API_KEY=…
[Unit]
Description=requests of prompts.jsonl
Wants=network-online.target
After=network-online.target

[Service]
User=batch
WorkingDirectory=/srv/batch
EnvironmentFile=/srv/batch/batch.env
ExecStart=/usr/bin/env batchrunner prompts.jsonl --display log
Restart=on-failure
RestartSec=60
# 0 is done; 1 has failures for good, 2 is a wrong setting: starting again would change nothing
SuccessExitStatus=1
RestartPreventExitStatus=2
# SIGTERM lets what is in flight finish for --grace (20 s)
TimeoutStopSec=40
LimitNOFILE=65536

[Install]
WantedBy=multi-user.target""",
    ),
    "slurm": (
        "a job in pieces as an array, each of which survives the end of its time",
        """\
#!/bin/bash
#SBATCH --array=0-7
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue --open-mode=append
# --shard auto takes its piece from the array. Two minutes before its time is up it drains, exits 143, and is queued again.
mkdir -p out
batchrunner prompts.jsonl --shard auto -o "out/$SLURM_ARRAY_TASK_ID.jsonl" --display log &
run=$!
trap 'kill -TERM $run' TERM
wait $run; wait $run; code=$?  # the first ends when the signal comes
[ $code = 143 ] && scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
exit $code
# at last:  batchrunner merge out/*.jsonl -o all.jsonl --input prompts.jsonl""",
    ),
    "kubernetes": (
        "a job in pieces as an indexed Job, with the shared volume as its memory",
        """\
apiVersion: batch/v1
kind: Job
metadata: {name: prompts}
spec:
  completionMode: Indexed
  completions: 8
  parallelism: 8
  backoffLimitPerIndex: 20
  podFailurePolicy:
    rules:  # 1 and 2 would be the same again; 3, 4 and signals continue where they were
      - {action: FailIndex, onExitCodes: {operator: In, values: [1, 2]}}
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 40  # SIGTERM, then --grace (20 s) for what is in flight
      containers:
        - name: batchrunner
          image: YOUR/IMAGE
          workingDir: /work
          command:
            - sh
            - -c
            - mkdir -p out && exec batchrunner prompts.jsonl --shard auto/8 -o out/$JOB_COMPLETION_INDEX.jsonl --display log
          envFrom: [{secretRef: {name: api-key}}]  # OPENAI_API_KEY
          volumeMounts: [{name: work, mountPath: /work}]
      volumes: [{name: work, persistentVolumeClaim: {claimName: work}}]""",
    ),
    "monitoring": (
        "the live page and its controls, Prometheus, Grafana, OpenTelemetry",
        """\
# The page live at 127.0.0.1; what changes the run wants the token that stands in the address printed at the start.
batchrunner prompts.jsonl --dashboard 8377
curl -s http://127.0.0.1:8377/status.json          # counts, rates, limits, verdicts of the diagnosis; no id, no setting
curl -s -X POST -H "X-Token: $TOKEN" http://127.0.0.1:8377/pause              # or /resume
curl -s -X POST -H "X-Token: $TOKEN" http://127.0.0.1:8377/concurrency -d n=64
curl -s -X POST -H "X-Token: $TOKEN" http://127.0.0.1:8377/rate -d n=600      # requests a minute; 0 for any number
ssh -L 8377:127.0.0.1:8377 HOST                    # from another machine

# prometheus.yml
scrape_configs:
  - job_name: batchrunner
    static_configs: [{targets: ["127.0.0.1:8377"]}]

# Grafana: import the file that this names
python -c 'from importlib.resources import files; print(files("batchrunner.report") / "grafana.json")'

# OpenTelemetry (pip install 'batchrunner[otel]'): a span for each of so many requests, by the GenAI conventions,
# to whatever SDK and exporter this process has
batchrunner prompts.jsonl --otel 0.1

# Without any of them: a block of figures now and then, or lines to search
kill -USR1 PID
batchrunner prompts.jsonl --display log --log-format json""",
    ),
    "files": (
        "what lies beside an input, and what in its folder",
        """\
For prompts.jsonl; with -o X.jsonl they are X.jsonl, X.errors.jsonl and X.run/.

prompts.results.jsonl   one line for each good answer, as the OpenAI Batch service writes it, and our facts under `batchrunner`
prompts.errors.jsonl    one line for each request that failed for good: see `batchrunner.kind` and `batchrunner.hint`
prompts.run/summary.json    the counts of the last run, as --json prints them
prompts.run/report.html     the page: what happened, why, what to do
prompts.run/attempts.jsonl  failed and retried attempts with phases, deadline, reason, request id; a sample of the good ones
                            (--log-attempts failed|sample|all, at most --log-size)
prompts.run/events.jsonl    session · moment, moment, … · end: counters, latencies by endpoint and phase, limits in force
                            (every few seconds, at most 64 MiB)
                            (each with its older half as events.1.jsonl and attempts.1.jsonl)
prompts.run/input.jsonl     the requests that were made of a table or of texts, or came by stdin
prompts.run/batches/        a batch of --via batch until its answers are in: it is paid for, and found again by this
prompts.run/earlier/        answers that no longer count, from before --fresh or to a line that was edited since
prompts.run/torn/           whatever repair had to cut off; nothing is thrown away
The rest are caches and a lock: checkpoint, learned.json, answers.sqlite (of --dedupe), lock. Delete them while nothing runs,
and nothing is lost. No file holds a key.

jq -r '[.custom_id, .response.body.choices[0].message.content] | @tsv' prompts.results.jsonl
jq -r 'select(.event=="attempt" and .kind!="ok") | [.at,.id,.kind,.status,.message] | @tsv' prompts.run/attempts.jsonl
jq -c 'select(.event=="moment") | [.at, .done, .in_flight, .lanes[0].limit, .lanes[0].deadline]' prompts.run/events.jsonl
Every field: batchrunner/core/trail.py""",
    ),
}
"""Name to what it is about, and the text."""
