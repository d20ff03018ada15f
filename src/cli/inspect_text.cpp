#include "cli/inspect_text.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/progress.h"

namespace fathom::cli {
namespace {

using checkpoint::CheckpointDifference;
using checkpoint::Inspection;
using checkpoint::LayerRow;
using checkpoint::TensorDifference;

constexpr size_t kShownNames = 10;

std::string size_text(uint64_t bytes) { return format_bytes(static_cast<double>(bytes)); }

std::string line(const char* title, const std::string& text) {
  return fmt::format("{:<19} {}\n", title, text);
}

std::string name_list(const std::string& title, const std::vector<std::string>& names, bool all = false) {
  if (names.empty()) return "";
  const size_t shown = all ? names.size() : std::min(names.size(), kShownNames);
  std::string text = fmt::format("{} {}:\n", names.size(), title);
  for (size_t i = 0; i < shown; ++i) text += "  " + names[i] + "\n";
  if (names.size() > shown) text += fmt::format("  and {} more (--json lists all)\n", names.size() - shown);
  return text;
}

std::string layer_text(const LayerRow& row) {
  if (row.first < 0) return "-";
  if (row.first == row.last) return std::to_string(row.first);
  return fmt::format("{}-{}", row.first, row.last);
}

std::string dtypes_text(const LayerRow& row) {
  std::string text;
  for (const auto& [dtype, bytes] : row.bytes_by_dtype) text += (text.empty() ? "" : " ") + dtype;
  return text;
}

std::string layer_table(const std::vector<LayerRow>& rows) {
  std::string text = fmt::format("{:<9} {:>6} {:<9} {:>16} {:>16} {:>9}  {}\n", "layers", "number", "kind",
                                 "parameters each", "active each", "bytes", "dtypes");
  bool has_copies = false;
  for (const LayerRow& row : rows) {
    text +=
        fmt::format("{:<9} {:>6} {:<9} {:>16} {:>16} {:>9}  {}\n", layer_text(row), row.count(), row.kind,
                    format_integer(row.parameters) + (row.copies > 0 ? "*" : ""),
                    row.active ? format_integer(*row.active) : "-", size_text(row.bytes()), dtypes_text(row));
    has_copies |= row.copies > 0;
  }
  if (has_copies)
    text += "* and copies of the trunk's embedding and head, which are no parameters of their own\n";
  return text;
}

std::string copies_text(const Inspection& inspection) {
  std::string text;
  for (const auto& copy : inspection.mtp_copies)
    text += fmt::format("{}: {}\n", copy.name,
                        !copy.is_stored  ? fmt::format("not stored: {} is used", copy.source)
                        : !copy.is_equal ? fmt::format("a copy of {} (--checksum compares them)", copy.source)
                        : *copy.is_equal
                            ? fmt::format("equal to {}", copy.source)
                            : fmt::format("DIFFERS from {}, which is used in its place", copy.source));
  return text;
}

std::string manifest_text(const Inspection& inspection) {
  if (!inspection.has_manifest || !inspection.manifest_fault.empty()) return "";
  return line("manifest",
              fmt::format("{} files: {}", inspection.manifest_files,
                          inspection.checksum.empty() ? "sizes hold (--checksum verifies the contents)"
                                                      : "sizes and checksums hold"));
}

std::string difference_text(const TensorDifference& tensor) {
  std::string text = tensor.name + ": " + tensor.what;
  if (tensor.has_values)
    return text + fmt::format(": {} of {} differ, by at most {:.6g}, {:.3g} of the norm",
                              format_integer(static_cast<int64_t>(tensor.elements)),
                              format_integer(tensor.numel), tensor.max_absolute, tensor.relative);
  if (tensor.elements > 0)
    text += fmt::format(": {} elements differ", format_integer(static_cast<int64_t>(tensor.elements)));
  return text;
}

}  // namespace

Json to_json(const CheckpointDifference& difference) {
  Json json = {{"identical", difference.identical()}, {"compared", difference.compared},
               {"only_first", difference.only_first}, {"only_second", difference.only_second},
               {"differing", Json::array()},          {"config", Json::array()}};
  for (const TensorDifference& tensor : difference.differing) {
    Json& item = json["differing"].emplace_back(Json{{"name", tensor.name}, {"what", tensor.what}});
    if (tensor.has_values || tensor.elements > 0) item["elements"] = tensor.elements;
    if (tensor.has_values) {
      item["of"] = tensor.numel;
      item["max_absolute"] = tensor.max_absolute;  // infinity becomes null
      item["relative"] = tensor.relative;
    }
  }
  const auto value = [](const std::string& text) { return text.empty() ? Json(nullptr) : Json::parse(text); };
  for (const auto& key : difference.config)
    json["config"].push_back({{"key", key.key}, {"first", value(key.first)}, {"second", value(key.second)}});
  return json;
}

Json to_json(const Inspection& inspection) {
  Json json = {{"path", inspection.path.string()},
               {"kind", inspection.kind},
               {"total_parameters", inspection.total_parameters()},
               {"active_parameters", inspection.counts ? Json(inspection.counts->activated) : Json(nullptr)}};
  if (inspection.counts) json["mtp_parameters"] = inspection.counts->mtp;
  json["stored_parameters"] = inspection.stored_parameters;
  json["scales"] = {{"tensors", inspection.scale_tensors},
                    {"elements", inspection.scale_elements},
                    {"bytes", inspection.scale_bytes}};
  if (inspection.model) json["model_type"] = inspection.model->model_type;
  json["files"] = inspection.files;
  json["total_bytes"] = inspection.total_bytes();
  json["bytes_by_dtype"] = inspection.bytes_by_dtype;
  if (!inspection.checksum.empty()) json["checksum"] = inspection.checksum;
  if (inspection.has_manifest) {
    json["manifest"] = {{"verified", inspection.manifest_fault.empty()},
                        {"contents_read", !inspection.checksum.empty()},
                        {"files", inspection.manifest_files}};
    if (!inspection.manifest_fault.empty()) json["manifest"]["fault"] = inspection.manifest_fault;
  }
  if (inspection.kind == "checkpoint") {
    if (inspection.model) {
      json["missing"] = inspection.missing;
      json["unexpected"] = inspection.unexpected;
      json["unused"] = inspection.unused;
    }
    json["unlisted_tensors"] = inspection.unlisted_tensors;
    json["unlisted_files"] = inspection.unlisted_files;
  }
  Json& copies = json["mtp_copies"] = Json::array();
  for (const auto& copy : inspection.mtp_copies)
    copies.push_back({{"name", copy.name},
                      {"source", copy.source},
                      {"stored", copy.is_stored},
                      {"equal", copy.is_equal ? Json(*copy.is_equal) : Json(nullptr)}});
  Json& layers = json["layers"] = Json::array();
  for (const LayerRow& row : inspection.layers) {
    const bool is_layer = row.first >= 0;
    layers.push_back({{"first", is_layer ? Json(row.first) : Json(nullptr)},
                      {"last", is_layer ? Json(row.last) : Json(nullptr)},
                      {"kind", row.kind},
                      {"parameters", row.parameters},
                      {"active_parameters", row.active ? Json(*row.active) : Json(nullptr)},
                      {"copies", row.copies},
                      {"scales", row.scales},
                      {"bytes", row.bytes()},
                      {"bytes_by_dtype", row.bytes_by_dtype}});
  }
  Json& tensors = json["tensors"] = Json::array();
  for (const auto& tensor : inspection.tensors) {
    const bool is_stored = !tensor.file.empty();
    Json& item = tensors.emplace_back(Json{{"name", tensor.name},
                                           {"dtype", tensor.dtype},
                                           {"shape", tensor.shape},
                                           {"bytes", tensor.bytes},
                                           {"file", is_stored ? Json(tensor.file) : Json(nullptr)},
                                           {"offset", is_stored ? Json(tensor.offset) : Json(nullptr)}});
    if (!tensor.xxh3.empty()) item["xxh3"] = tensor.xxh3;
  }
  return json;
}

std::string to_text(const Inspection& inspection, bool with_tensors) {
  std::string text = fmt::format("{} ({})\n", inspection.path.string(), inspection.kind);
  if (inspection.model) text += line("model_type", inspection.model->model_type);
  text += line("total parameters", format_integer(inspection.total_parameters()));
  if (inspection.counts) {
    text += line("active parameters", format_integer(inspection.counts->activated));
    text += line("MTP parameters", format_integer(inspection.counts->mtp));
  }
  text += line("stored parameters", format_integer(inspection.stored_parameters));
  if (inspection.scale_tensors > 0)
    text += line("scales",
                 fmt::format("{} in {} tensors, {}", format_integer(inspection.scale_elements),
                             format_integer(inspection.scale_tensors), size_text(inspection.scale_bytes)));
  const auto number = static_cast<int64_t>(inspection.tensors.size());
  text += line("tensors", inspection.files == 0
                              ? format_integer(number)
                              : fmt::format("{} in {} file{}", format_integer(number), inspection.files,
                                            inspection.files == 1 ? "" : "s"));
  text += line("bytes", fmt::format("{} ({})", size_text(inspection.total_bytes()),
                                    format_integer(static_cast<int64_t>(inspection.total_bytes()))));
  for (const auto& [dtype, bytes] : inspection.bytes_by_dtype)
    text += line(("  " + dtype).c_str(), size_text(bytes));
  text += manifest_text(inspection);
  if (!inspection.checksum.empty()) text += line("checksum", inspection.checksum + " (XXH3 of all tensors)");
  text += "\n" + layer_table(inspection.layers) + copies_text(inspection);
  text += name_list("tensors that the config implies are missing", inspection.missing);
  text += name_list("tensors are unknown to the config", inspection.unexpected);
  text += name_list("tensors are not used (MTP layers that the config does not have, rotary_emb.inv_freq)",
                    inspection.unused);
  if (inspection.unlisted_tensors > 0)
    text += fmt::format("{} tensors lie in its files but not in its index\n", inspection.unlisted_tensors);
  text += name_list("files are not named by the index", inspection.unlisted_files);
  if (!with_tensors) return text;
  text += "\n";
  for (const auto& tensor : inspection.tensors) {
    text += fmt::format("{:<8} {:<16} {}", tensor.dtype, Json(tensor.shape).dump(), tensor.name);
    if (!tensor.file.empty()) text += fmt::format("  {}:{}", tensor.file, tensor.offset);
    text += (tensor.xxh3.empty() ? "" : "  " + tensor.xxh3) + "\n";
  }
  return text;
}

std::string to_text(const CheckpointDifference& difference, const Inspection& first, const Inspection& second,
                    bool with_tensors) {
  std::string text;
  for (const auto& key : difference.config)
    text += fmt::format("config.json: {}: {}, {}\n", key.key, key.first.empty() ? "absent" : key.first,
                        key.second.empty() ? "absent" : key.second);
  if (difference.identical())
    return text + fmt::format("identical: {} tensors compared\n", difference.compared);
  text += name_list("tensors are only in " + first.path.string(), difference.only_first, with_tensors) +
          name_list("tensors are only in " + second.path.string(), difference.only_second, with_tensors);
  std::vector<TensorDifference> ordered = difference.differing;
  if (!with_tensors)  // the worst first, those without values before them
    std::stable_sort(ordered.begin(), ordered.end(),
                     [](const TensorDifference& a, const TensorDifference& b) {
                       return a.has_values != b.has_values ? b.has_values : a.relative > b.relative;
                     });
  std::vector<std::string> lines;
  lines.reserve(ordered.size());
  for (const TensorDifference& tensor : ordered) lines.push_back(difference_text(tensor));
  return text + name_list(fmt::format("of {} tensors differ", difference.compared), lines, with_tensors);
}

}  // namespace fathom::cli
