"""A worker without streams: counts the words of each task of kind "words", and never looks back. docs/PROTOCOL.md tells the rules.

    pip install grpcio grpcio-tools
    PYTHONPATH=proto/proto python examples/python/worker_in_twenty_lines.py unix:$XDG_RUNTIME_DIR/qtf/default.sock
"""

import sys
import grpc

task, _ = grpc.protos_and_services("qtf/v1/task.proto")
work, services = grpc.protos_and_services("qtf/v1/work.proto")
# Without this option every call over a Unix socket ends with RST_STREAM code 1.
channel = grpc.insecure_channel(sys.argv[1], [("grpc.default_authority", "localhost")])
daemon = services.WorkStub(channel)
while True:
    answer = daemon.Reserve(work.ReserveRequest(name="words.py", kinds=["words"], count=8, wait_ms=20_000, lease_ms=30_000))
    for got in answer.tasks:
        end = work.FinishRequest(attempt_token=got.attempt_token)
        try:
            if got.payload_bytes > len(got.payload):
                raise ValueError("the payload was uploaded: Scheduler.FetchPayload reads it")
            end.output.stdout = b"%d" % len(got.payload.decode().split())
            end.outcome.kind = task.OUTCOME_KIND_EXITED
        except ValueError as error:  # also where the payload is no text
            end.output.message = str(error)
            end.outcome.kind = task.OUTCOME_KIND_FAILED_FOR_GOOD
        daemon.Finish(end)
    if answer.drain:
        break
