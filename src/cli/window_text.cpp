#include "cli/window_text.h"

#include <algorithm>
#include <span>

#include <fmt/ranges.h>

namespace fathom::cli {

WindowText::WindowText(const data::TrainingData& training, int64_t index,
                       const tokenizer::Tokenizer* tokenizer)
    : index_(index), origin_(training.origin(index)), sample_(training.sample(index)), tokenizer_(tokenizer) {
  const data::GptDataset& member = *training.datasets()[static_cast<size_t>(origin_.dataset)];
  source_ = member.dataset().prefix().string();
  pieces_ = member.pieces(origin_.sample);
}

Json WindowText::json() const {
  Json pieces = Json::array();
  for (const auto& piece : pieces_)
    pieces.push_back({{"document", piece.document},
                      {"sequence", piece.sequence},
                      {"begin", piece.begin},
                      {"tokens", piece.count}});
  std::vector<int> loss_mask(sample_.loss_mask.begin(), sample_.loss_mask.end());
  Json json{{"index", index_},
            {"source", source_},
            {"source_sample", origin_.sample},
            {"ids", sample_.tokens},
            {"loss_mask", loss_mask},
            {"position_ids", sample_.position_ids},
            {"document_starts", sample_.document_starts},
            {"pieces", pieces}};
  if (tokenizer_) json["text"] = tokenizer_->decode(sample_.tokens, false);
  return json;
}

std::string WindowText::text() const {
  const size_t length = sample_.loss_mask.size();
  const auto trained =
      std::count_if(sample_.loss_mask.begin(), sample_.loss_mask.end(), [](float m) { return m != 0; });
  std::string out = fmt::format(
      "sample {}: {} tokens, sample {} of {}\n{} inputs, {} trained targets; \u27e6\u27e7 marks what is no "
      "target (the "
      "first token is input only)\n",
      index_, sample_.tokens.size(), origin_.sample, source_, length, trained);
  size_t at = 0;
  for (const auto& piece : pieces_) {
    const size_t piece_end = at + static_cast<size_t>(piece.count);
    // A sequence that holds several documents is shown in parts, where positions or attention start again.
    for (size_t begin = at; begin < piece_end;) {
      size_t end = begin + 1;
      const auto starts = [&](size_t i) {
        return (i < length && sample_.position_ids[i] == 0) ||
               std::find(sample_.document_starts.begin(), sample_.document_starts.end(),
                         static_cast<int32_t>(i)) != sample_.document_starts.end();
      };
      while (end < piece_end && !starts(end)) ++end;
      const int64_t first = piece.begin + static_cast<int64_t>(begin - at);
      out += fmt::format("\n-- document {}, sequence {}, tokens {} to {}", piece.document, piece.sequence,
                         first, first + static_cast<int64_t>(end - begin) - 1);
      if (begin < length)
        out += fmt::format(", positions {} to {}", sample_.position_ids[begin],
                           sample_.position_ids[std::min(end, length) - 1]);
      if (begin > 0 && !sample_.document_starts.empty())
        out += starts(begin) ? ", sees nothing before" : ", sees what is before";
      out += " --\n" + piece_text(begin, end) + "\n";
      begin = end;
    }
    at = piece_end;
  }
  return out;
}

// Tokens [begin, end) of the window. Token i is the target of input i - 1.
std::string WindowText::piece_text(size_t begin, size_t end) const {
  const auto is_target = [&](size_t i) { return i > 0 && sample_.loss_mask[i - 1] != 0; };
  std::string out;
  for (size_t i = begin; i < end;) {
    size_t run = i + 1;
    while (run < end && is_target(run) == is_target(i)) ++run;
    const auto ids = std::span(sample_.tokens).subspan(i, run - i);
    const std::string text =
        tokenizer_ ? tokenizer_->decode(ids, false) : fmt::format("{}", fmt::join(ids, " "));
    out += is_target(i) ? text : "\u27e6" + text + "\u27e7";
    i = run;
  }
  return out;
}

}  // namespace fathom::cli
