#include "cli/sft_inspect.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <span>

#include <fmt/ranges.h>

#include "base/error.h"
#include "base/json.h"
#include "data/builder.h"
#include "data/sft_dataset.h"
#include "formats/mindrecord.h"

namespace fathom::cli {
namespace {

using tokenizer::Tokenizer;

constexpr int64_t kAnyVocabulary = int64_t{1} << 31;

void print_facts(const Json& facts) {
  for (const auto& [key, value] : facts.items())
    if (!value.is_array() && !value.is_object())
      std::printf("%-23s%s\n", key.c_str(),
                  (value.is_string() ? value.get<std::string>() : value.dump()).c_str());
}

void check_range(const LookAt& look, int64_t size) {
  if (look.sample >= size)
    throw UsageError("--sample {}: {} has {} rows, counted from 0", look.sample, look.path, size);
}

void print_json(const Json& json) {
  std::puts(json.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
}

// A token for a table: quotes around it, line ends escaped.
std::string quoted(const Tokenizer* tokenizer, int32_t id) {
  return tokenizer ? Json(tokenizer->decode(std::span(&id, 1), false))
                         .dump(-1, ' ', false, Json::error_handler_t::replace)
                   : "";
}

Json sft_row(const data::SftDataset& dataset, int64_t index, const Tokenizer* tokenizer) {
  const data::SftDataset::Row row = dataset.row(index);
  const data::Sample sample = dataset.sample(index, dataset.seq_length(), kAnyVocabulary);
  // Per token rather than per input: token i has loss where it is the target of input i - 1.
  std::vector<int> mask(sample.tokens.size(), 0);
  for (size_t i = 1; i < mask.size(); ++i) mask[i] = sample.loss_mask[i - 1] != 0;
  std::vector<int32_t> positions = sample.position_ids;
  const bool starts = std::find(sample.document_starts.begin(), sample.document_starts.end(),
                                static_cast<int32_t>(positions.size())) != sample.document_starts.end();
  positions.push_back(starts ? 0 : positions.back() + 1);
  Json json{{"index", index},
            {"length", row.ids.size()},
            {"trained_tokens", std::count(mask.begin(), mask.end(), 1)},
            {"samples", row.begins.size()},
            {"ids", sample.tokens},
            {"loss_mask", mask},
            {"position_ids", positions},
            {"document_starts", sample.document_starts}};
  if (tokenizer) {
    json["text"] = tokenizer->decode(row.ids, false);
    Json tokens = Json::array();
    for (const int32_t id : row.ids) tokens.push_back(tokenizer->decode(std::span(&id, 1), false));
    json["tokens"] = std::move(tokens);
  }
  return json;
}

void print_sft_row(const data::SftDataset& dataset, int64_t index, const Tokenizer* tokenizer) {
  const data::SftDataset::Row row = dataset.row(index);
  const auto trained = std::count(row.trained.begin(), row.trained.end(), uint8_t{1});
  std::printf(
      "\nrow %lld: %zu tokens in %zu samples, %lld trained, %lld of padding; \u27e6\u27e7 marks what is not "
      "trained\n",
      static_cast<long long>(index), row.ids.size(), row.begins.size(), static_cast<long long>(trained),
      static_cast<long long>(dataset.seq_length()) + 1 - static_cast<long long>(row.ids.size()));
  for (size_t s = 0; s < row.begins.size(); ++s) {
    const auto begin = static_cast<size_t>(row.begins[s]);
    const size_t end = s + 1 < row.begins.size() ? static_cast<size_t>(row.begins[s + 1]) : row.ids.size();
    std::string text;
    for (size_t i = begin; tokenizer && i < end;) {
      size_t run = i + 1;
      while (run < end && row.trained[run] == row.trained[i]) ++run;
      const std::string piece = tokenizer->decode(std::span(row.ids).subspan(i, run - i), false);
      text += row.trained[i] ? piece : "\u27e6" + piece + "\u27e7";
      i = run;
    }
    std::printf("\n-- sample %zu, tokens %zu to %zu, sees nothing before --\n%s\n\n%8s %8s %8s  %s\n", s,
                begin, end - 1, text.c_str(), "position", "id", "loss", "text");
    for (size_t i = begin; i < end; ++i)
      std::printf("%8zu %8d %8d  %s\n", i - begin, row.ids[i], row.trained[i],
                  quoted(tokenizer, row.ids[i]).c_str());
  }
}

Json value_json(const formats::MindColumn& column, const formats::MindValue& value) {
  // A whole number of a float column is written as an integer, as mindspore's own reader gives it.
  const auto number = [](double x) {
    return std::nearbyint(x) == x && std::abs(x) < 1e15 ? Json(static_cast<int64_t>(x)) : Json(x);
  };
  if (const auto* text = std::get_if<std::string>(&value)) {
    if (column.type == formats::MindType::string) return *text;
    std::string hex;
    for (const char byte : *text) hex += fmt::format("{:02x}", static_cast<unsigned char>(byte));
    return hex;
  }
  if (const auto* integer = std::get_if<int64_t>(&value)) return *integer;
  if (const auto* real = std::get_if<double>(&value)) return number(*real);
  if (const auto* integers = std::get_if<std::vector<int64_t>>(&value)) return *integers;
  return std::get<std::vector<double>>(value);
}

const char* type_name(formats::MindType type) {
  static constexpr const char* kNames[] = {"bytes", "string", "int32", "int64", "float32", "float64"};
  return kNames[static_cast<int>(type)];
}

}  // namespace

void inspect_sft(const LookAt& look, const std::optional<Tokenizer>& tokenizer) {
  const data::SftDataset dataset(look.path);
  Json facts = read_json_file(dataset.tokens().prefix().string() + ".meta.json");
  facts["path"] = dataset.tokens().prefix().string();
  facts["fingerprint"] = dataset.fingerprint();
  const Tokenizer* decoder = tokenizer ? &*tokenizer : nullptr;
  int64_t end = 0;
  if (look.sample >= 0) {
    check_range(look, dataset.size());
    end = std::min(dataset.size(), look.sample + look.count);
  }
  if (look.json) {
    for (int64_t i = look.sample; i >= 0 && i < end; ++i)
      facts["rows_shown"].push_back(sft_row(dataset, i, decoder));
    if (facts.contains("rows_shown")) facts["sample"] = facts["rows_shown"][0];
    return print_json(facts);
  }
  print_facts(facts);
  for (const Json& input : facts.value("inputs", Json::array()))
    std::printf("input                  %s\n", input.dump().c_str());
  for (int64_t i = look.sample; i >= 0 && i < end; ++i) print_sft_row(dataset, i, decoder);
  if (look.sample >= 0 && !tokenizer) std::printf("\n(give --tokenizer to see the text)\n");
}

void inspect_mindrecord(const LookAt& look, const std::optional<Tokenizer>& tokenizer) {
  const formats::MindRecordFile file(look.path);
  Json columns;
  for (const formats::MindColumn& column : file.columns())
    columns[column.name] = std::string(type_name(column.type)) + (column.is_array ? "[]" : "");
  Json facts{{"path", look.path}, {"files", file.num_shards()}, {"rows", file.size()}, {"columns", columns}};
  if (look.sample >= 0) {
    check_range(look, file.size());
    for (int64_t i = look.sample; i < std::min(file.size(), look.sample + look.count); ++i) {
      const formats::MindRow row = file.row(i);
      Json values = Json::object(), shown{{"index", i}};
      for (size_t c = 0; c < row.size(); ++c) {
        values[file.columns()[c].name] = value_json(file.columns()[c], row[c]);
        const auto* ids = std::get_if<std::vector<int64_t>>(&row[c]);
        if (tokenizer && ids && file.columns()[c].name == "input_ids" &&
            std::all_of(ids->begin(), ids->end(), [](int64_t id) { return id >= 0 && id <= INT32_MAX; }))
          shown["text"] = tokenizer->decode(std::vector<int32_t>(ids->begin(), ids->end()), false);
      }
      shown["values"] = std::move(values);
      facts["rows_shown"].push_back(std::move(shown));
    }
    facts["sample"] = facts["rows_shown"][0];
  }
  if (look.json) return print_json(facts);
  print_facts(facts);
  for (const auto& [name, type] : columns.items())
    std::printf("column                 %s %s\n", name.c_str(), type.get<std::string>().c_str());
  for (const Json& shown : facts.value("rows_shown", Json::array())) {
    std::printf("\nrow %s\n", shown["index"].dump().c_str());
    for (const auto& [name, value] : shown["values"].items())
      std::printf("%s: %s\n", name.c_str(), value.dump().c_str());
    if (shown.contains("text")) std::printf("\n%s\n", shown["text"].get_ref<const std::string&>().c_str());
  }
}

}  // namespace fathom::cli
