// A small random checkpoint with ragged fp8 blocks, dense and expert layers and MTP, and ways to spoil it.
#pragma once

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/json.h"
#include "config/model_config.h"
#include "formats/sharded_safetensors.h"

namespace fathom::test {

// tiny.json with few words and a hidden size that 128 does not divide: 4 layers (the first dense), 16 experts in 4
// groups, one MTP layer.
inline config::ModelConfig small_model() {
  Json json = read_json_file(std::filesystem::path(FATHOM_SOURCE_DIR) / "configs/models/tiny.json");
  json["vocab_size"] = 40;
  json["hidden_size"] = 160;
  json["a_key_of_others"] = "kept";
  return config::parse_model_config(json, "tiny.json");
}

// The file with tensors changed: `edit` may rename, reshape or (returning false) leave one out. Bytes that a tensor then
// lacks are zero, and so are added tensors.
inline void rewrite_tensors(const std::filesystem::path& path,
                            const std::function<bool(formats::TensorDeclaration&)>& edit,
                            const std::vector<formats::TensorDeclaration>& added = {}) {
  const formats::SafetensorsFile old(path);
  std::vector<formats::TensorDeclaration> declared;
  std::vector<std::string> names;
  for (const formats::TensorEntry& entry : old.tensors()) {
    formats::TensorDeclaration tensor{entry.name, entry.dtype, entry.shape};
    if (!edit(tensor)) continue;
    names.push_back(entry.name);
    declared.push_back(tensor);
  }
  declared.insert(declared.end(), added.begin(), added.end());
  formats::SafetensorsWriter writer(path, declared, old.metadata());
  for (size_t i = 0; i < declared.size(); ++i) {
    std::vector<std::byte> bytes(
        formats::tensor_bytes(declared[i].dtype, declared[i].shape, declared[i].name));
    if (i < names.size()) {
      const auto from = old.bytes(names[i]);
      std::memcpy(bytes.data(), from.data(), std::min(bytes.size(), from.size()));
    }
    writer.write(declared[i].name, bytes);
  }
  writer.commit();
}

}  // namespace fathom::test
