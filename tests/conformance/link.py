"""What the worker and the client have in common: the channel, the queue behind a stream, uploads, refusals, ids.

The modules below `qtf.v1` are made from the contract, for example
    python -m grpc_tools.protoc --descriptor_set_in=proto/descriptors/v1.0.binpb \
        --python_out=DIR --grpc_python_out=DIR qtf/v1/{task,plm,register,scheduler,admin}.proto
and found by PYTHONPATH=DIR.
"""

import queue

import grpc

from qtf.v1 import plm_pb2

CHUNK_BYTES = 64 << 10
INLINE_BYTES_MAX = 65_536
DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"


def channel(address):
    """A channel to a daemon at `unix:/path` or `host:port`."""
    options = [
        ("grpc.max_receive_message_length", 4 << 20),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # A channel of its own: one that is made anew does not wait for the pause of the one before.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if address.startswith("unix:"):
        # Or grpcio sends the path as :authority, and every call ends with RST_STREAM code 1.
        options.append(("grpc.default_authority", "localhost"))
    return grpc.insecure_channel(address, options=options)


class Outbox:
    """The requests of a stream: an iterator over what is put in, until it is closed."""

    def __init__(self):
        self._queue = queue.SimpleQueue()

    def put(self, message):
        self._queue.put(message)

    def close(self):
        self._queue.put(None)

    def __iter__(self):
        return iter(self._queue.get, None)


def chunks(session, data):
    """An upload: session and size in the first chunk."""
    for offset in range(0, max(len(data), 1), CHUNK_BYTES):
        chunk = plm_pb2.UploadChunk(data=data[offset : offset + CHUNK_BYTES])
        if offset == 0:
            chunk.session, chunk.total_bytes = session, len(data)
        yield chunk


def refusal(error):
    """The reason of a refused call without its prefix, such as TASKS_FULL; None when it is no refusal."""
    for key, value in error.trailing_metadata() or ():
        if key == "qtf-refusal-reason":
            return value.removeprefix("REFUSAL_REASON_")
    return None


def text_of(task_id):
    """A task id as `qtf` prints it."""
    return "".join(DIGITS[(task_id >> shift) & 31] for shift in range(60, -1, -5))


def id_of(text):
    """The task id of such a text."""
    task_id = 0
    for digit in text:
        task_id = task_id << 5 | DIGITS.index(digit)
    return task_id
