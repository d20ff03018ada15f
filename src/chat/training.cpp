#include "chat/training.h"

#include <algorithm>

#include "base/error.h"
#include "chat/marks.h"

namespace fathom::chat {
namespace {

bool is_empty(const Message& message) {
  return message.tool_calls.empty() && (!message.content || message.content->empty()) &&
         (!message.reasoning || message.reasoning->empty());
}

class Sampler {
 public:
  Sampler(const Conversation& conversation, const TrainingOptions& options,
          const tokenizer::Tokenizer& tokenizer, tokenizer::EncodeScratch& scratch, TrainingNotes& notes)
      : conversation_(conversation),
        options_(options),
        tokenizer_(tokenizer),
        scratch_(scratch),
        notes_(notes) {}

  std::vector<TrainingSample> run() {
    const auto& messages = conversation_.messages;
    if (!conversation_.tools.empty() && !options_.tools_in_system_prompt) ++notes_.dropped_tools;
    std::vector<size_t> turns;
    for (size_t i = 0; i < messages.size(); ++i) {
      if (messages[i].role != Role::assistant || !messages[i].trained) continue;
      if (is_empty(messages[i]))
        ++notes_.empty_replies;
      else
        turns.push_back(i);
    }
    if (turns.empty()) return {};
    notes_.dropped_messages += static_cast<int64_t>(messages.size() - 1 - turns.back());
    if (options_.train_on != TrainOn::assistant) turns.erase(turns.begin(), turns.end() - 1);
    for (const size_t turn : turns) add_turn(turn);
    if (samples_.size() > 1) ++notes_.split_conversations;
    for (TrainingSample& sample : samples_) {
      if (options_.train_on == TrainOn::all)
        std::fill(sample.trained.begin(), sample.trained.end(), uint8_t{1});
      sample.trained[0] = 0;
      sample.num_trained = std::count(sample.trained.begin(), sample.trained.end(), uint8_t{1});
    }
    return std::move(samples_);
  }

 private:
  void add_turn(size_t turn) {
    const Message& message = conversation_.messages[turn];
    const bool has_reasoning = split_reasoning(message).text.has_value();
    Conversation before;
    before.messages.assign(conversation_.messages.begin(),
                           conversation_.messages.begin() + static_cast<std::ptrdiff_t>(turn));
    before.tools = conversation_.tools;
    RenderOptions render_options;
    render_options.thinking =
        options_.thinking == Thinking::automatic ? has_reasoning : options_.thinking == Thinking::on;
    render_options.mend_tool_calls = options_.mend_tool_calls;
    render_options.tools_in_system_prompt = options_.tools_in_system_prompt;
    const Segments prompt = render(options_.which, before, render_options);
    const bool thinks = opens_thinking(prompt);
    ++notes_.trained_replies;
    // Inside the content of a model without thinking it stays, as its template leaves it.
    const bool keeps_inline = options_.which == Template::v3 || options_.which == Template::v3_0324;
    if (has_reasoning && !thinks && !(keeps_inline && !message.reasoning)) ++notes_.dropped_reasoning;
    if (!has_reasoning && thinks) ++notes_.replies_without_reasoning;

    ids_.clear();
    encode_segments(prompt, tokenizer_, scratch_, ids_);
    const bool continues = !samples_.empty() && samples_.back().ids.size() <= ids_.size() &&
                           std::equal(samples_.back().ids.begin(), samples_.back().ids.end(), ids_.begin());
    if (!continues) samples_.emplace_back();
    TrainingSample& sample = samples_.back();
    sample.ids.swap(ids_);
    sample.trained.resize(sample.ids.size(), 0);
    encode_segments(reply(options_.which, message, prompt), tokenizer_, scratch_, sample.ids);
    sample.trained.resize(sample.ids.size(), 1);
  }

  const Conversation& conversation_;
  const TrainingOptions& options_;
  const tokenizer::Tokenizer& tokenizer_;
  tokenizer::EncodeScratch& scratch_;
  TrainingNotes& notes_;
  std::vector<int32_t> ids_;
  std::vector<TrainingSample> samples_;
};

}  // namespace

void encode_segments(const Segments& segments, const tokenizer::Tokenizer& tokenizer,
                     tokenizer::EncodeScratch& scratch, std::vector<int32_t>& out) {
  std::string text;
  const auto flush = [&] {
    if (!text.empty()) tokenizer.encode_into(text, scratch, out);
    text.clear();
  };
  for (const Segment& segment : segments) {
    const auto id = segment.is_control ? tokenizer.token_to_id(segment.text) : std::nullopt;
    if (id) {
      flush();
      out.push_back(*id);
      continue;
    }
    if (segment.is_control && segment.text != marks::kThink && segment.text != marks::kEndThink)
      throw ConfigError("{}: it has no token {}: this chat template is not for this tokenizer",
                        tokenizer.path().string(), segment.text);
    text += segment.text;
  }
  flush();
}

void TrainingNotes::add(const TrainingNotes& other) {
  trained_replies += other.trained_replies;
  empty_replies += other.empty_replies;
  dropped_reasoning += other.dropped_reasoning;
  replies_without_reasoning += other.replies_without_reasoning;
  dropped_tools += other.dropped_tools;
  dropped_messages += other.dropped_messages;
  split_conversations += other.split_conversations;
}

std::vector<TrainingSample> training_samples(const Conversation& conversation, const TrainingOptions& options,
                                             const tokenizer::Tokenizer& tokenizer,
                                             tokenizer::EncodeScratch& scratch, TrainingNotes& notes) {
  return Sampler(conversation, options, tokenizer, scratch, notes).run();
}

}  // namespace fathom::chat
