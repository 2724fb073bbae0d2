"""A worker in Python that keeps all rules of docs/PROTOCOL.md, as short as it can be.

    worker.py ADDRESS [--name NAME] [--slots N]

Its kinds: `echo` gives its payload back; `wait` does it after as many milliseconds as it says; `hold` runs until the file that its payload names is there, and gives the payload
back; `fail` fails with its payload as the message. It leaves when it is drained, or at SIGTERM, once it holds nothing more.

One thread reads each stream, one beats, one runs each attempt. Everything they share is below `self.lock`.
"""

import argparse
import os
import pathlib
import signal
import socket
import sys
import threading

import grpc

import link
from qtf.v1 import register_pb2, register_pb2_grpc, scheduler_pb2, scheduler_pb2_grpc, task_pb2


class Stopped(Exception):
    """Raised by a handler that was told to stop."""


def echo(payload, attempt):
    return payload


def wait(payload, attempt):
    if attempt.stop.wait(int(payload) / 1_000):
        raise Stopped
    return payload


def hold(payload, attempt):
    path = pathlib.Path(os.fsdecode(payload))
    while not path.exists():
        if attempt.stop.wait(0.02):
            raise Stopped
    return payload


def fail(payload, attempt):
    raise RuntimeError(payload.decode())


KINDS = {
    "echo": echo,
    "wait": wait,
    "hold": hold,
    "fail": fail,
    # What `qtf worker check` runs.
    "check.echo": echo,
    "check.wait": wait,
}

# Outcomes by why an attempt was stopped.
STOPPED = {
    scheduler_pb2.STOP_REASON_CANCELLED: task_pb2.OUTCOME_KIND_CANCELLED,
    scheduler_pb2.STOP_REASON_TIMED_OUT: task_pb2.OUTCOME_KIND_TIMED_OUT,
    scheduler_pb2.STOP_REASON_STALE: task_pb2.OUTCOME_KIND_CANCELLED,
}


class Attempt:
    """One attempt of one task, from its assignment to the verdict on its result."""

    def __init__(self, assignment):
        self.assignment = assignment
        self.task = assignment.task
        self.key = (assignment.task.task_id, assignment.task.attempt)
        self.stop = threading.Event()
        self.reason = scheduler_pb2.STOP_REASON_CANCELLED
        self.result = None  # (Outcome, encoded TaskOutput) once it has ended

    def end(self, reason):
        if not self.stop.is_set():
            self.reason = reason
            self.stop.set()


class Link:
    """One connection: both streams and the calls beside them."""

    def __init__(self, address):
        self.channel = link.channel(address)
        self.register = register_pb2_grpc.RegisterStub(self.channel)
        self.scheduler = scheduler_pb2_grpc.SchedulerStub(self.channel)
        self.reports, self.requests = link.Outbox(), link.Outbox()
        self.over = threading.Event()

    def close(self):
        self.over.set()
        self.reports.close()
        self.requests.close()
        self.channel.close()


class Worker:
    def __init__(self, address, name, slots):
        self.address, self.name, self.slots = address, name, slots
        self.lock = threading.RLock()
        self.link = None
        self.welcome = None  # of the last session; with it the worker comes back as itself
        self.held = {}  # what is the worker's: from the assignment to the verdict
        self.running = set()  # what really runs, also what is not wanted any more
        self.granted = 0  # credits given over this link and not used
        self.draining = False
        self.left = threading.Event()

    def run(self):
        while not self.left.is_set():
            now = Link(self.address)
            try:
                self.session(now)
            except grpc.RpcError as error:
                reason = link.refusal(error)
                if reason == "UNKNOWN_WORKER":
                    with self.lock:
                        self.welcome = None
                        self.abandon(list(self.held.values()))
                elif reason in ("INVALID_ARGUMENT", "UNSUPPORTED"):
                    sys.exit(f"refused: {error.details()}")
            finally:
                with self.lock:
                    self.link = None
                now.close()
            self.left.wait(0.2)

    def session(self, now):
        """Hello, then dispatch, then what has no verdict yet; over when a stream ends."""
        with self.lock:
            hello = register_pb2.WorkerHello(
                name=self.name,
                host=socket.gethostname(),
                pid=os.getpid(),
                capacity=self.slots,
                kinds=list(KINDS),
                protocol_version=1,
                held=self.names(),
            )
            if self.welcome:
                hello.worker_id, hello.token = self.welcome.worker_id, self.welcome.token
                hello.segment_id = self.welcome.segment_id
        now.reports.put(register_pb2.WorkerReport(hello=hello))
        notices = now.register.WorkerSession(iter(now.reports))
        welcome = next(notices).welcome
        with self.lock:
            is_same = self.welcome and (self.welcome.worker_id, self.welcome.segment_id) == (
                welcome.worker_id,
                welcome.segment_id,
            )
            gone = {(task.task_id, task.attempt) for task in welcome.abandon}
            self.abandon([one for one in self.held.values() if not is_same or one.key in gone])
            self.welcome, self.link, self.granted = welcome, now, 0
            # The first request names the worker; all earlier credits are void.
            now.requests.put(scheduler_pb2.DispatchRequest(worker_id=welcome.worker_id, token=welcome.token))
            self.grant()
            for attempt in self.held.values():
                if attempt.result:
                    threading.Thread(target=self.deliver, args=(attempt,), daemon=True).start()
                elif attempt in self.running:
                    self.report(started=[attempt.task])
        # Before any task can begin, so that the lines come in this order.
        print(f"registered {welcome.worker_id:#x}", flush=True)
        orders = now.scheduler.Dispatch(iter(now.requests))
        for target, args in ((self.take_orders, (now, orders)), (self.beat, (now,))):
            threading.Thread(target=target, args=args, daemon=True).start()
        for notice in notices:
            self.take_notice(notice)
            # After a goodbye it is the daemon that ends the stream: until then the goodbye may be on its way.
            if notice.evicted or notice.daemon_stopping:
                return

    def names(self):
        return [
            register_pb2.HeldTask(task=one.task, finished=one.result is not None)
            for one in self.held.values()
        ]

    def report(self, **what):
        with self.lock:
            if self.link:
                self.link.reports.put(register_pb2.WorkerReport(**what))

    def beat(self, now):
        """Some report in each period, with every attempt by its name."""
        while not now.over.wait(self.welcome.heartbeat_ms / 1_000):
            with self.lock:
                held = register_pb2.HeldTasks(tasks=self.names())
                self.report(held=held, draining=self.draining)
                self.leave_if_done()

    def grant(self):
        """A credit for each place that is free and not granted yet. Called with the lock."""
        taken = len(self.running | set(self.held.values()))
        due = self.slots - taken - self.granted
        if self.link and due > 0 and not self.draining:
            self.granted += due
            self.link.requests.put(scheduler_pb2.DispatchRequest(credits=due))

    def take_orders(self, now, orders):
        try:
            for response in orders:
                with self.lock:
                    for assignment in response.assignments:
                        self.granted -= 1
                        attempt = Attempt(assignment)
                        self.held[attempt.key] = attempt
                        self.running.add(attempt)
                        threading.Thread(target=self.work, args=(attempt,), daemon=True).start()
                    for order in response.stops:
                        attempt = self.held.get((order.task.task_id, order.task.attempt))
                        if attempt and order.reason == scheduler_pb2.STOP_REASON_STALE:
                            self.abandon([attempt])
                        elif attempt:
                            attempt.end(order.reason)
                # At once, and behind what came before it.
                if response.probe:
                    now.requests.put(scheduler_pb2.DispatchRequest(probe_answer=response.probe))
        except grpc.RpcError:
            pass
        # Without dispatch no session: the next hello opens both again. Its last words, such as `evicted`, may still be on their way.
        now.over.wait(2)
        now.channel.close()

    def work(self, attempt):
        """Runs one attempt and reports its end."""
        assignment = attempt.assignment
        self.report(started=[attempt.task])
        print(f"started {link.text_of(attempt.task.task_id)} {attempt.task.attempt}", flush=True)
        limit = threading.Timer(
            assignment.timeout_ms / 1_000, attempt.end, [scheduler_pb2.STOP_REASON_TIMED_OUT]
        )
        if assignment.timeout_ms:
            limit.start()
        outcome, output = task_pb2.Outcome(), task_pb2.TaskOutput()
        try:
            output.stdout = KINDS[assignment.kind](self.payload(assignment), attempt)
            outcome.kind = task_pb2.OUTCOME_KIND_EXITED
        except Stopped:
            outcome.kind = STOPPED.get(attempt.reason, task_pb2.OUTCOME_KIND_CANCELLED)
        except grpc.RpcError as error:
            outcome.kind = task_pb2.OUTCOME_KIND_TRANSFER_FAILED
            output.message = error.details() or str(error.code())
        except Exception as error:  # what a handler raises is the task's failure, not the worker's
            outcome.kind, output.message = task_pb2.OUTCOME_KIND_HANDLER_FAILED, str(error)
        limit.cancel()
        with self.lock:
            self.running.discard(attempt)
            attempt.result = (outcome, output.SerializeToString())
        self.deliver(attempt)
        with self.lock:
            self.grant()
            self.leave_if_done()

    def payload(self, assignment):
        if len(assignment.payload) == assignment.payload_bytes:
            return assignment.payload
        with self.lock:
            now, welcome = self.link, self.welcome
        if not now:
            raise RuntimeError("the daemon went away before the payload came")
        request = scheduler_pb2.FetchPayloadRequest(
            worker_id=welcome.worker_id, token=welcome.token, task=assignment.task
        )
        return b"".join(chunk.data for chunk in now.scheduler.FetchPayload(request))

    def deliver(self, attempt):
        """Reports a result, over and over until its verdict: also with each new link."""
        with self.lock:
            now, welcome = self.link, self.welcome
        while now and attempt.key in self.held and not now.over.is_set():
            outcome, output = attempt.result
            result = register_pb2.TaskResult(task=attempt.task, outcome=outcome)
            if len(output) <= link.INLINE_BYTES_MAX:
                result.output = output
            else:
                try:
                    receipt = now.register.UploadOutput(link.chunks(welcome.token, output))
                except (grpc.RpcError, ValueError):  # no room just now, or the link is over
                    now.over.wait(0.5)
                    continue
                result.output_upload = receipt.upload
            now.reports.put(register_pb2.WorkerReport(results=[result]))
            return

    def take_notice(self, notice):
        with self.lock:
            for verdict in notice.verdicts:
                attempt = self.held.get((verdict.task.task_id, verdict.task.attempt))
                if not attempt:
                    continue
                if verdict.disposition == register_pb2.RESULT_DISPOSITION_UPLOAD_AGAIN:
                    threading.Thread(target=self.deliver, args=(attempt,), daemon=True).start()
                elif verdict.disposition == register_pb2.RESULT_DISPOSITION_REFUSED:
                    # It was no result; one that says so is.
                    failed = task_pb2.Outcome(kind=task_pb2.OUTCOME_KIND_TRANSFER_FAILED)
                    output = task_pb2.TaskOutput(message=f"the result was refused: {verdict.reason}")
                    attempt.result = (failed, output.SerializeToString())
                    self.deliver(attempt)
                else:
                    del self.held[attempt.key]
            if notice.evicted:
                self.welcome = None
                self.abandon(list(self.held.values()))
            if notice.drain:
                self.drain()
            self.grant()
            self.leave_if_done()

    def abandon(self, attempts):
        """Not the worker's any more: ended, and not reported. Called with the lock."""
        for attempt in attempts:
            self.held.pop(attempt.key, None)
            attempt.end(scheduler_pb2.STOP_REASON_STALE)

    def drain(self):
        with self.lock:
            self.draining = True
            self.report(draining=True)
            self.leave_if_done()

    def leave_if_done(self):
        if self.draining and not self.held and not self.left.is_set():
            self.report(goodbye=True)
            self.left.set()
            if self.link:
                self.link.reports.close()


def main(make=Worker):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("--name", default="python")
    parser.add_argument("--slots", type=int, default=2)
    arguments = parser.parse_args()
    worker = make(arguments.address, arguments.name, arguments.slots)
    # On a thread of its own: the handler may run while this one holds the lock.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=worker.drain).start())
    worker.run()
    print("left", flush=True)


if __name__ == "__main__":
    main()
