#include "parallel/pipeline_timeline.h"

#include <algorithm>
#include <iterator>

#include "base/error.h"

namespace fathom::parallel {
namespace {

constexpr double kNotYet = -1;

// When the passes of each (chunk, micro-batch) end.
class Ends {
 public:
  Ends(int64_t chunks, int64_t micro_batches)
      : micro_batches_(micro_batches), ends_(static_cast<size_t>(chunks * micro_batches), kNotYet) {}
  double& at(int64_t chunk, int64_t micro_batch) {
    return ends_[static_cast<size_t>(chunk * micro_batches_ + micro_batch)];
  }

 private:
  int64_t micro_batches_;
  std::vector<double> ends_;
};

double duration(Step step, const ChunkCost& cost) {
  switch (step) {
    case Step::forward:
      return cost.forward;
    case Step::backward:
      return cost.backward_input + cost.backward_weight;
    case Step::backward_input:
      return cost.backward_input;
    case Step::backward_weight:
      return cost.backward_weight;
  }
  throw std::logic_error("no such step");
}

class Simulation {
 public:
  Simulation(const PipelineSchedule& schedule, double transfer)
      : schedule_(schedule),
        transfer_(transfer),
        forward_(schedule.num_chunks(), schedule.micro_batches()),
        backward_(schedule.num_chunks(), schedule.micro_batches()) {}

  // The earliest begin of an action on a place that is free at `free`; kNotYet: something it needs has no end yet.
  double begin(const PipelineAction& action, double free) {
    const auto [step, chunk, micro_batch] = action;
    double begin = free;
    const auto needs = [&](Ends& ends, int64_t other) {
      const double end = ends.at(other, micro_batch);
      if (end == kNotYet || begin == kNotYet)
        begin = kNotYet;
      else
        begin = std::max(begin, end + (schedule_.owner(other) == schedule_.owner(chunk) ? 0 : transfer_));
    };
    if (step == Step::forward) {
      if (chunk > 0) needs(forward_, chunk - 1);
    } else if (step == Step::backward_weight) {
      needs(backward_, chunk);
    } else {
      needs(forward_, chunk);
      if (chunk + 1 < schedule_.num_chunks()) needs(backward_, chunk + 1);
    }
    return begin;
  }

  void finish(const PipelineAction& action, double end) {
    if (action.step == Step::backward_weight) return;
    (action.step == Step::forward ? forward_ : backward_).at(action.chunk, action.micro_batch) = end;
  }

 private:
  const PipelineSchedule& schedule_;
  double transfer_;
  Ends forward_, backward_;
};

// Of a place's first chunk light, of its others dark.
const char* fill(Step step, bool is_first) {
  switch (step) {
    case Step::forward:
      return is_first ? "#b3d4f5" : "#7fb2e5";
    case Step::backward:
      return is_first ? "#a8dcb2" : "#6bbf7b";
    case Step::backward_input:
      return is_first ? "#93d8d0" : "#45b5aa";
    case Step::backward_weight:
      return is_first ? "#f3d08f" : "#e0a94a";
  }
  throw std::logic_error("no such step");
}

const char* title(Step step) {
  switch (step) {
    case Step::forward:
      return "forward";
    case Step::backward:
      return "backward";
    case Step::backward_input:
      return "backward, inputs";
    case Step::backward_weight:
      return "backward, weights";
  }
  throw std::logic_error("no such step");
}

}  // namespace

PipelineTimeline simulate(const PipelineSchedule& schedule, const std::vector<ChunkCost>& costs,
                          double transfer) {
  FATHOM_ASSERT(costs.size() == 1 || static_cast<int64_t>(costs.size()) == schedule.num_chunks());
  const auto cost_of = [&](int64_t chunk) -> const ChunkCost& {
    return costs.size() == 1 ? costs[0] : costs[static_cast<size_t>(chunk)];
  };
  Simulation simulation(schedule, transfer);
  PipelineTimeline timeline;
  timeline.places.resize(static_cast<size_t>(schedule.stages()));
  double busy = 0;
  // Each round takes every place as far as it gets; the order of the places does not change any time.
  bool is_left = true;
  while (is_left) {
    is_left = false;
    bool has_moved = false;
    for (int64_t place = 0; place < schedule.stages(); ++place) {
      const std::vector<PipelineAction>& actions = schedule.actions(place);
      std::vector<TimedAction>& done = timeline.places[static_cast<size_t>(place)];
      while (done.size() < actions.size()) {
        const PipelineAction& action = actions[done.size()];
        const double begin = simulation.begin(action, done.empty() ? 0 : done.back().end);
        if (begin == kNotYet) break;
        const double cost = duration(action.step, cost_of(action.chunk));
        done.push_back({action, begin, begin + cost});
        simulation.finish(action, begin + cost);
        busy += cost;
        timeline.makespan = std::max(timeline.makespan, begin + cost);
        has_moved = true;
      }
      is_left = is_left || done.size() < actions.size();
    }
    FATHOM_ASSERT(has_moved);  // else the schedule deadlocks
  }
  if (timeline.makespan > 0)
    timeline.idle_share = 1 - busy / (static_cast<double>(schedule.stages()) * timeline.makespan);
  return timeline;
}

std::string timeline_svg(const PipelineTimeline& timeline) {
  constexpr double kWidth = 1200, kRow = 24, kLeft = 60, kTop = 8;
  const double scale = timeline.makespan > 0 ? (kWidth - kLeft) / timeline.makespan : 0;
  const double height = kTop * 2 + kRow * static_cast<double>(timeline.places.size());
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" font-family=\"sans-serif\" "
      "font-size=\"11\">\n<rect width=\"{0}\" height=\"{1}\" fill=\"#ffffff\"/>\n",
      kWidth, height);
  auto out = std::back_inserter(svg);
  for (size_t place = 0; place < timeline.places.size(); ++place) {
    const double y = kTop + kRow * static_cast<double>(place);
    fmt::format_to(out, "<text x=\"4\" y=\"{:.1f}\">place {}</text>\n", y + kRow * 0.65, place);
    for (const auto& [action, begin, end] : timeline.places[place]) {
      const bool is_first = action.chunk < static_cast<int64_t>(timeline.places.size());
      const double x = kLeft + begin * scale, width = (end - begin) * scale;
      fmt::format_to(
          out,
          "<rect x=\"{:.2f}\" y=\"{:.1f}\" width=\"{:.2f}\" height=\"{:.1f}\" fill=\"{}\" stroke=\"#ffffff\" "
          "stroke-width=\"0.5\"><title>{}, chunk {}, micro-batch {}: {:.6g} to {:.6g}</title></rect>\n",
          x, y, width, kRow - 2, fill(action.step, is_first), title(action.step), action.chunk,
          action.micro_batch, begin, end);
      const std::string label = std::to_string(action.micro_batch);
      if (width >= 7 * static_cast<double>(label.size()))
        fmt::format_to(out, "<text x=\"{:.2f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n",
                       x + width / 2, y + kRow * 0.65, label);
    }
  }
  return svg + "</svg>\n";
}

}  // namespace fathom::parallel
