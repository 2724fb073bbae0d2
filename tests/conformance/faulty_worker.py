"""The worker with a fault of choice, which `qtf worker check` must find: FAULT=NAME faulty_worker.py ADDRESS."""

import os

import worker
from qtf.v1 import register_pb2, scheduler_pb2

FAULT = os.environ["FAULT"]


class Faulty(worker.Worker):
    def report(self, **what):
        if FAULT == "never-says-started":
            what.pop("started", None)
        super().report(**what)

    def names(self):
        # Comes back as itself and with nothing, and names nothing in heartbeats.
        return [] if FAULT == "forgets-what-it-holds" else super().names()

    def grant(self):
        if FAULT == "grants-too-much" and self.link and not self.granted:
            self.granted += 3 * self.slots
            self.link.requests.put(scheduler_pb2.DispatchRequest(credits=3 * self.slots))
        super().grant()

    lost = 0

    def take_notice(self, notice):
        if FAULT == "never-hears-evicted" or (FAULT == "loses-evicted-once" and notice.evicted and not self.lost):
            # As when the connection breaks before it comes; once that is nobody's fault.
            self.lost += notice.evicted
            notice.evicted = False
        if FAULT == "drops-what-is-refused":
            for verdict in notice.verdicts:
                verdict.disposition = register_pb2.RESULT_DISPOSITION_RECORDED
        super().take_notice(notice)


class Deaf(worker.Attempt):
    """Does not end for this reason."""

    def end(self, reason):
        deaf_to = {
            "ignores-cancellation": scheduler_pb2.STOP_REASON_CANCELLED,
            "ignores-time-limits": scheduler_pb2.STOP_REASON_TIMED_OUT,
        }
        if reason != deaf_to.get(FAULT):
            super().end(reason)


worker.Attempt = Deaf

if __name__ == "__main__":
    worker.main(Faulty)
