// When each action of a pipeline schedule begins and ends, from the costs of the passes; and a picture of it.
#pragma once

#include <string>
#include <vector>

#include "parallel/pipeline_schedule.h"

namespace fathom::parallel {

// Of one micro-batch in one chunk, in any one unit of time. Step::backward costs the sum of its halves.
struct ChunkCost {
  double forward, backward_input, backward_weight;
};

struct TimedAction {
  PipelineAction action;
  double begin, end;
};

struct PipelineTimeline {
  std::vector<std::vector<TimedAction>> places;  // in the order of execution
  double makespan = 0;                           // the end of the last action
  double idle_share = 0;  // the bubble: idle time / (places x makespan); 0 if makespan is 0
};

// costs: one for each chunk, or one for all. transfer: from the end of a pass to where its result is there on another
// place (it costs no place any time). Each place executes its list in order and waits for what an action needs.
PipelineTimeline simulate(const PipelineSchedule& schedule, const std::vector<ChunkCost>& costs,
                          double transfer = 0);

// The timeline as an SVG: a row for each place, micro-batch numbers in the boxes (blue F, green B, teal B of
// inputs, orange W; a place's second chunk and further ones darker).
std::string timeline_svg(const PipelineTimeline& timeline);

}  // namespace fathom::parallel
