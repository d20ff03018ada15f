"""Prints the scalars of a directory of event files as JSON: {tag: [[step, value, wall_time], ...]}.

    python tests/golden/make_tensorboard_check.py DIR

Reader: tensorboard 2.21.0's EventAccumulator, so whatever prints here is what TensorBoard shows.
"""

import json
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

if len(sys.argv) != 2:
    sys.exit(__doc__)
events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "tensors": 0})
events.Reload()
tags = events.Tags()
scalars = {tag: [[e.step, e.value, e.wall_time] for e in events.Scalars(tag)] for tag in tags["scalars"]}
# TensorFlow-2-style writers store scalars as rank-0 tensors.
for tag in tags["tensors"]:
    scalars[tag] = [
        [e.step, e.tensor_proto.float_val[0], e.wall_time]
        for e in events.Tensors(tag)
        if e.tensor_proto.float_val
    ]
print(json.dumps(scalars))
