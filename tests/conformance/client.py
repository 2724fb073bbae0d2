"""A client in Python that keeps all rules of docs/PROTOCOL.md, as short as it can be.

    client.py ADDRESS submit KIND PAYLOAD [--count N] [--timeout-ms N] [--retries N] [--file]
    client.py ADDRESS results ID...
    client.py ADDRESS cancel ID...

`submit` prints the ids, one a line. `results` waits for the ends, prints `ID STATE OUTCOME CODE ATTEMPT BYTES SHA256` for
each, of its standard output, and acknowledges it. Both go on when the daemon is killed and started again.
"""

import argparse
import hashlib
import os
import socket
import threading
import time
import uuid

import grpc

import link
from qtf.v1 import plm_pb2, plm_pb2_grpc, register_pb2, register_pb2_grpc, task_pb2

BATCH_MAX = 1_024
PATIENCE_S = 60


class Client:
    """A session that comes back: calls that may be repeated are, for as long as PATIENCE_S."""

    def __init__(self, address):
        self.channel = link.channel(address)
        self.plm = plm_pb2_grpc.PlmStub(self.channel)
        self.register = register_pb2_grpc.RegisterStub(self.channel)
        self.welcome = None
        self.patiently(self.open)

    def open(self):
        """Hello, and a heartbeat in each period for as long as the session is open."""
        hello = register_pb2.ClientHello(
            name="client.py", host=socket.gethostname(), pid=os.getpid(), protocol_version=1
        )
        beats = link.Outbox()
        beats.put(register_pb2.ClientHeartbeat(hello=hello))
        notices = self.register.ClientSession(iter(beats))
        self.welcome = next(notices).welcome
        over = threading.Event()

        def read():
            try:
                for _ in notices:
                    pass
            except grpc.RpcError:
                pass
            over.set()
            beats.close()

        def beat():
            while not over.wait(self.welcome.heartbeat_ms / 1_000):
                beats.put(register_pb2.ClientHeartbeat())

        for target in (read, beat):
            threading.Thread(target=target, daemon=True).start()

    def patiently(self, call):
        """Makes a call that may be repeated, until it is answered or refused for good."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return call()
            except grpc.RpcError as error:
                reason = link.refusal(error)
                is_passing = error.code() == grpc.StatusCode.UNAVAILABLE or reason in (
                    "UNKNOWN_SESSION",
                    "UNKNOWN_UPLOAD",
                    "TASKS_FULL",
                    "ARENA_FULL",
                    "KEYS_FULL",
                    "SPILL_FAILED",
                    "JOURNAL_FULL",
                )
                if not is_passing or time.monotonic() > until:
                    raise
                hints = [value for key, value in error.trailing_metadata() or () if key == "qtf-retry-after-ms"]
                time.sleep(int(hints[0]) / 1_000 if hints else 0.1)
                if reason == "UNKNOWN_SESSION":
                    self.open()

    def submit(self, specs):
        """The ids of the tasks, in order. A repeat of what was not answered is the same tasks, by their keys."""
        for spec in specs:
            spec.idempotency_key = uuid.uuid4().bytes
        ids, received = [], []
        for start in range(0, len(specs), BATCH_MAX):
            batch = specs[start : start + BATCH_MAX]
            ids += self.patiently(lambda: self.submit_once(batch, received))
            # What has been answered will not be repeated: its keys are given back with the next request.
            received = [spec.idempotency_key for spec in batch]
        done = plm_pb2.SubmitStreamRequest(session=self.welcome.session, received_keys=received)
        self.patiently(lambda: list(self.plm.SubmitStream(iter([done]))))
        return ids

    def submit_once(self, batch, received):
        request = plm_pb2.SubmitStreamRequest(session=self.welcome.session, received_keys=received)
        for spec in batch:
            spec = request.tasks.add(**{field.name: value for field, value in spec.ListFields()})
            if len(spec.payload) > self.welcome.payload_inline_limit_bytes:
                upload = self.plm.UploadPayload(link.chunks(self.welcome.session, spec.payload))
                spec.payload, spec.payload_upload = b"", upload.upload
        (response,) = self.plm.SubmitStream(iter([request]))
        for verdict in response.verdicts:
            if verdict.HasField("refusal"):
                raise RuntimeError(verdict.refusal.message)
        return [verdict.task_id for verdict in response.verdicts]

    def ends(self, ids):
        """The end of each task as it happens, with its output; the same tasks are watched again when the stream breaks."""
        waited_for = set(ids)

        def watch():
            return self.plm.Watch(iter(requests))

        while waited_for:
            requests = link.Outbox()
            for some in batches(sorted(waited_for)):
                requests.put(
                    plm_pb2.WatchRequest(session=self.welcome.session, watch=some, with_output=True)
                )
            try:
                for response in self.patiently(watch):
                    for end in response.ends:
                        if end.task_id in waited_for:
                            waited_for.discard(end.task_id)
                            yield end, self.output(end)
                    if not waited_for:
                        break
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
                time.sleep(0.1)
            finally:
                requests.close()

    def output(self, end):
        encoded = end.output
        if not encoded and end.output_bytes:
            request = plm_pb2.FetchOutputRequest(task_id=end.task_id)
            encoded = self.patiently(
                lambda: b"".join(chunk.data for chunk in self.plm.FetchOutput(request))
            )
        return task_pb2.TaskOutput.FromString(encoded)

    def acknowledge(self, ids):
        """The results have been received: their slots are free. An id that is unknown was acknowledged before."""
        for some in batches(ids):
            self.patiently(
                lambda: self.plm.ForgetTasks(
                    plm_pb2.TaskSelection(session=self.welcome.session, task_ids=some)
                )
            )

    def cancel(self, ids):
        selection = plm_pb2.TaskSelection(session=self.welcome.session, task_ids=ids, reason="client.py")
        return self.patiently(lambda: self.plm.CancelTasks(selection)).verdicts


def batches(items):
    return (items[start : start + BATCH_MAX] for start in range(0, len(items), BATCH_MAX))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    commands = parser.add_subparsers(dest="command", required=True)
    submit = commands.add_parser("submit")
    submit.add_argument("kind")
    submit.add_argument("payload")
    submit.add_argument("--file", action="store_true", help="PAYLOAD names a file")
    submit.add_argument("--count", type=int, default=1)
    submit.add_argument("--timeout-ms", type=int, default=0)
    submit.add_argument("--retries", type=int, default=0)
    for name in ("results", "cancel"):
        commands.add_parser(name).add_argument("ids", nargs="+", type=link.id_of)
    arguments = parser.parse_args()
    client = Client(arguments.address)
    if arguments.command == "submit":
        payload = os.fsencode(arguments.payload)
        if arguments.file:
            with open(payload, "rb") as file:
                payload = file.read()
        specs = [
            plm_pb2.TaskSpec(
                kind=arguments.kind,
                payload=payload,
                timeout_ms=arguments.timeout_ms,
                retries=arguments.retries,
            )
            for _ in range(arguments.count)
        ]
        for task_id in client.submit(specs):
            print(link.text_of(task_id), flush=True)
    elif arguments.command == "results":
        for end, output in client.ends(arguments.ids):
            if end.HasField("refusal"):
                print(link.text_of(end.task_id), end.refusal.message, flush=True)
                continue
            print(
                link.text_of(end.task_id),
                task_pb2.TaskState.Name(end.state).removeprefix("TASK_STATE_"),
                task_pb2.OutcomeKind.Name(end.outcome.kind).removeprefix("OUTCOME_KIND_"),
                end.outcome.code,
                end.attempt,
                len(output.stdout),
                hashlib.sha256(output.stdout).hexdigest(),
                flush=True,
            )
            client.acknowledge([end.task_id])
    else:
        for verdict in client.cancel(arguments.ids):
            state = task_pb2.TaskState.Name(verdict.state).removeprefix("TASK_STATE_")
            print(link.text_of(verdict.task_id), state, verdict.refusal.message, flush=True)


if __name__ == "__main__":
    main()
