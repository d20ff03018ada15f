"""Makes data/events.tfrecord: three records from TensorBoard's own record writer and protobuf messages.

    python tests/train/make_event_fixture.py

tensorboard 2.21.0. tensorboard_test.cpp builds the same records and compares bytes.
"""

from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter

out = Path(__file__).parent / "data" / "events.tfrecord"
out.parent.mkdir(exist_ok=True)
with out.open("wb") as file:
    writer = RecordWriter(file)
    writer.write(Event(wall_time=1700000000.25, file_version="brain.Event:2").SerializeToString())
    writer.write(
        Event(wall_time=1700000001.5, step=301, session_log=SessionLog(status=SessionLog.START)).SerializeToString()
    )
    event = Event(wall_time=1700000002.75, step=12345678901)
    event.summary.value.add(tag="loss", simple_value=5.271400451660156)
    event.summary.value.add(tag="expert_load/layer_3/max", simple_value=float("inf"))
    event.summary.value.add(tag="t" * 200, simple_value=-0.0)
    writer.write(event.SerializeToString())
    writer.flush()
